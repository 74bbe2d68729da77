//! From the record, the engine, the edge and the checks to what the planner is told.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use domain::plan::{Crash, Desired, Goal, Health, Observed, Process, Rollout, Seen};
use domain::routing::EdgeView;
use domain::{DeploymentId, InstanceId, Stage, Template};
use engine::{InstanceStatus, Phase};
use store::{Deployment, InstanceRow, InstanceState, ServiceState};
use tokio::time::Instant;

use crate::evidence::EvidenceBook;
use crate::execute::Operations;
use crate::health::HealthBook;
use crate::layout::warm_for;
use crate::release;
use crate::routes::RouteBook;
use crate::seams::EdgePort;

/// How long each rollout has made no progress. Kept in memory on a monotonic clock: a restart of the control plane
/// gives a rollout its full deadline again, and a jump of the wall clock changes nothing (invariant 14).
#[derive(Default)]
pub struct ProgressBook(HashMap<DeploymentId, (u64, Instant)>);

impl ProgressBook {
    pub fn stalled_for(&mut self, deployment: &Deployment, now: Instant) -> Duration {
        let (_, since) = self.0.entry(deployment.id).or_insert((0, now));
        if deployment.stage == Stage::Paused {
            *since = now;
        }
        now.saturating_duration_since(*since)
    }

    pub fn note(&mut self, deployment: DeploymentId, progress: u64, now: Instant) {
        let known = self.0.entry(deployment).or_insert((0, now));
        if progress > known.0 {
            *known = (progress, now);
        }
    }

    /// The rollout does something that has no number, such as fetching an image.
    pub fn touch(&mut self, deployment: DeploymentId, now: Instant) {
        self.0.entry(deployment).or_insert((0, now)).1 = now;
    }

    /// Another stage measures progress anew.
    pub fn forget(&mut self, deployment: DeploymentId) {
        self.0.remove(&deployment);
    }
}

/// What the reconciler remembers beside the record.
pub struct Books<'a> {
    pub evidence: &'a EvidenceBook,
    pub edge: &'a dyn EdgePort,
    pub now: Instant,
    pub now_us: i64,
}

impl Books<'_> {
    /// What the users want of the service.
    pub fn desired(&self, state: &ServiceState, progress: &mut ProgressBook) -> Desired {
        let active = state.active.as_ref();
        Desired {
            rollout: active.map(|deployment| self.rollout(state, deployment, progress)),
            serving: state.serving.as_ref().map(goal),
            warm_for: warm_for(state, self.now_us),
            watch: self.evidence.watch(state, self.edge, self.now),
            deleting: state.service.deleting,
        }
    }

    fn rollout(&self, state: &ServiceState, deployment: &Deployment, progress: &mut ProgressBook) -> Rollout {
        let died = state.crashes.iter().filter(|row| row.deployment == deployment.id);
        let mut rollout = Rollout {
            goal: goal(deployment),
            stage: deployment.stage,
            step: deployment.step,
            at_step: None,
            release: release::outstanding(deployment),
            stalled_for: progress.stalled_for(deployment, self.now),
            failures: died.count() as u32,
        };
        if deployment.at_step {
            let trial = self.evidence.trial(deployment, self.edge, self.now);
            rollout.at_step = Some(trial.unwrap_or_default());
        }
        rollout
    }
}

fn goal(deployment: &Deployment) -> Goal {
    Goal {
        deployment: deployment.id,
        template: deployment.template.clone(),
        instances: deployment.spec.instances,
        strategy: deployment.spec.strategy,
        options: deployment.spec.options.clone(),
        routable: deployment.spec.port.is_some(),
    }
}

/// The deployment that describes what an instance runs: any that is at hand with the same template.
pub fn deployment_of<'s>(state: &'s ServiceState, template: &Template) -> Option<&'s Deployment> {
    state
        .active
        .iter()
        .chain(&state.serving)
        .chain(&state.former)
        .find(|deployment| deployment.template == *template)
}

/// What comes nearest to the description of an instance whose own version is not at hand.
pub fn nearest(state: &ServiceState) -> Option<&Deployment> {
    state.active.as_ref().or(state.serving.as_ref())
}

/// Everything that can be seen of a service's instances.
pub struct Eyes<'a> {
    pub snapshot: &'a BTreeMap<InstanceId, InstanceStatus>,
    pub operations: &'a Operations,
    pub health: &'a HealthBook,
    pub view: &'a EdgeView,
    pub now: Instant,
    pub now_us: i64,
}

impl Eyes<'_> {
    pub fn observe(&self, state: &ServiceState, routes: &mut RouteBook) -> Observed {
        let instances = state.instances.iter().map(|row| self.see(row, routes)).collect();
        let crashes = state.crashes.iter().map(|row| self.crash(row)).collect();
        Observed { instances, crashes }
    }

    fn see(&self, row: &InstanceRow, routes: &mut RouteBook) -> Seen {
        let process = self.process(row);
        let health = match process {
            Process::Running => self.health.health(row.id),
            _ => Health::Unknown,
        };
        Seen {
            id: row.id,
            deployment: row.deployment,
            template: row.template.clone(),
            retiring: row.state == InstanceState::Retiring,
            process,
            health,
            route: routes.state(row.id, self.view, self.now),
        }
    }

    fn process(&self, row: &InstanceRow) -> Process {
        let id = row.id;
        if self.operations.start_failure(id).is_some() {
            return Process::Exited;
        }
        match self.snapshot.get(&id).map(|status| &status.phase) {
            Some(Phase::Exited(_)) => Process::Exited,
            _ if self.operations.is_stopping(id) => Process::Stopping,
            Some(Phase::Stopping) => Process::Stopping,
            Some(Phase::Running) => Process::Running,
            Some(Phase::Starting) => Process::Starting,
            None if self.operations.is_launching(id) => Process::Starting,
            // It has run, and the engine has lost it. What takes its place must show its health anew, as a new one.
            None if row.healthy_once => Process::Exited,
            None => Process::Absent,
        }
    }

    /// Ages of crashes come from the wall clock of the record: a jump can shorten or lengthen one back-off, no more.
    fn crash(&self, row: &InstanceRow) -> Crash {
        let gone_us = row.gone_at_us.unwrap_or(self.now_us);
        let micros = |us: i64| Duration::from_micros(us.max(0) as u64);
        Crash {
            template: row.template.clone(),
            age: micros(self.now_us - gone_us),
            lived: micros(gone_us - row.created_at_us),
        }
    }
}
