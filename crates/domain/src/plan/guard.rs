//! The safety invariants, stated once more and independently of the rules that should keep them.
//!
//! Executors check every plan before they act. A violation is a bug of ours: the service is then frozen (keeps
//! serving, is no longer acted on) and says so, instead of harm being done in the name of a broken rule.

use super::inputs::{Desired, Goal, Health, Observed, Process, RouteState, Seen};
use super::output::{Action, Plan, RetireReason};
use super::rules::ceiling;
use crate::Strategy;

/// A plan that must not be executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant {number} would be broken: {what}")]
pub struct Violation {
    /// Its number in `docs/ARCHITECTURE.md`, "Invariants".
    pub number: u8,
    pub what: String,
}

/// Checks invariants 1 (surge ceiling), 2 (availability floor), 3 (route implies ready) and 4 (unroute before stop).
pub fn check(desired: &Desired, observed: &Observed, plan: &Plan) -> Result<(), Violation> {
    let goal = desired.goal();
    surge_ceiling(desired, goal, observed, plan)?;
    availability_floor(goal, observed, plan)?;
    route_implies_ready(observed, plan)?;
    unroute_before_stop(observed, plan)
}

fn violation(number: u8, what: String) -> Result<(), Violation> {
    Err(Violation { number, what })
}

fn alive(seen: &Seen) -> bool {
    seen.process != Process::Exited
}

fn surge_ceiling(desired: &Desired, goal: Option<&Goal>, observed: &Observed, plan: &Plan) -> Result<(), Violation> {
    let added = plan.actions.iter().filter(|a| matches!(a, Action::Add { .. })).count() as u32;
    if added == 0 {
        return Ok(());
    }
    let live = observed.instances.iter().filter(|s| alive(s)).count() as u32;
    // Told to stop, which invariant 4 allows for drained ones only.
    let stopping = |s: &&Seen| s.retiring && s.process == Process::Stopping;
    let stopping = observed.instances.iter().filter(stopping).count() as u32;
    let uncounted = goal.map_or(0, |goal| goal.options.uncounted_stopping(goal.instances));
    let ceiling = goal.map_or(0, |goal| ceiling(desired, goal)) + stopping.min(uncounted);
    if live + added > ceiling {
        return violation(1, format!("{live} live and {added} more exceed {ceiling}"));
    }
    Ok(())
}

/// Retiring for being unhealthy or unwanted is no voluntary stop of something that carries load.
fn availability_floor(goal: Option<&Goal>, observed: &Observed, plan: &Plan) -> Result<(), Violation> {
    let Some(goal) = goal.filter(|g| g.strategy == Strategy::Rolling) else {
        return Ok(());
    };
    let carries = |seen: &Seen| {
        let healthy = match seen.health {
            Health::Passing { since } => since >= goal.options.min_ready(),
            Health::Unknown => seen.route == RouteState::In,
            Health::Failing { .. } => false,
        };
        let routed = !goal.routable || seen.route == RouteState::In;
        !seen.retiring && seen.process == Process::Running && healthy && routed
    };
    // The same but for an acknowledgement that is still to come: requests may reach it already.
    let pending = |seen: &Seen| {
        seen.route == RouteState::Entering
            && carries(&Seen {
                route: RouteState::In,
                ..seen.clone()
            })
    };
    let retired = |seen: &Seen| {
        plan.actions.iter().any(|a| {
            matches!(a, Action::Retire { id, reason: RetireReason::Replaced | RetireReason::Surplus } if *id == seen.id)
        })
    };
    let before = observed.instances.iter().filter(|s| carries(s)).count() as u32;
    let lost = observed.instances.iter().filter(|s| carries(s) && retired(s)).count() as u32;
    let touched = observed
        .instances
        .iter()
        .filter(|s| (carries(s) || pending(s)) && retired(s))
        .count();
    let floor = goal.instances.saturating_sub(goal.options.max_unavailable);
    if touched > 0 && before - lost < floor {
        return violation(
            2,
            format!("{touched} that carry load would leave, {before} are available, {floor} must stay"),
        );
    }
    Ok(())
}

fn route_implies_ready(observed: &Observed, plan: &Plan) -> Result<(), Violation> {
    for id in &plan.routes {
        let ready = observed.instances.iter().any(|s| {
            let well = match s.health {
                Health::Passing { .. } => true,
                Health::Unknown => matches!(s.route, RouteState::In | RouteState::Entering),
                Health::Failing { .. } => false,
            };
            s.id == *id && s.process == Process::Running && well && !s.retiring
        });
        if !ready {
            return violation(3, format!("instance {id} would be routed and is not ready"));
        }
    }
    Ok(())
}

fn unroute_before_stop(observed: &Observed, plan: &Plan) -> Result<(), Violation> {
    for action in &plan.actions {
        let Action::Stop { id, cut, .. } = action else { continue };
        let Some(seen) = observed.instances.iter().find(|s| s.id == *id) else {
            continue;
        };
        let unreachable = match seen.route {
            RouteState::Out => true,
            RouteState::Leaving { drained_for: Some(_) } => *cut,
            _ => false,
        };
        if !unreachable || !seen.retiring {
            return violation(4, format!("instance {id} would be stopped while requests may reach it"));
        }
    }
    Ok(())
}
