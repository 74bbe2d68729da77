//! Known bugs, put in on purpose: a simulator that never fails proves nothing. `tests/mutants.rs` shows that each is
//! found, and by which invariant.
//!
//! Bugs of the wires sit in [`crate::wires`], those of the store in the store itself (behind its feature
//! `simulation`), those of the planner here: a wrong planner is the right one that is told, or tells, something else,
//! without the guard that would freeze the service before any harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::plan::{Action, Desired, Observed, Plan, Process, RetireReason, RouteState, Verdict, plan};
use domain::{Advance, Stage};
use reconcile::Planner;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    // Of the edge and of the wire to it.
    /// The edge acknowledges tables that it has not applied.
    AckBeforeApply,
    /// The edge does not say what is still in flight.
    HideBusy,
    /// The first table of a control plane is empty.
    EmptyFirstTable,
    /// A new control plane begins with the first epoch.
    EpochsBeginAnew,
    /// Every third target has the address of nobody.
    WrongAddress,
    /// Tables never reach the edge after the fifth one.
    EdgeGoesDeaf,
    // Of the engine and of the wire to it.
    /// Health checks pass whatever is seen.
    BlindProbe,
    /// The engine says that it stopped, and did not.
    StopDoesNothing,
    /// The engine says that it removed, and did not.
    RemoveDoesNothing,
    /// Listings leave out the newest instance.
    PartialListing,
    /// Every start starts two.
    StartsTwo,
    /// Whoever lists sees what a life of the control plane saw first.
    ListsNothingNew,
    // Of the planner.
    /// One instance more than the surge allows.
    SurgeOffByOne,
    /// Instances are stopped while the edge may still choose them or their requests are in flight.
    StopBeforeDrain,
    /// A table counts as acknowledged as soon as it is sent.
    DropAcknowledgement,
    /// Success as soon as one instance is routed.
    SuccessTooEarly,
    /// A cancelled rollout is brought to its end.
    CancelKeepsNew,
    /// The old version leaves at once, whatever is available.
    ForgetFloor,
    /// Whatever runs is routed.
    RouteUnready,
    /// No deadline ever passes.
    NoDeadline,
    /// A paused rollout goes on.
    IgnorePause,
    /// What has ended is never collected.
    NeverCollect,
    /// A canary goes all the way at once.
    SkipSteps,
    /// A gate takes silence, and everything else, for consent.
    GateBySilence,
    /// A success that is watched is taken back whatever was seen.
    WatchRegretsAll,
    /// A success is not watched.
    WatchLooksAway,
    /// Instances of a version start beside its release command.
    ReleaseNotAwaited,
    // Of the store.
    SkipLease,
    StaleDecision,
    ReuseVersion,
    PruneServing,
    RollbackToNow,
}

type Bug = fn(Desired, Observed) -> Plan;

impl Mutant {
    pub fn of_store(self) -> Option<store::Mutant> {
        match self {
            Mutant::SkipLease => Some(store::Mutant::SkipLease),
            Mutant::StaleDecision => Some(store::Mutant::StaleDecision),
            Mutant::ReuseVersion => Some(store::Mutant::ReuseVersion),
            Mutant::PruneServing => Some(store::Mutant::PruneServing),
            Mutant::RollbackToNow => Some(store::Mutant::RollbackToNow),
            _ => None,
        }
    }

    fn of_planner(self) -> Option<Bug> {
        Some(match self {
            Mutant::SurgeOffByOne => surge_off_by_one,
            Mutant::StopBeforeDrain => stop_before_drain,
            Mutant::DropAcknowledgement => drop_acknowledgement,
            Mutant::SuccessTooEarly => success_too_early,
            Mutant::CancelKeepsNew => cancel_keeps_new,
            Mutant::ForgetFloor => forget_floor,
            Mutant::RouteUnready => route_unready,
            Mutant::NoDeadline => no_deadline,
            Mutant::IgnorePause => ignore_pause,
            Mutant::NeverCollect => never_collect,
            Mutant::SkipSteps => skip_steps,
            Mutant::GateBySilence => gate_by_silence,
            Mutant::WatchRegretsAll => watch_regrets_all,
            Mutant::WatchLooksAway => watch_looks_away,
            Mutant::ReleaseNotAwaited => release_not_awaited,
            _ => return None,
        })
    }
}

/// The planner of a run; `decisions` counts.
pub fn planner(mutant: Option<Mutant>, decisions: Arc<AtomicU64>) -> Planner {
    let bug = mutant.and_then(Mutant::of_planner);
    Arc::new(move |desired, observed| {
        decisions.fetch_add(1, Ordering::Relaxed);
        match bug {
            None => reconcile::guarded(desired, observed),
            Some(bug) => Ok(bug(desired.clone(), observed.clone())),
        }
    })
}

