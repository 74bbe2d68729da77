//! What the planner is told.

use std::time::Duration;

use crate::{Behaviour, DeploymentId, InstanceId, RolloutOptions, Stage, Strategy, Template};

/// What the users want of one service.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The active deployment, if there is one.
    pub rollout: Option<Rollout>,
    /// The last deployment that succeeded: what a failed or cancelled rollout goes back to.
    pub serving: Option<Goal>,
    /// For so long the version before the serving one is kept alive, unrouted, after a blue-green switch. Zero: it is
    /// not, or not any more.
    pub warm_for: Duration,
    /// The serving version is watched, since it succeeded not long ago.
    pub watch: Option<Watch>,
    /// The service was deleted: everything leaves.
    pub deleting: bool,
}

/// A deployment that is on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    pub goal: Goal,
    pub stage: Stage,
    /// Steps of the strategy that are behind it. A rollback has them all behind it from its beginning.
    pub step: u32,
    /// Paused, and that because it has reached a step.
    pub at_step: Option<Trial>,
    /// The template of the run of its release command, while that has not succeeded yet.
    pub release: Option<Template>,
    /// How long [`super::Plan::progress`] has not grown, paused time left out.
    pub stalled_for: Duration,
    /// Instances of this deployment that have died so far.
    pub failures: u32,
}

/// How two versions behaved side by side.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evidence {
    pub new: Behaviour,
    pub old: Behaviour,
}

/// A version beside the one before it, since it came to where it stands: at a step, or at its success.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Trial {
    pub lasts: Duration,
    pub evidence: Evidence,
}

/// A version that has succeeded and may still be rolled back by itself. A rollback is never watched: it never leads to
/// another one.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    pub left: Duration,
    /// The new version since its success, the old one before.
    pub evidence: Evidence,
}

/// A number of instances of one template.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    pub deployment: DeploymentId,
    pub template: Template,
    pub instances: u32,
    pub strategy: Strategy,
    pub options: RolloutOptions,
    /// Whether the edge sends requests to it. A worker is never routed: healthy is all it can be.
    pub routable: bool,
}

/// What is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// Every instance that was intended and is not known to be gone.
    pub instances: Vec<Seen>,
    /// Instances that died unasked, newest first; a bounded number of them.
    pub crashes: Vec<Crash>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub id: InstanceId,
    pub deployment: DeploymentId,
    pub template: Template,
    /// It was decided (durably) that this instance leaves. Never taken back.
    pub retiring: bool,
    pub process: Process,
    pub health: Health,
    pub route: RouteState,
}

/// Where the engine stands with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// Intended, and the engine does not know it: it must be launched (again).
    Absent,
    Starting,
    Running,
    /// Was told to stop and has not ended.
    Stopping,
    Exited,
}

/// What the checks say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Not judged yet, since it was started or since the control plane was.
    Unknown,
    /// Has passed its threshold and not failed it since.
    Passing { since: Duration },
    /// Has failed its threshold, or not passed it yet; `what` was seen last.
    Failing { since: Duration, what: String },
}

/// Where the edge stands with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteState {
    /// In no table that an edge may use, and no request of it is in flight.
    Out,
    /// In the newest table, which is not acknowledged.
    Entering,
    /// In the newest table, which is acknowledged.
    In,
    /// Not in the newest table, and either that is not acknowledged (`drained_for` is `None`), or requests are in
    /// flight since the acknowledgement so long ago.
    Leaving { drained_for: Option<Duration> },
}

impl RouteState {
    /// Some edge may still choose this instance for a new request.
    pub fn may_be_chosen(self) -> bool {
        matches!(
            self,
            RouteState::Entering | RouteState::In | RouteState::Leaving { drained_for: None }
        )
    }
}

/// An instance that died unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    pub template: Template,
    /// How long ago.
    pub age: Duration,
    /// From its creation to its end.
    pub lived: Duration,
}
