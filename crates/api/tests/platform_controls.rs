//! Commands for a rollout on its way, and what its document says of steps and ends.

use std::time::Duration;

use domain::plan::{Evidence, Trial};
use domain::{Behaviour, Stage};
use serde_json::{Value, json};
use store::Effect;

use crate::world::{Actor, World};

/// A service that rolls by canary from now on, with its second version on its way.
async fn canary(world: &World, alice: &Actor, steps: Value) -> (String, String) {
    let id = alice.make_service("web").await;
    world.succeed(&id).await;
    let body = json!({"strategy": "canary", "image": "myapp:v2", "options": {"steps": steps}});
    alice.patch(&format!("/api/services/{id}/"), body).await.expect(200);
    let deployment = alice.newest_deployment(&id).await;
    (id, deployment)
}

async fn reach_step(world: &World, service: &str) {
    let state = world.load(service.parse().expect("an id")).await;
    let deployment = state.active.expect("something is on its way").id;
    world
        .apply(state.service.id, vec![Effect::ReachStep { deployment }])
        .await;
}

fn facts<'a>(rollout: &'a Value, names: &[&str]) -> Vec<&'a Value> {
    names.iter().map(|name| &rollout[*name]).collect()
}

#[tokio::test]
async fn a_canary_says_where_it_waits_and_what_to_type() {
    let world = World::new().await;
    let alice = world.alice().await;
    let steps = json!([{"weight": 10, "traffic": 5}, {"weight": 50, "then": {"after_ms": 300_000}}]);
    let (service, deployment) = canary(&world, &alice, steps).await;
    world.begin(&service).await;
    let rollout = format!("/api/services/{service}/rollout/");
    let names = ["stage", "step", "at_step", "ends", "share", "outcome", "next_command"];
    let seen = alice.get(&rollout).await.expect(200);
    let moving = json!(["deploying", 0, false, null, 5, null, null]);
    assert_eq!(json!(facts(&seen, &names)), moving);
    assert_eq!(seen["strategy"], "canary");
    let texts: Vec<&Value> = seen["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .map(|step| &step["text"])
        .collect();
    assert_eq!(json!(texts), json!(["10% traffic 5%", "50% for 5m"]));

    reach_step(&world, &service).await;
    let seen = alice.get(&rollout).await.expect(200);
    let waiting = json!(["paused", 0, true, "for `continue`", 5, "needs_you", "hob continue web"]);
    assert_eq!(json!(facts(&seen, &names)), waiting);

    let this = format!("/api/deployments/{deployment}/");
    alice
        .post_nothing(&format!("{this}resume/"))
        .await
        .refuses(400, json!({"error": "Version 2 waits at step 1; continue it instead"}));
    assert_eq!(
        alice.post_nothing(&format!("{this}continue/")).await.expect(200)["status"],
        "pending"
    );
    reach_step(&world, &service).await;
    let seen = alice.get(&rollout).await.expect(200);
    let timed = json!(["paused", 1, true, "for 5m at this step", null, null, null]);
    assert_eq!(json!(facts(&seen, &names)), timed);

    alice.post_nothing(&format!("{this}pause/")).await.expect(200);
    let seen = alice.get(&rollout).await.expect(200);
    let held = json!(["paused", 1, false, null, null, "needs_you", "hob resume web"]);
    assert_eq!(json!(facts(&seen, &names)), held);
    alice
        .post_nothing(&format!("/api/services/{service}/resume/"))
        .await
        .expect(200);
    let detail = alice.get(&format!("{this}?detail=full")).await.expect(200);
    assert_eq!(
        json!(facts(&detail, &["stage", "step", "steps", "at_step"])),
        json!(["deploying", 1, 2, false])
    );

    alice.post_nothing(&format!("{this}cancel/")).await.expect(200);
    let canceled = Effect::SetStage {
        deployment: deployment.parse().expect("an id"),
        from: Stage::Canceling,
        to: Stage::Canceled,
        reason: "the old version serves".to_owned(),
        error_message: None,
    };
    world.apply(service.parse().expect("an id"), vec![canceled]).await;
    assert_eq!(alice.get(&rollout).await.expect(200)["outcome"], "reverted");
}

#[tokio::test]
async fn steps_stay_with_their_strategy() {
    let world = World::new().await;
    let alice = world.alice().await;
    let steps = json!([{"weight": 50, "then": {"gate": {"min_requests": 500}}}]);
    let (service, _) = canary(&world, &alice, steps).await;
    let path = format!("/api/services/{service}/");
    let steps_after = async |change: Value| {
        let changed = alice.patch(&path, change).await.expect(200);
        let steps = changed["options"]["steps"].as_array().expect("steps");
        steps.len()
    };
    assert_eq!(steps_after(json!({"image": "myapp:v3"})).await, 1);
    assert_eq!(
        steps_after(json!({"strategy": "canary", "options": {"sticky": true}})).await,
        1
    );
    assert_eq!(steps_after(json!({"strategy": "blue_green"})).await, 0);
    let seen = alice.get(&path).await.expect(200);
    assert_eq!(seen["options"]["sticky"], true, "only the steps begin anew");
    let two = json!({"strategy": "canary", "options": {"steps": [{"weight": 10}, {"weight": 50}]}});
    assert_eq!(steps_after(two).await, 2);
}

#[tokio::test]
async fn a_step_tells_the_figures_by_which_it_is_judged() {
    let world = World::new().await;
    let alice = world.alice().await;
    let steps = json!([{"weight": 50, "then": {"gate": {"min_requests": 500}}}]);
    let (service, _) = canary(&world, &alice, steps).await;
    world.begin(&service).await;
    let seen = |requests, failed| Behaviour {
        requests,
        failed,
        ..Behaviour::default()
    };
    *world.runtime.trial.lock().expect("no test panics with the lock") = Some(Trial {
        lasts: Duration::from_secs(3),
        evidence: Evidence {
            new: seen(40, 1),
            old: seen(60, 0),
        },
    });
    let rollout = format!("/api/services/{service}/rollout/");
    assert_eq!(alice.get(&rollout).await.expect(200)["trial"], Value::Null);
    reach_step(&world, &service).await;
    let behaviour = |requests: u64, failed: u64| {
        let rate = failed as f64 / requests as f64;
        json!({"requests": requests, "failed": failed, "error_rate": rate, "p50_ms": null, "p95_ms": null})
    };
    assert_eq!(
        alice.get(&rollout).await.expect(200)["trial"],
        json!({"lasts_ms": 3_000, "min_requests": 500, "new": behaviour(40, 1), "old": behaviour(60, 0)})
    );
}

#[tokio::test]
async fn a_command_that_comes_too_late_or_too_early_says_so() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    let first = alice.newest_deployment(&service).await;
    let commands = [
        ("continue", "Nothing to continue: version 1 is not paused but queued"),
        ("pause", "Version 1 cannot be paused while it is queued"),
        ("resume", "Nothing to resume: version 1 is not paused but queued"),
    ];
    for (command, text) in commands {
        for base in [format!("/api/deployments/{first}"), format!("/api/services/{service}")] {
            let answer = alice.post_nothing(&format!("{base}/{command}/")).await;
            answer.refuses(400, json!({ "error": text }));
        }
    }
    world.succeed(&service).await;
    for (command, _) in commands {
        let answer = alice
            .post_nothing(&format!("/api/deployments/{first}/{command}/"))
            .await;
        let text = format!("Nothing to {command}: version 1 is over, it is succeeded");
        answer.refuses(409, json!({ "error": text }));
    }
    let rollout = alice
        .get(&format!("/api/services/{service}/rollout/"))
        .await
        .expect(200);
    assert_eq!(rollout["outcome"], "done");
}

