//! The life of a deployment, from record to prune. Owners and reconcilers both go through here.

use domain::{DeploymentId, Error, Result, SecretId, Spec, Stage, Template, error::Kind};
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::db::{Row, Serial, Tx, Value, args, json};
use crate::ledger::{Actor, Line, count};
use crate::rows::{Deployment, Service, ServiceKind};
use crate::trouble::Mutant;
use crate::{DEPLOYMENTS_KEPT, read, rollback, sql, token};

/// A deployment to be recorded.
pub(crate) struct Draft {
    pub(crate) spec: Spec,
    /// The secret whose keys and versions the spec names.
    pub(crate) secret: Option<SecretId>,
    pub(crate) rollback_from: Option<DeploymentId>,
    pub(crate) automatic: bool,
    pub(crate) notes: String,
    pub(crate) created_by: domain::AccountId,
}

/// What a spec's instances embody, as a name.
pub(crate) fn template(spec: &Spec) -> Template {
    Template(token::hex(&Sha256::digest(spec.template_text().as_bytes())))
}

/// What the service wants now, with the config and secrets of now (S0.14, S0.15).
pub(crate) async fn current_spec(tx: &mut Tx, service: &Service, digest: Option<String>) -> Result<Spec> {
    Ok(Spec {
        image: service.image.clone(),
        digest,
        port: service.port,
        instances: service.instances,
        config: config_values(tx, service).await?,
        secrets: secret_versions(tx, service).await?,
        delivery: service.delivery,
        command: service.command.clone(),
        release: service.release.clone(),
        health: service.health.clone(),
        resources: service.resources.clone(),
        strategy: service.strategy,
        options: service.options.clone(),
        restart: service.restart,
    })
}

pub(crate) async fn config_values(
    tx: &mut Tx,
    service: &Service,
) -> Result<std::collections::BTreeMap<String, String>> {
    let Some(config) = service.config else {
        return Ok(Default::default());
    };
    let rows = tx.all(sql::CONFIG_VALUES, args![config]).await?;
    rows.iter()
        .map(|row| Ok((row.text("key")?, row.text("value")?)))
        .collect()
}

pub(crate) async fn secret_versions(tx: &mut Tx, service: &Service) -> Result<std::collections::BTreeMap<String, i64>> {
    let Some(secret) = service.secret else {
        return Ok(Default::default());
    };
    let rows = tx.all(sql::SECRET_KEYS, args![secret]).await?;
    rows.iter()
        .map(|row| Ok((row.text("key")?, row.int("value_version")?)))
        .collect()
}

/// Puts the config and secret values that a deployment was told into a spec, and answers whose versions they are.
pub(crate) async fn keep_told(tx: &mut Tx, spec: &mut Spec, deployment: DeploymentId) -> Result<Option<SecretId>> {
    let row = tx.one(sql::DEPLOYMENT_ROW, args![deployment]).await?;
    let told = read::deployment(&row)?.spec;
    spec.config = told.config;
    spec.secrets = told.secrets;
    row.parse_or_null("secret")
}

