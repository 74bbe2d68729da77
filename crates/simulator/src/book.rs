//! What the simulator knows to be true, written down independently of the reconciler, and the invariants checked on it.
//!
//! Numbers are those of `docs/ARCHITECTURE.md`, "Invariants".

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::routing::{RoutingTable, ServiceEntry};
use domain::{DeploymentId, InstanceId, RolloutOptions, ServiceId, Stage, Strategy};
use engine::{Exit, InstanceStatus};
use store::{Deployment, InstanceRow, InstanceState, JournalEntry, ServiceKind, ServiceState};
use testkit::fake_engine::{self, Event};
use testkit::{FakeEdge, FakeEngine, Health};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::scenario::{Scenario, Subject};

/// A fault this long ago excuses nothing any more. Longer than an unhealthy instance is waited for.
const CALM: Duration = Duration::from_secs(90);
/// Longest way of a table to the edge, with slow acknowledgements.
const TABLE_TRAVELS: Duration = Duration::from_secs(5);
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
    newest_published: u64,
    /// The last moment at which something was wrong everywhere.
    disturbed: Option<Instant>,
    turns_now: (Option<Instant>, u64),
}

/// One instance, as it really is.
pub struct Truth {
    service: ServiceId,
    version: i64,
    alive: bool,
    asked_to_stop: bool,
    /// The reconciler has begun to stop it, whether or not the engine has heard of it.
    told_to_stop: bool,
    pub removed: bool,
    /// Checks passed in a row, as seen by which life.
    passes: (u32, u32),
    /// Has passed its health threshold once.
    proven: bool,
    address: Option<IpAddr>,
    /// Since when the edge does not serve it.
    left: Option<Instant>,
    /// Engine effects asked for.
    pub effects: u64,
}

/// One service, as the record last showed it.
pub struct Known {
    subject: usize,
    pub name: String,
    pub state: Option<ServiceState>,
    previous_serving: u32,
    deployments: BTreeMap<DeploymentId, Recorded>,
    max_version: i64,
    rows: BTreeSet<InstanceId>,
    disturbed: Option<Instant>,
    /// When the last deployment ended, and its floor: what it gave up may leave the table a little later.
    ended: Option<(Instant, u32)>,
}

struct Recorded {
    version: i64,
    spec: domain::Spec,
    stage: Option<Stage>,
    journal: i64,
    since: Instant,
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
            newest_published: 0,
            disturbed: None,
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

    pub fn enroll(&self, service: ServiceId, subject: usize) {
        let mut pages = self.pages();
        let name = pages.scenario.services[subject].name.clone();
        let known = Known {
            subject,
            name,
            state: None,
            previous_serving: 0,
            deployments: BTreeMap::new(),
            max_version: 0,
            rows: BTreeSet::new(),
            disturbed: None,
            ended: None,
        };
        pages.services.insert(service, known);
    }

    /// From now on, for a while, healthy instances may be taken for sick ones.
    pub fn disturb(&self) {
        self.pages().disturbed = Some(Instant::now());
    }

    /// Looks at everything that has happened since the last look.
    pub fn inspect(&self) {
        self.read_engine();
        self.read_edge();
        let mut pages = self.pages();
        let now = Instant::now();
        let (since, turns) = pages.turns_now;
        pages.turns_now = if since == Some(now) {
            (since, turns + 1)
        } else {
            (Some(now), 1)
        };
        if pages.turns_now.1 > TURNS_AT_ONCE {
            pages.violate(15, "something runs in circles without time passing".to_owned());
        }
    }

    fn read_engine(&self) {
        let seen = self.pages().events_seen;
        let events = self.engine.events_after(seen);
        let mut pages = self.pages();
        pages.events_seen += events.len();
        for event in &events {
            pages.engine_event(event);
        }
    }

    fn read_edge(&self) {
        let serving = self.edge.serving();
        let mut pages = self.pages();
        if serving.epoch == pages.served.epoch {
            return;
        }
        let before = std::mem::replace(&mut pages.served, serving.clone());
        let line = format!("edge serves {}", pages.table_text(&serving));
        pages.say(&line);
        pages.table_swapped(&before, &serving, |id| self.engine.is_healthy(id));
    }

