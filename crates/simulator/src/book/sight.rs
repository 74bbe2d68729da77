//! What the edge sees: requests that come while time passes, and how each version answers them.
//!
//! Nobody sends them one by one. Each service gets so many a second, divided over its versions as the table that the edge
//! serves says; a version fails a fixed share of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::routing::{Pool, ServiceEntry, Share};
use domain::{Advance, Behaviour, DeploymentId, ServiceId};
use store::{Deployment, ServiceState};
use testkit::Dice;
use tokio::time::Instant;

use super::{Book, Pages};
use crate::scenario::VERSIONS;

/// Requests to a version without which nothing is said of its share of failed ones.
const MANY: u64 = 4;
/// Requests after which a watched version is surely judged.
const ENOUGH: u64 = 40;
/// A version that fails at least so many of a hundred is plainly worse than one that fails none.
const PLAINLY: u64 = 50;

/// The requests of one service.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    per_second: u64,
    /// Of versions 1 to [`VERSIONS`].
    answers: Vec<Answers>,
}

/// How one version answers.
#[derive(Debug, Clone, Copy)]
struct Answers {
    /// Of a hundred requests.
    failed: u64,
    latency: Duration,
}

impl Traffic {
    pub fn draw(dice: &mut Dice) -> Traffic {
        // Silence is what a gate must not take for consent.
        let per_second = if dice.chance(250) { 0 } else { 1 + dice.below(50) };
        let mut answers = || Answers {
            failed: if dice.chance(300) { PLAINLY + dice.below(50) } else { 0 },
            latency: Duration::from_millis(1 + if dice.chance(200) { dice.below(1_000) } else { 0 }),
        };
        Traffic {
            per_second,
            answers: (0..VERSIONS).map(|_| answers()).collect(),
        }
    }
}

/// What the edge has counted, in thousandths of requests, by deployment.
#[derive(Default)]
pub(super) struct Sight {
    counted: BTreeMap<DeploymentId, u64>,
    last: Option<Instant>,
    /// What had been counted of each rollout when its step was first seen, and that step.
    steps: BTreeMap<ServiceId, (DeploymentId, u32, u64)>,
    watched: BTreeMap<ServiceId, Watched>,
}

/// A success that is watched.
struct Watched {
    deployment: DeploymentId,
    since: Instant,
    until: Instant,
    /// What had been counted of it at its success, and since.
    before: u64,
    seen: u64,
    /// Another rollout came in between.
    disturbed: bool,
}

impl Sight {
    /// Whole requests so far.
    fn requests(&self, deployment: DeploymentId) -> u64 {
        self.counted.get(&deployment).copied().unwrap_or_default() / 1_000
    }
}

impl Book {
    /// Lets the requests come that belong to the time since the last look.
    pub(super) fn let_requests_come(&self) {
        let mut pages = self.pages();
        let now = Instant::now();
        let passed = pages.sight.last.replace(now).map_or(Duration::ZERO, |last| now - last);
        if passed.is_zero() {
            return;
        }
        let entries = std::mem::take(&mut pages.served.services);
        for entry in &entries {
            for (deployment, behaviour) in pages.answered(entry, passed) {
                self.edge.set_behaviour(deployment, behaviour);
            }
        }
        pages.served.services = entries;
    }

    /// At the end: no success was left alone that should have been taken back.
    pub fn missed_regrets(&self) {
        let mut pages = self.pages();
        let missed = pages.services.iter().find_map(|(id, known)| {
            let what = pages.should_be_back(*id, known.state.as_ref()?)?;
            Some(format!("{}: {what}", known.name))
        });
        if let Some(what) = missed {
            pages.violate(12, what);
        }
    }
}

impl Pages {
    /// Requests of `passed`, and what the edge has counted since of each version that got some.
    fn answered(&mut self, entry: &ServiceEntry, passed: Duration) -> Vec<(DeploymentId, Behaviour)> {
        let Some(per_second) = self.subject_of(entry.service).map(|subject| subject.traffic.per_second) else {
            return vec![];
        };
        let came = per_second * passed.as_millis() as u64;
        let ready = entry.pools.iter().filter(|pool| !pool.targets.is_empty());
        let weights: Vec<(DeploymentId, u64)> = ready.map(|pool| (pool.deployment, weight(pool))).collect();
        let all: u64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut seen = Vec::new();
        for (deployment, weight) in weights.into_iter().filter(|(_, weight)| *weight > 0) {
            let Some(answers) = self.answers_of(entry.service, deployment) else {
                continue;
            };
            *self.sight.counted.entry(deployment).or_default() += came * weight / all;
            let requests = self.sight.requests(deployment);
            let mut behaviour = Behaviour {
                requests,
                failed: (requests * answers.failed).div_ceil(100),
                ..Behaviour::default()
            };
            behaviour.latency[Behaviour::bucket(answers.latency)] = requests;
            if let Some(watched) = self.sight.watched.get_mut(&entry.service)
                && watched.deployment == deployment
                && Instant::now() < watched.until
            {
                watched.seen = requests - watched.before;
            }
            seen.push((deployment, behaviour));
        }
        seen
    }

