//! An engine without containers: the same trait, the same promises, on tokio's clock.
//!
//! Under a paused clock everything is deterministic. Instances follow the [`Script`] of their image; calls fail as
//! arranged by [`FakeEngine::fail_next`] or by chance with [`FakeEngine::set_chaos`].

mod faults;
mod world;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use domain::spec::CheckKind;
use domain::{DeploymentId, HealthCheck, InstanceId, ServiceId};
use engine::{
    Engine, EngineError, Exit, Finding, InstanceSpec, InstanceStatus, Level, LogChunk, LogCursor, LogLine,
    ProbeFailure, Stream,
};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use faults::Faults;
pub use faults::{Chaos, Fault, Op};
use world::World;

use crate::Script;

/// A handle; clones are the same engine, which lives as long as one of them does.
///
/// **Guarantees.** Every operation is idempotent by instance id. An instance id that has exited is never run again. An
/// address is used again as soon as its owner was removed. Listings are complete or an error.
#[derive(Clone)]
pub struct FakeEngine {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    /// Tells the driver that something may be due sooner than it knows, or that the engine is gone.
    kick: Arc<Notify>,
}

struct State {
    world: World,
    faults: Faults,
    calls: BTreeMap<Op, u64>,
}

/// Something that happened to an instance, for assertions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Since the engine was made.
    pub at: Duration,
    pub instance: InstanceId,
    pub service: ServiceId,
    pub deployment: DeploymentId,
    pub version: i64,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Started,
    Running,
    StopAsked,
    Exited,
    Removed,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.kick.notify_one();
    }
}

impl FakeEngine {
    /// Every image behaves like [`Script::default`] until told otherwise. Must be called within a tokio runtime.
    pub fn new() -> Self {
        Self::with_seed(0)
    }

