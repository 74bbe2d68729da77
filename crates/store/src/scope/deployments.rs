//! Deployments, as their owners see them.

use domain::{DeploymentId, Error, Result, ServiceId, Stage, error::Kind};

use super::{Scope, ended};
use crate::db::{Tx, args};
use crate::deploy::{self, Draft};
use crate::input::{ListQuery, Page, RollbackRequest, Source};
use crate::ledger::count;
use crate::list::{self, Count};
use crate::rows::{Deployment, JournalEntry, Service};
use crate::trouble::Mutant;
use crate::{check, read, sql};

/// Most journal lines of one answer.
const JOURNAL_LIMIT: u32 = 1000;

impl Scope {
    pub async fn deployment(&self, id: DeploymentId) -> Result<Deployment> {
        let mut tx = self.read().await?;
        let row = self.visible(&mut tx, sql::DEPLOYMENT, "deployment", id).await?;
        ended(tx, read::deployment(&row)?).await
    }

    pub async fn deployment_by_version(&self, service: ServiceId, version: i64) -> Result<Deployment> {
        let mut tx = self.read().await?;
        self.visible(&mut tx, sql::SERVICE, "service", service).await?;
        let row = tx.first(sql::DEPLOYMENT_BY_VERSION, args![service, version]).await?;
        let row = row.ok_or_else(|| Error::not_found(format!("version {version} of service {service}")))?;
        ended(tx, read::deployment(&row)?).await
    }

    /// All deployments of services, newest first, or those of one service or worker.
    pub async fn list_deployments(&self, query: &ListQuery) -> Result<Page<Deployment>> {
        let mut tx = self.read().await?;
        let parent = self.listed_service(&mut tx, query).await?;
        let count = match query.service {
            Some(_) => Count::Of(&parent, count::SERVICE_DEPLOYMENTS),
            None => Count::InProjects(count::DEPLOYMENTS),
        };
        let page = list::DEPLOYMENTS
            .page(&mut tx, &self.who, query, &parent, count, read::deployment)
            .await?;
        ended(tx, page).await
    }

    /// Records a deployment of what an earlier one was (S0.32 to S0.39): its image by digest, port, instances, command,
    /// resources and health check, and what [`RollbackRequest`] says of config and secrets. The target is not touched
    /// (OPEN-2); one that is on its way is superseded (OPEN-8).
    pub async fn rollback(&self, target: DeploymentId, request: RollbackRequest) -> Result<Deployment> {
        check::one_note(&request.notes)?;
        let mut tx = self.write().await?;
        let row = self.visible(&mut tx, sql::DEPLOYMENT, "deployment", target).await?;
        let recorded_secret = row.parse_or_null("secret")?;
        let target = read::deployment(&row)?;
        if target.stage != Stage::Succeeded || target.rolled_back {
            let status = target.stage.platform_status(target.rolled_back);
            return Err(Error::refused(format!(
                "Cannot rollback to deployment with status '{status}'"
            )));
        }
        let row = self.visible(&mut tx, sql::SERVICE, "service", target.service).await?;
        let mut service = read::service(&row)?;
        restore(&mut service, &target);
        service.updated_at_us = tx.now_us();
        deploy::want(&mut tx, &service).await?;

        let mut spec = target.spec.clone();
        if tx.has(Mutant::RollbackToNow) {
            spec = deploy::current_spec(&mut tx, &service, None).await?;
        }
        spec.strategy = service.strategy;
        spec.options = service.options.clone();
        if request.config == Source::Current {
            spec.config = deploy::config_values(&mut tx, &service).await?;
        }
        let secret = match request.secrets {
            Source::Snapshot => recorded_secret,
            Source::Current => {
                spec.secrets = deploy::secret_versions(&mut tx, &service).await?;
                service.secret
            }
        };
        let draft = Draft {
            spec,
            secret,
            rollback_from: Some(target.id),
            notes: request.notes,
            created_by: self.who.account,
        };
        let deployment = deploy::begin(&mut tx, &mut service, draft, &self.actor()).await?;
        deploy::stand(&mut tx, &mut service).await?;
        tx.commit().await?;
        Ok(deployment)
    }

