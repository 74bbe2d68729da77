//! What the [`super::FakeEngine`] pretends to run: a pure state machine, told what time it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use domain::{DeploymentId, InstanceId, ServiceId};
use engine::{Exit, InstanceSpec, InstanceStatus, Phase};
use tokio::time::Instant;

use super::Event;
use super::What;
use crate::Script;

/// The wall clock of the pretended machine at its beginning: 2026-01-01, in microseconds since the epoch.
const BEGAN_AT_US: i64 = 1_767_225_600_000_000;
/// Most events that are kept for assertions; older ones are forgotten first.
const EVENTS_MAX: usize = 100_000;

pub(super) struct World {
    began: Instant,
    scripts: HashMap<String, Arc<Script>>,
    default_script: Arc<Script>,
    pub(super) instances: BTreeMap<InstanceId, Instance>,
    /// What happens next by itself. An entry may be stale: the instance says what is true.
    due: BinaryHeap<Reverse<(Instant, InstanceId)>>,
    free: BTreeSet<Ipv4Addr>,
    next_address: u32,
    pub(super) tallies: BTreeMap<ServiceId, Tally>,
    pub(super) events: VecDeque<Event>,
}

/// What has been seen of one service.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) live: usize,
    pub(super) max_live: usize,
    pub(super) ever: usize,
}

pub(super) struct Instance {
    pub(super) spec: InstanceSpec,
    script: Arc<Script>,
    phase: Phase,
    address: IpAddr,
    /// When the process begins to run, or began.
    runs_at: Instant,
    /// When and how it ends, as far as that is settled.
    ends: Option<(Instant, Exit)>,
}

impl Instance {
    pub(super) fn exited(&self) -> bool {
        matches!(self.phase, Phase::Exited(_))
    }

    pub(super) fn runs(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Stopping)
    }

    pub(super) fn ends_at(&self) -> Option<Instant> {
        self.ends.as_ref().map(|(at, _)| *at)
    }

    /// `None`: a health check passes at `now`. Otherwise what it sees instead.
    pub(super) fn ill(&self, now: Instant) -> Option<String> {
        match &self.phase {
            Phase::Starting => Some("the instance is still starting".to_owned()),
            Phase::Exited(exit) => Some(format!("the instance has ended: {}", exit.describe())),
            Phase::Running | Phase::Stopping => {
                let passes = self.script.passes(now.saturating_duration_since(self.runs_at));
                (!passes).then(|| "no answer: connection refused".to_owned())
            }
        }
    }

    pub(super) fn output(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} version {} starts",
            self.spec.service_name, self.spec.version
        )];
        if let Phase::Exited(exit) = &self.phase {
            lines.extend(exit.tail.iter().cloned());
        }
        lines
    }
}

impl World {
    pub(super) fn new(began: Instant) -> Self {
        World {
            began,
            scripts: HashMap::new(),
            default_script: Arc::default(),
            instances: BTreeMap::new(),
            due: BinaryHeap::new(),
            free: BTreeSet::new(),
            next_address: u32::from(Ipv4Addr::new(10, 99, 0, 2)),
            tallies: BTreeMap::new(),
            events: VecDeque::new(),
        }
    }

    pub(super) fn set_script(&mut self, digest: &str, script: Script) {
        self.scripts.insert(digest.to_owned(), Arc::new(script));
    }

    pub(super) fn set_default_script(&mut self, script: Script) {
        self.default_script = Arc::new(script);
    }