    /// `seed` decides the faults that [`Chaos`] throws.
    pub fn with_seed(seed: u64) -> Self {
        let state = State {
            world: World::new(Instant::now()),
            faults: Faults::new(seed),
            calls: BTreeMap::new(),
        };
        let kick = Arc::new(Notify::new());
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
            kick: kick.clone(),
        });
        tokio::spawn(drive(Arc::downgrade(&shared), kick));
        FakeEngine { shared }
    }

    // What instances do.

    /// Instances of the image `digest` that start from now on follow `script`. `digest word…`: those of them that run
    /// this command.
    pub fn set_script(&self, digest: &str, script: Script) {
        self.lock().world.set_script(digest, script);
    }

    /// Likewise for images without a script of their own.
    pub fn set_default_script(&self, script: Script) {
        self.lock().world.set_default_script(script);
    }

    /// The instance ends now, unasked.
    pub fn kill(&self, id: InstanceId, exit: Exit) {
        self.change(|world, now| world.end(id, exit, now));
    }

    /// Every instance ends now, unasked, by signal 9.
    pub fn kill_all(&self) {
        let exit = Exit {
            signal: Some(9),
            ..Exit::default()
        };
        self.change(|world, now| {
            let ids: Vec<_> = world.instances.keys().copied().collect();
            ids.into_iter().for_each(|id| world.end(id, exit.clone(), now));
        });
    }

    /// The instance and every trace of it is gone now, as after a reboot of its machine.
    pub fn vanish(&self, id: InstanceId) {
        self.change(|world, now| world.vanish(id, now));
    }

    // What goes wrong.

    /// The next call of `op` that nothing else was arranged for meets `fault`.
    pub fn fail_next(&self, op: Op, fault: Fault) {
        self.lock().faults.arrange(op, fault);
    }

    pub fn set_chaos(&self, chaos: Chaos) {
        self.lock().faults.chaos = chaos;
    }

    /// While down, every call is refused; instances live on.
    pub fn set_down(&self, down: bool) {
        self.lock().faults.down = down;
    }

    /// How long a call that times out takes to say so (10 s unless set).
    pub fn set_call_timeout(&self, timeout: Duration) {
        self.lock().faults.call_timeout = timeout;
    }

    /// Those who wait for changes are woken although nothing has changed.
    pub fn wake_for_nothing(&self) {
        self.shared.changes.send_modify(|value| *value += 1);
    }

    /// The next `count` changes wake nobody.
    pub fn lose_next_changes(&self, count: u32) {
        self.lock().faults.lose_changes = count;
    }

    // What is true, whatever the calls say.

    /// Specifications of all instances that were created and have not ended, by id.
    pub fn live(&self) -> Vec<InstanceSpec> {
        let state = self.settled();
        state
            .world
            .instances
            .values()
            .filter(|i| !i.exited())
            .map(|i| i.spec.clone())
            .collect()
    }

    /// How many of [`FakeEngine::live`] are like that.
    pub fn count_live(&self, wanted: impl Fn(&InstanceSpec) -> bool) -> usize {
        self.settled().world.count(|i| !i.exited() && wanted(&i.spec))
    }

    pub fn live_of(&self, service: ServiceId) -> usize {
        self.settled().world.tallies.get(&service).map_or(0, |tally| tally.live)
    }

    /// Most instances of the service that were ever live at once (invariant 1).
    pub fn max_live_of(&self, service: ServiceId) -> usize {
        self.settled()
            .world
            .tallies
            .get(&service)
            .map_or(0, |tally| tally.max_live)
    }

    /// Instances of the service that were ever started.
    pub fn ever_live_of(&self, service: ServiceId) -> usize {
        self.settled().world.tallies.get(&service).map_or(0, |tally| tally.ever)
    }

    /// Instances of the deployment that were ever started, as far as [`FakeEngine::events`] reaches back.
    pub fn started_of(&self, deployment: DeploymentId) -> usize {
        self.settled().world.started_of(deployment)
    }

    /// Instances that the engine still knows, ended ones included: what a leak shows up in.
    pub fn known(&self) -> usize {
        self.settled().world.instances.len()
    }

    /// Instances whose health check would pass right now.
    pub fn healthy(&self) -> usize {
        let now = Instant::now();
        self.settled().world.count(|instance| instance.ill(now).is_none())
    }

    /// Whether a health check of this instance would pass right now (invariant 3).
    pub fn is_healthy(&self, id: InstanceId) -> bool {
        let now = Instant::now();
        self.settled()
            .world
            .instances
            .get(&id)
            .is_some_and(|instance| instance.ill(now).is_none())
    }

    /// The newest 100,000 happenings, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.settled().world.events.iter().cloned().collect()
    }

    /// Those of [`FakeEngine::events`] after the first `seen` ones. Exact while none was forgotten.
    pub fn events_after(&self, seen: usize) -> Vec<Event> {
        self.settled().world.events.iter().skip(seen).cloned().collect()
    }

    /// Calls of `op` so far, failed ones included.
    pub fn calls(&self, op: Op) -> u64 {
        self.lock().calls.get(&op).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    fn settled(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let happened = state.world.settle(Instant::now());
        self.shared.tell(&mut state, happened);
        state
    }

    /// Changes the world at the present instant and tells those who wait.
    fn change<T>(&self, change: impl FnOnce(&mut World, Instant) -> T) -> T {
        let now = Instant::now();
        let mut state = self.lock();
        state.world.settle(now);
        let answer = change(&mut state.world, now);
        self.shared.tell(&mut state, true);
        drop(state);
        self.shared.kick.notify_one();
        answer
    }

    /// Lives through the fault that the call meets, if any. `Ok(true)`: do it, then report a time-out.
    async fn meet_fault(&self, op: Op) -> Result<bool, EngineError> {
        let (fault, timeout) = {
            let mut state = self.lock();
            *state.calls.entry(op).or_default() += 1;
            (state.faults.draw(op), state.faults.call_timeout)
        };
        match fault {
            None => Ok(false),
            Some(Fault::Transient) => Err(EngineError::Transient("the engine is busy".to_owned())),
            Some(Fault::Permanent(why)) => Err(EngineError::Permanent(why)),
            Some(Fault::TimesOutDone) => Ok(true),
            Some(Fault::TimesOutUndone) => {
                tokio::time::sleep(timeout).await;
                Err(timed_out())
            }
            Some(Fault::Slow(delay)) => {
                tokio::time::sleep(delay).await;
                Ok(false)
            }
        }
    }

    async fn report_timeout(&self, wanted: bool) -> Result<(), EngineError> {
        if !wanted {
            return Ok(());
        }
        let timeout = self.lock().faults.call_timeout;
        tokio::time::sleep(timeout).await;
        Err(timed_out())
    }
}

