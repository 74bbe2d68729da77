//! A toy engine and a toy edge under a toy clock, for the planner's tests: everything the planner asks for happens,
//! after scripted delays, and everything that happens is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::{DeploymentId, InstanceId, RolloutOptions, Stage, Strategy, Template};

/// How instances of one version behave.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    pub healthy_after: Option<Duration>,
    pub dies_after: Option<Duration>,
    /// How long its requests in flight take once it has left the table.
    pub drains_in: Duration,
    /// Share of its requests that fail, percent.
    pub fails: u64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            healthy_after: Some(Duration::from_millis(100)),
            dies_after: None,
            drains_in: Duration::from_millis(50),
            fails: 0,
        }
    }
}

struct Instance {
    id: InstanceId,
    deployment: DeploymentId,
    template: Template,
    born: Duration,
    launched: Option<Duration>,
    retiring: bool,
    left_table: Option<Duration>,
    cut: bool,
    stopped: Option<Duration>,
    exited: bool,
}

pub struct World {
    pub now: Duration,
    pub behaviours: BTreeMap<Template, Behaviour>,
    pub rollout: Option<Rollout>,
    pub serving: Option<Goal>,
    pub deleting: bool,
    /// Requests a second that the service gets.
    pub load: u64,
    /// How long release commands take, and whether they succeed. `None`: there is none.
    pub release: Option<(Duration, bool)>,
    paused_since: Option<Duration>,
    succeeded: Option<(Duration, Option<Template>)>,
    traffic: Traffic,
    pub log: Vec<String>,
    instances: Vec<Instance>,
    crashes: Vec<(Template, Duration, Duration)>,
    /// What is in the newest table, and since when.
    routed: BTreeMap<InstanceId, Duration>,
    /// From a table to its acknowledgement.
    pub acknowledged_in: Duration,
    /// Until then the control plane has just started and knows nobody's health.
    blind_until: Duration,
    best_progress: (u64, Duration),
    counter: u128,
    pub most_live: u32,
    /// Fewest targets of any table since it was set.
    pub fewest_routed: usize,
}

/// How long a new control plane knows nobody's health.
const BLINDNESS: Duration = Duration::from_millis(30);
const STOP_TAKES: Duration = Duration::from_millis(20);
/// More steps than any scenario of a dozen instances needs.
const STEPS_MAX: usize = 20_000;

pub fn goal(version: u32, instances: u32, strategy: Strategy, options: RolloutOptions) -> Goal {
    Goal {
        deployment: DeploymentId(Uuid::from_u128(u128::from(version))),
        template: Template(format!("v{version}")),
        instances,
        strategy,
        options,
        routable: true,
    }
}

impl World {
    pub fn new() -> World {
        World {
            now: Duration::ZERO,
            behaviours: BTreeMap::new(),
            rollout: None,
            serving: None,
            deleting: false,
            load: 0,
            release: None,
            paused_since: None,
            succeeded: None,
            traffic: Traffic::default(),
            log: vec![],
            instances: vec![],
            crashes: vec![],
            routed: BTreeMap::new(),
            acknowledged_in: Duration::ZERO,
            blind_until: Duration::ZERO,
            best_progress: (0, Duration::ZERO),
            counter: 0,
            most_live: 0,
            fewest_routed: 0,
        }
    }

    pub fn deploy(&mut self, goal: Goal) {
        if let Some(old) = self.rollout.take() {
            self.note(format!("{} superseded", old.goal.template.0));
        }
        self.note(format!("deploy {} x{}", goal.template.0, goal.instances));
        self.best_progress = (0, self.now);
        let release = self
            .release
            .map(|_| Template(format!("release of {}", goal.template.0)));
        self.rollout = Some(Rollout {
            goal,
            stage: Stage::Deploying,
            step: 0,
            at_step: None,
            release,
            stalled_for: Duration::ZERO,
            failures: 0,
        });
    }

    /// As [`World::deploy`] with all steps behind it.
    pub fn roll_back(&mut self, goal: Goal) {
        let steps = goal.options.steps(goal.strategy).len() as u32;
        self.deploy(goal);
        self.rollout
            .as_mut()
            .into_iter()
            .for_each(|rollout| rollout.step = steps);
    }

    /// A user's `continue`.
    pub fn go_on(&mut self) {
        if let Some(rollout) = self.rollout.as_mut().filter(|rollout| rollout.at_step.is_some()) {
            rollout.step += 1;
            self.set_stage(Stage::Deploying);
        }
    }

    pub fn set_stage(&mut self, stage: Stage) {
        self.paused_since = (stage == Stage::Paused).then_some(self.now);
        if let Some(rollout) = &mut self.rollout {
            rollout.stage = stage;
            rollout.at_step = None;
            let line = format!("{} {stage}", rollout.goal.template.0);
            self.best_progress = (0, self.now);
            self.note(line);
        }
    }

