//! Health: one small task per running instance asks the engine, and says what it has come to believe.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::plan::Health;
use domain::{HealthCheck, InstanceId, ServiceId};
use engine::Engine;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// First wait between two checks of an instance that is starting: most programs listen within a few milliseconds. It
/// grows by half up to [`SLOWEST_START_CHECK`].
const FIRST_START_CHECK: Duration = Duration::from_millis(1);
const SLOWEST_START_CHECK: Duration = Duration::from_secs(1);

/// What a checking task tells when its belief changes.
#[derive(Debug)]
pub struct Belief {
    pub service: ServiceId,
    pub instance: InstanceId,
    /// `Ok`: healthy. `Err`: not, and what was seen.
    pub verdict: Result<(), String>,
}

/// What is checked of one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    pub service: ServiceId,
    pub instance: InstanceId,
    pub port: Option<u16>,
    pub check: HealthCheck,
    /// It was healthy in an earlier life of the control plane: it keeps that credit until checks say otherwise.
    pub healthy_before: bool,
}

/// All beliefs, and the tasks that feed them.
pub struct HealthBook {
    engine: Arc<dyn Engine>,
    beliefs: mpsc::UnboundedSender<Belief>,
    watched: HashMap<InstanceId, Watched>,
}

struct Watched {
    /// Shared with the task: there is one of each for every instance, so they are kept small.
    subject: Arc<Subject>,
    task: JoinHandle<()>,
    health: Option<(Result<(), String>, Since)>,
}

/// When a verdict began to hold.
#[derive(Debug, Clone, Copy)]
enum Since {
    /// Nobody remembers: before this control plane. Long enough for every wait.
    Before,
    At(Instant),
}

impl Since {
    fn age(self) -> Duration {
        match self {
            Since::Before => Duration::MAX,
            Since::At(instant) => instant.elapsed(),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthBook {
    /// `beliefs` holds at most one message per change of belief of a living instance, so it needs no bound of its own.
    pub fn new(engine: Arc<dyn Engine>, beliefs: mpsc::UnboundedSender<Belief>) -> Self {
        HealthBook {
            engine,
            beliefs,
            watched: HashMap::new(),
        }
    }

    /// Sees to it that the instance is checked; a changed check starts over with the belief kept.
    pub fn watch(&mut self, subject: Subject) {
        let known = self.watched.get(&subject.instance);
        if known.is_some_and(|w| w.subject.check == subject.check) {
            return;
        }
        let health = known.and_then(|w| w.health.clone());
        let instance = subject.instance;
        let subject = Arc::new(Subject {
            healthy_before: subject.healthy_before || matches!(health, Some((Ok(()), _))),
            ..subject
        });
        let watched = Watched {
            task: tokio::spawn(watch(self.engine.clone(), subject.clone(), self.beliefs.clone())),
            subject,
            health,
        };
        self.watched.insert(instance, watched);
    }

    pub fn is_watched(&self, instance: InstanceId) -> bool {
        self.watched.contains_key(&instance)
    }

    pub fn unwatch(&mut self, instance: InstanceId) {
        self.watched.remove(&instance);
    }

    pub fn believe(&mut self, belief: Belief) {
        if let Some(watched) = self.watched.get_mut(&belief.instance) {
            // Another reason for the same verdict keeps its age.
            let since = match &watched.health {
                Some((before, since)) if before.is_ok() == belief.verdict.is_ok() => *since,
                // A restart of the control plane makes nothing new that was healthy for long: it stays available.
                None if watched.subject.healthy_before && belief.verdict.is_ok() => Since::Before,
                _ => Since::At(Instant::now()),
            };
            watched.health = Some((belief.verdict, since));
        }
    }

    pub fn health(&self, instance: InstanceId) -> Health {
        match self.watched.get(&instance).and_then(|w| w.health.as_ref()) {
            None => Health::Unknown,
            Some((Ok(()), since)) => Health::Passing { since: since.age() },
            Some((Err(what), since)) => Health::Failing {
                since: since.age(),
                what: what.clone(),
            },
        }
    }
}

async fn watch(engine: Arc<dyn Engine>, subject: Arc<Subject>, beliefs: mpsc::UnboundedSender<Belief>) {
    let interval = Duration::from_millis(subject.check.interval_ms.max(10));
    let mut start_check = FIRST_START_CHECK;
    let mut healthy = subject.healthy_before;
    let mut announced = None;
    let (mut passed, mut failed) = (0u32, 0u32);
    loop {
        let outcome = engine.probe(subject.instance, subject.port, &subject.check).await;
        let verdict = match outcome {
            Ok(()) => {
                (passed, failed) = (passed.saturating_add(1), 0);
                (healthy || passed >= subject.check.healthy_after).then_some(Ok(()))
            }
            Err(failure) => {
                (passed, failed) = (0, failed.saturating_add(1));
                (!healthy || failed >= subject.check.unhealthy_after).then_some(Err(failure.0))
            }
        };
        if let Some(verdict) = verdict
            && announced.as_ref() != Some(&verdict)
        {
            healthy = verdict.is_ok();
            announced = Some(verdict.clone());
            let belief = Belief {
                service: subject.service,
                instance: subject.instance,
                verdict,
            };
            if beliefs.send(belief).is_err() {
                return;
            }
        }
        let pause = match (healthy, failed) {
            (true, 0) => interval,
            (true, _) => interval.min(SLOWEST_START_CHECK),
            (false, _) => {
                let pause = start_check;
                start_check = (pause * 3 / 2).min(SLOWEST_START_CHECK).min(interval);
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}
