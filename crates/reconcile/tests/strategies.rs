//! Canary, blue-green, recreate, release commands and automatic rollback, by the real reconciler and a real store.

mod common;

use std::time::Duration;

use common::{Wire, World};
use domain::routing::{ServiceEntry, Share};
use domain::{Advance, Behaviour, DeploymentId, Gate, RolloutOptions, ServiceId, Stage, Step, Strategy};
use store::{RollbackRequest, ServicePatch};
use testkit::Script;

fn step(weight: u32, traffic: Option<u32>, then: Advance) -> Step {
    Step { weight, traffic, then }
}

fn patch(image: &str, strategy: Strategy, options: RolloutOptions) -> ServicePatch {
    ServicePatch {
        image: Some(image.to_owned()),
        strategy: Some(strategy),
        options: Some(options),
        ..ServicePatch::default()
    }
}

/// `app:1` with so many instances, then the patch; the new deployment.
async fn roll(world: &World, instances: u32, patch: ServicePatch) -> (ServiceId, DeploymentId) {
    let (service, first) = world.create("web", "app:1", instances).await;
    world.succeeded(first.id).await;
    (service.id, world.patch(service.id, patch).await.id)
}

async fn at_step(world: &World, deployment: DeploymentId, passed: u32) {
    world
        .until("the step is reached", async || {
            let deployment = world.deployment(deployment).await;
            deployment.at_step && deployment.step == passed
        })
        .await;
}

fn entry(world: &World, service: ServiceId) -> ServiceEntry {
    let table = world.edge.serving();
    let mut entries = table.services.into_iter();
    entries.find(|entry| entry.service == service).expect("an entry")
}

/// Version and number of targets of each pool, and its share.
fn pools(world: &World, service: ServiceId) -> Vec<(i64, usize, Share)> {
    let pools = entry(world, service).pools.into_iter();
    let mut pools: Vec<_> = pools
        .map(|pool| (pool.version, pool.targets.len(), pool.share))
        .collect();
    pools.sort_by_key(|pool| pool.0);
    pools
}

async fn until_pools(world: &World, service: ServiceId, expected: &[(i64, usize, Share)]) {
    world
        .until(&format!("the pools are {expected:?}"), async || {
            pools(world, service) == expected
        })
        .await;
}

#[tokio::test]
async fn a_canary_pauses_at_each_step_and_goes_on_when_told() {
    let world = World::new().await;
    let options = RolloutOptions {
        steps: vec![step(25, None, Advance::Continue), step(50, None, Advance::Continue)],
        ..RolloutOptions::default()
    };
    let (service, second) = roll(&world, 4, patch("app:2", Strategy::Canary, options)).await;
    at_step(&world, second, 0).await;
    until_pools(
        &world,
        service,
        &[(1, 4, Share::ByInstances), (2, 1, Share::ByInstances)],
    )
    .await;
    world
        .scope
        .continue_rollout(service)
        .await
        .unwrap_or_else(|e| panic!("{}", e.context));
    at_step(&world, second, 1).await;
    until_pools(
        &world,
        service,
        &[(1, 3, Share::ByInstances), (2, 2, Share::ByInstances)],
    )
    .await;
    world
        .scope
        .continue_rollout(service)
        .await
        .unwrap_or_else(|e| panic!("{}", e.context));
    world.succeeded(second).await;
    world.settled(service, 4).await;
}

#[tokio::test]
async fn a_restarted_control_plane_keeps_a_canary_at_its_step() {
    let mut world = World::new().await;
    let options = RolloutOptions {
        steps: vec![step(50, Some(5), Advance::Continue)],
        sticky: true,
        ..RolloutOptions::default()
    };
    let (service, second) = roll(&world, 2, patch("app:2", Strategy::Canary, options)).await;
    at_step(&world, second, 0).await;
    let beside = [(1, 2, Share::ByInstances), (2, 1, Share::Percent(5))];
    until_pools(&world, service, &beside).await;
    assert!(entry(&world, service).sticky);
    world.kill().await;
    world.start().await;
    world
        .scope
        .continue_rollout(service)
        .await
        .unwrap_or_else(|e| panic!("{}", e.context));
    world.succeeded(second).await;
    assert_eq!(world.engine.started_of(second), 2);
    world.settled(service, 2).await;
}

#[tokio::test]
async fn a_cancelled_canary_leaves_the_old_version_whole() {
    let world = World::new().await;
    let (service, second) = roll(&world, 3, patch("app:2", Strategy::Canary, RolloutOptions::default())).await;
    at_step(&world, second, 0).await;
    world
        .scope
        .cancel(service)
        .await
        .unwrap_or_else(|e| panic!("{}", e.context));
    assert_eq!(world.end_of(second).await.stage, Stage::Canceled);
    world.settled(service, 3).await;
    until_pools(&world, service, &[(1, 3, Share::ByInstances)]).await;
}

