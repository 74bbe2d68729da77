use uuid::Uuid;

use engine::Phase;

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn spec(n: u128, image: &str) -> InstanceSpec {
    InstanceSpec {
        id: InstanceId(Uuid::from_u128(n)),
        service: ServiceId(Uuid::nil()),
        service_name: "web".to_owned(),
        project: domain::ProjectId(Uuid::nil()),
        deployment: DeploymentId(Uuid::from_u128(100)),
        version: 1,
        image_digest: image.to_owned(),
        port: Some(80),
        env: BTreeMap::new(),
        files: Default::default(),
        command: None,
        resources: domain::Resources::default(),
    }
}

async fn phase(engine: &FakeEngine, n: u128) -> Option<Phase> {
    let rows = engine.list().await.expect("nothing was arranged to fail");
    rows.into_iter()
        .find(|row| row.id.0.as_u128() == n)
        .map(|row| row.phase)
}

fn check() -> HealthCheck {
    HealthCheck::default()
}

#[tokio::test(start_paused = true)]
async fn an_instance_lives_by_its_script() {
    let engine = FakeEngine::new();
    engine.set_script(
        "a",
        Script::default()
            .start_after(MS(100))
            .ready_after(MS(50))
            .stop_after(MS(30)),
    );
    let spec = spec(1, "a");
    engine.start(&spec).await.expect("starts");
    assert_eq!(phase(&engine, 1).await, Some(Phase::Starting));
    let mut changes = engine.changes();
    changes.mark_unchanged();
    let before = Instant::now();
    changes.changed().await.expect("the engine lives");
    assert_eq!(before.elapsed(), MS(100));
    assert_eq!(phase(&engine, 1).await, Some(Phase::Running));
    engine
        .probe(spec.id, Some(80), &check())
        .await
        .expect_err("not ready yet");
    tokio::time::advance(MS(50)).await;
    engine.probe(spec.id, Some(80), &check()).await.expect("ready");
    let before = Instant::now();
    engine.stop(spec.id, MS(1_000)).await.expect("stops");
    assert_eq!(before.elapsed(), MS(30));
    let Some(Phase::Exited(exit)) = phase(&engine, 1).await else {
        panic!("it has ended")
    };
    assert!(exit.asked && exit.code == Some(0), "{exit:?}");
    engine.remove(spec.id).await.expect("removes");
    assert_eq!(
        (
            engine.known(),
            engine.live_of(spec.service),
            engine.max_live_of(spec.service)
        ),
        (0, 0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn every_operation_done_twice_is_done_once() {
    let engine = FakeEngine::new();
    let spec = spec(1, "a");
    engine.start(&spec).await.expect("starts");
    engine.start(&spec).await.expect("is there already");
    assert_eq!(engine.ever_live_of(spec.service), 1);
    engine
        .remove(spec.id)
        .await
        .expect_err("a running instance is not removed");
    engine.stop(spec.id, MS(100)).await.expect("stops");
    engine.stop(spec.id, MS(100)).await.expect("is stopped already");
    engine.start(&spec).await.expect("is known");
    assert_eq!(
        engine.live_of(spec.service),
        0,
        "an instance that has ended is not run again"
    );
    engine.remove(spec.id).await.expect("removes");
    engine.remove(spec.id).await.expect("is gone already");
    engine.stop(spec.id, MS(100)).await.expect("is gone already");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_times_out_after_it_succeeded_has_succeeded() {
    let engine = FakeEngine::new();
    let spec = spec(1, "a");
    engine.fail_next(Op::Start, Fault::TimesOutDone);
    let before = Instant::now();
    engine.start(&spec).await.expect_err("says that it timed out");
    assert_eq!(before.elapsed(), MS(10_000));
    assert_eq!(engine.live_of(spec.service), 1);
    engine.fail_next(Op::Start, Fault::TimesOutUndone);
    engine
        .start(&self::spec(2, "a"))
        .await
        .expect_err("says that it timed out");
    assert_eq!(engine.live_of(spec.service), 1);
    engine.fail_next(Op::Stop, Fault::TimesOutDone);
    engine.stop(spec.id, MS(100)).await.expect_err("says that it timed out");
    assert_eq!(engine.live_of(spec.service), 0);
}

#[tokio::test(start_paused = true)]
async fn a_listing_is_complete_or_an_error() {
    let engine = FakeEngine::new();
    engine.start(&spec(1, "a")).await.expect("starts");
    engine.fail_next(Op::List, Fault::Transient);
    engine.list().await.expect_err("arranged");
    assert_eq!(engine.list().await.expect("works again").len(), 1);
    engine.set_down(true);
    engine.list().await.expect_err("down");
    assert_eq!(engine.live().len(), 1, "instances outlive the engine's daemon");
}

#[tokio::test(start_paused = true)]
async fn a_lost_change_wakes_nobody_and_the_listing_still_tells() {
    let engine = FakeEngine::new();
    let mut changes = engine.changes();
    engine.lose_next_changes(2);
    engine.start(&spec(1, "a")).await.expect("starts");
    tokio::time::sleep(MS(20)).await;
    assert!(!changes.has_changed().expect("the engine lives"));
    assert_eq!(phase(&engine, 1).await, Some(Phase::Running));
    engine.kill(
        spec(1, "a").id,
        Exit {
            code: Some(3),
            ..Exit::default()
        },
    );
    assert!(changes.has_changed().expect("the engine lives"));
    changes.mark_unchanged();
}

#[tokio::test(start_paused = true)]
async fn crashes_come_when_the_script_says() {
    let engine = FakeEngine::new();
    engine.set_script("at start", Script::default().crash_at_start(3));
    engine.set_script("later", Script::default().crash_after(MS(500), 4));
    engine.set_script("refused", Script::default().refused("no such user: app"));
    engine.start(&spec(1, "at start")).await.expect("starts");
    engine.start(&spec(2, "later")).await.expect("starts");
    let refused = engine.start(&spec(3, "refused")).await;
    assert!(matches!(refused, Err(EngineError::Permanent(why)) if why.contains("no such user")));
    tokio::time::sleep(MS(20)).await;
    let Some(Phase::Exited(exit)) = phase(&engine, 1).await else {
        panic!("it has ended")
    };
    assert!(exit.code == Some(3) && !exit.asked && exit.at_us > 0, "{exit:?}");
    tokio::time::sleep(MS(499)).await;
    assert_eq!(phase(&engine, 2).await, Some(Phase::Running));
    tokio::time::sleep(MS(1)).await;
    assert!(matches!(phase(&engine, 2).await, Some(Phase::Exited(exit)) if exit.code == Some(4)));
    let lines = engine
        .logs(spec(2, "later").id, None, 10, 1_000)
        .await
        .expect("read")
        .lines;
    assert!(
        lines.iter().any(|line| line.text.contains("exiting with 4")),
        "{lines:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_who_does_not_stop_in_time_is_killed_at_the_grace() {
    let engine = FakeEngine::new();
    engine.set_default_script(Script::default().stop_after(MS(60_000)));
    let spec = spec(1, "a");
    engine.start(&spec).await.expect("starts");
    tokio::time::sleep(MS(100)).await;
    let before = Instant::now();
    engine.stop(spec.id, MS(250)).await.expect("stops");
    assert_eq!(before.elapsed(), MS(250));
    assert!(matches!(phase(&engine, 1).await, Some(Phase::Exited(exit)) if exit.signal == Some(9) && exit.asked));
}

#[tokio::test(start_paused = true)]
async fn an_address_goes_to_the_next_one_as_soon_as_it_may() {
    let engine = FakeEngine::new();
    let address = async |n: u128| {
        let rows = engine.list().await.expect("lists");
        rows.into_iter()
            .find(|row| row.id.0.as_u128() == n)
            .and_then(|row| row.address)
    };
    engine.start(&spec(1, "a")).await.expect("starts");
    let first = address(1).await;
    engine.start(&spec(2, "a")).await.expect("starts");
    assert_ne!(address(2).await, first);
    engine.vanish(spec(1, "a").id);
    engine.start(&spec(3, "a")).await.expect("starts");
    assert_eq!(address(3).await, first);
}

#[tokio::test(start_paused = true)]
async fn chaos_replays_by_its_seed() {
    let run = async |seed| {
        let engine = FakeEngine::with_seed(seed);
        engine.set_chaos(Chaos {
            transient: 200,
            times_out_done: 200,
            times_out_undone: 100,
            slow: 100,
            lost_change: 300,
        });
        let mut answers = Vec::new();
        for n in 1..100 {
            answers.push(engine.start(&spec(n, "a")).await.is_ok());
        }
        (answers, engine.known(), *engine.changes().borrow())
    };
    let first = run(11).await;
    assert_eq!(first, run(11).await);
    assert!(first.0.contains(&true) && first.0.contains(&false), "both happen");
}

#[tokio::test(start_paused = true)]
async fn it_is_an_engine_like_any_other() {
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::conformance::{Behaviour, Subject, check_engine};

    let engine = FakeEngine::new();
    engine.set_script("ends", Script::default().crash_at_start(3));
    engine.set_script("stays", Script::default().stop_after(MS(60_000)));
    engine.set_script("impossible", Script::default().refused("no such program"));
    let ids = AtomicU64::new(1);
    let make = |behaviour| {
        let image = match behaviour {
            Behaviour::Good => "good",
            Behaviour::EndsWith(_) => "ends",
            Behaviour::IgnoresStop => "stays",
            Behaviour::Impossible => "impossible",
        };
        spec(ids.fetch_add(1, Ordering::Relaxed).into(), image)
    };
    check_engine(&Subject {
        engine: &engine,
        spec: &make,
        check: check(),
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_healthy_while_its_process_is_alive() {
    let engine = FakeEngine::new();
    engine.set_default_script(Script::default().never_healthy());
    let spec = spec(1, "worker");
    engine.start(&spec).await.expect("starts");
    tokio::time::sleep(MS(100)).await;
    engine
        .probe(spec.id, spec.port, &check())
        .await
        .expect_err("nothing listens");
    let alive = HealthCheck {
        kind: domain::spec::CheckKind::Process,
        ..check()
    };
    engine.probe(spec.id, None, &alive).await.expect("the process is alive");
}