/// Records the next deployment of a service and makes it the active one. The one that was active is superseded in the
/// same transaction (invariant 7, OPEN-8).
pub(crate) async fn begin(tx: &mut Tx, service: &mut Service, draft: Draft, actor: &Actor) -> Result<Deployment> {
    let version = next_version(tx, service).await?;
    if let Some(active) = service.active {
        let older = row(tx, active).await?;
        let message = format!("Superseded by version {version}");
        set_stage(tx, service, &older, Stage::Superseded, Some(&message), &message, actor).await?;
    }
    // A way back was passed step by step before: it is taken at once.
    let steps = draft.spec.options.steps(draft.spec.strategy).len();
    let step = if draft.rollback_from.is_some() { steps as u32 } else { 0 };
    let new = Deployment {
        id: DeploymentId(Uuid::now_v7()),
        service: service.id,
        project: service.project,
        version,
        template: template(&draft.spec),
        spec: draft.spec,
        stage: Stage::Queued,
        step,
        at_step: false,
        released: false,
        rolled_back: false,
        automatic: draft.automatic,
        replaced: None,
        rollback_from: draft.rollback_from,
        notes: draft.notes,
        error_message: String::new(),
        waiting: String::new(),
        created_by: draft.created_by,
        created_at_us: tx.now_us(),
        finished_at_us: None,
        receipt: Default::default(),
    };
    insert(tx, &new, draft.secret).await?;
    tx.about(new.id);
    count_deployment(tx, service, new.created_at_us, 1).await?;
    let reason = match (new.automatic, new.rollback_from) {
        (true, _) => "automatic rollback",
        (false, Some(_)) => "rollback asked for",
        (false, None) => "deployment asked for",
    };
    let details = json!({ "version": version, "image": new.spec.image, "instances": new.spec.instances });
    journal_stage(tx, actor, &new, None, Stage::Queued, reason, details).await?;
    service.version_counter = version;
    service.active = Some(new.id);
    service.last = Some(new.id);
    service.last_stage = Some(new.stage);
    service.updated_at_us = tx.now_us();
    prune(tx, service).await?;
    Ok(new)
}

/// Higher than any before (invariant 6).
async fn next_version(tx: &mut Tx, service: &Service) -> Result<i64> {
    if tx.has(Mutant::ReuseVersion) {
        let mut version = 1;
        while tx
            .first(sql::DEPLOYMENT_BY_VERSION, args![service.id, version])
            .await?
            .is_some()
        {
            version += 1;
        }
        return Ok(version);
    }
    Ok(service.version_counter + 1)
}

async fn insert(tx: &mut Tx, new: &Deployment, secret: Option<SecretId>) -> Result<()> {
    // The digest has a column of its own; the recorded text is then the same from creation to prune (invariant 13).
    let recorded = Spec {
        digest: None,
        ..new.spec.clone()
    };
    let values = args![
        new.id,
        new.service,
        new.project,
        new.version,
        json(&recorded)?,
        new.spec.port,
        new.spec.digest.clone(),
        &new.template,
        secret,
        new.rollback_from,
        &new.notes,
        new.created_by,
        new.created_at_us,
        new.automatic,
        new.step,
    ];
    tx.run(sql::DEPLOYMENT_INSERT, values).await?;
    if let Some(secret) = secret {
        for (key, version) in &new.spec.secrets {
            tx.run(sql::DEPLOYMENT_SECRET_INSERT, args![new.id, secret, key, *version])
                .await?;
        }
    }
    Ok(())
}

/// Moves a deployment along its machine, by compare-and-set on the stage that the caller has seen (invariant 8).
///
/// Reaching `succeeded` makes it the serving one and marks what a rollback left behind (OPEN-2); reaching any end frees
/// the service for the next one and prunes. `service` is brought up to date; the caller writes it with [`stand`].
pub(crate) async fn set_stage(
    tx: &mut Tx,
    service: &mut Service,
    deployment: &Deployment,
    to: Stage,
    error_message: Option<&str>,
    reason: &str,
    actor: &Actor,
) -> Result<()> {
    let (id, from) = (deployment.id, deployment.stage);
    if !from.may_become(to) {
        return Err(Error::refused(format!("A deployment cannot go from {from} to {to}")));
    }
    let message = error_message.unwrap_or(&deployment.error_message);
    let finished = (!to.is_active()).then_some(tx.now_us());
    let moved = tx
        .run(
            sql::DEPLOYMENT_SET_STAGE,
            args![id, service.id, from, to, message, finished],
        )
        .await?;
    if moved == 0 {
        return Err(moved_on(id, from));
    }
    journal_stage(tx, actor, deployment, Some(from), to, reason, json!({})).await?;
    if service.last == Some(id) {
        service.last_stage = Some(to);
    }
    service.updated_at_us = tx.now_us();
    if to.is_active() {
        return Ok(());
    }
    if service.active == Some(id) {
        service.active = None;
    }
    count_outcome(tx, service, to).await?;
    if to == Stage::Succeeded {
        succeed(tx, service, deployment, actor).await?;
    }
    prune(tx, service).await
}

