//! The rules, in the order in which a reader would tell them.

use std::time::Duration;

use super::backoff;
use super::course::{Course, Leg};
use super::gate;
use super::inputs::{Desired, Health, Observed, Process, RouteState, Seen};
use super::output::{Action, Plan, RetireReason, Traffic};
use super::scene::Scene;
use super::verdict;
use crate::rollout::Sizes;
use crate::{DeploymentId, Strategy, Template};

/// A fresh instance that fails its checks for so long is replaced, although its process lives.
const REPLACE_UNHEALTHY_AFTER: Duration = Duration::from_secs(30);

/// What to do next. See the module documentation for flow, guarantees and assumptions.
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    let scene = Scene::new(desired, observed);
    let mut plan = Plan::default();
    scene.tend_processes(&mut plan);
    scene.retire(&mut plan);
    scene.add(&mut plan);
    scene.wake_when_ready(&mut plan);
    scene.watch(&mut plan);
    verdict::judge(&scene, &mut plan);
    // Last, since a verdict takes back what was not tidying up: nobody leaves the table who does not leave.
    scene.route(&mut plan);
    plan
}

impl Scene<'_> {
    /// Ended ones are collected, intended ones launched, unreachable ones stopped.
    fn tend_processes(&self, plan: &mut Plan) {
        for seen in &self.observed.instances {
            match seen.process {
                Process::Exited => plan.actions.push(Action::Collect { id: seen.id }),
                Process::Absent if seen.retiring => plan.actions.push(Action::Collect { id: seen.id }),
                Process::Absent if self.is_wanted(seen) => plan.actions.push(Action::Launch { id: seen.id }),
                Process::Starting | Process::Running if seen.retiring => self.stop(seen, plan),
                Process::Absent | Process::Starting | Process::Running | Process::Stopping => {}
            }
        }
    }

    fn is_wanted(&self, seen: &Seen) -> bool {
        let originals_stay = self
            .course
            .as_ref()
            .is_some_and(|course| self.wanted_now(course).original > 0);
        let is_in = |role: &[&Seen]| role.iter().any(|known| known.id == seen.id);
        is_in(&self.fresh) || originals_stay && is_in(&self.originals) || self.release.is_some_and(|r| r.id == seen.id)
    }

    fn stop(&self, seen: &Seen, plan: &mut Plan) {
        let options = self.options();
        if let Some(cut) = self.stops(seen) {
            let (id, grace) = (seen.id, options.stop_grace());
            plan.actions.push(Action::Stop { id, grace, cut });
        } else if let RouteState::Leaving { drained_for: Some(age) } = seen.route {
            wake_after(plan, options.drain().saturating_sub(age));
        }
    }

    /// Stale instances leave as the availability floor allows; surplus and unhealthy ones leave as well.
    fn retire(&self, plan: &mut Plan) {
        let Some(course) = &self.course else {
            retire_all(plan, self.staying(), RetireReason::Unwanted);
            return;
        };
        if course.is_paused_by_user() {
            return;
        }
        let mut budget = self.carrying(course).saturating_sub(course.floor());
        match course.goal.strategy {
            Strategy::Recreate if course.leg == Leg::Through => {
                retire_all(plan, self.stale(), RetireReason::Replaced);
            }
            Strategy::BlueGreen if course.leg == Leg::Through => self.retire_switched(course, &mut budget, plan),
            _ => self.retire_stale(course, self.spare(course), &mut budget, plan),
        }
        if !matches!(course.leg, Leg::Release(_)) {
            self.retire_surplus(course.wanted().canary, budget, plan);
            self.retire_unhealthy(course, plan);
        }
    }

    /// How many instances carry requests: the available ones, but for those that the edge sends none.
    fn carrying(&self, course: &Course) -> u32 {
        let fresh = match self.share(course) {
            Some(0) => 0,
            _ => self.available(&self.fresh),
        };
        fresh + self.available(&self.originals) + self.available(&self.others)
    }

    /// Stale instances that this leg does not want any more: all but the originals that it does want, of which the
    /// available ones are the last to go.
    fn spare(&self, course: &Course) -> Vec<&Seen> {
        let mut originals = self.originals.clone();
        originals.sort_by_key(|seen| (self.is_available(seen), seen.id));
        let spare = originals.len().saturating_sub(course.wanted().original as usize);
        self.others
            .iter()
            .copied()
            .chain(originals.into_iter().take(spare))
            .collect()
    }

    fn retire_stale(&self, course: &Course, spare: Vec<&Seen>, budget: &mut u32, plan: &mut Plan) {
        for seen in spare {
            if self.is_available(seen) {
                if *budget == 0 {
                    continue;
                }
                *budget -= 1;
            } else if self.is_pending(seen) {
                // On its way into the table, or not judged yet: what it is worth will be known in a moment.
                continue;
            } else if !self.is_abandoned(seen)
                && self.available(&self.fresh) == 0
                && self.counted(course) < course.ceiling(self.desired.serving.as_ref())
            {
                // Not well, but nothing better serves yet and there is room for its successor: it may recover.
                continue;
            }
            plan.actions.push(Action::Retire {
                id: seen.id,
                reason: RetireReason::Replaced,
            });
        }
    }

    /// Nobody leaves before the switch; after it all do, but those that are kept warm.
    fn retire_switched(&self, course: &Course, budget: &mut u32, plan: &mut Plan) {
        if course.switches() && self.available(&self.fresh) < course.goal.instances {
            let abandoned = self.others.clone();
            self.retire_stale(course, abandoned, budget, plan);
            return;
        }
        let (kept, spare): (Vec<&Seen>, Vec<&Seen>) = self.stale().partition(|seen| self.is_kept_warm(course, seen));
        if !kept.is_empty() {
            wake_after(plan, course.warm_for());
        }
        self.retire_stale(course, spare, budget, plan);
    }

    /// A stale instance that nobody will wait for: of neither the goal nor what serves.
    fn is_abandoned(&self, seen: &Seen) -> bool {
        let serving = self.desired.serving.as_ref();
        serving.is_none_or(|serving| serving.template != seen.template)
    }

    fn retire_surplus(&self, wanted: u32, budget: u32, plan: &mut Plan) {
        let surplus = self.fresh.len().saturating_sub(wanted as usize);
        let spare = self.available(&self.fresh).saturating_sub(wanted).min(budget) as usize;
        // Those that carry nothing go first, then the youngest; none whose worth is not known yet.
        let youngest = || self.fresh.iter().rev().copied();
        let idle = youngest().filter(|s| !self.is_available(s) && !self.is_pending(s));
        let busy = youngest().filter(|s| self.is_available(s)).take(spare);
        retire_all(plan, idle.chain(busy).take(surplus), RetireReason::Surplus);
    }

    fn retire_unhealthy(&self, course: &Course, plan: &mut Plan) {
        let wanted = course.wanted();
        if self.fresh.len() > wanted.canary as usize {
            return;
        }
        let originals = self.originals.iter().filter(|_| wanted.original > 0);
        let mut at_once = course.goal.options.in_flight(course.goal.instances);
        for seen in self.fresh.iter().chain(originals) {
            let Health::Failing { since, .. } = &seen.health else {
                continue;
            };
            if seen.process != Process::Running || seen.route != RouteState::Out && seen.route != RouteState::In {
                continue;
            }
            if *since < REPLACE_UNHEALTHY_AFTER {
                wake_after(plan, REPLACE_UNHEALTHY_AFTER - *since);
            } else if at_once > 0 && (course.rollout.is_none() || course.at_step().is_some()) {
                // On the way the progress deadline judges; replacing would hide what is wrong.
                at_once -= 1;
                plan.actions.push(Action::Retire {
                    id: seen.id,
                    reason: RetireReason::Unhealthy,
                });
            }
        }
    }

    /// Missing instances are added: of the goal a few at a time while others serve, else all at once.
    fn add(&self, plan: &mut Plan) {
        let Some(course) = &self.course else { return };
        if course.has_failed() {
            return;
        }
        let mut room = course
            .ceiling(self.desired.serving.as_ref())
            .saturating_sub(self.counted(course));
        if let Leg::Release(template) = &course.leg {
            self.add_release(course, template, plan);
        }
        let Sizes { canary, original } = self.wanted_now(course);
        if course.goal.strategy == Strategy::Recreate && self.stale().count() + self.leaving.len() > 0 && canary > 0 {
            return;
        }
        if let Some(goal) = course.original {
            let missing = original.saturating_sub(self.originals.len() as u32);
            let wave = missing.min(room);
            room -= self.add_wave(goal.deployment, &goal.template, goal.instances, wave, plan);
        }
        let on_the_way = self.fresh.iter().filter(|s| !self.is_available(s)).count() as u32;
        let at_once = match self.stale().next() {
            Some(_) => course.in_flight(),
            None => course.goal.instances,
        };
        let missing = canary.saturating_sub(self.fresh.len() as u32);
        let wave = missing.min(at_once.saturating_sub(on_the_way)).min(room);
        let goal = course.goal;
        self.add_wave(goal.deployment, &goal.template, goal.instances, wave, plan);
    }

    /// What this leg wants; under a user's pause what was there, brought back to strength by the version that serves.
    fn wanted_now(&self, course: &Course) -> Sizes {
        if !course.is_paused_by_user() {
            return course.wanted();
        }
        let fresh = self.fresh.len() as u32;
        let enough = course
            .original
            .map_or(0, |original| original.instances.min(course.goal.instances));
        let missing = enough.saturating_sub(self.staying().count() as u32);
        Sizes {
            canary: fresh,
            original: self.originals.len() as u32 + missing,
        }
    }

    fn add_release(&self, course: &Course, template: &Template, plan: &mut Plan) {
        let failed = course.rollout.is_some_and(|rollout| rollout.failures > 0);
        // It ends once: one that was seen to end is recorded before the next look.
        let ended = self.observed.instances.iter().any(|seen| seen.template == *template);
        if self.release.is_some() || failed || ended || course.is_paused_by_user() {
            return;
        }
        let (deployment, template) = (course.goal.deployment, template.clone());
        plan.actions.push(Action::Add { deployment, template });
    }

    /// Adds so many instances, unless they died too often of late. Answers how many.
    fn add_wave(
        &self,
        deployment: DeploymentId,
        template: &Template,
        instances: u32,
        wave: u32,
        plan: &mut Plan,
    ) -> u32 {
        if wave == 0 {
            return 0;
        }
        let wait = backoff::wait(&self.observed.crashes, template, instances);
        if !wait.is_zero() {
            wake_after(plan, wait);
            return 0;
        }
        for _ in 0..wave {
            let template = template.clone();
            plan.actions.push(Action::Add { deployment, template });
        }
        wave
    }

    /// Healthy instances are routed; so are those that already are while nobody has judged them yet.
    fn route(&self, plan: &mut Plan) {
        if !self.routable() {
            return;
        }
        let retired = |id| {
            plan.actions
                .iter()
                .any(|a| matches!(a, Action::Retire { id: r, .. } if *r == id))
        };
        let belongs = |seen: &&Seen| is_routable(seen) && !retired(seen.id);
        let fresh = self.fresh.iter().copied().filter(belongs);
        let stale = self.stale().filter(belongs).filter(|seen| self.may_serve_on(seen));
        plan.routes = fresh.chain(stale).map(|seen| seen.id).collect();
        if let Some(course) = &self.course {
            plan.traffic = self.traffic(course);
        }
    }

    /// A stale instance is routed until it is retired; after a blue-green switch it is not, and stays away.
    fn may_serve_on(&self, seen: &Seen) -> bool {
        let Some(course) = &self.course else { return true };
        if course.switches() {
            let routed = matches!(seen.route, RouteState::In | RouteState::Entering);
            let nobody_else = !self.fresh.iter().any(|fresh| is_routable(fresh));
            return !self.is_switching(course) && (routed || nobody_else);
        }
        !self.is_kept_warm(course, seen)
    }

    /// Percent of the requests for the goal's instances.
    fn share(&self, course: &Course) -> Option<u32> {
        let waits_for_switch =
            course.switches() && self.stale().any(|seen| is_routable(seen) && self.may_serve_on(seen));
        if waits_for_switch { Some(0) } else { course.traffic() }
    }

    fn traffic(&self, course: &Course) -> Traffic {
        let blue_green = course.goal.strategy == Strategy::BlueGreen;
        let on_the_way = course.rollout.is_some();
        Traffic {
            share: self.share(course),
            preview: blue_green && matches!(course.leg, Leg::Step { .. }),
            sticky: course.original.is_some() && course.goal.strategy == Strategy::Canary && course.goal.options.sticky,
            hold: course.goal.strategy == Strategy::Recreate && (on_the_way || self.available(&self.fresh) == 0),
        }
    }

    /// An instance that is healthy but not for long enough yet becomes available by time alone.
    fn wake_when_ready(&self, plan: &mut Plan) {
        let Some(course) = &self.course else { return };
        let min_ready = course.goal.options.min_ready();
        for seen in self.staying() {
            if let Health::Passing { since } = seen.health
                && since < min_ready
            {
                wake_after(plan, min_ready - since);
            }
        }
    }

    /// A version that fails soon after its success, where the one before did not, is taken back.
    fn watch(&self, plan: &mut Plan) {
        let watch = self.desired.watch.as_ref().filter(|_| self.desired.rollout.is_none());
        let Some(watch) = watch.filter(|watch| !watch.left.is_zero()) else {
            return;
        };
        plan.roll_back = gate::regrets(&watch.evidence);
        wake_after(plan, watch.left.min(verdict::LOOK_AT_EVIDENCE));
    }
}

fn is_routable(seen: &Seen) -> bool {
    let judged_well = match seen.health {
        Health::Passing { .. } => true,
        Health::Unknown => matches!(seen.route, RouteState::In | RouteState::Entering),
        Health::Failing { .. } => false,
    };
    seen.process == Process::Running && judged_well
}

fn retire_all<'s>(plan: &mut Plan, seen: impl Iterator<Item = &'s Seen>, reason: RetireReason) {
    plan.actions.extend(seen.map(|s| Action::Retire { id: s.id, reason }));
}

pub(super) fn wake_after(plan: &mut Plan, delay: Duration) {
    plan.next_wake = Some(plan.next_wake.map_or(delay, |known| known.min(delay)));
}
