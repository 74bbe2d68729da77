//! Services and workers, as their owners see them.

use domain::error::Problems;
use domain::{ConfigId, Error, ProjectId, Result, SecretId, ServiceId};
use serde_json::json;
use uuid::Uuid;

use super::{Scope, ended};
use crate::db::{Serial, Tx, args};
use crate::deploy::{self, Draft};
use crate::input::{ListQuery, NewService, Page, ServicePatch};
use crate::ledger::{Line, count};
use crate::list::{self, Count};
use crate::rows::{Deployment, InstanceRow, Outcomes, Service, ServiceKind};
use crate::{check, read, sql};

/// Gone instances that [`Scope::instances`] shows beside the live ones.
const GONE_SHOWN: i64 = 10;

impl Scope {
    /// Makes a service or worker and its first deployment (S0.40).
    pub async fn create_service(&self, new: NewService) -> Result<(Service, Deployment)> {
        let mut tx = self.write().await?;
        let made = self.create_service_in(&mut tx, new).await?;
        tx.commit().await?;
        Ok(made)
    }

    pub(super) async fn create_service_in(&self, tx: &mut Tx, new: NewService) -> Result<(Service, Deployment)> {
        let home = self.home(tx, new.project).await?;
        let now_us = tx.now_us();
        let mut service = Service {
            id: ServiceId(Uuid::now_v7()),
            project: home.project,
            kind: new.kind,
            name: new.name,
            image: new.image,
            port: new.port,
            instances: new.instances,
            instances_running: 0,
            config: new.config,
            secret: new.secret,
            delivery: new.delivery,
            command: new.command,
            release: new.release,
            health: new.health,
            resources: new.resources,
            strategy: new.strategy,
            options: new.options,
            restart: 0,
            active: None,
            serving: None,
            last: None,
            last_stage: None,
            deleting: false,
            frozen: None,
            version_counter: 0,
            revision: tx.next(Serial::Revision).await?,
            created_at_us: now_us,
            updated_at_us: now_us,
        };
        self.check_service(tx, &service, &new.notes, home.account).await?;
        self.tell(tx, &mut service, home.account, &new.env).await?;
        insert(tx, &service, home.account).await?;
        tx.place(service.project, counted(service.kind), now_us, 1).await?;
        let spec = deploy::current_spec(tx, &service, None).await?;
        let secret = service.secret;
        let deployment = self.begin(tx, &mut service, spec, secret, new.notes).await?;
        Ok((service, deployment))
    }

    pub async fn service(&self, id: ServiceId) -> Result<Service> {
        let mut tx = self.read().await?;
        let row = self.visible(&mut tx, sql::SERVICE, "service", id).await?;
        ended(tx, read::service(&row)?).await
    }

    /// By name: in the project, or anywhere with the caller's own first.
    pub async fn service_by_name(&self, kind: ServiceKind, name: &str, project: Option<ProjectId>) -> Result<Service> {
        check::findable(name)?;
        let mut tx = self.read().await?;
        let project = project.map(|id| id.to_string()).unwrap_or_default();
        let values = self.bound(args![project, kind.as_str(), name]);
        let row = tx.first(sql::SERVICE_BY_NAME, values).await?;
        let row = row.ok_or_else(|| Error::not_found(format!("{} {name:?}", kind.as_str())))?;
        ended(tx, read::service(&row)?).await
    }

    pub async fn list_services(&self, kind: ServiceKind, query: &ListQuery) -> Result<Page<Service>> {
        let mut tx = self.read().await?;
        let count = Count::InProjects(counted(kind));
        let page = list::SERVICES
            .page(&mut tx, &self.who, query, kind.as_str(), count, read::service)
            .await?;
        ended(tx, page).await
    }

    /// Changes what is wanted. See [`ServicePatch`] for what makes a deployment.
    pub async fn patch_service(&self, id: ServiceId, patch: ServicePatch) -> Result<(Service, Option<Deployment>)> {
        let mut tx = self.write().await?;
        let (before, after, deployment) = self.patch_service_in(&mut tx, id, patch).await?;
        if after == before {
            return ended(tx, (after, None)).await;
        }
        tx.commit().await?;
        Ok((after, deployment))
    }