impl Default for FakeEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between statements; a panicking assertion elsewhere must not hide its own message.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &mut State, happened: bool) {
        if happened && !state.faults.loses_change() {
            self.changes.send_modify(|value| *value += 1);
        }
    }
}

/// Lets happen what is due when it is due, so that those who wait for changes are woken.
async fn drive(shared: Weak<Shared>, kick: Arc<Notify>) {
    loop {
        let next = {
            let Some(shared) = shared.upgrade() else { return };
            let mut state = shared.lock();
            let happened = state.world.settle(Instant::now());
            shared.tell(&mut state, happened);
            state.world.next_due()
        };
        match next {
            Some(at) => {
                let _ = tokio::time::timeout_at(at, kick.notified()).await;
            }
            None => kick.notified().await,
        }
    }
}

fn timed_out() -> EngineError {
    EngineError::Transient("the engine did not answer in time".to_owned())
}

#[async_trait]
impl Engine for FakeEngine {
    async fn start(&self, spec: &InstanceSpec) -> Result<(), EngineError> {
        let late = self.meet_fault(Op::Start).await?;
        self.change(|world, now| world.start(spec, now))
            .map_err(EngineError::Permanent)?;
        self.report_timeout(late).await
    }

    async fn stop(&self, id: InstanceId, grace: Duration) -> Result<(), EngineError> {
        let late = self.meet_fault(Op::Stop).await?;
        // Another call may bring the end forward, so the end is read anew after each wait.
        while let Some(end) = self.change(|world, now| world.stop(id, grace, now)) {
            if late {
                break;
            }
            tokio::time::sleep_until(end).await;
        }
        self.report_timeout(late).await
    }

    async fn remove(&self, id: InstanceId) -> Result<(), EngineError> {
        let late = self.meet_fault(Op::Remove).await?;
        self.change(|world, now| world.remove(id, now))
            .map_err(EngineError::Transient)?;
        self.report_timeout(late).await
    }

    async fn list(&self) -> Result<Vec<InstanceStatus>, EngineError> {
        let late = self.meet_fault(Op::List).await?;
        self.report_timeout(late).await?;
        Ok(self.settled().world.list())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    async fn probe(&self, id: InstanceId, _: Option<u16>, check: &HealthCheck) -> Result<(), ProbeFailure> {
        let limit = Duration::from_millis(check.timeout_ms);
        let fault = tokio::time::timeout(limit, self.meet_fault(Op::Probe)).await;
        match fault {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) | Err(_) => return Err(ProbeFailure(format!("no answer within {} ms", check.timeout_ms))),
            Ok(Err(error)) => return Err(ProbeFailure(error.to_string())),
        }
        let now = Instant::now();
        match self.settled().world.instances.get(&id) {
            None => Err(ProbeFailure("there is no such instance".to_owned())),
            Some(instance) if check.kind == CheckKind::Process && instance.runs() => Ok(()),
            Some(instance) => instance.ill(now).map_or(Ok(()), |why| Err(ProbeFailure(why))),
        }
    }

    async fn logs(
        &self,
        id: InstanceId,
        cursor: Option<LogCursor>,
        tail: usize,
        _max_bytes: usize,
    ) -> Result<LogChunk, EngineError> {
        let late = self.meet_fault(Op::Logs).await?;
        self.report_timeout(late).await?;
        let state = self.settled();
        let Some(instance) = state.world.instances.get(&id) else {
            return Ok(LogChunk::default());
        };
        let lines = instance.output();
        let from = match cursor {
            None => lines.len().saturating_sub(tail),
            Some(LogCursor(text)) => text.parse().unwrap_or(0).min(lines.len()),
        };
        let next = (!instance.exited()).then(|| LogCursor(lines.len().to_string()));
        let line = |text: &String| LogLine {
            at_us: 0,
            stream: Stream::Stdout,
            text: text.clone(),
        };
        Ok(LogChunk {
            lines: lines[from..].iter().map(line).collect(),
            next,
        })
    }

    async fn diagnose(&self) -> Vec<Finding> {
        let down = self.lock().faults.down;
        let (level, message) = if down {
            (Level::Error, "the engine does not answer")
        } else {
            (Level::Ok, "a fake engine answers")
        };
        vec![Finding {
            level,
            subject: "engine".to_owned(),
            message: message.to_owned(),
            advice: String::new(),
        }]
    }
}

#[cfg(test)]
mod tests;
