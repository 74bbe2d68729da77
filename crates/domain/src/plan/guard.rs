//! The safety invariants, stated once more and independently of the rules that should keep them.
//!
//! Executors check every plan before they act. A violation is a bug of ours: the service is then frozen (keeps
//! serving, is no longer acted on) and says so, instead of harm being done in the name of a broken rule.

use super::course::{Course, Leg};
use super::inputs::{Desired, Health, Observed, Process, RouteState, Seen};
use super::output::{Action, Plan, RetireReason};
use crate::{Strategy, Template};

/// A plan that must not be executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant {number} would be broken: {what}")]
pub struct Violation {
    /// Its number in `docs/ARCHITECTURE.md`, "Invariants".
    pub number: u8,
    pub what: String,
}

/// Checks invariants 1 (surge ceiling), 2 (availability floor), 3 (route implies ready), 4 (unroute before stop) and 22
/// (canary bound).
pub fn check(desired: &Desired, observed: &Observed, plan: &Plan) -> Result<(), Violation> {
    let course = Course::of(desired);
    surge_ceiling(desired, course.as_ref(), observed, plan)?;
    availability_floor(course.as_ref(), observed, plan)?;
    route_implies_ready(observed, plan)?;
    unroute_before_stop(observed, plan)?;
    canary_bound(course.as_ref(), observed, plan)
}

fn violation(number: u8, what: String) -> Result<(), Violation> {
    Err(Violation { number, what })
}

fn alive(seen: &Seen) -> bool {
    seen.process != Process::Exited
}

fn surge_ceiling(
    desired: &Desired,
    course: Option<&Course>,
    observed: &Observed,
    plan: &Plan,
) -> Result<(), Violation> {
    // The run of a release command serves nobody and is not counted.
    let release = course.and_then(|course| match &course.leg {
        Leg::Release(template) => Some(template),
        Leg::Step { .. } | Leg::Through => None,
    });
    let serves = |template: &Template| Some(template) != release;
    let adds = |action: &&Action| matches!(action, Action::Add { template, .. } if serves(template));
    let added = plan.actions.iter().filter(adds).count() as u32;
    if added == 0 {
        return Ok(());
    }
    let live = |seen: &&Seen| alive(seen) && serves(&seen.template);
    let live = observed.instances.iter().filter(live).count() as u32;
    // Told to stop, before or by this plan, which invariant 4 allows for drained ones only.
    let told_now = |seen: &Seen| {
        plan.actions
            .iter()
            .any(|a| matches!(a, Action::Stop { id, .. } if *id == seen.id))
    };
    let stopping = |s: &&Seen| s.retiring && alive(s) && (s.process == Process::Stopping || told_now(s));
    let stopping = observed.instances.iter().filter(stopping).count() as u32;
    let ceiling = course.map_or(0, |course| {
        course.ceiling(desired.serving.as_ref()) + stopping.min(course.uncounted_stopping())
    });
    if live + added > ceiling {
        return violation(1, format!("{live} live and {added} more exceed {ceiling}"));
    }
    Ok(())
}

/// Retiring for being unhealthy or unwanted is no voluntary stop of something that carries load. Leaving the table
/// without being retired is one (a blue-green switch), and those that enter by the same table make up for it.
fn availability_floor(course: Option<&Course>, observed: &Observed, plan: &Plan) -> Result<(), Violation> {
    let Some(course) = course.filter(|course| course.goal.strategy != Strategy::Recreate) else {
        return Ok(());
    };
    let goal = course.goal;
    let healthy = |seen: &Seen| {
        let healthy = match seen.health {
            // What is to be replaced carries its requests, however short it has been healthy.
            Health::Passing { since } => since >= goal.options.min_ready() || seen.template != goal.template,
            Health::Unknown => seen.route == RouteState::In,
            Health::Failing { .. } => false,
        };
        !seen.retiring && seen.process == Process::Running && healthy
    };
    let carries = |seen: &Seen| healthy(seen) && (!goal.routable || seen.route == RouteState::In);
    // The same but for an acknowledgement that is still to come: requests may reach it already.
    let touched = |seen: &Seen| {
        let acknowledged = Seen {
            route: RouteState::In,
            ..seen.clone()
        };
        carries(seen) || seen.route == RouteState::Entering && carries(&acknowledged)
    };
    let retired = |seen: &Seen| {
        plan.actions.iter().any(|a| {
            matches!(a, Action::Retire { id, reason: RetireReason::Replaced | RetireReason::Surplus } if *id == seen.id)
        })
    };
    let unrouted = |seen: &Seen| goal.routable && !plan.routes.contains(&seen.id) && !retiring_for_cause(seen, plan);
    let leaves = |seen: &Seen| retired(seen) || unrouted(seen);
    let switches = unroutes_without_retiring(observed, plan, &touched);
    let stays = |seen: &Seen| {
        let gets_requests = plan.traffic.share != Some(0) || seen.template != goal.template;
        let routed = !goal.routable || plan.routes.contains(&seen.id) && gets_requests;
        (carries(seen) || switches && healthy(seen)) && routed && !retired(seen)
    };
    let lost = observed.instances.iter().filter(|s| touched(s) && leaves(s)).count();
    let left = observed.instances.iter().filter(|s| stays(s)).count() as u32;
    let floor = course.floor();
    if lost > 0 && left < floor {
        return violation(
            2,
            format!("{lost} that carry load would leave, {left} would be left, {floor} must stay"),
        );
    }
    Ok(())
}

fn retiring_for_cause(seen: &Seen, plan: &Plan) -> bool {
    plan.actions.iter().any(|a| {
        matches!(a, Action::Retire { id, reason: RetireReason::Unhealthy | RetireReason::Unwanted } if *id == seen.id)
    })
}

/// Whether the plan is a switch: somebody leaves the table and lives on.
fn unroutes_without_retiring(observed: &Observed, plan: &Plan, touched: &impl Fn(&Seen) -> bool) -> bool {
    let retires = |seen: &Seen| {
        let mut actions = plan.actions.iter();
        actions.any(|a| matches!(a, Action::Retire { id, .. } if *id == seen.id))
    };
    let mut seen = observed.instances.iter();
    seen.any(|s| touched(s) && !plan.routes.contains(&s.id) && !retires(s))
}

/// Nothing is started beyond a step, and no more requests are sent than it says.
fn canary_bound(course: Option<&Course>, observed: &Observed, plan: &Plan) -> Result<(), Violation> {
    let Some(course) = course else { return Ok(()) };
    let Leg::Step { step, .. } = &course.leg else {
        return Ok(());
    };
    let is_new = |template: &crate::Template| *template == course.goal.template;
    let added = plan.actions.iter();
    let added = added.filter(|a| matches!(a, Action::Add { template, .. } if is_new(template)));
    let added = added.count();
    let staying = observed.instances.iter();
    let staying = staying.filter(|s| alive(s) && !s.retiring && is_new(&s.template));
    let (canary, wanted) = (staying.count() + added, course.wanted().canary);
    if added > 0 && canary > wanted as usize {
        return violation(
            22,
            format!("{canary} instances of the new version exceed {wanted} of its step"),
        );
    }
    let most = match course.goal.strategy {
        Strategy::BlueGreen => Some(0),
        _ => step.traffic,
    };
    match (plan.traffic.share, most) {
        (_, None) => Ok(()),
        (Some(share), Some(most)) if share <= most => Ok(()),
        (share, Some(most)) => violation(
            22,
            format!("{share:?} percent of the requests exceed {most} of its step"),
        ),
    }
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
