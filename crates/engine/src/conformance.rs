//! What every engine promises ([`crate::Engine`]), as checks that any of them can be put to.
//!
//! A test makes an engine, says how to get instances of certain manners ([`Actors`]), and calls [`check`]. A broken
//! promise is a panic that names it. The engine holds no instance of the suite's afterwards.

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use domain::spec::CheckKind;
use domain::{HealthCheck, InstanceId};

use crate::{Engine, EngineError, Exit, InstanceSpec, InstanceStatus, Phase};

/// Longest wait for anything that an engine does by itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const PACE: Duration = Duration::from_millis(5);
/// Chunks of a log that are read at most.
const CHUNKS_MAX: usize = 1000;

/// Instances of certain manners. Every call gives one with a new id.
pub trait Actors {
    /// Runs until it is asked to stop, and then ends at once.
    fn obedient(&self) -> InstanceSpec;
    /// Runs until it is killed, whatever it is asked.
    fn stubborn(&self) -> InstanceSpec;
    /// Ends by itself soon after its start, with exit code 3.
    fn failing(&self) -> InstanceSpec;
    /// Can never run.
    fn impossible(&self) -> InstanceSpec;
}

/// Puts an engine to all checks, one after the other.
pub async fn check(engine: &impl Engine, actors: &impl Actors) {
    what_does_not_exist_is_stopped_and_removed_with_success(engine, actors).await;
    a_start_is_listed_runs_and_happens_once(engine, actors).await;
    an_end_is_told_and_kept_until_removal_and_never_undone(engine, actors).await;
    a_stop_is_asked_for_and_then_enforced(engine, actors).await;
    a_running_instance_is_not_removed(engine, actors).await;
    what_cannot_run_says_why_and_leaves_nothing(engine, actors).await;
    several_run_side_by_side_with_addresses_of_their_own(engine, actors).await;
    logs_end_when_the_instance_has(engine, actors).await;
}

async fn what_does_not_exist_is_stopped_and_removed_with_success(engine: &impl Engine, actors: &impl Actors) {
    let id = actors.obedient().id;
    engine
        .stop(id, Duration::ZERO)
        .await
        .expect("stopping what does not exist succeeds");
    engine.remove(id).await.expect("removing what does not exist succeeds");
    assert!(find(engine, id).await.is_none());
    engine
        .probe(id, None, &process_check())
        .await
        .expect_err("what does not exist passes no check");
    let chunk = engine
        .logs(id, None, 10, 1 << 10)
        .await
        .expect("the log of what does not exist is empty");
    assert!(
        chunk.lines.is_empty() && chunk.next.is_none(),
        "the log of what does not exist has ended: {chunk:?}"
    );
}

async fn a_start_is_listed_runs_and_happens_once(engine: &impl Engine, actors: &impl Actors) {
    let mut changes = engine.changes();
    let spec = actors.obedient();
    engine.start(&spec).await.expect("started");
    assert!(
        find(engine, spec.id).await.is_some(),
        "an instance is listed from the moment that start returned"
    );
    let first = running(engine, spec.id).await;
    assert!(
        changes.has_changed().expect("the engine lives"),
        "a start wakes those who wait for changes"
    );
    changes.mark_unchanged();
    engine.start(&spec).await.expect("starting again succeeds");
    let second = running(engine, spec.id).await;
    assert_eq!(
        (first.pid, first.started_at_us),
        (second.pid, second.started_at_us),
        "it is the same process"
    );
    engine
        .probe(spec.id, spec.port, &process_check())
        .await
        .expect("a running process passes the process check");
    end(engine, spec.id).await;
}

async fn an_end_is_told_and_kept_until_removal_and_never_undone(engine: &impl Engine, actors: &impl Actors) {
    let mut changes = engine.changes();
    let spec = actors.failing();
    engine.start(&spec).await.expect("started");
    let exit = loop {
        changes.mark_unchanged();
        if let Some(InstanceStatus {
            phase: Phase::Exited(exit),
            ..
        }) = find(engine, spec.id).await
        {
            break exit;
        }
        let told = tokio::time::timeout(PATIENCE, changes.changed()).await;
        told.expect("an end wakes those who wait for changes")
            .expect("the engine lives");
    };
    assert_eq!((exit.code, exit.signal, exit.asked), (Some(3), None, false), "{exit:?}");
    engine.start(&spec).await.expect("starting what has ended succeeds");
    assert_eq!(ended(engine, spec.id).await, exit, "and does not run it again");
    engine
        .stop(spec.id, Duration::ZERO)
        .await
        .expect("stopping what has ended succeeds");
    assert_eq!(ended(engine, spec.id).await, exit, "and does not rewrite how it ended");
    engine
        .probe(spec.id, spec.port, &process_check())
        .await
        .expect_err("what has ended passes no check");
    engine.remove(spec.id).await.expect("removed");
    assert!(find(engine, spec.id).await.is_none(), "what was removed is not listed");
    engine.remove(spec.id).await.expect("removing again succeeds");
}