/// Deploying → paused at the next step of its strategy.
pub(crate) async fn reach_step(
    tx: &mut Tx,
    service: &mut Service,
    deployment: &Deployment,
    actor: &Actor,
) -> Result<()> {
    let (number, of) = next_step(deployment)?;
    let reason = format!("step {number} of {of} reached");
    set_stage(tx, service, deployment, Stage::Paused, None, &reason, actor).await?;
    tx.run(sql::DEPLOYMENT_AT_STEP, args![deployment.id, true])
        .await
        .map(drop)
}

/// Passes the next step. A deployment that waits at it goes on; one that a user has paused does not.
pub(crate) async fn advance(tx: &mut Tx, service: &mut Service, deployment: &Deployment, actor: &Actor) -> Result<()> {
    let (number, of) = next_step(deployment)?;
    let reason = format!("step {number} of {of} passed");
    match deployment.stage {
        Stage::Paused if deployment.at_step => {
            set_stage(tx, service, deployment, Stage::Deploying, None, &reason, actor).await?;
        }
        Stage::Deploying => {
            let line = Line {
                service: service.id,
                deployment: Some(deployment.id),
                from: None,
                to: None,
                reason: &reason,
                details: json!({ "step": number }),
            };
            tx.append(actor, line).await?;
        }
        _ => return Err(moved_on(deployment.id, Stage::Deploying)),
    }
    if tx.run(sql::DEPLOYMENT_ADVANCE, args![deployment.id, number]).await? == 0 {
        return Err(moved_on(deployment.id, deployment.stage));
    }
    service.updated_at_us = tx.now_us();
    Ok(())
}

/// Number, from 1 on, and how many steps there are.
fn next_step(deployment: &Deployment) -> Result<(u32, usize)> {
    let spec = &deployment.spec;
    let of = spec.options.steps(spec.strategy).len();
    if deployment.step as usize >= of {
        let message = format!("Deployment {} has no step left", deployment.id);
        return Err(Error::new(Kind::Conflict(message.clone()), message));
    }
    Ok((deployment.step + 1, of))
}

async fn succeed(tx: &mut Tx, service: &mut Service, deployment: &Deployment, actor: &Actor) -> Result<()> {
    if service.kind == ServiceKind::Service {
        keep_routes(tx, service, deployment.id).await?;
    }
    let predecessor = service.serving.replace(deployment.id);
    if let Some(predecessor) = predecessor {
        tx.run(sql::DEPLOYMENT_REPLACED, args![deployment.id, predecessor])
            .await?;
    }
    let left_behind = predecessor.filter(|it| deployment.rollback_from.is_some_and(|target| target != *it));
    let Some(left_behind) = left_behind else { return Ok(()) };
    let reason = format!("rolled back from, by version {}", deployment.version);
    rollback::mark(tx, service, left_behind, &reason, actor).await.map(drop)
}

/// Which routes lead to a version when it begins to serve.
async fn keep_routes(tx: &mut Tx, service: &Service, deployment: DeploymentId) -> Result<()> {
    let rows = tx.all(sql::ROUTES_THAT_LEAD, args![service.id]).await?;
    let address = |row: &Row| Ok(format!("{}{}", row.text("hostname")?, row.text("path")?));
    let routes: Vec<String> = rows.iter().map(address).collect::<Result<_>>()?;
    tx.run(sql::DEPLOYMENT_SET_ROUTES, args![deployment, json(&routes)?])
        .await
        .map(drop)
}

/// Deletes what retention lets go (OPEN-7): all but the ten highest versions, the serving one, the active one, and
/// the target of an active rollback. Statistics and the journal stay.
pub(crate) async fn prune(tx: &mut Tx, service: &mut Service) -> Result<()> {
    let serving = service.serving.filter(|_| !tx.has(Mutant::PruneServing));
    let serving = serving.map(|id| id.to_string()).unwrap_or_default();
    let rows = tx
        .all(sql::DEPLOYMENTS_TO_PRUNE, args![service.id, serving, DEPLOYMENTS_KEPT])
        .await?;
    let mut secrets = std::collections::BTreeSet::new();
    for row in &rows {
        tx.run(sql::DEPLOYMENT_DELETE, args![row.parse::<DeploymentId>("id")?])
            .await?;
        secrets.extend(row.parse_or_null::<SecretId>("secret")?);
        count_deployment(tx, service, row.int("created_at_us")?, -1).await?;
    }
    for secret in secrets {
        tx.run(sql::SECRET_VALUES_DROP_UNUSED, args![secret]).await?;
    }
    Ok(())
}