    /// The reconciler tells the edge a table: invariants 3 and 19.
    pub fn published(&self, table: &RoutingTable) {
        self.read_engine();
        let mut pages = self.pages();
        let line = format!("publishes {}", pages.table_text(table));
        pages.say(&line);
        if table.epoch <= pages.newest_published {
            let newest = pages.newest_published;
            pages.violate(19, format!("epoch {} is published after {newest} was", table.epoch));
        }
        pages.newest_published = pages.newest_published.max(table.epoch);
        for target in table.services.iter().flat_map(ServiceEntry::targets) {
            let truth = pages.instances.get(&target.instance);
            let trouble = match truth {
                None => Some("was never started"),
                Some(truth) if !truth.proven => Some("never passed its health threshold"),
                Some(truth) if truth.address != Some(target.address) => Some("has another address"),
                Some(_) => None,
            };
            if let Some(trouble) = trouble {
                pages.violate(3, format!("{} is routed and {trouble}", label(target.instance)));
            }
        }
    }

    /// What is in flight on unrouted instances is cut: invariant 4.
    pub fn cut(&self, ids: &[InstanceId]) {
        let routed = self.edge.routed();
        let mut pages = self.pages();
        for id in ids {
            let line = format!("cuts the requests of {}", label(*id));
            pages.say(&line);
            let Some((drain, left)) = pages.drain_of(*id) else {
                continue;
            };
            let waited = left.map(|left| left.elapsed());
            if routed.contains(id) || waited.is_none_or(|waited| waited < drain) {
                let text = format!(
                    "requests of {} are cut {waited:?} after it left the table, {drain:?} are allowed",
                    label(*id)
                );
                pages.violate(4, text);
            }
        }
    }

    /// The reconciler begins to stop an instance: from now on it counts less (invariant 1).
    pub fn told_to_stop(&self, id: InstanceId) {
        if let Some(truth) = self.pages().instances.get_mut(&id) {
            truth.told_to_stop = true;
        }
    }

    /// An effect on the engine is about to happen: invariants 4 and 20.
    pub fn effect(&self, life: u32, what: &str, id: InstanceId, listed: bool) {
        self.read_engine();
        let routed = self.edge.routed().contains(&id);
        let in_flight = self.edge.in_flight(id);
        let mut pages = self.pages();
        let line = format!("[{life}] {what} {}", label(id));
        pages.say(&line);
        let Some(truth) = pages.instances.get_mut(&id) else {
            return;
        };
        truth.effects += 1;
        if !truth.alive || what == "start" {
            return;
        }
        if !listed {
            pages.violate(20, format!("{what} {} before the engine was listed", label(id)));
        }
        if what == "stop" && (routed || in_flight > 0) {
            let text = format!(
                "{} is stopped while the edge {} it and {in_flight} requests are in flight",
                label(id),
                if routed { "serves" } else { "does not serve" }
            );
            pages.violate(4, text);
        }
    }

    pub fn probed(&self, life: u32, id: InstanceId, passed: bool) {
        let mut pages = self.pages();
        let Some(truth) = pages.instances.get(&id) else { return };
        let threshold = pages.subject_of(truth.service).map_or(1, |s| s.health.healthy_after);
        let service = truth.service;
        if let Some(truth) = pages.instances.get_mut(&id) {
            let before = if truth.passes.0 == life { truth.passes.1 } else { 0 };
            truth.passes = (life, if passed { before + 1 } else { 0 });
            truth.proven |= truth.passes.1 >= threshold;
            if !passed
                && truth.proven
                && let Some(known) = pages.services.get_mut(&service)
            {
                known.disturbed = Some(Instant::now());
            }
        }
    }

