//! What the edge has seen of two versions since something began: since a step was reached, or since a success.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use domain::plan::{Evidence, Trial, Watch};
use domain::{DeploymentId, ServiceId, Stage};
use store::{Deployment, ServiceState};
use tokio::time::Instant;

use crate::seams::EdgePort;

/// When each deployment came to where it stands, and what the edge had counted by then.
///
/// Kept in memory on a monotonic clock. A new control plane begins every step's observation anew, so none is ever cut
/// short, and it watches no success that it has not seen. Clones are the same book.
#[derive(Clone, Default)]
pub struct EvidenceBook(Arc<Mutex<HashMap<ServiceId, Vec<Mark>>>>);

#[derive(Clone)]
struct Mark {
    deployment: DeploymentId,
    stage: Stage,
    step: u32,
    since: Instant,
    /// What served before.
    before: Option<DeploymentId>,
    /// What had been counted of both then.
    then: Evidence,
}

impl EvidenceBook {
    /// Notes where the deployments of a service stand now. Nothing is kept of those that nobody will ask about.
    pub fn note(&self, state: &ServiceState, edge: &dyn EdgePort, now: Instant) {
        let known = self.marks().get(&state.service.id).cloned().unwrap_or_default();
        let active = state.active.as_ref().filter(|active| is_observed(active));
        let serving = state.serving.as_ref().filter(|_| active.is_none());
        // A success is watched from where its rollout was seen to end.
        let serving = serving.filter(|serving| {
            known.iter().any(|mark| {
                let watched = serving.spec.options.watch() > now.saturating_duration_since(mark.since);
                mark.deployment == serving.id && (mark.stage.is_active() || watched)
            })
        });
        let before = |deployment: &Deployment| match deployment.stage {
            Stage::Succeeded => deployment.replaced,
            _ => state.serving.as_ref().map(|serving| serving.id),
        };
        let marks = active.into_iter().chain(serving).map(|deployment| {
            match known.iter().find(|mark| mark.is_where(deployment)) {
                Some(mark) => mark.clone(),
                None => Mark::new(deployment, before(deployment), edge, now),
            }
        });
        let marks: Vec<Mark> = marks.collect();
        // At once, not by way of none: others read the book meanwhile.
        if !marks.is_empty() {
            self.marks().insert(state.service.id, marks);
        } else if !known.is_empty() {
            self.marks().remove(&state.service.id);
        }
    }

    fn mark(&self, deployment: &Deployment) -> Option<Mark> {
        let marks = self.marks();
        let mut marks = marks.get(&deployment.service)?.iter();
        marks.find(|mark| mark.is_where(deployment)).cloned()
    }

    fn marks(&self) -> MutexGuard<'_, HashMap<ServiceId, Vec<Mark>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What was seen since a deployment came to where it stands. Nothing where nothing is decided by it.
    pub fn trial(&self, deployment: &Deployment, edge: &dyn EdgePort, now: Instant) -> Option<Trial> {
        Some(self.mark(deployment)?.trial(edge, now))
    }

    /// The watch over a success that this control plane has seen. A rollback is never watched, so it never leads to
    /// another one.
    pub fn watch(&self, state: &ServiceState, edge: &dyn EdgePort, now: Instant) -> Option<Watch> {
        let serving = state.serving.as_ref().filter(|_| state.active.is_none())?;
        let mark = self.mark(serving)?;
        if serving.rollback_from.is_some() || mark.before.is_none() {
            return None;
        }
        let Trial { lasts, evidence } = mark.trial(edge, now);
        Some(Watch {
            left: serving.spec.options.watch().checked_sub(lasts)?,
            evidence,
        })
    }
}

impl Mark {
    fn new(deployment: &Deployment, before: Option<DeploymentId>, edge: &dyn EdgePort, now: Instant) -> Self {
        Mark {
            deployment: deployment.id,
            stage: deployment.stage,
            step: deployment.step,
            since: now,
            before,
            then: count(edge, deployment.id, before),
        }
    }

    fn is_where(&self, deployment: &Deployment) -> bool {
        self.deployment == deployment.id && self.stage == deployment.stage && self.step == deployment.step
    }

    fn trial(&self, edge: &dyn EdgePort, now: Instant) -> Trial {
        let Evidence { new, old } = count(edge, self.deployment, self.before);
        let evidence = Evidence {
            new: new.since(&self.then.new),
            old: match self.stage {
                // What it did until it was replaced.
                Stage::Succeeded => self.then.old.clone(),
                _ => old.since(&self.then.old),
            },
        };
        Trial {
            lasts: now.saturating_duration_since(self.since),
            evidence,
        }
    }
}

/// Whether anything will be decided by what the edge sees of it.
fn is_observed(deployment: &Deployment) -> bool {
    let options = &deployment.spec.options;
    !options.steps(deployment.spec.strategy).is_empty() || !options.watch().is_zero()
}

fn count(edge: &dyn EdgePort, new: DeploymentId, old: Option<DeploymentId>) -> Evidence {
    Evidence {
        new: edge.behaviour(new),
        old: old.map(|old| edge.behaviour(old)).unwrap_or_default(),
    }
}
