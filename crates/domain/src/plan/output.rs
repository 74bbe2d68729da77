//! What the planner answers.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::{DeploymentId, InstanceId, Template};

/// What to do now. Empty (no action, no verdict) when reality matches the goal or when there is nothing to do but wait.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// Exactly these instances belong in the routing table.
    pub routes: BTreeSet<InstanceId>,
    /// How the edge is to divide requests among them.
    pub traffic: Traffic,
    pub verdict: Option<Verdict>,
    /// The serving version, which nobody is replacing, is to be rolled back; why.
    pub roll_back: Option<String>,
    /// Plan again after so long even if nothing changes. `None`: only a change can matter.
    pub next_wake: Option<Duration>,
    /// What the rollout waits for, for people. Empty when it does not wait.
    pub waiting: String,
    /// Grows while a rollout comes nearer to its goal; says nothing else.
    pub progress: u64,
}

/// How requests are divided between the goal's instances and all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Percent of the requests for the goal's instances. `None`: every routed instance gets its equal share.
    pub share: Option<u32>,
    /// The goal's instances are reached at the preview host too.
    pub preview: bool,
    /// Clients stay with the version that answered them first.
    pub sticky: bool,
    /// Requests wait while no instance is routed.
    pub hold: bool,
}

/// One step. Executing it twice has the effect of once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Record the intent of one more instance, then launch it.
    Add {
        deployment: DeploymentId,
        template: Template,
    },
    /// Tell the engine (again) to run an instance that was intended before.
    Launch { id: InstanceId },
    /// Record that this instance leaves. It leaves the table by not being in [`Plan::routes`].
    Retire { id: InstanceId, reason: RetireReason },
    /// Nothing can reach it any more (or the drain deadline has passed: then `cut` its remaining requests first).
    Stop { id: InstanceId, grace: Duration, cut: bool },
    /// It has ended, or was never launched: record its end and free what it owns.
    Collect { id: InstanceId },
}

/// Why an instance leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetireReason {
    /// Of another version than the goal.
    Replaced,
    /// More than wanted.
    Surplus,
    /// Fails its health check for too long.
    Unhealthy,
    /// The service was deleted, or nothing is wanted of it.
    Unwanted,
}

impl RetireReason {
    pub fn as_str(self) -> &'static str {
        match self {
            RetireReason::Replaced => "replaced by another version",
            RetireReason::Surplus => "scaled down",
            RetireReason::Unhealthy => "failed its health check for too long",
            RetireReason::Unwanted => "no longer wanted",
        }
    }
}

/// A rollout's change of stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The instances of its next step are there: deploying → paused, until the step is passed.
    StepReached,
    /// What the step waited for has come: paused → deploying, one more step behind it.
    StepPassed,
    Succeeded,
    Failed(FailReason),
    Canceled,
}

/// Why a rollout is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailReason {
    /// So many of its instances died.
    Crashing { failures: u32 },
    /// Its release command did not succeed.
    Release,
    /// Beside the old version it did worse than its step allows.
    Gate { what: String },
    /// No progress within the deadline; `waiting` is what it waited for.
    Stalled { deadline: Duration, waiting: String },
}
