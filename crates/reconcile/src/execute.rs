//! Operations on the engine: started in the background, at most one at a time for each instance, and reported back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::{InstanceId, ServiceId};
use engine::{Engine, EngineError, Exit, InstanceSpec};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

/// Waits between tries of an operation that failed for a passing reason.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// An operation has ended.
#[derive(Debug)]
pub struct Done {
    pub service: ServiceId,
    pub instance: InstanceId,
    kind: Kind,
    result: Result<(), EngineError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Launch,
    Stop,
    Remove,
}

/// What is under way on the engine, what failed and when it is tried again.
pub struct Operations {
    engine: Arc<dyn Engine>,
    done: mpsc::UnboundedSender<Done>,
    launches: Arc<Semaphore>,
    running: HashMap<InstanceId, Kind>,
    retries: HashMap<InstanceId, Retry>,
    start_failures: HashMap<InstanceId, Exit>,
}

/// The same operation on the same instance waits until then. Also after one that succeeded: when it is asked for again,
/// the engine said that it was done and it was not.
struct Retry {
    kind: Kind,
    at: Instant,
    tries: u32,
    /// Why the last try failed, if it did.
    what: Option<String>,
}

impl Operations {
    /// `done` holds at most one message per running operation.
    pub fn new(engine: Arc<dyn Engine>, done: mpsc::UnboundedSender<Done>, launches_at_once: usize) -> Self {
        Operations {
            engine,
            done,
            launches: Arc::new(Semaphore::new(launches_at_once.max(1))),
            running: HashMap::new(),
            retries: HashMap::new(),
            start_failures: HashMap::new(),
        }
    }

    pub fn is_launching(&self, id: InstanceId) -> bool {
        self.running.get(&id) == Some(&Kind::Launch)
    }

    pub fn is_stopping(&self, id: InstanceId) -> bool {
        self.running.get(&id) == Some(&Kind::Stop)
    }

    /// Why an instance could not be started at all.
    pub fn start_failure(&self, id: InstanceId) -> Option<&Exit> {
        self.start_failures.get(&id)
    }

    /// What the last try of an operation met, while the next one is waited for.
    pub fn trouble(&self, id: InstanceId) -> Option<&str> {
        self.retries.get(&id)?.what.as_deref()
    }

    /// Whether an operation on this instance may begin now; else when.
    fn may_begin(&self, id: InstanceId, kind: Kind, now: Instant) -> Result<(), Option<Instant>> {
        if self.running.contains_key(&id) {
            return Err(None);
        }
        match self.retries.get(&id) {
            Some(retry) if retry.kind == kind && retry.at > now => Err(Some(retry.at)),
            _ => Ok(()),
        }
    }

    /// Launches unless it is being launched already. Answers when to come back, if it must wait.
    pub fn launch(
        &mut self,
        service: ServiceId,
        id: InstanceId,
        now: Instant,
        spec: impl Future<Output = domain::Result<InstanceSpec>> + Send + 'static,
    ) -> Option<Instant> {
        if let Err(later) = self.may_begin(id, Kind::Launch, now) {
            return later;
        }
        let (engine, launches) = (self.engine.clone(), self.launches.clone());
        self.begin(service, id, Kind::Launch, async move {
            let _turn = launches.acquire().await;
            let spec = spec.await.map_err(|error| EngineError::Transient(error.context))?;
            engine.start(&spec).await
        });
        None
    }

    pub fn stop(&mut self, service: ServiceId, id: InstanceId, grace: Duration, now: Instant) -> Option<Instant> {
        if let Err(later) = self.may_begin(id, Kind::Stop, now) {
            return later;
        }
        let engine = self.engine.clone();
        self.begin(service, id, Kind::Stop, async move { engine.stop(id, grace).await });
        None
    }

    /// Frees what an ended instance owned. Its record must say that it is gone already. Answers when to come back, if
    /// it must wait.
    pub fn remove(&mut self, service: ServiceId, id: InstanceId, now: Instant) -> Option<Instant> {
        if let Err(later) = self.may_begin(id, Kind::Remove, now) {
            return later;
        }
        let engine = self.engine.clone();
        self.begin(service, id, Kind::Remove, async move { engine.remove(id).await });
        None
    }

    /// Nothing is remembered of the instance's operations that have ended.
    pub fn forget(&mut self, id: InstanceId) {
        self.start_failures.remove(&id);
        self.retries.remove(&id);
    }

    /// After a listing: what it shows to be done needs no second try.
    pub fn compare(&mut self, is_listed: impl Fn(InstanceId) -> bool, is_known: impl Fn(InstanceId) -> bool) {
        self.retries.retain(|id, retry| match retry.kind {
            Kind::Launch => is_known(*id) && !is_listed(*id),
            Kind::Stop | Kind::Remove => is_listed(*id),
        });
    }

    fn begin(
        &mut self,
        service: ServiceId,
        instance: InstanceId,
        kind: Kind,
        operation: impl Future<Output = Result<(), EngineError>> + Send + 'static,
    ) {
        self.running.insert(instance, kind);
        let done = self.done.clone();
        tokio::spawn(async move {
            let result = operation.await;
            // Nobody listens any more when the reconciler has ended; the next one looks for itself.
            let _ = done.send(Done {
                service,
                instance,
                kind,
                result,
            });
        });
    }

    /// Takes the report of an ended operation.
    pub fn finish(&mut self, done: Done, now: Instant, now_us: i64) {
        self.running.remove(&done.instance);
        let what = match done.result {
            Ok(()) => None,
            Err(EngineError::Permanent(what)) if done.kind == Kind::Launch => {
                tracing::warn!(instance.id = %done.instance, error = %what, "instance cannot be started");
                let exit = Exit {
                    start_error: Some(what),
                    at_us: now_us,
                    ..Exit::default()
                };
                self.start_failures.insert(done.instance, exit);
                return;
            }
            Err(error) => Some(error.to_string()),
        };
        let same = self.retries.get(&done.instance).filter(|retry| retry.kind == done.kind);
        let tries = same.map_or(0, |retry| retry.tries) + 1;
        if let Some(error) = &what {
            tracing::warn!(
                instance.id = %done.instance, operation = ?done.kind, tries, error,
                "engine operation failed, it will be tried again"
            );
        }
        let wait = RETRY_FIRST.saturating_mul(1 << (tries - 1).min(10)).min(RETRY_LONGEST);
        let retry = Retry {
            kind: done.kind,
            at: now + wait,
            tries,
            what,
        };
        self.retries.insert(done.instance, retry);
    }
}
