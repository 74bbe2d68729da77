//! Deployments, as their owners see them.

use domain::{Behaviour, DeploymentId, Error, Result, ServiceId, Stage, error::Kind};
use serde_json::json;

use super::{Scope, ended};
use crate::db::{Tx, args};
use crate::input::{ListQuery, Page, RollbackRequest};
use crate::ledger::{Line, count};
use crate::list::{self, Count};
use crate::rows::{Deployment, JournalEntry, Observed, Service};
use crate::{check, deploy, read, rollback, sql};

/// Which deployment a command is for.
#[derive(Debug, Clone, Copy)]
pub enum Which {
    /// The one that is on its way, whichever it is.
    Of(ServiceId),
    /// This one and no other.
    This(DeploymentId),
}

impl From<ServiceId> for Which {
    fn from(service: ServiceId) -> Which {
        Which::Of(service)
    }
}

impl From<DeploymentId> for Which {
    fn from(deployment: DeploymentId) -> Which {
        Which::This(deployment)
    }
}

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
        let mut tx = self.write().await?;
        let (_, _, deployment) = self.rollback_in(&mut tx, target, request).await?;
        tx.commit().await?;
        Ok(deployment)
    }

    /// The service as it was, as it is then, and what was made.
    pub(super) async fn rollback_in(
        &self,
        tx: &mut Tx,
        target: DeploymentId,
        request: RollbackRequest,
    ) -> Result<(Service, Service, Deployment)> {
        check::one_note(&request.notes)?;
        let row = self.visible(tx, sql::DEPLOYMENT, "deployment", target).await?;
        let recorded_secret = row.parse_or_null("secret")?;
        let target = read::deployment(&row)?;
        rollback::may_go_back_to(&target)?;
        let row = self.visible(tx, sql::SERVICE, "service", target.service).await?;
        let before = read::service(&row)?;
        let mut service = before.clone();
        let order = rollback::Order {
            target: &target,
            recorded_secret,
            request,
            created_by: self.who.account,
            automatic: false,
            actor: &self.actor(),
        };
        let deployment = rollback::begin(tx, &mut service, order).await?;
        deploy::stand(tx, &mut service).await?;
        Ok((before, service, deployment))
    }

    /// Asks the deployment that is on its way to stop; the last healthy version is brought back. Asking twice is fine.
    pub async fn cancel(&self, which: impl Into<Which>) -> Result<Deployment> {
        let (mut tx, mut service, deployment) = self.active(which.into(), "Nothing to cancel").await?;
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

    /// Passes the step that the deployment waits at.
    pub async fn continue_rollout(&self, which: impl Into<Which>) -> Result<Deployment> {
        let (mut tx, mut service, deployment) = self.active(which.into(), "Nothing to continue").await?;
        let version = deployment.version;
        if deployment.stage != Stage::Paused {
            let message = format!(
                "Nothing to continue: version {version} is not paused but {}",
                deployment.stage
            );
            return Err(Error::refused(message));
        }
        if !deployment.at_step {
            return Err(Error::refused(format!(
                "Version {version} was paused by a user and waits at no step; resume it instead"
            )));
        }
        deploy::advance(&mut tx, &mut service, &deployment, &self.actor()).await?;
        self.moved(tx, service, deployment.id).await
    }

    /// Keeps a deployment where it is until [`Scope::resume`]. Asking twice is fine. One that waits at a step then waits
    /// for the user instead, and comes back to that step afterwards.
    pub async fn pause(&self, which: impl Into<Which>) -> Result<Deployment> {
        let (mut tx, mut service, deployment) = self.active(which.into(), "Nothing to pause").await?;
        let (id, reason) = (deployment.id, "pause asked for");
        match deployment.stage {
            Stage::Deploying => {
                deploy::set_stage(
                    &mut tx,
                    &mut service,
                    &deployment,
                    Stage::Paused,
                    None,
                    reason,
                    &self.actor(),
                )
                .await?;
            }
            Stage::Paused if deployment.at_step => {
                tx.run(sql::DEPLOYMENT_AT_STEP, args![id, false]).await?;
                let line = Line {
                    service: service.id,
                    deployment: Some(id),
                    from: None,
                    to: None,
                    reason,
                    details: json!({ "step": deployment.step + 1 }),
                };
                tx.append(&self.actor(), line).await?;
            }
            Stage::Paused => return ended(tx, deployment).await,
            stage => {
                let message = format!("Version {} cannot be paused while it is {stage}", deployment.version);
                return Err(Error::refused(message));
            }
        }
        self.moved(tx, service, id).await
    }

    /// Lets a deployment go on that a user has paused.
    pub async fn resume(&self, which: impl Into<Which>) -> Result<Deployment> {
        let (mut tx, mut service, deployment) = self.active(which.into(), "Nothing to resume").await?;
        let version = deployment.version;
        if deployment.stage != Stage::Paused {
            let message = format!(
                "Nothing to resume: version {version} is not paused but {}",
                deployment.stage
            );
            return Err(Error::refused(message));
        }
        if deployment.at_step {
            return Err(Error::refused(format!(
                "Version {version} waits at step {}; continue it instead",
                deployment.step + 1
            )));
        }
        let deploying = Stage::Deploying;
        deploy::set_stage(
            &mut tx,
            &mut service,
            &deployment,
            deploying,
            None,
            "resume asked for",
            &self.actor(),
        )
        .await?;
        self.moved(tx, service, deployment.id).await
    }

    /// What was seen of a deployment until now.
    pub async fn observed(&self, deployment: DeploymentId) -> Result<Observed> {
        let mut tx = self.read().await?;
        self.visible(&mut tx, sql::DEPLOYMENT, "deployment", deployment).await?;
        let rows = tx.all(sql::BEHAVIOURS, args![deployment]).await?;
        let seen: Vec<Behaviour> = rows.iter().map(|row| row.json("counts")).collect::<Result<_>>()?;
        let row = tx.one(sql::OBSERVED, args![deployment]).await?;
        let observed = Observed {
            behaviour: seen.into_iter().reduce(|all, one| all.plus(&one)),
            routes: row.json_or_null("routes")?,
            memory_peak: row.number_or_null("memory_peak")?,
        };
        ended(tx, observed).await
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
    ///
    /// # Errors
    /// `Refused` when nothing is on its way, `Conflict` when it is another deployment than the one that was named.
    async fn active(&self, which: Which, otherwise: &str) -> Result<(Tx, Service, Deployment)> {
        let mut tx = self.write().await?;
        let (id, only) = match which {
            Which::Of(service) => (service, None),
            Which::This(id) => {
                let row = self.visible(&mut tx, sql::DEPLOYMENT, "deployment", id).await?;
                let named = read::deployment(&row)?;
                (named.service, Some(named))
            }
        };
        let row = self.visible(&mut tx, sql::SERVICE, "service", id).await?;
        let service = read::service(&row)?;
        if let Some(named) = only.filter(|named| service.active != Some(named.id)) {
            let message = format!("{otherwise}: version {} is over, it is {}", named.version, named.stage);
            return Err(Error::new(Kind::Conflict(message.clone()), message));
        }
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
