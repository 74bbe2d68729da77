//! Rollouts by the real reconciler and a real store, against an engine and an edge that follow a script.

mod common;

use std::time::Duration;

use common::World;
use domain::{ConfigId, Delivery, RolloutOptions, SecretId, Stage};
use store::{RollbackRequest, SecretString, ServicePatch};
use testkit::Script;
use testkit::fake_engine::{Fault, Op};

#[tokio::test]
async fn the_first_deployment_serves_with_all_its_instances() {
    let world = World::new().await;
    let (service, deployment) = world.create("web", "app:1", 3).await;
    world.succeeded(deployment.id).await;
    world.settled(service.id, 3).await;
    let service = world
        .scope
        .service(service.id)
        .await
        .unwrap_or_else(|e| panic!("{}", e.context));
    assert_eq!(service.status(), "ready");
}

#[tokio::test]
async fn a_new_version_replaces_the_old_one_and_never_exceeds_the_surge() {
    let world = World::new().await;
    let (service, first) = world.create("web", "app:1", 4).await;
    world.succeeded(first.id).await;
    let second = world.image(service.id, "app:2").await;
    world.succeeded(second.id).await;
    world.settled(service.id, 4).await;
    assert_eq!(world.engine.started_of(second.id), 4);
    assert!(
        // Four wanted ones, one above them, one that was told to stop.
        world.engine.max_live_of(service.id) <= 6,
        "{}",
        world.engine.max_live_of(service.id)
    );
}

#[tokio::test]
async fn scaling_keeps_the_instances_that_run() {
    let world = World::new().await;
    let (service, first) = world.create("web", "app:1", 2).await;
    world.succeeded(first.id).await;
    let before = world.routed(service.id);
    let more = ServicePatch {
        instances: Some(4),
        ..ServicePatch::default()
    };
    let scaled = world.patch(service.id, more).await;
    world.succeeded(scaled.id).await;
    let after = world.routed(service.id);
    assert_eq!(after.len(), 4);
    assert!(before.iter().all(|id| after.contains(id)), "{before:?} {after:?}");
    let fewer = ServicePatch {
        instances: Some(1),
        ..ServicePatch::default()
    };
    let scaled = world.patch(service.id, fewer).await;
    world.succeeded(scaled.id).await;
    world.settled(service.id, 1).await;
}

#[tokio::test]
async fn a_crashing_version_fails_with_its_exit_code_and_output_and_the_old_one_serves_on() {
    let world = World::new().await;
    world.script("app:2", Script::default().crash_at_start(3));
    let (service, first) = world.create("web", "app:1", 2).await;
    world.succeeded(first.id).await;
    let before = world.routed(service.id);
    let second = world.image(service.id, "app:2").await;
    let failed = world.end_of(second.id).await;
    assert_eq!(failed.stage, Stage::Failed);
    assert!(failed.error_message.contains("exit code 3"), "{}", failed.error_message);
    assert!(
        failed.error_message.contains("fatal: exiting with 3"),
        "{}",
        failed.error_message
    );
    world.settled(service.id, 2).await;
    assert_eq!(world.routed(service.id), before, "the old instances were touched");
}

#[tokio::test]
async fn an_image_that_does_not_exist_fails_the_deployment_and_nothing_else() {
    let world = World::new().await;
    let (service, first) = world.create("web", "app:1", 1).await;
    world.succeeded(first.id).await;
    let second = world.image(service.id, "missing:2").await;
    let failed = world.end_of(second.id).await;
    assert_eq!(failed.stage, Stage::Failed);
    assert!(
        failed.error_message.contains("there is no image missing:2"),
        "{}",
        failed.error_message
    );
    world.settled(service.id, 1).await;
}

#[tokio::test]
async fn a_version_that_never_gets_healthy_fails_at_the_progress_deadline() {
    let world = World::new().await;
    world.script("app:2", Script::default().never_healthy());
    let (service, first) = world.create("web", "app:1", 1).await;
    world.succeeded(first.id).await;
    let options = RolloutOptions {
        progress_deadline_ms: 500,
        ..RolloutOptions::default()
    };
    let patch = ServicePatch {
        image: Some("app:2".into()),
        options: Some(options),
        ..ServicePatch::default()
    };
    let failed = world.patch(service.id, patch).await;
    let failed = world.end_of(failed.id).await;
    assert_eq!(failed.stage, Stage::Failed);
    assert!(failed.error_message.contains("no progress"), "{}", failed.error_message);
    world.settled(service.id, 1).await;
}

#[tokio::test]
async fn a_newer_deployment_supersedes_the_one_under_way() {
    let world = World::new().await;
    world.script("app:2", Script::default().never_healthy());
    let (service, first) = world.create("web", "app:1", 2).await;
    world.succeeded(first.id).await;
    let second = world.image(service.id, "app:2").await;
    let third = world.image(service.id, "app:3").await;
    assert_eq!(world.end_of(second.id).await.stage, Stage::Superseded);
    world.succeeded(third.id).await;
    world.settled(service.id, 2).await;
}