    pub fn listed(&self, rows: &[InstanceStatus]) {
        self.read_engine();
        let mut pages = self.pages();
        for row in rows {
            if let Some(truth) = pages.instances.get_mut(&row.id) {
                truth.address = row.address;
            }
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

    fn engine_event(&mut self, event: &Event) {
        let name = self
            .services
            .get(&event.service)
            .map_or("?", |known| known.name.as_str());
        let line = format!(
            "engine: {name}.v{} {} {:?}",
            event.version,
            label(event.instance),
            event.what
        );
        self.say(&line);
        match event.what {
            fake_engine::What::Started => {
                let truth = Truth {
                    service: event.service,
                    version: event.version,
                    alive: true,
                    asked_to_stop: false,
                    told_to_stop: false,
                    removed: false,
                    passes: (0, 0),
                    proven: false,
                    address: None,
                    left: Some(Instant::now()),
                    effects: 1,
                };
                // One that vanished may be run again under its id.
                self.instances.insert(event.instance, truth);
            }
            fake_engine::What::Exited => {
                let Some(truth) = self.instances.get_mut(&event.instance) else {
                    return;
                };
                truth.alive = false;
                if !truth.asked_to_stop
                    && let Some(known) = self.services.get_mut(&event.service)
                {
                    known.disturbed = Some(Instant::now());
                }
            }
            fake_engine::What::Removed => {
                if let Some(truth) = self.instances.get_mut(&event.instance) {
                    truth.removed = true;
                }
            }
            fake_engine::What::StopAsked => {
                if let Some(truth) = self.instances.get_mut(&event.instance) {
                    truth.asked_to_stop = true;
                }
            }
            fake_engine::What::Running => {}
        }
    }

    fn table_text(&self, table: &RoutingTable) -> String {
        let service = |entry: &domain::routing::ServiceEntry| {
            let targets: Vec<String> = entry.targets().map(|t| label(t.instance)).collect();
            format!("{}[{}]", entry.name, targets.join(" "))
        };
        let services: Vec<String> = table.services.iter().map(service).collect();
        format!("{}: {}", table.epoch, services.join(" "))
    }

    /// Invariants 2 and 21: what is wanted and well stays in the table, and what is given up voluntarily leaves enough.
    fn table_swapped(&mut self, before: &RoutingTable, after: &RoutingTable, healthy: impl Fn(InstanceId) -> bool) {
        let now = Instant::now();
        for id in targets(after) {
            if let Some(truth) = self.instances.get_mut(&id) {
                truth.left = None;
            }
        }
        let lost: Vec<InstanceId> = targets(before).difference(&targets(after)).copied().collect();
        for id in &lost {
            if let Some(truth) = self.instances.get_mut(id) {
                truth.left = Some(now);
            }
        }
        let services: Vec<ServiceId> = self.services.keys().copied().collect();
        for service in services {
            let here = |id: &InstanceId| {
                self.instances
                    .get(id)
                    .is_some_and(|truth| truth.service == service && truth.alive && healthy(*id))
            };
            let lost: Vec<InstanceId> = lost.iter().copied().filter(|id| here(id)).collect();
            let left = targets(after).iter().filter(|id| here(id)).count() as u32;
            if !lost.is_empty() && self.is_calm(service) {
                self.check_loss(service, &lost, left);
            }
        }
    }

    fn check_loss(&mut self, service: ServiceId, lost: &[InstanceId], left: u32) {
        let Some(known) = self.services.get(&service) else {
            return;
        };
        let Some(state) = &known.state else { return };
        let name = known.name.clone();
        let wanted = lost.iter().find(|id| {
            state
                .instances
                .iter()
                .any(|row| row.id == **id && row.state == InstanceState::Wanted)
        });
        if let Some(id) = wanted.copied() {
            let what = format!("{name}: {} is wanted and healthy and left the table", label(id));
            return self.violate(21, what);
        }
        let Some(serving) = &state.serving else { return };
        if state.service.deleting || state.service.strategy == Strategy::Recreate {
            return;
        }
        let goals = [Some(serving), state.active.as_ref()];
        let just_ended = known.ended.filter(|(at, _)| at.elapsed() < TABLE_TRAVELS);
        let floors = goals.into_iter().flatten().map(|deployment| floor(&deployment.spec));
        let floors = floors.chain(just_ended.map(|(_, floor)| floor));
        let floor = floors.min().unwrap_or(0);
        if left < floor {
            let what = format!("{name}: {left} healthy instances are left in the table, {floor} must stay");
            self.violate(2, what);
        }
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
        let own = self.subject_of(truth.service)?.options.drain();
        // Where nothing is wanted any more, the default is all there is to go by.
        Some((own.min(RolloutOptions::default().drain()), truth.left))
    }

    /// The record of a service after a commit: invariants 1, 6, 7, 13, 23.
    pub fn audit(&mut self, id: ServiceId, state: Option<ServiceState>, deployments: Option<&[Deployment]>) {
        let Some(known) = self.services.get(&id) else { return };
        let name = known.name.clone();
        let mut wrong: Vec<(u8, String)> = Vec::new();
        if let Some(why) = state.as_ref().and_then(|state| state.service.frozen.clone()) {
            wrong.push((0, format!("{name} is frozen: {why}")));
        }
        if let Some(state) = &state {
            wrong.extend(self.surge(known, state));
        }
        if let Some(list) = deployments {
            let active = list.iter().filter(|d| d.stage.is_active()).count();
            if active > 1 {
                wrong.push((7, format!("{name} has {active} active deployments")));
            }
            if let Some(state) = &state {
                let service = &state.service;
                for kept in [service.active, service.serving, service.last].into_iter().flatten() {
                    if !list.iter().any(|d| d.id == kept) {
                        wrong.push((23, format!("{name}: a deployment that is needed was pruned")));
                    }
                }
            }
        }
        let lines = self.record(id, deployments.unwrap_or_default(), &mut wrong);
        for line in lines {
            self.say(&line);
        }
        if let Some(known) = self.services.get_mut(&id) {
            let before = known.state.as_ref().and_then(|state| state.serving.as_ref());
            known.previous_serving = before.map_or(0, |serving| serving.spec.instances);
            let rows = state.iter().flat_map(|state| &state.instances).map(|row| row.id);
            known.rows.extend(rows);
            known.state = state;
        }
        for (number, what) in wrong {
            self.violate(number, what);
        }
    }

    /// Invariant 1, at the moment of an intent.
    fn surge(&self, known: &Known, state: &ServiceState) -> Option<(u8, String)> {
        let added = state.instances.iter().rfind(|row| !known.rows.contains(&row.id))?;
        let mut goals = [&state.active, &state.serving].into_iter().flatten();
        let goal = goals.find(|d| d.id == added.deployment)?;
        let serving = state.serving.as_ref().map_or(0, |d| d.spec.instances);
        let before = serving.max(known.previous_serving);
        let wanted = goal.spec.instances;
        let options = &goal.spec.options;
        let told = |row: &&InstanceRow| self.instances.get(&row.id).is_some_and(|truth| truth.told_to_stop);
        let stopping = state.instances.iter().filter(told).count() as u32;
        let uncounted = stopping.min(options.uncounted_stopping(wanted));
        let ceiling = wanted.max(before) + options.surge(wanted) + uncounted;
        let live = state.instances.len() as u32;
        (live > ceiling).then(|| {
            let text = format!("{}: {live} instances are intended, {ceiling} are allowed", known.name);
            (1, text)
        })
    }

    fn record(&mut self, id: ServiceId, list: &[Deployment], wrong: &mut Vec<(u8, String)>) -> Vec<String> {
        let Some(known) = self.services.get_mut(&id) else {
            return vec![];
        };
        let mut list: Vec<&Deployment> = list.iter().collect();
        list.sort_by_key(|d| d.version);
        let mut lines = Vec::new();
        for deployment in list {
            let recorded = domain::Spec {
                digest: None,
                ..deployment.spec.clone()
            };
            let Some(before) = known.deployments.get_mut(&deployment.id) else {
                if deployment.version <= known.max_version {
                    let text = format!("{}: version {} is given again", known.name, deployment.version);
                    wrong.push((6, text));
                }
                known.max_version = known.max_version.max(deployment.version);
                lines.push(format!(
                    "{}.v{} wants {} x {}",
                    known.name, deployment.version, deployment.spec.instances, deployment.spec.image
                ));
                let new = Recorded {
                    version: deployment.version,
                    spec: deployment.spec.clone(),
                    stage: None,
                    journal: 0,
                    since: Instant::now(),
                };
                known.deployments.insert(deployment.id, new);
                continue;
            };
            let digest_kept = before.spec.digest.is_none() || before.spec.digest == deployment.spec.digest;
            let same = domain::Spec {
                digest: None,
                ..before.spec.clone()
            } == recorded;
            if !same || !digest_kept || before.version != deployment.version {
                let text = format!("{}.v{}: the record has changed", known.name, before.version);
                wrong.push((13, text));
            }
            before.spec.digest = deployment.spec.digest.clone();
        }
        lines
    }

    /// Services whose records are not what was seen last; `kept`: the revisions of those that are not purged.
    pub fn moved(&self, kept: &BTreeMap<ServiceId, i64>) -> Vec<ServiceId> {
        let seen = |known: &Known| known.state.as_ref().map(|state| state.service.revision);
        let moved = self
            .services
            .iter()
            .filter(|(id, known)| kept.get(id).copied() != seen(known));
        moved.map(|(id, _)| *id).collect()
    }

    /// Where the journal of a deployment was last read to; `None` when nothing more can come.
    pub fn journal_from(&self, service: ServiceId, deployment: DeploymentId) -> Option<i64> {
        let recorded = self.services.get(&service)?.deployments.get(&deployment)?;
        let over = recorded.stage.is_some_and(|stage| !stage.is_active());
        (!over).then_some(recorded.journal)
    }

    /// New journal lines of a deployment: invariants 8, 10 and 14.
    pub fn journal(&mut self, service: ServiceId, deployment: DeploymentId, entries: &[JournalEntry]) {
        for entry in entries {
            let Some(known) = self.services.get_mut(&service) else {
                return;
            };
            let Some(recorded) = known.deployments.get_mut(&deployment) else {
                return;
            };
            recorded.journal = recorded.journal.max(entry.seq);
            let Some(to) = entry.to else { continue };
            let (name, version, since) = (known.name.clone(), recorded.version, recorded.since);
            let legal = match (recorded.stage, entry.from) {
                (None, None) => to == Stage::Queued,
                (known, from) if known == from => from.is_some_and(|from| from.may_become(to)),
                _ => false,
            };
            let before = recorded.stage.replace(to);
            if !to.is_active() {
                known.ended = Some((Instant::now(), floor(&recorded.spec)));
            }
            let deadline = recorded.spec.options.progress_deadline();
            self.say(&format!("{name}.v{version} is {to}: {}", entry.reason));
            if !legal {
                self.violate(8, format!("{name}.v{version} went from {before:?} to {to}"));
            }
            if to == Stage::Succeeded {
                self.succeeded(service, deployment);
            }
            if entry.reason.contains("no progress") && since.elapsed() < deadline {
                let text = format!("{name}.v{version} was given up after {:?}", since.elapsed());
                self.violate(14, text);
            }
        }
    }

    /// Invariant 10, at the moment of success: exactly the wanted instances of the new version can be chosen.
    fn succeeded(&mut self, service: ServiceId, deployment: DeploymentId) {
        let Some(known) = self.services.get(&service) else {
            return;
        };
        let (Some(state), Some(recorded)) = (&known.state, known.deployments.get(&deployment)) else {
            return;
        };
        // A later command of the same instant has changed the goal already.
        let Some(done) = state.serving.as_ref().filter(|d| d.id == deployment) else {
            return;
        };
        if state.service.kind != ServiceKind::Service {
            return;
        }
        let fresh: BTreeSet<InstanceId> = state
            .instances
            .iter()
            .filter(|row| row.template == done.template)
            .map(|row| row.id)
            .collect();
        let routed = self.routed(service);
        let foreign = routed.difference(&fresh).count();
        if foreign > 0 || routed.len() != recorded.spec.instances as usize {
            let text = format!(
                "{}.v{} has succeeded with {} of {} instances routed and {foreign} others",
                known.name,
                recorded.version,
                routed.len() - foreign,
                recorded.spec.instances
            );
            self.violate(10, text);
        }
    }

    pub fn routed(&self, service: ServiceId) -> BTreeSet<InstanceId> {
        let entry = self.served.services.iter().find(|entry| entry.service == service);
        entry
            .map(|entry| entry.targets().map(|target| target.instance).collect())
            .unwrap_or_default()
    }

    /// Invariants 11 and 15: whether reality matches the record. `Err` says what is missing.
    pub fn whole(&self, service: ServiceId) -> Result<(), String> {
        let Some(known) = self.services.get(&service) else {
            return Ok(());
        };
        let name = &known.name;
        let known_to_engine: Vec<&Truth> = self
            .instances
            .values()
            .filter(|truth| truth.service == service && !truth.removed)
            .collect();
        let nothing = |why: &str| {
            if known_to_engine.is_empty() && self.routed(service).is_empty() {
                Ok(())
            } else {
                Err(format!("{name} {why} and {} instances are left", known_to_engine.len()))
            }
        };
        let Some(state) = &known.state else {
            return nothing("is purged");
        };
        if state.service.deleting {
            return Err(format!("{name} is not purged"));
        }
        if let Some(active) = &state.active {
            return Err(format!(
                "{name}.v{} is still {}: {}",
                active.version, active.stage, active.waiting
            ));
        }
        let Some(serving) = &state.serving else {
            return nothing("has nothing to serve");
        };
        if !self.image_is_good(known.subject, &serving.spec.image) {
            return Ok(());
        }
        let wanted = serving.spec.instances as usize;
        let fresh = state.instances.iter().filter(|row| row.template == serving.template);
        let rows: BTreeSet<InstanceId> = fresh.map(|row| row.id).collect();
        let alive = known_to_engine.iter().filter(|truth| truth.alive).count();
        let routed = self.routed(service);
        let routed_well = state.service.kind == ServiceKind::Worker || routed == rows;
        if state.instances.len() == wanted
            && rows.len() == wanted
            && alive == wanted
            && known_to_engine.len() == wanted
            && routed_well
        {
            return Ok(());
        }
        Err(format!(
            "{name} wants {wanted}: {} intended, {} of the serving template, {alive} alive, {} known to the engine, \
             {} routed",
            state.instances.len(),
            rows.len(),
            known_to_engine.len(),
            routed.len()
        ))
    }

    /// Whether what serves stays as it is when nobody touches it.
    pub fn is_steady(&self, service: ServiceId) -> bool {
        let Some(known) = self.services.get(&service) else {
            return true;
        };
        let serving = known.state.as_ref().and_then(|state| state.serving.as_ref());
        serving.is_none_or(|serving| self.image_is_good(known.subject, &serving.spec.image))
    }

    /// What must not change any more once everything is done (invariant 15).
    pub fn stillness(&self, service: ServiceId) -> (u64, BTreeSet<InstanceId>, i64) {
        let effects = self
            .instances
            .values()
            .filter(|truth| truth.service == service)
            .map(|truth| truth.effects)
            .sum();
        let state = self.services.get(&service).and_then(|known| known.state.as_ref());
        (effects, self.routed(service), state.map_or(0, |s| s.service.revision))
    }
}

/// Wanted instances that must serve whatever is done voluntarily.
fn floor(spec: &domain::Spec) -> u32 {
    spec.instances.saturating_sub(spec.options.max_unavailable)
}

fn targets(table: &RoutingTable) -> BTreeSet<InstanceId> {
    let targets = table.services.iter().flat_map(ServiceEntry::targets);
    targets.map(|target| target.instance).collect()
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
