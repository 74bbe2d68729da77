//! The rules, in the order in which a reader would tell them.

use std::time::Duration;

use super::backoff;
use super::inputs::{Desired, Goal, Health, Observed, Process, Rollout, RouteState, Seen};
use super::output::{Action, FailReason, Plan, RetireReason, Verdict};
use crate::{Stage, Strategy};

/// A fresh instance that fails its checks for so long is replaced, although its process lives.
const REPLACE_UNHEALTHY_AFTER: Duration = Duration::from_secs(30);

/// What to do next. See the module documentation for flow, guarantees and assumptions.
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    let scene = Scene::new(desired, observed);
    let mut plan = Plan::default();
    scene.tend_processes(&mut plan);
    scene.retire(&mut plan);
    scene.add(&mut plan);
    scene.route(&mut plan);
    scene.wake_when_ready(&mut plan);
    scene.judge(&mut plan);
    plan
}

impl Desired {
    /// What should run now: nothing, the active deployment, or what serves.
    ///
    /// A queued deployment does not count yet (its image may not even exist), a cancelled one not any more.
    pub fn goal(&self) -> Option<&Goal> {
        match &self.rollout {
            _ if self.deleting => None,
            Some(rollout) if matches!(rollout.stage, Stage::Deploying | Stage::Paused | Stage::Finalizing) => {
                Some(&rollout.goal)
            }
            _ => self.serving.as_ref(),
        }
    }
}

/// One service at one instant, sorted into the roles that the rules speak of.
struct Scene<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    goal: Option<&'a Goal>,
    /// Of the goal's template, staying.
    fresh: Vec<&'a Seen>,
    /// Of any other template, staying until it is retired.
    stale: Vec<&'a Seen>,
    /// Retiring, not gone.
    leaving: Vec<&'a Seen>,
}

impl<'a> Scene<'a> {
    fn new(desired: &'a Desired, observed: &'a Observed) -> Self {
        let goal = desired.goal();
        let mut scene = Scene {
            desired,
            observed,
            goal,
            fresh: vec![],
            stale: vec![],
            leaving: vec![],
        };
        for seen in &observed.instances {
            match goal {
                _ if seen.process == Process::Exited => {}
                _ if seen.retiring => scene.leaving.push(seen),
                Some(goal) if seen.template == goal.template => scene.fresh.push(seen),
                _ => scene.stale.push(seen),
            }
        }
        // Ids are time-ordered: oldest first, so that the choice of whom to retire is the same in every run.
        scene.fresh.sort_by_key(|s| s.id);
        scene.stale.sort_by_key(|s| s.id);
        scene
    }

    fn paused(&self) -> bool {
        self.desired.rollout.as_ref().is_some_and(|r| r.stage == Stage::Paused)
    }

    fn routable(&self) -> bool {
        self.goal.is_none_or(|g| g.routable)
    }

    /// Healthy for the minimum time and, where requests come in, routed: it carries its share.
    fn available(&self, seen: &Seen) -> bool {
        let min_ready = self.goal.map(|g| g.options.min_ready()).unwrap_or_default();
        let healthy = match seen.health {
            Health::Passing { since } => since >= min_ready,
            // The control plane was restarted: what the edge serves is taken to be well until checks say otherwise.
            Health::Unknown => seen.route == RouteState::In,
            Health::Failing { .. } => false,
        };
        seen.process == Process::Running && healthy && (!self.routable() || seen.route == RouteState::In)
    }

    fn available_count(&self, seen: &[&Seen]) -> u32 {
        seen.iter().filter(|s| self.available(s)).count() as u32
    }

    /// Those that count against the ceiling: all that live, but for a bounded number that were told to stop.
    fn counted(&self, goal: &Goal) -> u32 {
        let live = (self.fresh.len() + self.stale.len() + self.leaving.len()) as u32;
        let stopping = self.leaving.iter().filter(|s| s.process == Process::Stopping).count() as u32;
        live - stopping.min(goal.options.uncounted_stopping(goal.instances))
    }

    /// Ended ones are collected, intended ones launched, unreachable ones stopped.
    fn tend_processes(&self, plan: &mut Plan) {
        for seen in &self.observed.instances {
            match seen.process {
                Process::Exited => plan.actions.push(Action::Collect { id: seen.id }),
                Process::Absent if seen.retiring => plan.actions.push(Action::Collect { id: seen.id }),
                Process::Absent if self.fresh.iter().any(|s| s.id == seen.id) => {
                    plan.actions.push(Action::Launch { id: seen.id });
                }
                Process::Starting | Process::Running if seen.retiring => self.stop(seen, plan),
                Process::Absent | Process::Starting | Process::Running | Process::Stopping => {}
            }
        }
    }