#[tokio::test]
async fn cancelling_brings_the_old_version_back_whole() {
    let world = World::new().await;
    world.script("app:2", Script::default().ready_after(Duration::from_millis(300)));
    let (service, first) = world.create("web", "app:1", 3).await;
    world.succeeded(first.id).await;
    let second = world.image(service.id, "app:2").await;
    world
        .until("one of the new version runs", async || {
            world.engine.started_of(second.id) >= 2
        })
        .await;
    world
        .scope
        .cancel(service.id)
        .await
        .unwrap_or_else(|e| panic!("{}", e.context));
    assert_eq!(world.end_of(second.id).await.stage, Stage::Canceled);
    world.settled(service.id, 3).await;
}

/// S0.34 to S0.38.
#[tokio::test]
async fn a_rollback_runs_the_old_image_as_a_new_version() {
    let world = World::new().await;
    let (service, first) = world.create("web", "app:1", 2).await;
    world.succeeded(first.id).await;
    let second = world.image(service.id, "app:2").await;
    world.succeeded(second.id).await;
    let back = world
        .scope
        .rollback(first.id, RollbackRequest::default())
        .await
        .unwrap_or_else(|e| panic!("{}", e.context));
    assert_eq!((back.version, back.rollback_from), (3, Some(first.id)));
    let back = world.succeeded(back.id).await;
    assert_eq!(back.spec.digest, Some(common::digest("app:1")));
    world.settled(service.id, 2).await;
}

#[tokio::test]
async fn an_instance_that_dies_is_replaced() {
    let world = World::new().await;
    let (service, first) = world.create("web", "app:1", 2).await;
    world.succeeded(first.id).await;
    let victim = world.routed(service.id)[0];
    world.engine.kill(
        victim,
        engine::Exit {
            signal: Some(9),
            ..engine::Exit::default()
        },
    );
    world
        .until("the dead one has left", async || {
            !world.routed(service.id).contains(&victim)
        })
        .await;
    world.settled(service.id, 2).await;
}

/// Invariant 4: what still carries requests is not stopped before the drain deadline.
#[tokio::test]
async fn requests_in_flight_hold_back_the_stop() {
    let world = World::new().await;
    let (service, first) = world.create("web", "app:1", 1).await;
    world.succeeded(first.id).await;
    let old = world.routed(service.id)[0];
    world.edge.hold(old, 1);
    let second = world.image(service.id, "app:2").await;
    world.succeeded(second.id).await;
    assert_eq!(world.engine.live_of(service.id), 2, "the busy instance was stopped");
    world.edge.hold(old, 0);
    world.settled(service.id, 1).await;
}

#[tokio::test]
async fn a_deleted_service_leaves_nothing_behind() {
    let world = World::new().await;
    let (service, first) = world.create("web", "app:1", 2).await;
    world.succeeded(first.id).await;
    world
        .scope
        .delete_service(service.id)
        .await
        .unwrap_or_else(|e| panic!("{}", e.context));
    world
        .until("nothing is left", async || {
            world.engine.known() == 0 && world.routed(service.id).is_empty()
        })
        .await;
}

#[tokio::test]
async fn a_killed_control_plane_is_followed_by_one_that_restarts_nothing() {
    let mut world = World::new().await;
    let (service, first) = world.create("web", "app:1", 3).await;
    world.succeeded(first.id).await;
    world.settled(service.id, 3).await;
    let before = world.routed(service.id);
    world.kill().await;
    world.start().await;
    let second = world
        .patch(
            service.id,
            ServicePatch {
                instances: Some(4),
                ..ServicePatch::default()
            },
        )
        .await;
    world.succeeded(second.id).await;
    let after = world.routed(service.id);
    assert!(before.iter().all(|id| after.contains(id)), "{before:?} {after:?}");
    assert_eq!(world.engine.ever_live_of(service.id), 4);
}

/// Faults C5.1 and C5.2, at moments that the machine chooses: the rollout is finished by the next control plane.
#[tokio::test]
async fn a_rollout_survives_the_death_of_its_control_plane_at_any_moment() {
    let mut world = World::new().await;
    let (service, first) = world.create("web", "app:1", 3).await;
    world.succeeded(first.id).await;
    world.settled(service.id, 3).await;
    world.edge.look_anew();
    for round in 0..10u64 {
        let image = format!("app:{}", round + 2);
        let next = world.image(service.id, &image).await;
        tokio::time::sleep(Duration::from_millis(round * 23)).await;
        world.kill().await;
        world.start().await;
        world.succeeded(next.id).await;
        assert!(
            world.edge.fewest_targets() >= Some(3),
            "{:?}",
            world.edge.fewest_targets()
        );
        assert!(world.engine.max_live_of(service.id) <= 5);
    }
    world.settled(service.id, 3).await;
}

