//! What reconcilers write.

use std::collections::{BTreeSet, HashMap};

use domain::{DeploymentId, Error, Result, SecretId, ServiceId, Stage, error::Kind};
use serde_json::json;

use super::load::padded;
use super::{System, lease};
use crate::db::{Tx, args};
use crate::deploy;
use crate::input::{Decided, Effect, Fence, RollbackRequest};
use crate::ledger::{Actor, Line};
use crate::rows::Service;
use crate::trouble::Mutant;
use crate::{read, rollback, sql};

/// Gone instances that are remembered for each service.
const GONE_KEPT: i64 = 50;
/// Longest text of what a deployment waits for, and of an error message, in characters.
const TEXT_MAX: usize = 4000;

impl System {
    /// Writes effects on one service, all or none, with their journal lines, whatever was written to it meanwhile.
    /// For those who decide nothing; reconcilers take [`System::apply_many`].
    ///
    /// # Errors
    /// `Conflict` when the lease is lost, when a stage is not what the caller saw, or when the service is gone: nothing
    /// is written.
    pub async fn apply(&self, fence: &Fence, service: ServiceId, effects: &[Effect]) -> Result<()> {
        let mut tx = self.write().await?;
        lease::check(&mut tx, fence).await?;
        let service = service_of(&mut tx, service).await?;
        perform_all(&mut tx, service, effects, &Actor::reconciler(&fence.holder)).await?;
        tx.commit().await
    }