    /// Asks the deployment that is on its way to stop; the last healthy version is brought back. Asking twice is fine.
    pub async fn cancel(&self, service: ServiceId) -> Result<Deployment> {
        let (mut tx, mut service, deployment) = self.active(service, "Nothing to cancel").await?;
        if deployment.stage == Stage::Canceling {
            return ended(tx, deployment).await;
        }
        let canceling = Stage::Canceling;
        deploy::set_stage(
            &mut tx,
            &mut service,
            &deployment,
            canceling,
            None,
            "cancel asked for",
            &self.actor(),
        )
        .await?;
        self.moved(tx, service, deployment.id).await
    }

    /// Lets a paused deployment go on.
    pub async fn resume(&self, service: ServiceId) -> Result<Deployment> {
        let (mut tx, mut service, deployment) = self.active(service, "Nothing to continue").await?;
        if deployment.stage != Stage::Paused {
            let message = format!("Nothing to continue: version {} is not paused", deployment.version);
            return Err(Error::refused(message));
        }
        let deploying = Stage::Deploying;
        deploy::set_stage(
            &mut tx,
            &mut service,
            &deployment,
            deploying,
            None,
            "continue asked for",
            &self.actor(),
        )
        .await?;
        self.moved(tx, service, deployment.id).await
    }

    /// What happened to a deployment, oldest first, from after `after_seq` (0 for all) on.
    pub async fn journal(&self, deployment: DeploymentId, after_seq: i64, limit: u32) -> Result<Vec<JournalEntry>> {
        let mut tx = self.read().await?;
        self.visible(&mut tx, sql::DEPLOYMENT, "deployment", deployment).await?;
        let values = args![deployment, after_seq, limit.min(JOURNAL_LIMIT)];
        let rows = tx.all(sql::JOURNAL_OF_DEPLOYMENT, values).await?;
        let entries = rows.iter().map(read::journal_entry).collect::<Result<_>>()?;
        ended(tx, entries).await
    }

    /// The service that a list is narrowed to, if it may be known.
    pub(super) async fn listed_service(&self, tx: &mut Tx, query: &ListQuery) -> Result<String> {
        let Some(service) = query.service else {
            return Ok(String::new());
        };
        self.visible(tx, sql::SERVICE, "service", service).await?;
        Ok(service.to_string())
    }

    /// A writing transaction with a service and its active deployment.
    async fn active(&self, id: ServiceId, otherwise: &str) -> Result<(Tx, Service, Deployment)> {
        let mut tx = self.write().await?;
        let row = self.visible(&mut tx, sql::SERVICE, "service", id).await?;
        let service = read::service(&row)?;
        let Some(active) = service.active else {
            return Err(Error::refused(format!(
                "{otherwise}: no deployment of {} is under way",
                service.name
            )));
        };
        let deployment = deploy::row(&mut tx, active).await.map_err(|error| match error.kind {
            Kind::NotFound => Error::internal(format!("service {id} names an active deployment that is not there")),
            _ => error,
        })?;
        Ok((tx, service, deployment))
    }

    async fn moved(&self, mut tx: Tx, mut service: Service, id: DeploymentId) -> Result<Deployment> {
        deploy::stand(&mut tx, &mut service).await?;
        let deployment = deploy::row(&mut tx, id).await?;
        tx.commit().await?;
        Ok(deployment)
    }
}

/// Puts the target's wishes back onto the service, so that the next change starts from them.
fn restore(service: &mut Service, target: &Deployment) {
    let spec = target.spec.clone();
    service.image = spec.image;
    service.port = spec.port;
    service.instances = spec.instances;
    service.command = spec.command;
    service.resources = spec.resources;
    service.health = spec.health;
    service.restart = spec.restart;
}