async fn a_stop_is_asked_for_and_then_enforced(engine: &impl Engine, actors: &impl Actors) {
    let obedient = actors.obedient();
    engine.start(&obedient).await.expect("started");
    running(engine, obedient.id).await;
    let grace = PATIENCE * 10;
    let stopped = tokio::time::timeout(PATIENCE, engine.stop(obedient.id, grace)).await;
    stopped
        .expect("an obedient instance is not waited for until the grace time is over")
        .expect("stopped");
    let exit = ended_already(engine, obedient.id).await;
    assert!(exit.asked, "{exit:?}");
    engine.stop(obedient.id, grace).await.expect("stopping again succeeds");
    engine.remove(obedient.id).await.expect("removed");

    let stubborn = actors.stubborn();
    engine.start(&stubborn).await.expect("started");
    running(engine, stubborn.id).await;
    engine
        .stop(stubborn.id, Duration::from_millis(50))
        .await
        .expect("stopped");
    let exit = ended_already(engine, stubborn.id).await;
    assert!(exit.asked && exit.signal == Some(9), "{exit:?}");
    engine.remove(stubborn.id).await.expect("removed");
}

async fn a_running_instance_is_not_removed(engine: &impl Engine, actors: &impl Actors) {
    let spec = actors.obedient();
    engine.start(&spec).await.expect("started");
    running(engine, spec.id).await;
    engine
        .remove(spec.id)
        .await
        .expect_err("a running instance is not removed");
    assert_eq!(running(engine, spec.id).await.phase, Phase::Running);
    end(engine, spec.id).await;
}

async fn what_cannot_run_says_why_and_leaves_nothing(engine: &impl Engine, actors: &impl Actors) {
    let spec = actors.impossible();
    match engine.start(&spec).await {
        Err(EngineError::Permanent(why)) => {
            assert!(!why.is_empty());
            assert!(find(engine, spec.id).await.is_none(), "what was refused does not exist");
        }
        Err(EngineError::Transient(why)) => panic!("trying again was advised for what can never run: {why}"),
        Ok(()) => {
            let why = ended(engine, spec.id).await.start_error;
            assert!(
                why.is_some_and(|why| !why.is_empty()),
                "what was taken on and could not run says why"
            );
        }
    }
    engine.remove(spec.id).await.expect("removed");
}

async fn several_run_side_by_side_with_addresses_of_their_own(engine: &impl Engine, actors: &impl Actors) {
    let specs: Vec<InstanceSpec> = (0..3).map(|_| actors.obedient()).collect();
    let mut addresses = HashSet::new();
    for spec in &specs {
        engine.start(spec).await.expect("started");
        addresses.extend(running(engine, spec.id).await.address);
    }
    let list = engine.list().await.expect("a list");
    assert!(
        specs.iter().all(|spec| list.iter().any(|status| status.id == spec.id)),
        "a list is complete"
    );
    assert_eq!(addresses.len(), specs.len(), "each has an address, and none shares it");
    for spec in &specs {
        end(engine, spec.id).await;
    }
}

async fn logs_end_when_the_instance_has(engine: &impl Engine, actors: &impl Actors) {
    let spec = actors.failing();
    engine.start(&spec).await.expect("started");
    ended(engine, spec.id).await;
    let mut cursor = None;
    for _ in 0..CHUNKS_MAX {
        let chunk = engine.logs(spec.id, cursor, 100, 64 << 10).await.expect("readable");
        cursor = chunk.next;
        if cursor.is_none() {
            break;
        }
    }
    assert!(cursor.is_none(), "the log of what has ended comes to an end");
    engine.remove(spec.id).await.expect("removed");
}

fn process_check() -> HealthCheck {
    HealthCheck {
        kind: CheckKind::Process,
        ..HealthCheck::default()
    }
}

async fn find(engine: &impl Engine, id: InstanceId) -> Option<InstanceStatus> {
    engine
        .list()
        .await
        .expect("a list")
        .into_iter()
        .find(|status| status.id == id)
}

async fn running(engine: &impl Engine, id: InstanceId) -> InstanceStatus {
    eventually("an instance runs", || async {
        let status = find(engine, id).await.expect("listed");
        assert!(!matches!(status.phase, Phase::Exited(_)), "it ended: {status:?}");
        (status.phase == Phase::Running).then_some(status)
    })
    .await
}

async fn ended(engine: &impl Engine, id: InstanceId) -> Exit {
    eventually("an instance ends", || async {
        match find(engine, id).await.expect("listed").phase {
            Phase::Exited(exit) => Some(exit),
            _ => None,
        }
    })
    .await
}

/// After `stop` has returned nothing may run any more, not even for a moment.
async fn ended_already(engine: &impl Engine, id: InstanceId) -> Exit {
    match find(engine, id)
        .await
        .expect("a stopped instance is listed until it is removed")
        .phase
    {
        Phase::Exited(exit) => exit,
        phase => panic!("stop returned, and the instance is {phase:?}"),
    }
}

async fn end(engine: &impl Engine, id: InstanceId) {
    engine.stop(id, Duration::ZERO).await.expect("stopped");
    engine.remove(id).await.expect("removed");
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let wait = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(PACE).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("did not happen: {what}"))
}