#[tokio::test]
async fn a_preview_has_a_host_of_its_own_where_one_is_known() {
    let world = World::new().await;
    let alice = world.alice().await;
    let body = json!({"name": "web", "image": "a", "port": 80, "strategy": "blue-green"});
    let service = alice.make("/api/services/", body).await;
    let rollout = format!("/api/services/{service}/rollout/");
    let seen = alice.get(&rollout).await.expect(200);
    assert_eq!(
        json!(facts(&seen, &["strategy", "preview_host"])),
        json!(["blue_green", null])
    );
    let options = json!({"image": "b", "options": {"preview_host": "next.example.com"}});
    alice
        .patch(&format!("/api/services/{service}/"), options)
        .await
        .expect(200);
    assert_eq!(
        alice.get(&rollout).await.expect(200)["preview_host"],
        "next.example.com"
    );
}

#[tokio::test]
async fn a_first_version_that_fails_needs_its_owner() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    world.fail(&service, "exit code 3").await;
    let rollout = alice
        .get(&format!("/api/services/{service}/rollout/"))
        .await
        .expect(200);
    assert_eq!(
        json!(facts(&rollout, &["outcome", "next_command"])),
        json!(["needs_you", "hob logs web"])
    );
}

#[tokio::test]
async fn every_bad_step_is_named() {
    let world = World::new().await;
    let alice = world.alice().await;
    let steps = json!([
        {"weight": 0}, {"traffic": 101, "weight": 5}, {"weight": 5, "then": {"gate": {"min_request": 5}}},
        {"weight": 5, "then": {"after_ms": 1, "gate": {}}}, {"weight": 5, "then": "later"}, {"then": "continue"},
    ]);
    let options = json!({
        "steps": steps, "preview_host": "No Host", "watch_ms": -1, "hold_ms": -1, "keep_warm_ms": -1, "sticky": 7,
    });
    let body = json!({"name": "web", "image": "a", "port": 80, "options": options, "release": []});
    let problems = alice.post("/api/services/", body).await.expect(400);
    let mut fields: Vec<&String> = problems.as_object().expect("fields").keys().collect();
    fields.sort_unstable();
    let expected = [
        "options.hold_ms",
        "options.keep_warm_ms",
        "options.preview_host",
        "options.steps.0.weight",
        "options.steps.1.traffic",
        "options.steps.2.then.gate.min_request",
        "options.steps.3.then.after_ms",
        "options.steps.4.then",
        "options.steps.5.weight",
        "options.sticky",
        "options.watch_ms",
        "release",
    ];
    assert_eq!(fields, expected);

    let options = json!({"steps": [{"weight": 50}, {"weight": 10}]});
    let body = json!({"name": "web", "image": "a", "port": 80, "options": options});
    let problems = alice.post("/api/services/", body).await.expect(400);
    let text = "Step 2: its weight of 10 is below the 50 of the step before; weights never shrink";
    assert_eq!(problems, json!({"options.steps": [text]}));
}
