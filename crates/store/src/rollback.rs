//! Going back: a new deployment of what an earlier one was. Owners and the reconciler both come through here.

use domain::{AccountId, Error, Result, SecretId, Stage};

use crate::db::{Tx, args};
use crate::deploy::{self, Draft};
use crate::input::{RollbackRequest, Source};
use crate::ledger::{Actor, Line, count};
use crate::rows::{Deployment, Service};
use crate::trouble::Mutant;

/// Who begins a rollback, and of what.
pub(crate) struct Order<'a> {
    pub(crate) target: &'a Deployment,
    /// The secret whose versions the target's spec names.
    pub(crate) recorded_secret: Option<SecretId>,
    pub(crate) request: RollbackRequest,
    pub(crate) created_by: AccountId,
    /// The reconciler begins it by itself.
    pub(crate) automatic: bool,
    pub(crate) actor: &'a Actor,
}

/// Records a deployment of what the target was (S0.32 to S0.39) and puts its wishes back onto the service. The target
/// is not touched (OPEN-2). The caller writes where the service stands with [`deploy::stand`].
pub(crate) async fn begin(tx: &mut Tx, service: &mut Service, order: Order<'_>) -> Result<Deployment> {
    let target = order.target;
    may_go_back_to(target)?;
    restore(service, target);
    service.updated_at_us = tx.now_us();
    deploy::want(tx, service).await?;
    let (spec, secret) = spec(tx, service, &order).await?;
    let draft = Draft {
        spec,
        secret,
        rollback_from: Some(target.id),
        automatic: order.automatic,
        notes: order.request.notes,
        created_by: order.created_by,
    };
    deploy::begin(tx, service, draft, order.actor).await
}

/// S0.36, S0.37.
pub(crate) fn may_go_back_to(target: &Deployment) -> Result<()> {
    if target.stage == Stage::Succeeded && !target.rolled_back {
        return Ok(());
    }
    let status = target.stage.platform_status(target.rolled_back);
    Err(Error::refused(format!(
        "Cannot rollback to deployment with status '{status}'"
    )))
}

/// What the rollback will run: all of then, but for what the request takes from now.
async fn spec(tx: &mut Tx, service: &Service, order: &Order<'_>) -> Result<(domain::Spec, Option<SecretId>)> {
    let mut spec = order.target.spec.clone();
    if tx.has(Mutant::RollbackToNow) {
        spec = deploy::current_spec(tx, service, None).await?;
    }
    spec.strategy = service.strategy;
    spec.options = service.options.clone();
    // It prepares what a version needs before it starts, and this version has run before.
    spec.release = None;
    if order.request.config == Source::Current {
        spec.config = deploy::config_values(tx, service).await?;
    }
    let secret = match order.request.secrets {
        Source::Snapshot => order.recorded_secret,
        Source::Current => {
            spec.secrets = deploy::secret_versions(tx, service).await?;
            service.secret
        }
    };
    Ok((spec, secret))
}

/// Marks what a rollback leaves behind (S0.25). Once: a second mark changes nothing.
pub(crate) async fn mark(
    tx: &mut Tx,
    service: &Service,
    left: domain::DeploymentId,
    reason: &str,
    actor: &Actor,
) -> Result<bool> {
    if tx.run(crate::sql::DEPLOYMENT_ROLLED_BACK, args![left]).await? == 0 {
        return Ok(false);
    }
    tx.count(service.id, count::ROLLED_BACK, 1).await?;
    tx.count(service.project, count::ROLLED_BACK, 1).await?;
    let line = Line {
        service: service.id,
        deployment: Some(left),
        from: Some(Stage::Succeeded),
        to: Some(Stage::Succeeded),
        reason,
        details: serde_json::json!({ "rolled_back": true }),
    };
    tx.append(actor, line).await?;
    Ok(true)
}

/// Puts the target's wishes back onto the service, so that the next change starts from them.
fn restore(service: &mut Service, target: &Deployment) {
    let spec = target.spec.clone();
    service.image = spec.image;
    service.port = spec.port;
    service.instances = spec.instances;
    service.delivery = spec.delivery;
    service.command = spec.command;
    service.resources = spec.resources;
    service.health = spec.health;
    service.restart = spec.restart;
}