    fn answers_of(&self, service: ServiceId, deployment: DeploymentId) -> Option<Answers> {
        let known = self.services.get(&service)?;
        self.answers_to(service, &known.deployments.get(&deployment)?.spec.image)
    }

    fn answers_to(&self, service: ServiceId, image: &str) -> Option<Answers> {
        let subject = self.subject_of(service)?;
        let version = (1..=VERSIONS).find(|version| subject.image(*version) == image)?;
        subject.traffic.answers.get(version as usize - 1).copied()
    }

    /// Invariant 22: a gate is passed by what was seen, or by somebody's word.
    pub(super) fn passed_gate(&mut self, service: ServiceId, state: &ServiceState) -> Option<String> {
        let active = state.active.as_ref()?;
        let (deployment, step) = (active.id, active.step);
        let seen = self.sight.requests(deployment);
        let known = self.sight.steps.get(&service).copied();
        if known.is_some_and(|(id, at, _)| (id, at) == (deployment, step)) {
            return None;
        }
        self.sight.steps.insert(service, (deployment, step, seen));
        let (_, left, before) = known.filter(|(id, at, _)| *id == deployment && *at < step)?;
        let by_word = std::mem::take(&mut self.services.get_mut(&service)?.continued);
        let Advance::Gate(gate) = &active.spec.options.steps.get(left as usize)?.then else {
            return None;
        };
        if by_word || active.rollback_from.is_some() {
            return None;
        }
        let seen = seen - before;
        let fault = if seen < gate.min_requests {
            format!("{seen} of {} requests", gate.min_requests)
        } else if gate.min_requests >= MANY && self.is_plainly_worse(service, active, state.serving.as_ref()?) {
            "requests that failed".to_owned()
        } else {
            return None;
        };
        Some(format!(
            "version {} has passed the gate of step {left} with {fault}",
            active.version
        ))
    }

    /// Notes a success, and what may end its watch.
    pub(super) fn note_success(&mut self, service: ServiceId, state: &ServiceState) {
        let Some(serving) = &state.serving else { return };
        let known = self.sight.watched.get(&service).map(|watched| watched.deployment);
        if known != Some(serving.id) {
            let before = self.sight.requests(serving.id);
            let watched = Watched {
                deployment: serving.id,
                since: Instant::now(),
                until: Instant::now() + serving.spec.options.watch(),
                before,
                seen: 0,
                disturbed: false,
            };
            self.sight.watched.insert(service, watched);
        }
        if let Some(watched) = self.sight.watched.get_mut(&service) {
            watched.disturbed |= state.active.is_some();
        }
    }

    /// Invariant 12, the other way round: a success that fails its requests is taken back. A control plane that began
    /// later does not know that it should watch.
    pub(super) fn should_be_back(&self, service: ServiceId, state: &ServiceState) -> Option<String> {
        let serving = state
            .serving
            .as_ref()
            .filter(|serving| serving.rollback_from.is_none())?;
        let watched = self.sight.watched.get(&service)?;
        let before = self.services.get(&service)?.deployments.get(&serving.replaced?)?;
        let failed = |image: &str| Some(self.answers_to(service, image)?.failed);
        let worse = failed(&serving.spec.image)? >= PLAINLY && failed(&before.spec.image)? == 0;
        let seen = watched.deployment == serving.id && !watched.disturbed && watched.seen >= ENOUGH;
        let watching = self.reigns_since.is_some_and(|began| began <= watched.since);
        (worse && seen && watching).then(|| {
            format!(
                "version {} fails, was watched over {} requests and serves on",
                serving.version, watched.seen
            )
        })
    }

    /// Invariant 12, for what goes back by itself: something was wrong, and it was no way back itself.
    pub(super) fn went_back(&self, service: ServiceId, failed: &Deployment) -> Option<String> {
        let answers = self.answers_of(service, failed.id);
        let fault = match answers {
            _ if failed.rollback_from.is_some() => "was a rollback itself",
            Some(answers) if answers.failed == 0 => "has failed no request",
            _ => return None,
        };
        Some(format!("version {} was taken back and {fault}", failed.version))
    }

    fn is_plainly_worse(&self, service: ServiceId, new: &Deployment, old: &Deployment) -> bool {
        let failed = |deployment: &Deployment| Some(self.answers_of(service, deployment.id)?.failed);
        failed(new).is_some_and(|failed| failed >= PLAINLY) && failed(old) == Some(0)
    }
}

fn weight(pool: &Pool) -> u64 {
    match pool.share {
        // As a hundred for each instance, so that a few weighed requests are few.
        Share::ByInstances => 100 * pool.targets.len() as u64,
        Share::Percent(percent) => u64::from(percent),
    }
}
