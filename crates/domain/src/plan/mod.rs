//! The pure rollout planner: what to do next for one service, from what is wanted and what is seen.
//!
//! # Expected flow
//! A reconciler reads everything about a service, calls [`plan`], writes the durable part of the plan, executes the
//! rest, and calls again when something changed or [`Plan::next_wake`] has passed. There is one rule set for
//! rollouts, scaling, going back, repair and deletion: instances of the goal's template are *fresh*, those of the
//! version that serves until a rollout has succeeded are *originals*, all others are left over. A strategy is a
//! *course* of legs, and each leg says how many fresh ones and originals it wants: missing ones are added, what is too
//! much leaves as fast as the availability floor allows.
//!
//! # Guarantees
//! Total (never panics), deterministic, and a fixpoint: when reality matches the goal the plan is empty. The plan
//! names every instance that it touches and leaves no choice to the executor. [`guard::check`] restates the safety
//! invariants independently of the rules here; executors call it before they act.
//!
//! # Assumptions
//! Instances are listed completely (a partial listing must not reach the planner, invariant 20). Time comes in as
//! ages, measured on a monotonic clock, so that jumps of the wall clock change nothing (invariant 14).

mod backoff;
mod course;
mod gate;
pub mod guard;
mod inputs;
mod output;
mod rules;
mod scene;
mod verdict;

pub use inputs::{Crash, Desired, Evidence, Goal, Health, Observed, Process, Rollout, RouteState, Seen, Trial, Watch};
pub use output::{Action, FailReason, Plan, RetireReason, Traffic, Verdict};
pub use rules::plan;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod timelines;
#[cfg(test)]
mod world;