    /// Writes what was decided about many services with one commit. Each one succeeds or fails alone; where the commit
    /// itself fails, all do.
    ///
    /// A decision is written to the record that it was made on and to no other: between the look and the write a user
    /// may have paused, cancelled, scaled or deleted.
    ///
    /// # Errors
    /// Of each: those of [`System::apply`], and `Conflict` when the service has another revision than
    /// [`Decided::revision`]. Whoever decided looks again.
    pub async fn apply_many(&self, fence: &Fence, batch: &[Decided]) -> Vec<Result<()>> {
        let outcome = match batch {
            [alone] => self.apply_alone(fence, alone).await.map(|()| vec![Ok(())]),
            _ => self.apply_batch(fence, batch).await,
        };
        match outcome {
            Ok(results) => results,
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn apply_alone(&self, fence: &Fence, decided: &Decided) -> Result<()> {
        let mut tx = self.write().await?;
        lease::check(&mut tx, fence).await?;
        perform_alone(&mut tx, decided, &Actor::reconciler(&fence.holder)).await?;
        tx.commit().await
    }

    /// All together first: each service is read and written with half the statements then. Where one fails, nothing of
    /// that has happened and each is tried for itself.
    async fn apply_batch(&self, fence: &Fence, batch: &[Decided]) -> Result<Vec<Result<()>>> {
        let mut tx = self.write().await?;
        lease::check(&mut tx, fence).await?;
        let actor = Actor::reconciler(&fence.holder);
        let ids: Vec<ServiceId> = batch.iter().map(|decided| decided.service).collect();
        let mut services = services(&mut tx, &ids).await?;
        for decided in batch {
            let done = match services.remove(&decided.service) {
                Some(service) => perform_seen(&mut tx, service, decided, &actor).await,
                None => Err(gone(decided.service)),
            };
            match done {
                Ok(()) => {}
                Err(error) if matches!(error.kind, Kind::Unavailable(_)) => return Err(error),
                Err(_) => {
                    tx.end().await?;
                    return self.apply_each(fence, batch).await;
                }
            }
        }
        tx.commit().await?;
        Ok(batch.iter().map(|_| Ok(())).collect())
    }

    async fn apply_each(&self, fence: &Fence, batch: &[Decided]) -> Result<Vec<Result<()>>> {
        let mut tx = self.write().await?;
        lease::check(&mut tx, fence).await?;
        let actor = Actor::reconciler(&fence.holder);
        let mut results = Vec::with_capacity(batch.len());
        for decided in batch {
            let savepoint = tx.savepoint().await?;
            let result = perform_alone(&mut tx, decided, &actor).await;
            match &result {
                Ok(()) => tx.keep(savepoint).await?,
                // The engine may have rolled everything back by itself (a full disk): there is no savepoint any more.
                Err(error) if matches!(error.kind, Kind::Unavailable(_)) => return Err(error.clone()),
                Err(_) => tx.undo(savepoint).await?,
            }
            results.push(result);
        }
        tx.commit().await?;
        Ok(results)
    }
}

async fn services(tx: &mut Tx, ids: &[ServiceId]) -> Result<HashMap<ServiceId, Service>> {
    let mut services = HashMap::with_capacity(ids.len());
    for chunk in ids.chunks(sql::CHUNK) {
        for row in tx.all(sql::SERVICES_BATCH, padded(chunk, sql::CHUNK)).await? {
            let service = read::service(&row)?;
            services.insert(service.id, service);
        }
    }
    Ok(services)
}

fn gone(id: ServiceId) -> Error {
    conflict(format!("Service {id} is gone"))
}

async fn service_of(tx: &mut Tx, id: ServiceId) -> Result<Service> {
    let row = tx.first(sql::SERVICE_ROW, args![id]).await?;
    read::service(&row.ok_or_else(|| gone(id))?)
}

async fn perform_alone(tx: &mut Tx, decided: &Decided, actor: &Actor) -> Result<()> {
    let service = service_of(tx, decided.service).await?;
    perform_seen(tx, service, decided, actor).await
}

/// Inside the writing transaction, so that nothing can change in between.
async fn perform_seen(tx: &mut Tx, service: Service, decided: &Decided, actor: &Actor) -> Result<()> {
    if service.revision != decided.revision && !tx.has(Mutant::StaleDecision) {
        return Err(conflict(format!(
            "Service {} is at revision {} and the decision was made on revision {}; look again",
            service.id, service.revision, decided.revision
        )));
    }
    perform_all(tx, service, &decided.effects, actor).await
}

async fn perform_all(tx: &mut Tx, mut service: Service, effects: &[Effect], actor: &Actor) -> Result<()> {
    if effects.is_empty() {
        return Ok(());
    }
    for effect in effects {
        if let Effect::Purge = effect {
            return purge(tx, &service, actor).await;
        }
        perform(tx, &mut service, effect, actor).await?;
    }
    if effects.iter().any(|effect| matches!(effect, Effect::Gone { .. })) {
        tx.run(sql::INSTANCES_FORGET, args![service.id, GONE_KEPT]).await?;
    }
    deploy::stand(tx, &mut service).await
}

async fn perform(tx: &mut Tx, service: &mut Service, effect: &Effect, actor: &Actor) -> Result<()> {
    let now_us = tx.now_us();
    let note = |deployment: Option<DeploymentId>, reason, details| Line {
        service: service.id,
        deployment,
        from: None,
        to: None,
        reason,
        details,
    };
    match effect {
        Effect::AddInstance {
            id,
            deployment,
            template,
        } => {
            tx.run(
                sql::INSTANCE_INSERT,
                args![*id, service.id, *deployment, template, now_us],
            )
            .await?;
            tx.append(
                actor,
                note(Some(*deployment), "instance wanted", json!({ "instance": id })),
            )
            .await
        }
        Effect::Retire { id, reason } => {
            if tx.run(sql::INSTANCE_RETIRE, args![*id, service.id]).await? == 0 {
                return Ok(());
            }
            tx.append(
                actor,
                note(service.active, reason, json!({ "instance": id, "state": "retiring" })),
            )
            .await
        }
        Effect::Gone {
            id,
            crashed,
            exit,
            memory_peak,
        } => {
            let text = exit.as_ref().map(ToString::to_string);
            if tx
                .run(sql::INSTANCE_GONE, args![*id, service.id, now_us, *crashed, text])
                .await?
                == 0
            {
                return Ok(());
            }
            if let Some(bytes) = memory_peak {
                let bytes = i64::try_from(*bytes).unwrap_or(i64::MAX);
                tx.run(sql::DEPLOYMENT_RAISE_MEMORY, args![*id, service.id, bytes])
                    .await?;
            }
            let reason = if *crashed {
                "instance ended by itself"
            } else {
                "instance gone"
            };
            let details = json!({ "instance": id, "state": "gone", "crashed": crashed, "exit": exit });
            tx.append(actor, note(service.active, reason, details)).await
        }
        Effect::Healthy { id } => tx.run(sql::INSTANCE_HEALTHY, args![*id, service.id]).await.map(drop),
        Effect::SetDigest { deployment, digest } => set_digest(tx, service.id, *deployment, digest, actor).await,
        Effect::SetStage {
            deployment,
            from,
            to,
            reason,
            error_message,
        } => {
            let mut seen = row_of(tx, service.id, *deployment).await?;
            if seen.stage != *from {
                return Err(deploy::moved_on(*deployment, *from));
            }
            seen.stage = *from;
            let message = error_message.as_deref().map(cut);
            deploy::set_stage(tx, service, &seen, *to, message.as_deref(), reason, actor).await
        }
        Effect::ReachStep { deployment } => {
            let seen = row_of(tx, service.id, *deployment).await?;
            if seen.stage != Stage::Deploying {
                return Err(deploy::moved_on(*deployment, Stage::Deploying));
            }
            deploy::reach_step(tx, service, &seen, actor).await
        }
        Effect::Advance { deployment, step } => {
            let seen = row_of(tx, service.id, *deployment).await?;
            if seen.step.checked_add(1) != Some(*step) {
                return Err(conflict(format!(
                    "Deployment {deployment} has passed {} steps and cannot pass step {step}",
                    seen.step
                )));
            }
            deploy::advance(tx, service, &seen, actor).await
        }
        Effect::Released { deployment } => {
            if tx.run(sql::DEPLOYMENT_RELEASED, args![*deployment, service.id]).await? == 0 {
                return Ok(());
            }
            tx.append(actor, note(Some(*deployment), "release command succeeded", json!({})))
                .await
        }
        Effect::RollBack { failed, to, reason } => roll_back(tx, service, *failed, *to, &cut(reason), actor).await,
        Effect::SetWaiting { deployment, text } => tx
            .run(sql::DEPLOYMENT_SET_WAITING, args![*deployment, service.id, cut(text)])
            .await
            .map(drop),
        Effect::SetRunning { count } => {
            service.instances_running = *count;
            Ok(())
        }
        Effect::Freeze { reason } => {
            service.frozen = Some(cut(reason));
            service.updated_at_us = now_us;
            let line = Line {
                service: service.id,
                deployment: service.active,
                from: None,
                to: None,
                reason: "frozen",
                details: json!({ "why": reason }),
            };
            tx.append(actor, line).await
        }
        Effect::Purge => Ok(()),
    }
}

/// Fixes the digest, and with it the template. The journal says which digest a reference meant.
async fn set_digest(tx: &mut Tx, service: ServiceId, id: DeploymentId, digest: &str, actor: &Actor) -> Result<()> {
    let mut spec = row_of(tx, service, id).await?.spec;
    if let Some(known) = &spec.digest {
        let message = format!("Deployment {id} runs {known} and cannot run {digest}");
        return if known == digest {
            Ok(())
        } else {
            Err(conflict(message))
        };
    }
    spec.digest = Some(digest.to_owned());
    tx.run(sql::DEPLOYMENT_SET_DIGEST, args![id, digest, &deploy::template(&spec)])
        .await?;
    let (reason, details) = ("image resolved", json!({ "image": spec.image, "digest": digest }));
    tx.append(
        actor,
        Line {
            service,
            deployment: Some(id),
            from: None,
            to: None,
            reason,
            details,
        },
    )
    .await
}

/// Goes back from what serves, once, as its owner would have. What it was is marked first, so that an automatic
/// rollback that fails is not begun again.
async fn roll_back(
    tx: &mut Tx,
    service: &mut Service,
    failed: DeploymentId,
    to: DeploymentId,
    reason: &str,
    actor: &Actor,
) -> Result<()> {
    let left = row_of(tx, service.id, failed).await?;
    let is_rollback = left.automatic || left.rollback_from.is_some();
    if service.serving != Some(failed) || service.active.is_some() || service.deleting || is_rollback || failed == to {
        return Err(conflict(format!("Deployment {failed} is not one to roll back from")));
    }
    if !rollback::mark(tx, service, failed, reason, actor).await? {
        return Err(conflict(format!("Deployment {failed} is rolled back already")));
    }
    let target = row_of(tx, service.id, to).await?;
    let secret = tx.first(sql::DEPLOYMENT_ROW, args![to]).await?;
    let recorded_secret = secret.map(|row| row.parse_or_null("secret")).transpose()?.flatten();
    let order = rollback::Order {
        target: &target,
        recorded_secret,
        request: RollbackRequest {
            notes: cut(&format!("Rolled back automatically: {reason}")),
            ..RollbackRequest::default()
        },
        created_by: left.created_by,
        automatic: true,
        actor,
    };
    rollback::begin(tx, service, order).await.map(drop)
}

/// Removes the rows of a deleted service. The journal and its project's statistics stay.
async fn purge(tx: &mut Tx, service: &Service, actor: &Actor) -> Result<()> {
    if !service.deleting {
        return Err(conflict(format!("Service {} is not being deleted", service.id)));
    }
    if tx.first(sql::INSTANCES_LIVE_ANY, args![service.id]).await?.is_some() {
        return Err(conflict(format!("Service {} still has instances", service.id)));
    }
    let mut secrets = BTreeSet::new();
    for row in tx.all(sql::SECRETS_NEEDED_BY_SERVICE, args![service.id]).await? {
        secrets.insert(row.parse::<SecretId>("secret")?);
    }
    tx.run(sql::SERVICE_DELETE, args![service.id]).await?;
    tx.run(sql::COUNTERS_DROP, args![service.id]).await?;
    for secret in secrets {
        tx.run(sql::SECRET_VALUES_DROP_UNUSED, args![secret]).await?;
    }
    let (reason, details) = ("service purged", json!({ "name": service.name }));
    tx.append(
        actor,
        Line {
            service: service.id,
            deployment: None,
            from: None,
            to: None,
            reason,
            details,
        },
    )
    .await?;
    tx.changed().await
}

/// A deployment of this very service.
async fn row_of(tx: &mut Tx, service: ServiceId, id: DeploymentId) -> Result<crate::rows::Deployment> {
    match deploy::row(tx, id).await {
        Ok(deployment) if deployment.service == service => Ok(deployment),
        Ok(_) => Err(conflict(format!("Deployment {id} is not one of service {service}"))),
        Err(Error {
            kind: Kind::NotFound, ..
        }) => Err(conflict(format!("Deployment {id} is gone"))),
        Err(error) => Err(error),
    }
}

fn conflict(message: String) -> Error {
    Error::new(Kind::Conflict(message.clone()), message)
}

/// Texts come from apps and registries; PostgreSQL takes no NUL.
fn cut(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(TEXT_MAX).collect()
}