    /// Invariant 4: only what no edge can choose, and what carries no request or has used up its time to drain.
    fn stop(&self, seen: &Seen, plan: &mut Plan) {
        let options = self.goal.map(|g| g.options.clone()).unwrap_or_default();
        let grace = options.stop_grace();
        match seen.route {
            RouteState::Out => plan.actions.push(Action::Stop {
                id: seen.id,
                grace,
                cut: false,
            }),
            RouteState::Leaving { drained_for: Some(age) } if age >= options.drain() => {
                plan.actions.push(Action::Stop {
                    id: seen.id,
                    grace,
                    cut: true,
                });
            }
            RouteState::Leaving { drained_for: Some(age) } => wake_after(plan, options.drain() - age),
            RouteState::Leaving { drained_for: None } | RouteState::Entering | RouteState::In => {}
        }
    }

    /// Stale instances leave as the availability floor allows; surplus and unhealthy fresh ones leave as well.
    fn retire(&self, plan: &mut Plan) {
        if self.paused() {
            return;
        }
        let Some(goal) = self.goal else {
            retire_all(plan, self.stale.iter().chain(&self.fresh), RetireReason::Unwanted);
            return;
        };
        if goal.strategy == Strategy::Recreate {
            retire_all(plan, self.stale.iter(), RetireReason::Replaced);
        } else {
            self.retire_stale(goal, plan);
        }
        self.retire_surplus(goal, plan);
        self.retire_unhealthy(goal, plan);
    }