    /// One instance dies as if by a fault from outside.
    pub fn kill(&mut self, nth: usize) {
        let now = self.now;
        let mut alive = self.instances.iter_mut().filter(|i| i.launched.is_some() && !i.exited);
        if let Some(instance) = alive.nth(nth) {
            instance.exited = true;
            let line = format!("{} killed", name(instance.id));
            self.crashes
                .insert(0, (instance.template.clone(), now, now - instance.born));
            self.note(line);
        }
    }

    /// The control plane dies and another one takes over: what is in the table is routed anew, health is unknown.
    pub fn restart(&mut self) {
        self.note("control plane restarted".to_owned());
        self.blind_until = self.now + BLINDNESS;
        self.best_progress = (0, self.now);
        self.routed.values_mut().for_each(|since| *since = self.now);
        let now = self.now;
        self.instances
            .iter_mut()
            .filter(|i| i.retiring)
            .for_each(|i| i.left_table = Some(now));
    }

    /// Runs until `until`, or until nothing can happen any more.
    pub fn run(&mut self, until: Duration) {
        for _ in 0..STEPS_MAX {
            let wake = self.step();
            let Some(next) = wake.filter(|next| *next <= until) else {
                break;
            };
            self.now = next;
        }
        self.now = self.now.max(until);
    }

    pub fn routed_versions(&self) -> Vec<String> {
        let routed = self.instances.iter().filter(|i| self.routed.contains_key(&i.id));
        let mut versions: Vec<String> = routed.map(|i| i.template.0.clone()).collect();
        versions.sort();
        versions
    }

    pub fn alive(&self) -> usize {
        self.instances.iter().filter(|i| !i.exited).count()
    }

    fn note(&mut self, what: String) {
        self.log.push(format!("{:>8.2}s  {what}", self.now.as_secs_f64()));
    }

    /// Lets due things happen, plans, executes; answers when something happens next.
    fn step(&mut self) -> Option<Duration> {
        self.let_things_happen();
        let (desired, observed) = (self.desired(), self.observed());
        let plan = plan(&desired, &observed);
        guard::check(&desired, &observed, &plan).unwrap_or_else(|v| panic!("{v}\n{}", self.log.join("\n")));
        let acted = !plan.actions.is_empty()
            || plan.verdict.is_some()
            || plan.roll_back.is_some()
            || !plan.routes.iter().eq(self.routed.keys())
            || plan.traffic != self.traffic;
        self.execute(&plan);
        if plan.progress > self.best_progress.0 {
            self.best_progress = (plan.progress, self.now);
        }
        self.most_live = self.most_live.max(self.alive() as u32);
        if acted {
            return Some(self.now);
        }
        let timer = plan
            .next_wake
            .map(|delay| self.now + delay.max(Duration::from_micros(1)));
        self.next_event().into_iter().chain(timer).min()
    }

    fn behaviour(&self, template: &Template) -> Behaviour {
        self.behaviours.get(template).copied().unwrap_or_default()
    }

    fn let_things_happen(&mut self) {
        let mut lines = vec![];
        let behaviours = self.behaviours.clone();
        for instance in &mut self.instances {
            let behaviour = behaviours.get(&instance.template).copied().unwrap_or_default();
            let Some(launched) = instance.launched.filter(|_| !instance.exited) else {
                continue;
            };
            if instance.stopped.is_some_and(|at| at + STOP_TAKES <= self.now) {
                instance.exited = true;
                lines.push(format!("{} stopped", name(instance.id)));
            } else if let Some(rollout) = self
                .rollout
                .as_mut()
                .filter(|r| r.release.as_ref() == Some(&instance.template))
            {
                let (takes, succeeds) = self.release.unwrap_or_default();
                if launched + takes <= self.now {
                    instance.exited = true;
                    lines.push(format!(
                        "{} {}",
                        instance.template.0,
                        if succeeds { "is done" } else { "fails" }
                    ));
                    match succeeds {
                        true => rollout.release = None,
                        false => rollout.failures += 1,
                    }
                }
            } else if behaviour.dies_after.is_some_and(|after| launched + after <= self.now) {
                instance.exited = true;
                lines.push(format!("{} dies", name(instance.id)));
                if !instance.retiring {
                    self.crashes
                        .insert(0, (instance.template.clone(), self.now, self.now - instance.born));
                    if let Some(rollout) = &mut self.rollout
                        && rollout.goal.deployment == instance.deployment
                    {
                        rollout.failures += 1;
                    }
                }
            }
        }
        lines.into_iter().for_each(|line| self.note(line));
    }

