//! What every [`Engine`] and every edge must do, as one suite for each: run against the fake ones here, and against real
//! ones by their own tests, so that what is proven with the fakes holds for the real ones.

mod edge;

use std::collections::HashSet;
use std::time::Duration;

use domain::{HealthCheck, InstanceId};
use engine::{Engine, EngineError, Exit, InstanceSpec, InstanceStatus, Phase};
use tokio::time::Instant;

pub use edge::{EdgeSubject, check_edge};

/// Longest wait for something that an engine does by itself.
const SOON: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(10);
const GRACE: Duration = Duration::from_secs(5);
/// Chunks of a log that are read at most.
const CHUNKS_MAX: usize = 1_000;
const SHORT_GRACE: Duration = Duration::from_millis(300);

/// How an instance that the suite asks for must behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Passes its health check soon, and ends with exit code 0 soon after the stop signal.
    Good,
    /// Prints a line and ends with this exit code as soon as it runs.
    EndsWith(i32),
    /// Runs, and takes no notice of the stop signal.
    IgnoresStop,
    /// Can never run.
    Impossible,
}

/// An engine and the images that the suite needs.
pub struct Subject<'a> {
    pub engine: &'a dyn Engine,
    /// A specification with an id of its own for an instance that behaves so.
    pub spec: &'a (dyn Fn(Behaviour) -> InstanceSpec + Sync),
    pub check: HealthCheck,
}

/// Runs the whole suite, one case after the other.
///
/// # Panics
/// On the first thing that is not as [`Engine`] promises.
pub async fn check_engine(subject: &Subject<'_>) {
    subject.lives_from_start_to_removal().await;
    subject.does_everything_once_however_often_it_is_told().await;
    subject.never_runs_an_ended_instance_again().await;
    subject.keeps_how_an_instance_ended().await;
    subject.kills_at_the_grace().await;
    subject.says_why_something_cannot_run().await;
    subject.gives_each_an_address_of_its_own().await;
    subject.ends_a_log_with_its_instance().await;
    subject.knows_nothing_of_strangers().await;
}

