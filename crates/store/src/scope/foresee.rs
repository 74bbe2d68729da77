//! A change before it is made: carried out in full, looked at, and taken back.
//!
//! Guarantees: what is foreseen is what [`Scope::carry_out`] does, because both are the same code, and a change that is
//! bound to a fingerprint happens as it was foreseen or not at all.

use domain::error::Kind;
use domain::{ConfigId, DeploymentId, Error, Result, ServiceId};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Scope;
use crate::db::{Tx, json as text};
use crate::input::{NewService, RollbackRequest, ServicePatch};
use crate::rows::{Deployment, Service};
use crate::{deploy, token};

/// Characters of a fingerprint. It guards against change, not against forgery.
const FINGERPRINT_LEN: usize = 16;

/// A change of a service that its owner asks for.
#[derive(Debug, Clone)]
pub enum Intent {
    Create(NewService),
    Patch(ServiceId, ServicePatch),
    Rollback(DeploymentId, RollbackRequest),
}

impl Intent {
    /// The config that it asks for by its id.
    fn config(&self) -> Option<ConfigId> {
        match self {
            Intent::Create(new) => new.config,
            Intent::Patch(_, patch) => patch.config.flatten(),
            Intent::Rollback(..) => None,
        }
    }
}

/// What a fingerprint has been taken of before, and what its image meant then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    pub fingerprint: String,
    /// See [`Scope::foresee`].
    pub image: Option<String>,
}

/// Both sides of a change.
#[derive(Debug, Clone)]
pub struct Foreseen {
    /// `None` for a service that is to be made.
    pub before: Option<Service>,
    /// What serves before the change.
    pub serving: Option<Deployment>,
    pub after: Service,
    /// `None` where the change deploys nothing.
    pub deployment: Option<Deployment>,
    /// Of everything that the change rests on: another one when any of it has changed.
    pub fingerprint: String,
}

impl Scope {
    /// What a change would do. Nothing is written. `image` is what the change's image means to whoever will run it (a
    /// digest), where that is known; it becomes part of the fingerprint.
    ///
    /// # Errors
    /// Those of the change itself.
    pub async fn foresee(&self, intent: Intent, image: Option<&str>) -> Result<Foreseen> {
        let mut tx = self.write().await?;
        let foreseen = self.perform(&mut tx, intent, image).await?;
        tx.end().await?;
        Ok(foreseen)
    }

    /// Makes a change; where it is bound, only if it is the one that was foreseen.
    ///
    /// # Errors
    /// `Conflict` when something that the fingerprint rests on has changed since.
    pub async fn carry_out(&self, intent: Intent, bound: Option<&Bound>) -> Result<Foreseen> {
        let mut tx = self.write().await?;
        let image = bound.and_then(|bound| bound.image.as_deref());
        let done = self.perform(&mut tx, intent, image).await?;
        if bound.is_some_and(|bound| bound.fingerprint != done.fingerprint) {
            tx.end().await?;
            let message = "What this plan rests on has changed since it was made; look at the new plan";
            return Err(Error::new(Kind::Conflict(message.to_owned()), message));
        }
        tx.commit().await?;
        Ok(done)
    }

    async fn perform(&self, tx: &mut Tx, intent: Intent, image: Option<&str>) -> Result<Foreseen> {
        let asked = intent.config();
        let (before, after, deployment) = match intent {
            Intent::Create(new) => {
                let (service, deployment) = self.create_service_in(tx, new).await?;
                (None, service, Some(deployment))
            }
            Intent::Patch(id, patch) => {
                let (before, after, deployment) = self.patch_service_in(tx, id, patch).await?;
                (Some(before), after, deployment)
            }
            Intent::Rollback(target, request) => {
                let (before, after, deployment) = self.rollback_in(tx, target, request).await?;
                (Some(before), after, Some(deployment))
            }
        };
        let serving = match before.as_ref().and_then(|service| service.serving) {
            Some(serving) => Some(deploy::row(tx, serving).await?),
            None => None,
        };
        let fingerprint = fingerprint(before.as_ref(), asked, &after, deployment.as_ref(), image)?;
        Ok(Foreseen {
            before,
            serving,
            after,
            deployment,
            fingerprint,
        })
    }
}

/// Ids and times that the change itself makes are left out, and so is what moves by itself while nothing changes. A
/// config that the change finds or makes by its name counts by its values, which are the deployment's.
fn fingerprint(
    before: Option<&Service>,
    asked: Option<ConfigId>,
    after: &Service,
    deployment: Option<&Deployment>,
    image: Option<&str>,
) -> Result<String> {
    let stands = before.map(|it| (it.id, it.version_counter, it.active, it.serving, it.updated_at_us));
    let known = [asked, before.and_then(|it| it.config)];
    let config = after.config.filter(|it| known.contains(&Some(*it)));
    let wanted = json!({
        "kind": after.kind.as_str(),
        "name": after.name,
        "project": after.project,
        "config": config,
        "secret": after.secret,
        "release": after.release,
        "strategy": after.strategy,
        "options": after.options,
    });
    let runs = deployment.map(|it| (&it.spec, it.rollback_from));
    let digest = Sha256::digest(text(&(stands, wanted, runs, image))?.as_bytes());
    let mut hex = token::hex(&digest);
    hex.truncate(FINGERPRINT_LEN);
    Ok(hex)
}