    fn next_event(&self) -> Option<Duration> {
        let mut times = vec![];
        for instance in self.instances.iter().filter(|i| !i.exited) {
            let behaviour = self.behaviour(&instance.template);
            let Some(launched) = instance.launched else { continue };
            times.extend(behaviour.healthy_after.map(|after| launched + after));
            times.extend(behaviour.dies_after.map(|after| launched + after));
            times.extend(instance.left_table.map(|at| at + self.acknowledged_in));
            times.extend(
                instance
                    .left_table
                    .map(|at| at + self.acknowledged_in + behaviour.drains_in),
            );
            times.extend(self.routed.get(&instance.id).map(|at| *at + self.acknowledged_in));
            times.extend(instance.stopped.map(|at| at + STOP_TAKES));
            times.extend(self.release.map(|(takes, _)| launched + takes));
        }
        times.push(self.blind_until);
        times.into_iter().filter(|at| *at > self.now).min()
    }

    fn desired(&self) -> Desired {
        let mut rollout = self.rollout.clone();
        if let Some(rollout) = &mut rollout {
            rollout.stalled_for = self.now - self.best_progress.1;
            if rollout.at_step.is_some() {
                let lasts = self.now - self.paused_since.unwrap_or_default();
                let evidence = self.evidence(rollout.goal.template.clone(), lasts);
                rollout.at_step = Some(Trial { lasts, evidence });
            }
        }
        let serving = self.serving.as_ref().filter(|_| rollout.is_none());
        let since = self.succeeded.as_ref().map_or(Duration::MAX, |(at, _)| self.now - *at);
        let warm_for = serving.filter(|serving| serving.strategy == Strategy::BlueGreen);
        let warm_for = warm_for.map_or(Duration::ZERO, |serving| {
            serving.options.keep_warm().saturating_sub(since)
        });
        let watched = serving.filter(|serving| serving.options.watch() > since);
        let watch = watched.map(|serving| Watch {
            left: serving.options.watch() - since,
            evidence: self.evidence(serving.template.clone(), since),
        });
        Desired {
            rollout,
            serving: self.serving.clone(),
            warm_for,
            watch,
            deleting: self.deleting,
        }
    }

    /// What an edge would have seen of the new version and of the one before it.
    fn evidence(&self, new: Template, time: Duration) -> Evidence {
        let requests = self.load * time.as_secs();
        let share = u64::from(self.traffic.share.unwrap_or(50));
        let seen = |template: Option<&Template>, requests: u64| {
            let fails = template.map_or(0, |template| self.behaviour(template).fails);
            let mut seen = crate::Behaviour {
                requests,
                failed: requests * fails / 100,
                ..crate::Behaviour::default()
            };
            seen.latency[0] = requests;
            seen
        };
        let before = self.succeeded.as_ref().and_then(|(_, before)| before.as_ref());
        Evidence {
            new: seen(Some(&new), requests * share / 100),
            old: seen(before, requests - requests * share / 100),
        }
    }

    fn observed(&self) -> Observed {
        let instances = self.instances.iter().map(|i| self.see(i)).collect();
        let crashes = self.crashes.iter().map(|(template, at, lived)| Crash {
            template: template.clone(),
            age: self.now - *at,
            lived: *lived,
        });
        Observed {
            instances,
            crashes: crashes.take(20).collect(),
        }
    }

    fn see(&self, i: &Instance) -> Seen {
        let behaviour = self.behaviour(&i.template);
        let process = match i.launched {
            _ if i.exited => Process::Exited,
            None => Process::Absent,
            Some(_) if i.stopped.is_some() => Process::Stopping,
            Some(_) => Process::Running,
        };
        let healthy_at = i.launched.zip(behaviour.healthy_after).map(|(at, after)| at + after);
        let health = match healthy_at {
            _ if self.now < self.blind_until => Health::Unknown,
            Some(at) if at <= self.now => Health::Passing {
                since: self.now - at.max(self.blind_until),
            },
            _ => Health::Failing {
                since: self.now - i.born,
                what: "connection refused".into(),
            },
        };
        let route = self.route(i, behaviour.drains_in);
        let (deployment, template) = (i.deployment, i.template.clone());
        Seen {
            id: i.id,
            deployment,
            template,
            retiring: i.retiring,
            process,
            health,
            route,
        }
    }

    fn route(&self, i: &Instance, drains_in: Duration) -> RouteState {
        if let Some(since) = self.routed.get(&i.id) {
            return if *since + self.acknowledged_in <= self.now {
                RouteState::In
            } else {
                RouteState::Entering
            };
        }
        let Some(left) = i.left_table else {
            return RouteState::Out;
        };
        match self.now.checked_sub(left + self.acknowledged_in) {
            None => RouteState::Leaving { drained_for: None },
            Some(drained_for) if !i.cut && drained_for < drains_in => RouteState::Leaving {
                drained_for: Some(drained_for),
            },
            Some(_) => RouteState::Out,
        }
    }

