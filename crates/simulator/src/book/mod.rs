//! What the simulator knows to be true, written down independently of the reconciler, and the invariants checked on it.
//!
//! Numbers are those of `docs/ARCHITECTURE.md`, "Invariants".

mod end;
mod journal;
mod record;
mod release;
mod sight;
mod tables;
mod truth;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::routing::RoutingTable;
use domain::{InstanceId, RolloutOptions, ServiceId};
use engine::Exit;
use testkit::{FakeEdge, FakeEngine, Health};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::scenario::{Scenario, Subject};

pub use record::Known;
pub use sight::Traffic;
pub use truth::Truth;

/// A fault this long ago excuses nothing any more. Longer than an unhealthy instance is waited for.
const CALM: Duration = Duration::from_secs(90);
/// Most turns at one instant of virtual time; more means that something runs in circles.
const TURNS_AT_ONCE: u64 = 5_000;
/// Most lines of a trace.
const LINES_MAX: usize = 200_000;

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// In `docs/ARCHITECTURE.md`; 0 for a defect that has no number, such as a panic.
    pub number: u8,
    pub what: String,
}

/// A handle; clones are the same book.
#[derive(Clone)]
pub struct Book {
    pages: Arc<Mutex<Pages>>,
    pub engine: FakeEngine,
    pub edge: FakeEdge,
}

pub struct Pages {
    began: Instant,
    scenario: Scenario,
    pub lines: Vec<String>,
    pub violation: Option<Violation>,
    alarm: watch::Sender<bool>,
    events_seen: usize,
    pub instances: BTreeMap<InstanceId, Truth>,
    pub services: BTreeMap<ServiceId, Known>,
    served: RoutingTable,
    /// Which life of the control plane published an epoch.
    authors: BTreeMap<u64, u32>,
    /// The last moment at which something was wrong everywhere.
    disturbed: Option<Instant>,
    /// Since when a control plane has been at work. `None`: none is.
    reigns_since: Option<Instant>,
    /// The newest life that came to power.
    leader: u32,
    sight: sight::Sight,
    release_runs: release::Runs,
    turns_now: (Option<Instant>, u64),
}

impl Book {
    pub fn new(scenario: Scenario, engine: FakeEngine, edge: FakeEdge) -> Book {
        let pages = Pages {
            began: Instant::now(),
            scenario,
            lines: Vec::new(),
            violation: None,
            alarm: watch::Sender::new(false),
            events_seen: 0,
            instances: BTreeMap::new(),
            services: BTreeMap::new(),
            served: RoutingTable::default(),
            authors: BTreeMap::new(),
            disturbed: None,
            reigns_since: None,
            leader: 0,
            sight: sight::Sight::default(),
            release_runs: release::Runs::new(),
            turns_now: (None, 0),
        };
        Book {
            pages: Arc::new(Mutex::new(pages)),
            engine,
            edge,
        }
    }

    pub fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn say(&self, line: impl AsRef<str>) {
        self.pages().say(line.as_ref());
    }

    pub fn violate(&self, number: u8, what: impl Into<String>) {
        self.pages().violate(number, what.into());
    }

    /// Waits until an invariant does not hold, however the world may turn in circles.
    pub async fn violated(&self) {
        let mut alarm = self.pages().alarm.subscribe();
        // The sender lives as long as this book.
        let _ = alarm.wait_for(|rings| *rings).await.is_ok();
    }

    pub fn is_violated(&self) -> bool {
        self.pages().violation.is_some()
    }

    /// From now on, for a while, healthy instances may be taken for sick ones.
    pub fn disturb(&self) {
        self.pages().disturbed = Some(Instant::now());
    }

    /// Somebody is about to say that a rollout may leave its step.
    pub fn continues(&self, service: ServiceId) {
        if let Some(known) = self.pages().services.get_mut(&service) {
            known.continued = true;
        }
    }

    /// Somebody is about to ask for a rollback.
    pub fn asks_back(&self, service: ServiceId) {
        if let Some(known) = self.pages().services.get_mut(&service) {
            known.asked_back = true;
        }
    }