    /// The service as it was, as it is then, and what was made.
    pub(super) async fn patch_service_in(
        &self,
        tx: &mut Tx,
        id: ServiceId,
        patch: ServicePatch,
    ) -> Result<(Service, Service, Option<Deployment>)> {
        let row = self.visible(tx, sql::SERVICE, "service", id).await?;
        let (before, owner) = (read::service(&row)?, read::owner(&row)?);
        let mut after = patched(&before, &patch);
        if after == before && !patch.deploy && patch.env.is_empty() {
            return Ok((before, after, None));
        }
        self.check_service(tx, &after, &patch.notes, owner).await?;
        let told = self.tell(tx, &mut after, owner, &patch.env).await?;
        if after == before && !patch.deploy && !told {
            return Ok((before, after, None));
        }
        after.updated_at_us = tx.now_us();
        deploy::want(tx, &after).await?;
        let changed = told || deploys(&before, &after);
        let deployment = if changed || patch.deploy {
            let digest = if changed { known_digest(tx, &after).await? } else { None };
            let mut spec = deploy::current_spec(tx, &after, digest).await?;
            let mut secret = after.secret;
            if let Some(last) = after
                .last
                .filter(|_| !patch.deploy && !told && only_scales(&before, &after))
            {
                secret = deploy::keep_told(tx, &mut spec, last).await?;
            }
            Some(self.begin(tx, &mut after, spec, secret, patch.notes).await?)
        } else {
            deploy::stand(tx, &mut after).await?;
            None
        };
        Ok((before, after, deployment))
    }

    /// Deploys what is wanted once more: config and secrets of now, and the image's tag resolved anew.
    pub async fn deploy_again(&self, id: ServiceId, notes: &str) -> Result<Deployment> {
        check::one_note(notes)?;
        let mut tx = self.write().await?;
        let row = self.visible(&mut tx, sql::SERVICE, "service", id).await?;
        let mut service = read::service(&row)?;
        let spec = deploy::current_spec(&mut tx, &service, None).await?;
        let secret = service.secret;
        let deployment = self
            .begin(&mut tx, &mut service, spec, secret, notes.to_owned())
            .await?;
        tx.commit().await?;
        Ok(deployment)
    }

    /// Takes a service out of sight, its routes with it. Its instances follow, its rows last
    /// ([`crate::Effect::Purge`]).
    pub async fn delete_service(&self, id: ServiceId) -> Result<()> {
        let mut tx = self.write().await?;
        let row = self.visible(&mut tx, sql::SERVICE, "service", id).await?;
        let mut service = read::service(&row)?;
        for route in tx.all(sql::ROUTES_OF_SERVICE, args![id]).await? {
            super::routes::remove(&mut tx, &route).await?;
        }
        if service.kind == ServiceKind::Service {
            for row in tx.all(sql::DEPLOYMENT_TIMES, args![id]).await? {
                let at_us = row.int("created_at_us")?;
                tx.place(service.project, count::DEPLOYMENTS, at_us, -1).await?;
            }
        }
        tx.place(service.project, counted(service.kind), service.created_at_us, -1)
            .await?;
        service.deleting = true;
        service.updated_at_us = tx.now_us();
        deploy::stand(&mut tx, &mut service).await?;
        let (reason, details) = ("service deleted", json!({ "name": service.name }));
        let line = Line {
            service: id,
            deployment: service.active,
            from: None,
            to: None,
            reason,
            details,
        };
        tx.append(&self.actor(), line).await?;
        tx.commit().await
    }

    /// Live instances, oldest first, then the last few that are gone, newest first.
    pub async fn instances(&self, service: ServiceId) -> Result<Vec<InstanceRow>> {
        let mut tx = self.read().await?;
        self.visible(&mut tx, sql::SERVICE, "service", service).await?;
        let mut rows = tx.all(sql::INSTANCES_OF_SERVICE, args![service]).await?;
        rows.extend(tx.all(sql::INSTANCES_GONE, args![service, GONE_SHOWN]).await?);
        let instances = rows.iter().map(read::instance).collect::<Result<_>>()?;
        ended(tx, instances).await
    }

    /// How all deployments of a service ended, pruned ones included.
    pub async fn outcomes(&self, service: ServiceId) -> Result<Outcomes> {
        let mut tx = self.read().await?;
        self.visible(&mut tx, sql::SERVICE, "service", service).await?;
        let mut outcomes = Outcomes::default();
        for row in tx.all(sql::COUNTERS_OF, args![service]).await? {
            let n = row.number("n")?;
            match row.text("kind")?.as_str() {
                count::SUCCEEDED => outcomes.succeeded = n,
                count::FAILED => outcomes.failed = n,
                count::CANCELED => outcomes.canceled = n,
                count::SUPERSEDED => outcomes.superseded = n,
                count::ROLLED_BACK => outcomes.rolled_back = n,
                _ => {}
            }
        }
        ended(tx, outcomes).await
    }