    fn execute(&mut self, plan: &Plan) {
        for action in &plan.actions {
            self.perform(action);
        }
        let before: BTreeSet<InstanceId> = self.routed.keys().copied().collect();
        for id in plan.routes.difference(&before) {
            self.note(format!("route {}", name(*id)));
            self.routed.insert(*id, self.now);
        }
        for id in before.difference(&plan.routes) {
            self.note(format!("unroute {}", name(*id)));
            self.routed.remove(id);
            let now = self.now;
            self.with(*id, |i| i.left_table = Some(now));
        }
        self.fewest_routed = self.fewest_routed.min(self.routed.len());
        if plan.traffic != self.traffic {
            self.note(describe(&plan.traffic));
            self.traffic = plan.traffic;
        }
        if let Some(verdict) = &plan.verdict {
            self.end(verdict);
        }
        if let Some(why) = &plan.roll_back {
            self.note(format!("rolls back by itself: {why}"));
            let before = self.succeeded.take().and_then(|(_, before)| before);
            let serving = self.serving.clone();
            if let Some((template, goal)) = before.zip(serving) {
                self.roll_back(Goal { template, ..goal });
            }
        }
    }

    fn perform(&mut self, action: &Action) {
        let now = self.now;
        match action {
            Action::Add { deployment, template } => {
                self.counter += 1;
                let id = InstanceId(Uuid::from_u128(self.counter));
                self.note(format!("add {} ({})", name(id), template.0));
                self.instances.push(Instance {
                    id,
                    deployment: *deployment,
                    template: template.clone(),
                    born: now,
                    launched: Some(now),
                    retiring: false,
                    left_table: None,
                    cut: false,
                    stopped: None,
                    exited: false,
                });
            }
            Action::Launch { id } => self.with(*id, |i| i.launched = Some(now)),
            Action::Retire { id, reason } => {
                self.with(*id, |i| i.retiring = true);
                self.note(format!("retire {}: {}", name(*id), reason.as_str()));
            }
            Action::Stop { id, cut, .. } => {
                self.with(*id, |i| {
                    i.stopped = Some(i.stopped.unwrap_or(now));
                    i.cut = *cut;
                });
                let how = if *cut { "cut off and stop" } else { "stop" };
                self.note(format!("{how} {}", name(*id)));
            }
            Action::Collect { id } => self.instances.retain(|i| i.id != *id),
        }
    }

    fn with(&mut self, id: InstanceId, change: impl FnOnce(&mut Instance)) {
        if let Some(instance) = self.instances.iter_mut().find(|i| i.id == id) {
            change(instance);
        }
    }

    fn turn(&mut self, verdict: &Verdict) -> bool {
        match verdict {
            Verdict::StepReached => {
                self.set_stage(Stage::Paused);
                self.rollout
                    .as_mut()
                    .into_iter()
                    .for_each(|r| r.at_step = Some(Trial::default()));
            }
            Verdict::StepPassed => self.go_on(),
            _ => return false,
        }
        true
    }

    fn end(&mut self, verdict: &Verdict) {
        if self.turn(verdict) {
            return;
        }
        let Some(rollout) = self.rollout.take() else { return };
        let version = rollout.goal.template.0.clone();
        match verdict {
            Verdict::StepReached | Verdict::StepPassed => {}
            Verdict::Succeeded => {
                self.note(format!("{version} succeeded"));
                let before = self.serving.replace(rollout.goal);
                self.succeeded = Some((self.now, before.map(|before| before.template)));
            }
            Verdict::Failed(FailReason::Release) => self.note(format!("{version} failed: its release command failed")),
            Verdict::Failed(FailReason::Gate { what }) => self.note(format!("{version} failed: {what}")),
            Verdict::Failed(FailReason::Crashing { failures }) => {
                self.note(format!("{version} failed: {failures} instances died"));
            }
            Verdict::Failed(FailReason::Stalled { waiting, .. }) => {
                self.note(format!("{version} failed: no progress: {waiting}"));
            }
            Verdict::Canceled => self.note(format!("{version} canceled")),
        }
    }
}

fn describe(traffic: &Traffic) -> String {
    let share = traffic.share.map(|share| format!("{share} % to the new version"));
    let mut parts = vec![share.unwrap_or_else(|| "by instances".to_owned())];
    parts.extend(traffic.preview.then(|| "preview host".to_owned()));
    parts.extend(traffic.sticky.then(|| "sticky".to_owned()));
    parts.extend(traffic.hold.then(|| "requests wait".to_owned()));
    format!("traffic: {}", parts.join(", "))
}

pub fn name(id: InstanceId) -> String {
    format!("i{}", id.0.as_u128())
}