impl Subject<'_> {
    async fn lives_from_start_to_removal(&self) {
        let spec = (self.spec)(Behaviour::Good);
        let mut changes = self.engine.changes();
        self.start(&spec).await;
        assert!(
            self.status(spec.id).await.is_some(),
            "what was started is listed at once"
        );
        self.until(spec.id, "running", |phase| *phase == Phase::Running).await;
        let woken = tokio::time::timeout(SOON, changes.changed()).await;
        assert!(matches!(woken, Ok(Ok(()))), "the change wakes those who wait");
        self.until_healthy(&spec).await;
        let status = self.status(spec.id).await.expect("it is listed");
        assert!(status.address.is_some() || spec.port.is_none(), "{status:?}");
        self.stop(spec.id, GRACE).await;
        let exit = self.ended(spec.id).await;
        assert!(exit.asked && exit.signal != Some(9), "{exit:?}");
        self.engine
            .probe(spec.id, spec.port, &self.check)
            .await
            .expect_err("an ended instance is not healthy");
        self.remove(spec.id).await;
        assert_eq!(self.status(spec.id).await, None);
    }

    async fn does_everything_once_however_often_it_is_told(&self) {
        let spec = (self.spec)(Behaviour::Good);
        self.start(&spec).await;
        self.until_healthy(&spec).await;
        let before = self.status(spec.id).await;
        self.start(&spec).await;
        assert_eq!(self.status(spec.id).await, before, "the second start changed something");
        assert_eq!(self.list().await.iter().filter(|row| row.id == spec.id).count(), 1);
        let refused = self.engine.remove(spec.id).await;
        assert!(refused.is_err(), "a running instance was removed");
        assert_eq!(
            self.status(spec.id).await,
            before,
            "a refused removal changed something"
        );
        self.stop(spec.id, GRACE).await;
        self.stop(spec.id, GRACE).await;
        self.remove(spec.id).await;
        self.remove(spec.id).await;
        self.stop(spec.id, GRACE).await;
    }

    async fn never_runs_an_ended_instance_again(&self) {
        let spec = (self.spec)(Behaviour::Good);
        self.start(&spec).await;
        self.until_healthy(&spec).await;
        self.stop(spec.id, GRACE).await;
        self.start(&spec).await;
        self.ended(spec.id).await;
        self.remove(spec.id).await;
    }

    async fn keeps_how_an_instance_ended(&self) {
        let spec = (self.spec)(Behaviour::EndsWith(3));
        self.start(&spec).await;
        self.until(spec.id, "ended", |phase| matches!(phase, Phase::Exited(_)))
            .await;
        let exit = self.ended(spec.id).await;
        assert!(
            exit.code == Some(3) && !exit.asked && exit.start_error.is_none(),
            "{exit:?}"
        );
        assert!(!exit.tail.is_empty(), "its last words are kept");
        self.stop(spec.id, GRACE).await;
        assert_eq!(
            self.ended(spec.id).await,
            exit,
            "a late stop does not change how it ended"
        );
        let log = self
            .engine
            .logs(spec.id, None, 100, 64 * 1024)
            .await
            .expect("the log is read");
        assert!(
            exit.tail.iter().all(|line| log.lines.iter().any(|l| l.text == *line)),
            "{log:?} {exit:?}"
        );
        self.remove(spec.id).await;
    }

    async fn kills_at_the_grace(&self) {
        let spec = (self.spec)(Behaviour::IgnoresStop);
        self.start(&spec).await;
        self.until_healthy(&spec).await;
        let began = Instant::now();
        self.stop(spec.id, SHORT_GRACE).await;
        assert!(
            began.elapsed() >= SHORT_GRACE && began.elapsed() < SOON,
            "{:?}",
            began.elapsed()
        );
        let exit = self.ended(spec.id).await;
        assert!(exit.signal == Some(9) && exit.asked, "{exit:?}");
        self.remove(spec.id).await;
    }

    async fn says_why_something_cannot_run(&self) {
        let spec = (self.spec)(Behaviour::Impossible);
        match self.engine.start(&spec).await {
            Err(EngineError::Permanent(why)) => {
                assert!(!why.is_empty());
                assert_eq!(self.status(spec.id).await, None, "what was refused does not exist");
            }
            Err(EngineError::Transient(why)) => panic!("trying again was advised for what can never run: {why}"),
            Ok(()) => {
                self.until(spec.id, "ended", |phase| matches!(phase, Phase::Exited(_)))
                    .await;
                let why = self.ended(spec.id).await.start_error;
                assert!(why.is_some_and(|why| !why.is_empty()), "it was taken on and says why");
            }
        }
        self.remove(spec.id).await;
    }

    async fn gives_each_an_address_of_its_own(&self) {
        let specs: Vec<InstanceSpec> = (0..3).map(|_| (self.spec)(Behaviour::Good)).collect();
        for spec in &specs {
            self.start(spec).await;
        }
        for spec in &specs {
            self.until(spec.id, "running", |phase| *phase == Phase::Running).await;
        }
        let rows = self.list().await;
        let rows: Vec<_> = rows
            .iter()
            .filter(|row| specs.iter().any(|spec| spec.id == row.id))
            .collect();
        assert_eq!(rows.len(), specs.len(), "a listing is complete");
        let addresses: HashSet<_> = rows.iter().filter_map(|row| row.address).collect();
        assert_eq!(addresses.len(), specs.len(), "{rows:?}");
        for spec in &specs {
            self.stop(spec.id, GRACE).await;
            self.remove(spec.id).await;
        }
    }

    async fn ends_a_log_with_its_instance(&self) {
        let spec = (self.spec)(Behaviour::EndsWith(0));
        self.start(&spec).await;
        self.until(spec.id, "ended", |phase| matches!(phase, Phase::Exited(_)))
            .await;
        let mut cursor = None;
        for _ in 0..CHUNKS_MAX {
            let chunk = self.engine.logs(spec.id, cursor, 100, 64 << 10).await;
            cursor = chunk.expect("the log is read").next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(cursor, None, "nothing more will come");
        self.remove(spec.id).await;
    }

    async fn knows_nothing_of_strangers(&self) {
        let stranger = (self.spec)(Behaviour::Good).id;
        self.stop(stranger, GRACE).await;
        self.remove(stranger).await;
        assert_eq!(self.status(stranger).await, None);
        self.engine
            .probe(stranger, Some(80), &self.check)
            .await
            .expect_err("nobody is there");
        if let Ok(log) = self.engine.logs(stranger, None, 10, 1_000).await {
            assert!(log.lines.is_empty() && log.next.is_none(), "{log:?}");
        }
    }

    async fn start(&self, spec: &InstanceSpec) {
        said(self.engine.start(spec).await, "start");
    }

    async fn stop(&self, id: InstanceId, grace: Duration) {
        said(self.engine.stop(id, grace).await, "stop");
    }

    async fn remove(&self, id: InstanceId) {
        said(self.engine.remove(id).await, "remove");
    }

    async fn list(&self) -> Vec<InstanceStatus> {
        self.engine.list().await.expect("the listing is complete")
    }

    async fn status(&self, id: InstanceId) -> Option<InstanceStatus> {
        self.list().await.into_iter().find(|row| row.id == id)
    }

    async fn ended(&self, id: InstanceId) -> Exit {
        match self.status(id).await.map(|row| row.phase) {
            Some(Phase::Exited(exit)) => *exit,
            other => panic!("it has ended, and the listing says {other:?}"),
        }
    }

    async fn until(&self, id: InstanceId, what: &str, wanted: impl Fn(&Phase) -> bool) {
        let deadline = Instant::now() + SOON;
        loop {
            let status = self.status(id).await;
            if status.as_ref().is_some_and(|row| wanted(&row.phase)) {
                return;
            }
            assert!(Instant::now() < deadline, "not {what} within {SOON:?}: {status:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn until_healthy(&self, spec: &InstanceSpec) {
        let deadline = Instant::now() + SOON;
        while let Err(why) = self.engine.probe(spec.id, spec.port, &self.check).await {
            assert!(Instant::now() < deadline, "not healthy within {SOON:?}: {why}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[track_caller]
fn said(answer: Result<(), EngineError>, what: &str) {
    if let Err(error) = answer {
        panic!("{what}: {error}");
    }
}