    /// Records a deployment and writes where the service then stands. `secret`: whose versions the spec names.
    pub(super) async fn begin(
        &self,
        tx: &mut Tx,
        service: &mut Service,
        spec: domain::Spec,
        secret: Option<SecretId>,
        notes: String,
    ) -> Result<Deployment> {
        let draft = Draft {
            spec,
            secret,
            rollback_from: None,
            automatic: false,
            notes,
            created_by: self.who.account,
        };
        let deployment = deploy::begin(tx, service, draft, &self.actor()).await?;
        deploy::stand(tx, service).await?;
        Ok(deployment)
    }

    /// All rules of faces 3.3, all bad fields in one answer.
    async fn check_service(&self, tx: &mut Tx, service: &Service, notes: &str, owner: domain::AccountId) -> Result<()> {
        let mut problems = Problems::default();
        check::service_name(&mut problems, &service.name);
        check::image(&mut problems, &service.image);
        check::port(&mut problems, service.kind, service.port);
        check::instances(&mut problems, service.instances);
        check::command(&mut problems, "command", service.command.as_deref());
        check::command(&mut problems, "release", service.release.as_deref());
        check::health(&mut problems, service.kind, &service.health);
        check::resources(&mut problems, &service.resources);
        check::options(&mut problems, &service.options);
        check::notes(&mut problems, notes);
        problems.check()?;
        let taken = args![owner, service.kind.as_str(), &service.name, service.id];
        let error = check::taken("name", service.kind.as_str());
        self.refuse_taken(tx, sql::SERVICE_NAME_TAKEN, taken, error).await?;
        if let Some(host) = &service.options.preview_host {
            let error = Error::invalid("options.preview_host", "This host name leads somewhere else already");
            self.refuse_taken(tx, sql::PREVIEW_TAKEN, args![host.as_str(), service.id], error)
                .await?;
        }
        if let Some(config) = service.config {
            self.chosen::<ConfigId>(tx, sql::CONFIG_SETS.row, "config", config, owner)
                .await?;
        }
        if let Some(secret) = service.secret {
            self.chosen::<SecretId>(tx, sql::SECRET_SETS.row, "secret", secret, owner)
                .await?;
        }
        Ok(())
    }
}

/// The counter of a kind.
fn counted(kind: ServiceKind) -> &'static str {
    match kind {
        ServiceKind::Service => count::SERVICES,
        ServiceKind::Worker => count::WORKERS,
    }
}

async fn insert(tx: &mut Tx, service: &Service, owner: domain::AccountId) -> Result<()> {
    let mut values = deploy::wishes(service)?;
    values.extend(args![service.project, owner, service.kind.as_str(), service.revision]);
    tx.run(sql::SERVICE_INSERT, values).await.map(drop)
}

fn patched(before: &Service, patch: &ServicePatch) -> Service {
    fn over<T: Clone>(field: &mut T, value: &Option<T>) {
        if let Some(value) = value {
            field.clone_from(value);
        }
    }
    let mut after = before.clone();
    over(&mut after.name, &patch.name);
    over(&mut after.image, &patch.image);
    over(&mut after.port, &patch.port.map(Some));
    over(&mut after.instances, &patch.instances);
    over(&mut after.config, &patch.config);
    over(&mut after.secret, &patch.secret);
    over(&mut after.delivery, &patch.delivery);
    over(&mut after.command, &patch.command);
    over(&mut after.release, &patch.release);
    over(&mut after.health, &patch.health);
    over(&mut after.resources, &patch.resources);
    over(&mut after.strategy, &patch.strategy);
    over(&mut after.options, &patch.options);
    after.restart = before.restart.saturating_add(u32::from(patch.restart));
    after
}

/// OPEN-1: whether a change is of what is deployed. Name, strategy, options and release command are not: they take
/// effect with the next deployment.
fn deploys(before: &Service, after: &Service) -> bool {
    before.image != after.image
        || before.port != after.port
        || before.instances != after.instances
        || before.config != after.config
        || before.secret != after.secret
        || before.delivery != after.delivery
        || before.command != after.command
        || before.health != after.health
        || before.resources != after.resources
        || before.restart != after.restart
}

/// Whether a change is of how many instances run, or starts them anew, and of nothing that they are told. Such a one
/// keeps the config and secret values of the newest deployment: edits wait until somebody asks for them.
fn only_scales(before: &Service, after: &Service) -> bool {
    let scaled = Service {
        instances: after.instances,
        restart: after.restart,
        ..before.clone()
    };
    !deploys(&scaled, after)
}

/// The digest that the newest deployment has for the same reference: scaling or a new config keep the image that runs,
/// even when its tag has moved since.
async fn known_digest(tx: &mut Tx, service: &Service) -> Result<Option<String>> {
    for id in [service.last, service.serving].into_iter().flatten() {
        let spec = deploy::row(tx, id).await?.spec;
        if spec.image == service.image && spec.digest.is_some() {
            return Ok(spec.digest);
        }
    }
    Ok(None)
}
