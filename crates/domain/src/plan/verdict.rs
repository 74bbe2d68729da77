//! How far a rollout is, what it waits for, and whether its stage changes.

use std::time::Duration;

use super::course::{Course, Leg};
use super::gate::{self, Decision};
use super::inputs::{Health, Rollout};
use super::output::{Action, FailReason, Plan, Verdict};
use super::rules::wake_after;
use super::scene::Scene;
use crate::{Advance, Stage, Strategy};

/// How often evidence is looked at while it decides something.
pub(super) const LOOK_AT_EVIDENCE: Duration = Duration::from_secs(1);

/// Says how far the rollout is, what it waits for, and whether its stage changes.
pub(super) fn judge(scene: &Scene, plan: &mut Plan) {
    let Some(rollout) = &scene.desired.rollout else { return };
    let gone_soon = scene.stale().count() + scene.leaving.len();
    plan.progress = u64::from(scene.available(&scene.fresh)) * 1_000 + 999 - gone_soon.min(999) as u64;
    plan.waiting = scene.waiting();
    plan.verdict = match rollout.stage {
        _ if scene.desired.deleting => None,
        Stage::Deploying | Stage::Finalizing => scene.under_way(rollout),
        Stage::Paused => scene.at_step(rollout, plan),
        Stage::Canceling if scene.settled() => Some(Verdict::Canceled),
        _ => None,
    };
    let deadline = rollout.goal.options.progress_deadline();
    let runs = matches!(rollout.stage, Stage::Deploying | Stage::Finalizing | Stage::Canceling);
    if plan.verdict.is_none() && runs && !scene.desired.deleting {
        if rollout.stalled_for >= deadline {
            let waiting = plan.waiting.clone();
            plan.verdict = Some(Verdict::Failed(FailReason::Stalled { deadline, waiting }));
        } else {
            wake_after(plan, deadline - rollout.stalled_for);
        }
    }
    if plan.verdict.is_some() {
        // What follows from another stage is planned from its record, not together with it.
        plan.actions
            .retain(|a| matches!(a, Action::Collect { .. } | Action::Stop { .. }));
    }
}

impl Scene<'_> {
    fn under_way(&self, rollout: &Rollout) -> Option<Verdict> {
        let course = self.course.as_ref()?;
        if self.settled() {
            return Some(Verdict::Succeeded);
        }
        if self.has_reached_step(course) {
            return Some(Verdict::StepReached);
        }
        failure(course, rollout).map(Verdict::Failed)
    }

    fn at_step(&self, rollout: &Rollout, plan: &mut Plan) -> Option<Verdict> {
        let course = self.course.as_ref()?;
        let trial = course.at_step()?;
        if let Some(reason) = failure(course, rollout) {
            return Some(Verdict::Failed(reason));
        }
        let Leg::Step { step, number, of, .. } = &course.leg else {
            return Some(Verdict::StepPassed);
        };
        let place = format!("step {number} of {of} is reached: {}", self.beside_each_other());
        match &step.then {
            Advance::Continue => {
                plan.waiting = format!("{place}; waits for `continue`");
                None
            }
            Advance::AfterMs(ms) => {
                let left = Duration::from_millis(*ms).saturating_sub(trial.lasts);
                if left.is_zero() && self.has_reached_step(course) {
                    return Some(Verdict::StepPassed);
                }
                plan.waiting = format!("{place}; goes on after {} s", Duration::from_millis(*ms).as_secs_f64());
                wake_after(plan, left.max(Duration::from_millis(100)));
                None
            }
            Advance::Gate(gate) => match gate::decide(gate, trial) {
                Decision::Passed if self.has_reached_step(course) => Some(Verdict::StepPassed),
                Decision::Failed(what) => Some(Verdict::Failed(FailReason::Gate { what })),
                Decision::Passed => None,
                Decision::Open(what) => {
                    plan.waiting = format!("{place}; {what}");
                    wake_after(plan, LOOK_AT_EVIDENCE);
                    None
                }
            },
        }
    }

    /// All instances of the step are available, and no more of the others are left than it wants.
    fn has_reached_step(&self, course: &Course) -> bool {
        if !matches!(course.leg, Leg::Step { .. }) {
            return false;
        }
        let wanted = course.wanted();
        let enough = self.available(&self.fresh) >= wanted.canary && self.fresh.len() as u32 == wanted.canary;
        enough && self.originals.len() as u32 <= wanted.original && self.others.is_empty()
    }

    /// Invariant 10: all wanted instances available at this instant, and no other instance can be chosen.
    fn settled(&self) -> bool {
        let Some(course) = &self.course else {
            return self.staying().next().is_none();
        };
        let wanted = course.goal.instances;
        let enough = self.available(&self.fresh) >= wanted && self.fresh.len() as u32 == wanted;
        let away = |seen: &crate::plan::Seen| self.is_kept_warm(course, seen) && !seen.route.may_be_chosen();
        let others_gone = self.stale().all(away) && !self.leaving.iter().any(|s| s.route.may_be_chosen());
        course.leg == Leg::Through && enough && others_gone
    }

    fn beside_each_other(&self) -> String {
        let (new, old) = (self.available(&self.fresh), self.available(&self.originals));
        let noun = if new == 1 { "instance" } else { "instances" };
        format!("{new} {noun} of the new version beside {old} of the old one")
    }

    fn waiting(&self) -> String {
        let Some(course) = &self.course else {
            return String::new();
        };
        if let Leg::Release(_) = course.leg {
            return "the release command runs".to_owned();
        }
        let (wanted, available) = (course.wanted().canary, self.available(&self.fresh));
        if available < wanted {
            return format!(
                "{available} of {wanted} instances available{}{}",
                self.failing(),
                self.drains(course)
            );
        }
        match self.stale().count() + self.leaving.len() {
            _ if matches!(course.leg, Leg::Step { .. }) => self.beside_each_other(),
            0 => String::new(),
            old => format!("{old} instances of the old version are leaving"),
        }
    }

    fn failing(&self) -> String {
        let failing = self.fresh.iter().find_map(|s| match &s.health {
            Health::Failing { what, .. } => Some(what.as_str()),
            _ => None,
        });
        failing.map(|what| format!(": {what}")).unwrap_or_default()
    }

    fn drains(&self, course: &Course) -> String {
        let full = self.counted(course) >= course.ceiling(self.desired.serving.as_ref());
        let waits_for_all = course.goal.strategy == Strategy::Recreate;
        match self.leaving.len() {
            0 => String::new(),
            leaving if full || waits_for_all => format!("; {leaving} draining"),
            _ => String::new(),
        }
    }
}

fn failure(course: &Course, rollout: &Rollout) -> Option<FailReason> {
    if matches!(course.leg, Leg::Release(_)) {
        return (rollout.failures > 0).then_some(FailReason::Release);
    }
    let failures = rollout.failures;
    course.has_failed().then_some(FailReason::Crashing { failures })
}
