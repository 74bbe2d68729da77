//! Instances as they really are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use domain::{InstanceId, ServiceId};
use engine::InstanceStatus;
use store::InstanceState;
use testkit::fake_engine::{self, Event};
use tokio::time::Instant;

use super::{Book, Pages, label};
use crate::life::Life;

/// One instance, as it really is.
pub struct Truth {
    pub(super) service: ServiceId,
    pub(super) version: i64,
    pub(super) alive: bool,
    pub(super) asked_to_stop: bool,
    pub(super) removed: bool,
    /// Checks passed in a row, as seen by each life.
    pub(super) passes: BTreeMap<u32, u32>,
    /// Has passed its health threshold once.
    pub(super) proven: bool,
    pub(super) address: Option<IpAddr>,
    /// Since when the edge does not serve it.
    pub(super) left: Option<Instant>,
    /// Engine effects asked for.
    pub(super) effects: u64,
}

impl Book {
    pub(super) fn read_engine(&self) {
        let seen = self.pages().events_seen;
        let events = self.engine.events_after(seen);
        let mut pages = self.pages();
        pages.events_seen += events.len();
        for event in &events {
            pages.engine_event(event);
        }
    }

    /// An effect on the engine is about to happen: invariants 4, 18 and 20.
    pub fn effect(&self, life: &Life, what: &str, id: InstanceId) {
        self.read_engine();
        let routed = self.edge.routed().contains(&id);
        let in_flight = self.edge.in_flight(id);
        let mut pages = self.pages();
        pages.say(&format!("[{}] {what} {}", life.number, label(id)));
        if let Some(missing) = pages.undurable(what, id) {
            pages.violate(18, format!("{what} {} and the record {missing}", label(id)));
        }
        let Some(truth) = pages.instances.get_mut(&id) else {
            return;
        };
        truth.effects += 1;
        if !truth.alive || what == "start" {
            return;
        }
        if !life.listed.load(Ordering::Relaxed) {
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

    /// A health check has answered.
    pub fn probed(&self, life: u32, id: InstanceId, passed: bool) {
        let mut pages = self.pages();
        let Some(truth) = pages.instances.get(&id) else { return };
        let threshold = pages.subject_of(truth.service).map_or(1, |s| s.health.healthy_after);
        let service = truth.service;
        if let Some(truth) = pages.instances.get_mut(&id) {
            let passes = truth.passes.entry(life).or_default();
            let flips = (*passes > 0) != passed;
            *passes = if passed { *passes + 1 } else { 0 };
            truth.proven |= *passes >= threshold;
            if flips && let Some(known) = pages.services.get_mut(&service) {
                known.moved = Instant::now();
            }
            let Some(truth) = pages.instances.get(&id) else { return };
            if !passed
                && truth.proven
                && let Some(known) = pages.services.get_mut(&service)
            {
                known.disturbed = Some(Instant::now());
            }
        }
    }

    /// The first listing comes right after the lease.
    pub fn listed(&self, life: u32, rows: &[InstanceStatus]) {
        self.read_engine();
        let mut pages = self.pages();
        pages.leader = pages.leader.max(life);
        for row in rows {
            if let Some(truth) = pages.instances.get_mut(&row.id) {
                truth.address = row.address;
            }
        }
    }
}

impl Pages {
    /// Invariant 18: what the record does not say before such an effect, if anything.
    fn undurable(&self, what: &str, id: InstanceId) -> Option<&'static str> {
        let recorded = self.services.values().any(|known| known.rows.contains(&id));
        let mut rows = self.services.values().filter_map(|known| known.state.as_ref());
        let wanted = rows.any(|state| {
            let row = state.instances.iter().find(|row| row.id == id);
            row.is_some_and(|row| row.state == InstanceState::Wanted)
        });
        match what {
            "start" if !recorded => Some("does not know it"),
            "stop" | "remove" if wanted => Some("wants it"),
            _ => None,
        }
    }

    pub(super) fn engine_event(&mut self, event: &Event) {
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
        if let Some(known) = self.services.get_mut(&event.service) {
            known.moved = Instant::now();
        }
        match event.what {
            fake_engine::What::Started => {
                let truth = Truth {
                    service: event.service,
                    version: event.version,
                    alive: true,
                    asked_to_stop: false,
                    removed: false,
                    passes: BTreeMap::new(),
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
            fake_engine::What::Running => self.runs(event.service, event.instance),
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
        }
    }
}
