//! What the edge has seen of two versions since something began: since a step was reached, or since a success.

use std::collections::HashMap;
use std::time::Duration;

use domain::plan::{Evidence, Watch};
use domain::{DeploymentId, ServiceId, Stage};
use store::{Deployment, ServiceState};
use tokio::time::Instant;

use crate::seams::EdgePort;

/// When each deployment came to where it stands, and what the edge had counted by then.
///
/// Kept in memory on a monotonic clock. A new control plane begins every step's observation anew, so none is ever cut
/// short, and it watches no success that it has not seen.
#[derive(Default)]
pub struct EvidenceBook(HashMap<ServiceId, Vec<Mark>>);

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
    pub fn note(&mut self, state: &ServiceState, edge: &dyn EdgePort, now: Instant) {
        let known = self.0.remove(&state.service.id).unwrap_or_default();
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
            let stands = |mark: &&Mark| {
                mark.deployment == deployment.id && mark.stage == deployment.stage && mark.step == deployment.step
            };
            match known.iter().find(stands) {
                Some(mark) => mark.clone(),
                None => Mark::new(deployment, before(deployment), edge, now),
            }
        });
        let marks: Vec<Mark> = marks.collect();
        if !marks.is_empty() {
            self.0.insert(state.service.id, marks);
        }
    }

    fn mark(&self, deployment: &Deployment) -> Option<&Mark> {
        let mut marks = self.0.get(&deployment.service)?.iter();
        marks.find(|mark| mark.deployment == deployment.id)
    }

    /// How long a deployment has stood where it does, and what both versions did meanwhile.
    pub fn since(&self, deployment: &Deployment, edge: &dyn EdgePort, now: Instant) -> (Duration, Evidence) {
        let Some(mark) = self.mark(deployment) else {
            return Default::default();
        };
        let Evidence { new, old } = count(edge, deployment.id, mark.before);
        let evidence = Evidence {
            new: new.since(&mark.then.new),
            old: old.since(&mark.then.old),
        };
        (now.saturating_duration_since(mark.since), evidence)
    }

    /// The watch over a success that this control plane has seen. A rollback is never watched, so it never leads to
    /// another one.
    pub fn watch(&self, state: &ServiceState, edge: &dyn EdgePort, now: Instant) -> Option<Watch> {
        let serving = state.serving.as_ref().filter(|_| state.active.is_none())?;
        let mark = self.mark(serving).filter(|mark| mark.stage == Stage::Succeeded)?;
        if serving.rollback_from.is_some() || mark.before.is_none() {
            return None;
        }
        let watched_for = now.saturating_duration_since(mark.since);
        let evidence = Evidence {
            new: self.since(serving, edge, now).1.new,
            // What the old version did until it was replaced.
            old: mark.then.old.clone(),
        };
        Some(Watch {
            left: serving.spec.options.watch().checked_sub(watched_for)?,
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