    /// Lets everything happen that is due by `now`. Returns whether anything did.
    pub(super) fn settle(&mut self, now: Instant) -> bool {
        let mut happened = false;
        while let Some(Reverse((at, id))) = self.due.peek().copied()
            && at <= now
        {
            self.due.pop();
            happened |= self.step(id, at);
        }
        happened
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    fn step(&mut self, id: InstanceId, at: Instant) -> bool {
        let Some(instance) = self.instances.get_mut(&id) else {
            return false;
        };
        if instance.exited() {
            return false;
        }
        if instance.ends_at().is_some_and(|end| end <= at) {
            let (end, mut exit) = instance.ends.clone().unwrap_or_else(|| (at, Exit::default()));
            exit.at_us = wall_us(self.began, end);
            self.end(id, exit, at);
            return true;
        }
        if matches!(instance.phase, Phase::Starting) && instance.runs_at <= at {
            instance.phase = Phase::Running;
            self.record(id, at, What::Running);
            return true;
        }
        false
    }

    /// Takes the instance on; nothing happens when it is known already, whatever became of it.
    ///
    /// # Errors
    /// The script's refusal.
    pub(super) fn start(&mut self, spec: &InstanceSpec, now: Instant) -> Result<(), String> {
        if self.instances.contains_key(&spec.id) {
            return Ok(());
        }
        let commanded = spec
            .command
            .as_ref()
            .map(|words| format!("{} {}", spec.image_digest, words.join(" ")));
        let script = commanded.and_then(|key| self.scripts.get(&key));
        let script = script.or_else(|| self.scripts.get(&spec.image_digest));
        let script = script.unwrap_or(&self.default_script).clone();
        if let Some(why) = &script.refuse {
            return Err(why.clone());
        }
        let runs_at = now + script.start;
        let ends = script
            .ends
            .as_ref()
            .map(|ending| (runs_at + ending.after, ending.exit.clone()));
        self.due.push(Reverse((runs_at, spec.id)));
        if let Some((at, _)) = &ends {
            self.due.push(Reverse((*at, spec.id)));
        }
        let address = IpAddr::V4(self.take_address());
        let phase = Phase::Starting;
        self.instances.insert(
            spec.id,
            Instance {
                spec: spec.clone(),
                script,
                phase,
                address,
                runs_at,
                ends,
            },
        );
        let tally = self.tallies.entry(spec.service).or_default();
        tally.live += 1;
        tally.ever += 1;
        tally.max_live = tally.max_live.max(tally.live);
        self.record(spec.id, now, What::Started);
        Ok(())
    }

    /// Sends the stop signal. The answer is when nothing of it will be left; `None` when that is so already.
    pub(super) fn stop(&mut self, id: InstanceId, grace: Duration, now: Instant) -> Option<Instant> {
        let instance = self.instances.get_mut(&id)?;
        if instance.exited() {
            return None;
        }
        let takes = instance.script.stop.min(grace);
        let killed = instance.script.stop > grace;
        let asked_end = now + takes;
        let ends_sooner = instance.ends_at().is_some_and(|end| end <= asked_end);
        if !ends_sooner {
            let exit = Exit {
                code: (!killed).then_some(0),
                signal: killed.then_some(9),
                asked: true,
                ..Exit::default()
            };
            instance.ends = Some((asked_end, exit));
            self.due.push(Reverse((asked_end, id)));
        } else if let Some((_, exit)) = &mut instance.ends {
            exit.asked = true;
        }
        let end = instance.ends_at();
        if !matches!(instance.phase, Phase::Stopping) {
            instance.phase = Phase::Stopping;
            self.record(id, now, What::StopAsked);
        }
        end
    }

    /// # Errors
    /// The instance runs.
    pub(super) fn remove(&mut self, id: InstanceId, now: Instant) -> Result<(), String> {
        let Some(instance) = self.instances.get(&id) else {
            return Ok(());
        };
        if !instance.exited() {
            return Err(format!("instance {id} is still running: stop it first"));
        }
        if let IpAddr::V4(address) = instance.address {
            self.free.insert(address);
        }
        self.record(id, now, What::Removed);
        self.instances.remove(&id);
        Ok(())
    }

    pub(super) fn end(&mut self, id: InstanceId, exit: Exit, now: Instant) {
        let Some(instance) = self.instances.get_mut(&id).filter(|i| !i.exited()) else {
            return;
        };
        instance.phase = Phase::Exited(Box::new(exit));
        let service = instance.spec.service;
        if let Some(tally) = self.tallies.get_mut(&service) {
            tally.live -= 1;
        }
        self.record(id, now, What::Exited);
    }

    /// The instance and every trace of it is gone, as after a reboot of its machine.
    pub(super) fn vanish(&mut self, id: InstanceId, now: Instant) {
        self.end(id, Exit::default(), now);
        // Cannot be refused: it has ended.
        let _ = self.remove(id, now);
    }

    pub(super) fn list(&self) -> Vec<InstanceStatus> {
        let status = |(id, instance): (&InstanceId, &Instance)| InstanceStatus {
            id: *id,
            phase: instance.phase.clone(),
            address: Some(instance.address),
            pid: None,
            started_at_us: Some(wall_us(self.began, instance.runs_at)),
        };
        self.instances.iter().map(status).collect()
    }

    /// Always the lowest free one: an address is used again as soon as it may be, which is what bites (C5.17).
    fn take_address(&mut self) -> Ipv4Addr {
        self.free.pop_first().unwrap_or_else(|| {
            self.next_address += 1;
            Ipv4Addr::from(self.next_address - 1)
        })
    }

    fn record(&mut self, id: InstanceId, at: Instant, what: What) {
        let Some(instance) = self.instances.get(&id) else {
            return;
        };
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            at: at.saturating_duration_since(self.began),
            instance: id,
            service: instance.spec.service,
            deployment: instance.spec.deployment,
            version: instance.spec.version,
            what,
        });
    }

    pub(super) fn count(&self, wanted: impl Fn(&Instance) -> bool) -> usize {
        self.instances.values().filter(|instance| wanted(instance)).count()
    }

    pub(super) fn started_of(&self, deployment: DeploymentId) -> usize {
        self.events
            .iter()
            .filter(|e| e.deployment == deployment && e.what == What::Started)
            .count()
    }
}

fn wall_us(began: Instant, at: Instant) -> i64 {
    let since = at.saturating_duration_since(began).as_micros();
    BEGAN_AT_US.saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
}