fn surge_off_by_one(desired: Desired, observed: Observed) -> Plan {
    let mut plan = plan(&desired, &observed);
    let added = plan.actions.iter().find(|action| matches!(action, Action::Add { .. }));
    plan.actions.extend(added.cloned());
    plan
}

fn stop_before_drain(desired: Desired, mut observed: Observed) -> Plan {
    for seen in &mut observed.instances {
        if matches!(seen.route, RouteState::Leaving { .. }) {
            seen.route = RouteState::Out;
        }
    }
    plan(&desired, &observed)
}

fn drop_acknowledgement(desired: Desired, mut observed: Observed) -> Plan {
    for seen in &mut observed.instances {
        match seen.route {
            RouteState::Entering => seen.route = RouteState::In,
            RouteState::Leaving { drained_for: None } => seen.route = RouteState::Out,
            _ => {}
        }
    }
    plan(&desired, &observed)
}

fn success_too_early(desired: Desired, observed: Observed) -> Plan {
    let mut plan = plan(&desired, &observed);
    let deploying = desired
        .rollout
        .as_ref()
        .filter(|rollout| rollout.stage == Stage::Deploying);
    if let Some(rollout) = deploying
        && plan.verdict.is_none()
        && observed
            .instances
            .iter()
            .any(|seen| seen.template == rollout.goal.template && seen.route == RouteState::In)
    {
        plan.verdict = Some(Verdict::Succeeded);
    }
    plan
}

fn cancel_keeps_new(mut desired: Desired, observed: Observed) -> Plan {
    if let Some(rollout) = &desired.rollout
        && rollout.stage == Stage::Canceling
    {
        desired.serving = Some(rollout.goal.clone());
    }
    plan(&desired, &observed)
}

fn forget_floor(desired: Desired, observed: Observed) -> Plan {
    let mut plan = plan(&desired, &observed);
    let Some(rollout) = desired
        .rollout
        .as_ref()
        .filter(|rollout| rollout.stage == Stage::Deploying)
    else {
        return plan;
    };
    for seen in &observed.instances {
        let old = seen.template != rollout.goal.template && !seen.retiring && seen.process != Process::Exited;
        if old && plan.routes.remove(&seen.id) {
            let reason = RetireReason::Replaced;
            plan.actions.push(Action::Retire { id: seen.id, reason });
        }
    }
    plan
}

fn route_unready(desired: Desired, observed: Observed) -> Plan {
    let mut plan = plan(&desired, &observed);
    let running = observed
        .instances
        .iter()
        .filter(|seen| seen.process == Process::Running && !seen.retiring);
    plan.routes.extend(running.map(|seen| seen.id));
    plan
}

fn no_deadline(mut desired: Desired, observed: Observed) -> Plan {
    if let Some(rollout) = &mut desired.rollout {
        rollout.stalled_for = Duration::ZERO;
    }
    plan(&desired, &observed)
}

fn ignore_pause(mut desired: Desired, observed: Observed) -> Plan {
    if let Some(rollout) = &mut desired.rollout
        && rollout.stage == Stage::Paused
    {
        rollout.stage = Stage::Deploying;
    }
    Plan {
        verdict: None,
        ..plan(&desired, &observed)
    }
}

fn never_collect(desired: Desired, observed: Observed) -> Plan {
    let mut plan = plan(&desired, &observed);
    plan.actions.retain(|action| !matches!(action, Action::Collect { .. }));
    plan
}

fn skip_steps(mut desired: Desired, observed: Observed) -> Plan {
    if let Some(rollout) = &mut desired.rollout {
        rollout.step = u32::MAX;
        rollout.at_step = None;
    }
    plan(&desired, &observed)
}

fn gate_by_silence(mut desired: Desired, observed: Observed) -> Plan {
    const AGES: Duration = Duration::from_secs(86_400);
    if let Some(rollout) = &mut desired.rollout
        && let Some(trial) = &mut rollout.at_step
    {
        trial.evidence.new.requests = u64::MAX;
        trial.evidence.new.failed = 0;
        let gated = matches!(
            rollout
                .goal
                .options
                .steps
                .get(rollout.step as usize)
                .map(|step| &step.then),
            Some(Advance::Gate(_))
        );
        if gated {
            trial.lasts = AGES;
        }
    }
    plan(&desired, &observed)
}

fn watch_regrets_all(desired: Desired, observed: Observed) -> Plan {
    let mut plan = plan(&desired, &observed);
    plan.roll_back = desired.watch.map(|_| "it is watched".to_owned());
    plan
}

fn watch_looks_away(mut desired: Desired, observed: Observed) -> Plan {
    desired.watch = None;
    plan(&desired, &observed)
}

fn release_not_awaited(mut desired: Desired, observed: Observed) -> Plan {
    if let Some(rollout) = &mut desired.rollout {
        rollout.release = None;
    }
    plan(&desired, &observed)
}