/// Writes where a service stands, under a new revision.
pub(crate) async fn stand(tx: &mut Tx, service: &mut Service) -> Result<()> {
    service.revision = tx.next(Serial::Revision).await?;
    let values = args![
        service.id,
        service.instances_running,
        service.active,
        service.serving,
        service.last,
        service.last_stage,
        service.deleting,
        service.frozen.clone(),
        service.version_counter,
        service.revision,
        service.updated_at_us,
    ];
    tx.run(sql::SERVICE_STAND, values).await.map(drop)
}

/// Writes what a service's owner wants.
pub(crate) async fn want(tx: &mut Tx, service: &Service) -> Result<()> {
    tx.run(sql::SERVICE_WANT, wishes(service)?).await.map(drop)
}

/// What a service's owner wants, as [`sql::SERVICE_WANT`] takes it and [`sql::SERVICE_INSERT`] begins.
pub(crate) fn wishes(service: &Service) -> Result<Vec<Value>> {
    Ok(args![
        service.id,
        &service.name,
        &service.image,
        service.port,
        service.instances,
        service.config,
        service.secret,
        service.command.as_ref().map(json).transpose()?,
        json(&service.health)?,
        json(&service.resources)?,
        json(&service.strategy)?,
        json(&service.options)?,
        service.restart,
        service.updated_at_us,
        service.release.as_ref().map(json).transpose()?,
        service.options.preview_host.clone(),
        json(&service.delivery)?,
    ])
}

pub(crate) async fn row(tx: &mut Tx, id: DeploymentId) -> Result<Deployment> {
    let row = tx.first(sql::DEPLOYMENT_ROW, args![id]).await?;
    row.as_ref()
        .map_or_else(|| Err(Error::not_found(format!("deployment {id}"))), read::deployment)
}

/// A compare-and-set that found another value.
pub(crate) fn moved_on(id: DeploymentId, from: Stage) -> Error {
    let message = format!("Deployment {id} is no longer {from}");
    Error::new(Kind::Conflict(message.clone()), message)
}

/// Counts a deployment in, or out. Workers' ones count with their service only (G.16), and those of a service that is
/// being deleted have left the project's list already.
async fn count_deployment(tx: &mut Tx, service: &Service, created_at_us: i64, n: i64) -> Result<()> {
    tx.count(service.id, count::SERVICE_DEPLOYMENTS, n).await?;
    if service.kind == ServiceKind::Service && !service.deleting {
        tx.place(service.project, count::DEPLOYMENTS, created_at_us, n).await?;
    }
    Ok(())
}

async fn count_outcome(tx: &mut Tx, service: &Service, end: Stage) -> Result<()> {
    let kind = match end {
        Stage::Succeeded => count::SUCCEEDED,
        Stage::Failed => count::FAILED,
        Stage::Canceled => count::CANCELED,
        Stage::Superseded => count::SUPERSEDED,
        Stage::Queued | Stage::Deploying | Stage::Paused | Stage::Finalizing | Stage::Canceling => return Ok(()),
    };
    tx.count(service.id, kind, 1).await?;
    tx.count(service.project, kind, 1).await
}

async fn journal_stage(
    tx: &mut Tx,
    actor: &Actor,
    deployment: &Deployment,
    from: Option<Stage>,
    to: Stage,
    reason: &str,
    details: serde_json::Value,
) -> Result<()> {
    let line = Line {
        service: deployment.service,
        deployment: Some(deployment.id),
        from,
        to: Some(to),
        reason,
        details,
    };
    tx.append(actor, line).await
}