fn behaviour(requests: u64, failed: u64) -> Behaviour {
    let mut behaviour = Behaviour {
        requests,
        failed,
        ..Behaviour::default()
    };
    behaviour.latency[0] = requests;
    behaviour
}

fn gated() -> RolloutOptions {
    let gate = Gate {
        min_requests: 10,
        observe_ms: 0,
        ..Gate::default()
    };
    RolloutOptions {
        steps: vec![step(50, None, Advance::Gate(gate))],
        ..RolloutOptions::default()
    }
}

#[tokio::test]
async fn a_gate_passes_a_version_that_does_as_well_and_only_then() {
    let world = World::new().await;
    let (service, second) = roll(&world, 2, patch("app:2", Strategy::Canary, gated())).await;
    at_step(&world, second, 0).await;
    world
        .until("it says that it has not seen enough", async || {
            world.deployment(second).await.waiting.contains("not enough to decide")
        })
        .await;
    world.edge.set_behaviour(second, behaviour(9, 0));
    let standing = world.deployment(second).await;
    let edge = Wire::to(world.edge.clone());
    let trial = world.live.trial(&standing, &edge).expect("it is told meanwhile");
    assert_eq!((trial.evidence.new.requests, trial.evidence.new.failed), (9, 0));
    world.edge.set_behaviour(second, behaviour(10, 0));
    world.succeeded(second).await;
    world.settled(service, 2).await;
    let ended = world.deployment(second).await;
    assert_eq!(world.live.trial(&ended, &edge), None, "nobody watches it");
}

#[tokio::test]
async fn a_gate_fails_a_version_that_does_worse_and_says_how() {
    let world = World::new().await;
    let (service, second) = roll(&world, 2, patch("app:2", Strategy::Canary, gated())).await;
    at_step(&world, second, 0).await;
    world.edge.set_behaviour(second, behaviour(10, 4));
    let failed = world.end_of(second).await;
    assert_eq!(failed.stage, Stage::Failed);
    assert!(
        failed.error_message.contains("4 of its 10 requests failed"),
        "{}",
        failed.error_message
    );
    world.settled(service, 2).await;
    until_pools(&world, service, &[(1, 2, Share::ByInstances)]).await;
}

fn blue_green(then: Advance) -> RolloutOptions {
    RolloutOptions {
        steps: vec![step(100, None, then)],
        ..RolloutOptions::default()
    }
}

#[tokio::test]
async fn blue_green_previews_switches_once_and_goes_back_to_what_is_still_warm() {
    let world = World::new().await;
    let patch = patch("app:2", Strategy::BlueGreen, blue_green(Advance::Continue));
    let (service, second) = roll(&world, 2, patch).await;
    at_step(&world, second, 0).await;
    until_pools(
        &world,
        service,
        &[(1, 2, Share::ByInstances), (2, 2, Share::Percent(0))],
    )
    .await;
    let preview: Vec<String> = entry(&world, service)
        .pools
        .iter()
        .flat_map(|pool| pool.preview.iter().map(|rule| rule.host.clone()))
        .collect();
    assert_eq!(preview, ["web-preview.localhost"]);
    world
        .scope
        .continue_rollout(service)
        .await
        .unwrap_or_else(|e| panic!("{}", e.context));
    world.succeeded(second).await;
    until_pools(&world, service, &[(2, 2, Share::ByInstances)]).await;
    assert_eq!(world.engine.live_of(service), 4, "the old version is kept warm");

    let first = world.deployment(second).await.replaced.expect("the first version");
    let back = world.scope.rollback(first, RollbackRequest::default()).await;
    let back = back.unwrap_or_else(|e| panic!("{}", e.context));
    world.succeeded(back.id).await;
    until_pools(&world, service, &[(3, 2, Share::ByInstances)]).await;
    assert_eq!(world.engine.started_of(back.id), 0, "nothing had to be started");
}

#[tokio::test]
async fn blue_green_goes_back_by_one_switch_even_when_everything_must_be_started_again() {
    let world = World::new().await;
    let options = RolloutOptions {
        keep_warm_ms: 0,
        ..blue_green(Advance::AfterMs(0))
    };
    let (service, second) = roll(&world, 2, patch("app:2", Strategy::BlueGreen, options)).await;
    world.succeeded(second).await;
    world.settled(service, 2).await;
    let first = world.deployment(second).await.replaced.expect("the first version");
    let back = world.scope.rollback(first, RollbackRequest::default()).await;
    let back = back.unwrap_or_else(|e| panic!("{}", e.context));
    world.succeeded(back.id).await;
    world.settled(service, 2).await;
}