    fn retire_stale(&self, goal: &Goal, plan: &mut Plan) {
        let floor = goal.instances.saturating_sub(goal.options.max_unavailable);
        let available = self.available_count(&self.stale) + self.available_count(&self.fresh);
        let mut budget = available.saturating_sub(floor);
        for seen in &self.stale {
            if self.available(seen) {
                if budget == 0 {
                    continue;
                }
                budget -= 1;
            } else if self.pending(seen) {
                // On its way into the table, or not judged yet: what it is worth will be known in a moment.
                continue;
            } else if !self.abandoned(seen)
                && self.available_count(&self.fresh) == 0
                && self.counted(goal) < self.ceiling(goal)
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

    /// Would be available but for an acknowledgement that is still to come.
    fn pending(&self, seen: &Seen) -> bool {
        let acknowledged = Seen {
            route: RouteState::In,
            ..seen.clone()
        };
        seen.route == RouteState::Entering && self.available(&acknowledged)
    }

    /// A stale instance that nobody will wait for: of neither the goal nor what serves.
    fn abandoned(&self, seen: &Seen) -> bool {
        self.desired
            .serving
            .as_ref()
            .is_none_or(|serving| serving.template != seen.template)
    }

    fn retire_surplus(&self, goal: &Goal, plan: &mut Plan) {
        let surplus = self.fresh.len().saturating_sub(goal.instances as usize);
        let spare = self.available_count(&self.fresh).saturating_sub(goal.instances) as usize;
        // Those that carry nothing go first, then the youngest; none whose worth is not known yet.
        let idle = self
            .fresh
            .iter()
            .rev()
            .filter(|s| !self.available(s) && !self.pending(s));
        let busy = self.fresh.iter().rev().filter(|s| self.available(s)).take(spare);
        retire_all(plan, idle.chain(busy).take(surplus), RetireReason::Surplus);
    }

    fn retire_unhealthy(&self, goal: &Goal, plan: &mut Plan) {
        if self.fresh.len() > goal.instances as usize {
            return;
        }
        let mut at_once = goal.options.in_flight(goal.instances);
        for seen in &self.fresh {
            let Health::Failing { since, .. } = &seen.health else {
                continue;
            };
            if seen.process != Process::Running || seen.route != RouteState::Out && seen.route != RouteState::In {
                continue;
            }
            if *since < REPLACE_UNHEALTHY_AFTER {
                wake_after(plan, REPLACE_UNHEALTHY_AFTER - *since);
            } else if at_once > 0 && self.rollout_of_goal().is_none() {
                // During a rollout the progress deadline judges; replacing would hide what is wrong.
                at_once -= 1;
                plan.actions.push(Action::Retire {
                    id: seen.id,
                    reason: RetireReason::Unhealthy,
                });
            }
        }
    }

    fn rollout_of_goal(&self) -> Option<&'a Rollout> {
        let rollout = self.desired.rollout.as_ref()?;
        (self.goal? == &rollout.goal).then_some(rollout)
    }

    /// Missing fresh instances are added: a few at a time while older ones serve, all at once otherwise.
    fn add(&self, plan: &mut Plan) {
        let Some(goal) = self.goal else { return };
        let missing = goal.instances.saturating_sub(self.fresh.len() as u32);
        if self.paused() || missing == 0 || self.rollout_has_failed() {
            return;
        }
        let replacing = !self.stale.is_empty();
        if goal.strategy == Strategy::Recreate && (replacing || !self.leaving.is_empty()) {
            return;
        }
        let wait = backoff::wait(&self.observed.crashes, &goal.template, goal.instances);
        if !wait.is_zero() {
            wake_after(plan, wait);
            return;
        }
        let on_the_way = self.fresh.iter().filter(|s| !self.available(s)).count() as u32;
        let in_flight = if replacing {
            goal.options.in_flight(goal.instances)
        } else {
            goal.instances
        };
        let room = self.ceiling(goal).saturating_sub(self.counted(goal));
        let count = missing.min(in_flight.saturating_sub(on_the_way)).min(room);
        for _ in 0..count {
            let (deployment, template) = (goal.deployment, goal.template.clone());
            plan.actions.push(Action::Add { deployment, template });
        }
    }

    /// Invariant 1: most instances that may be alive, leaving ones included, see [`Scene::counted`].
    fn ceiling(&self, goal: &Goal) -> u32 {
        ceiling(self.desired, goal)
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
        let routes = self.fresh.iter().chain(&self.stale).filter(|seen| {
            let judged_well = match seen.health {
                Health::Passing { .. } => true,
                Health::Unknown => matches!(seen.route, RouteState::In | RouteState::Entering),
                Health::Failing { .. } => false,
            };
            seen.process == Process::Running && judged_well && !retired(seen.id)
        });
        let routes = routes.map(|seen| seen.id).collect();
        plan.routes = routes;
    }

    /// Says how far the rollout is, what it waits for, and whether it is over.
    fn judge(&self, plan: &mut Plan) {
        let Some(rollout) = &self.desired.rollout else { return };
        plan.progress = u64::from(self.available_count(&self.fresh)) * 1_000 + 999
            - (self.stale.len() + self.leaving.len()).min(999) as u64;
        plan.waiting = self.waiting();
        let deadline = rollout.goal.options.progress_deadline();
        plan.verdict = match rollout.stage {
            _ if self.desired.deleting => None,
            Stage::Queued | Stage::Paused => None,
            Stage::Deploying | Stage::Finalizing if self.settled() => Some(Verdict::Succeeded),
            Stage::Canceling if self.settled() => Some(Verdict::Canceled),
            Stage::Deploying | Stage::Finalizing if self.rollout_has_failed() => {
                Some(Verdict::Failed(FailReason::Crashing {
                    failures: rollout.failures,
                }))
            }
            Stage::Deploying | Stage::Finalizing | Stage::Canceling if rollout.stalled_for >= deadline => {
                let waiting = plan.waiting.clone();
                Some(Verdict::Failed(FailReason::Stalled { deadline, waiting }))
            }
            _ => {
                wake_after(plan, deadline.saturating_sub(rollout.stalled_for));
                None
            }
        };
        if plan.verdict.is_some() {
            // What follows from the end is planned from the recorded end, not together with it.
            plan.actions
                .retain(|a| matches!(a, Action::Collect { .. } | Action::Stop { .. }));
        }
    }

    fn rollout_has_failed(&self) -> bool {
        self.rollout_of_goal()
            .is_some_and(|r| r.failures >= r.goal.options.max_failures.max(1))
    }

    /// Invariant 10: all wanted instances available at this instant, and no other instance can be chosen.
    fn settled(&self) -> bool {
        let Some(goal) = self.goal else {
            return self.fresh.is_empty() && self.stale.is_empty();
        };
        let enough = self.available_count(&self.fresh) >= goal.instances && self.fresh.len() as u32 == goal.instances;
        let others_gone = self.stale.is_empty() && !self.leaving.iter().any(|s| s.route.may_be_chosen());
        enough && others_gone
    }

    fn waiting(&self) -> String {
        let Some(goal) = self.goal else { return String::new() };
        let available = self.available_count(&self.fresh);
        if available < goal.instances {
            let failing = self.fresh.iter().find_map(|s| match &s.health {
                Health::Failing { what, .. } => Some(what.as_str()),
                _ => None,
            });
            let what = failing.map(|w| format!(": {w}")).unwrap_or_default();
            let drains = if self.counted(goal) >= self.ceiling(goal) && !self.leaving.is_empty() {
                format!("; {} draining", self.leaving.len())
            } else {
                String::new()
            };
            return format!("{available} of {} instances available{what}{drains}", goal.instances);
        }
        match self.stale.len() + self.leaving.len() {
            0 => String::new(),
            old => format!("{old} instances of the old version are leaving"),
        }
    }

    /// An instance that is healthy but not for long enough yet becomes available by time alone.
    fn wake_when_ready(&self, plan: &mut Plan) {
        let min_ready = self.goal.map(|g| g.options.min_ready()).unwrap_or_default();
        for seen in self.fresh.iter().chain(&self.stale) {
            if let Health::Passing { since } = seen.health
                && since < min_ready
            {
                wake_after(plan, min_ready - since);
            }
        }
    }
}

/// Most counted instances that a step may lead to.
pub(super) fn ceiling(desired: &Desired, goal: &Goal) -> u32 {
    let before = desired.serving.as_ref().map_or(0, |s| s.instances);
    goal.instances.max(before) + goal.options.surge(goal.instances)
}

fn retire_all<'s>(plan: &mut Plan, seen: impl Iterator<Item = &'s &'s Seen>, reason: RetireReason) {
    plan.actions.extend(seen.map(|s| Action::Retire { id: s.id, reason }));
}

fn wake_after(plan: &mut Plan, delay: Duration) {
    plan.next_wake = Some(plan.next_wake.map_or(delay, |known| known.min(delay)));
}