/// Invariant 20.
#[tokio::test]
async fn an_engine_that_does_not_answer_costs_nothing() {
    let world = World::new().await;
    let (service, first) = world.create("web", "app:1", 2).await;
    world.succeeded(first.id).await;
    let before = world.routed(service.id);
    world.engine.set_down(true);
    let second = world.image(service.id, "app:2").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.routed(service.id), before);
    world.engine.set_down(false);
    world.succeeded(second.id).await;
    world.settled(service.id, 2).await;
}

#[tokio::test]
async fn an_edge_that_comes_back_gets_the_newest_table() {
    let world = World::new().await;
    let (service, first) = world.create("web", "app:1", 2).await;
    world.succeeded(first.id).await;
    world.edge.go_down();
    let second = world.image(service.id, "app:2").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        world.deployment(second.id).await.stage.is_active(),
        "success without an acknowledged table"
    );
    world.edge.come_up();
    world.succeeded(second.id).await;
    world.settled(service.id, 2).await;
}

/// Invariant 2: what a superseded rollout has brought into the table serves on until something better does.
#[tokio::test]
async fn superseding_a_rollout_takes_nothing_out_of_the_table() {
    let world = World::new().await;
    let (service, first) = world.create("web", "app:1", 4).await;
    world.succeeded(first.id).await;
    world.script("app:3", Script::default().ready_after(Duration::from_millis(500)));
    let second = world.image(service.id, "app:2").await;
    world
        .until("half of the new version serves", async || {
            world.engine.started_of(second.id) >= 3
        })
        .await;
    let third = world.image(service.id, "app:3").await;
    let mut fewest = usize::MAX;
    while world.deployment(third.id).await.stage.is_active() {
        fewest = fewest.min(world.routed(service.id).len());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(fewest >= 4, "{fewest} instances served");
    world.settled(service.id, 4).await;
}

/// A removal that fails is tried again, although the record has forgotten the instance.
#[tokio::test]
async fn a_removal_that_fails_leaves_nothing_behind() {
    let world = World::new().await;
    let (service, first) = world.create("web", "app:1", 1).await;
    world.succeeded(first.id).await;
    world.engine.fail_next(Op::Remove, Fault::Transient);
    world.engine.fail_next(Op::Remove, Fault::Transient);
    let second = world.image(service.id, "app:2").await;
    world.succeeded(second.id).await;
    world.settled(service.id, 1).await;
}

/// Invariant 3: an instance that the engine lost without a trace is never run again under its old health.
#[tokio::test]
async fn a_vanished_instance_is_replaced_by_one_that_shows_its_health_anew() {
    let world = World::new().await;
    let (service, first) = world.create("web", "app:1", 2).await;
    world.succeeded(first.id).await;
    let lost = world.routed(service.id)[0];
    world.engine.vanish(lost);
    world
        .until("the lost one has left", async || {
            !world.routed(service.id).contains(&lost)
        })
        .await;
    world.settled(service.id, 2).await;
    assert!(!world.routed(service.id).contains(&lost));
}

/// Values that arrive as files leave the environment; the way they arrive changes what runs.
#[tokio::test]
async fn values_reach_instances_by_the_way_that_was_asked_for() {
    let world = World::new().await;
    let told = |e: domain::Error| e.context;
    let scope = &world.scope;
    let secret = scope.create_set::<SecretId>("s", None).await.map_err(told).unwrap();
    let value = SecretString::new("sesame".to_owned());
    let made = scope.create_secret_item(secret.id, "TOKEN", value).await;
    made.map_err(told).unwrap();
    let config = scope.create_set::<ConfigId>("c", None).await.map_err(told).unwrap();
    let made = scope.create_config_item(config.id, "LEVEL", "info").await;
    made.map_err(told).unwrap();
    let (service, first) = world.create("web", "app:1", 1).await;
    world.succeeded(first.id).await;
    let ways: [(Delivery, [&[&str]; 3]); 3] = [
        (Delivery::Env, [&["LEVEL", "TOKEN"], &[], &[]]),
        (Delivery::SecretFiles, [&["LEVEL"], &[], &["TOKEN"]]),
        (Delivery::Files, [&[], &["LEVEL"], &["TOKEN"]]),
    ];
    for (delivery, [env, configs, secrets]) in ways {
        let patch = ServicePatch {
            config: Some(Some(config.id)),
            secret: Some(Some(secret.id)),
            delivery: Some(delivery),
            ..ServicePatch::default()
        };
        let deployment = world.patch(service.id, patch).await;
        world.succeeded(deployment.id).await;
        world.settled(service.id, 1).await;
        let live = world.engine.live();
        let spec = live
            .iter()
            .find(|spec| spec.deployment == deployment.id)
            .expect("it runs");
        assert!(spec.env.keys().eq(env), "{delivery:?}");
        assert!(spec.files.configs.keys().eq(configs), "{delivery:?}");
        assert!(spec.files.secrets.keys().eq(secrets), "{delivery:?}");
    }
}