#[tokio::test]
async fn a_warm_version_stays_out_of_the_table_over_a_restart_and_leaves_in_time() {
    let mut world = World::new().await;
    let options = RolloutOptions {
        keep_warm_ms: 1_500,
        ..blue_green(Advance::AfterMs(0))
    };
    let (service, second) = roll(&world, 2, patch("app:2", Strategy::BlueGreen, options)).await;
    world.succeeded(second).await;
    until_pools(&world, service, &[(2, 2, Share::ByInstances)]).await;
    world.edge.look_anew();
    world.kill().await;
    world.start().await;
    world.settled(service, 2).await;
    assert_eq!(
        world.edge.most_targets(),
        2,
        "the old version was routed after the restart"
    );
}

#[tokio::test]
async fn recreate_holds_requests_from_the_first_stop_to_the_first_start() {
    let world = World::new().await;
    world.script("app:2", Script::default().ready_after(Duration::from_millis(200)));
    let options = RolloutOptions {
        hold_ms: 7_000,
        ..RolloutOptions::default()
    };
    let (service, second) = roll(&world, 1, patch("app:2", Strategy::Recreate, options)).await;
    world
        .until("nobody serves and requests wait", async || {
            let entry = entry(&world, service);
            entry.targets().count() == 0 && entry.hold.is_some_and(|hold| hold.longest_ms == 7_000)
        })
        .await;
    world.succeeded(second).await;
    world
        .until("no request waits any more", async || {
            entry(&world, service).hold.is_none()
        })
        .await;
    assert_eq!(world.engine.max_live_of(service), 1, "it may run only once");
}

fn releasing(image: &str) -> ServicePatch {
    ServicePatch {
        release: Some(Some(vec!["migrate".to_owned()])),
        ..patch(image, Strategy::Rolling, RolloutOptions::default())
    }
}

#[tokio::test]
async fn a_release_command_runs_once_before_anything_of_the_new_version() {
    let world = World::new().await;
    world.script(
        "app:2 migrate",
        Script::default().crash_after(Duration::from_millis(50), 0),
    );
    let (service, second) = roll(&world, 2, releasing("app:2")).await;
    let released = world.succeeded(second).await;
    assert!(released.released);
    assert_eq!(world.engine.started_of(second), 3, "once the command, twice the app");
    world.settled(service, 2).await;
}

#[tokio::test]
async fn a_release_command_that_fails_changes_nothing() {
    let world = World::new().await;
    world.script(
        "app:2 migrate",
        Script::default().crash_after(Duration::from_millis(50), 7),
    );
    let (service, second) = roll(&world, 2, releasing("app:2")).await;
    let before = world.routed(service);
    let failed = world.end_of(second).await;
    assert_eq!(failed.stage, Stage::Failed);
    let message = &failed.error_message;
    assert!(
        message.contains("release command") && message.contains("exit code 7"),
        "{message}"
    );
    assert_eq!(world.engine.started_of(second), 1, "the command alone, and once");
    world.settled(service, 2).await;
    assert_eq!(world.routed(service), before);
}

#[tokio::test]
async fn a_release_command_that_the_engine_has_lost_is_not_run_again() {
    let world = World::new().await;
    world.script(
        "app:2 migrate",
        Script::default().crash_after(Duration::from_secs(3_600), 0),
    );
    let (service, second) = roll(&world, 2, releasing("app:2")).await;
    let begun = async || {
        let state = world.store.system().load(&[service]).await.unwrap().remove(0);
        let row = state
            .instances
            .iter()
            .find(|row| row.template.is_release() && row.healthy_once);
        row.map(|row| row.id)
    };
    world
        .until("the command is known to run", async || begun().await.is_some())
        .await;
    let run = begun().await.unwrap();
    world.engine.vanish(run);
    let failed = world.end_of(second).await;
    assert_eq!(failed.stage, Stage::Failed);
    assert!(
        failed.error_message.contains("release command"),
        "{}",
        failed.error_message
    );
    assert_eq!(world.engine.started_of(second), 1, "nobody knows how far it came");
    world.settled(service, 2).await;
}

#[tokio::test]
async fn a_success_that_the_edge_sees_fail_is_taken_back_once() {
    let world = World::new().await;
    let options = RolloutOptions {
        watch_ms: 60_000,
        ..RolloutOptions::default()
    };
    let (service, second) = roll(&world, 2, patch("app:2", Strategy::Rolling, options)).await;
    world.succeeded(second).await;
    world.edge.set_behaviour(second, behaviour(50, 20));
    world
        .until("the first version is back", async || {
            world.deployment(second).await.rolled_back && world.routed(service).len() == 2
        })
        .await;
    let state = world
        .scope
        .service(service)
        .await
        .unwrap_or_else(|e| panic!("{}", e.context));
    let back = state.last.expect("a deployment");
    let back = world.succeeded(back).await;
    assert!(back.automatic && back.version == 3, "{back:?}");
    // What is back fails as well: nothing more happens, since a rollback is never watched.
    world.edge.set_behaviour(back.id, behaviour(500, 500));
    world.settled(service, 2).await;
    let state = world
        .scope
        .service(service)
        .await
        .unwrap_or_else(|e| panic!("{}", e.context));
    assert_eq!(state.last, Some(back.id));
}