    /// A control plane begins, or goes on after it stood still.
    pub fn reigns(&self) {
        self.pages().reigns_since = Some(Instant::now());
    }

    /// Invariant 19, for the store: who has been overtaken decides nothing any more.
    pub fn decides(&self, life: u32) {
        let mut pages = self.pages();
        if life < pages.leader {
            let what = format!("life {life} has written a decision, and life {} leads", pages.leader);
            pages.violate(19, what);
        }
    }

    /// Looks at everything that has happened since the last look.
    pub fn inspect(&self) {
        self.read_engine();
        self.read_edge();
        self.let_requests_come();
        let mut pages = self.pages();
        let now = Instant::now();
        let (since, turns) = pages.turns_now;
        pages.turns_now = if since == Some(now) {
            (since, turns + 1)
        } else {
            pages.overdue();
            (Some(now), 1)
        };
        if pages.turns_now.1 > TURNS_AT_ONCE {
            pages.violate(15, "something runs in circles without time passing".to_owned());
        }
    }
}

impl Pages {
    pub fn say(&mut self, line: &str) {
        if self.lines.len() < LINES_MAX {
            let at = self.began.elapsed().as_millis();
            self.lines.push(format!("{:>8}.{:03}  {line}", at / 1_000, at % 1_000));
        }
    }

    pub fn violate(&mut self, number: u8, what: String) {
        self.say(&format!("VIOLATES {number}: {what}"));
        self.violation.get_or_insert(Violation { number, what });
        self.alarm.send_replace(true);
    }

    fn subject_of(&self, service: ServiceId) -> Option<&Subject> {
        let known = self.services.get(&service)?;
        self.scenario.services.get(known.subject)
    }

    /// Nothing happened for a while that may let a healthy instance seem sick.
    fn is_calm(&self, service: ServiceId) -> bool {
        let long_ago = |at: Option<Instant>| at.is_none_or(|at| at.elapsed() > CALM);
        let steady = self
            .instances
            .values()
            .filter(|truth| truth.service == service && !truth.removed)
            .all(|truth| self.script_is_good(service, truth.version));
        let known = self.services.get(&service);
        steady && long_ago(self.disturbed) && known.is_some_and(|known| long_ago(known.disturbed))
    }

    fn script_is_good(&self, service: ServiceId, version: i64) -> bool {
        let Some(known) = self.services.get(&service) else {
            return false;
        };
        let recorded = known.deployments.values().find(|recorded| recorded.version == version);
        recorded.is_some_and(|recorded| self.image_is_good(known.subject, &recorded.spec.image))
    }

    /// Instances of this image become healthy, stay so and do not end by themselves.
    fn image_is_good(&self, subject: usize, image: &str) -> bool {
        let version: Option<usize> = image.rsplit_once(':').and_then(|(_, version)| version.parse().ok());
        let script = version.and_then(|v| self.scenario.services[subject].scripts.get(v.wrapping_sub(1)));
        script.is_some_and(|s| s.ends.is_none() && s.refuse.is_none() && s.health == Health::Good)
    }

    /// How long requests of an instance may last at least, and since when the edge does not serve it.
    fn drain_of(&self, id: InstanceId) -> Option<(Duration, Option<Instant>)> {
        let truth = self.instances.get(&id).filter(|truth| truth.alive)?;
        let known = self.services.get(&truth.service)?;
        // What leaves is drained as the goal says, whichever that is by now; where there is none, by the default.
        let goals = known.deployments.values().map(|recorded| recorded.spec.options.drain());
        let shortest = goals.fold(RolloutOptions::default().drain(), Duration::min);
        Some((shortest, truth.left))
    }
}

/// A short name for people; ids are counted within a run.
pub fn label(id: InstanceId) -> String {
    format!("i{}", id.0.as_u128() & 0xffff_ffff)
}

/// How an instance ends that somebody kills.
pub fn killed() -> Exit {
    Exit {
        signal: Some(9),
        ..Exit::default()
    }
}
