//! `…/plan/` and `…/diff/…/`: what would change, and what has.

use api::ImageInfo;
use domain::{Behaviour, DeploymentId};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{ENDED_MEMORY, LIVE_MEMORY, NOON_US, World, digest};

fn image(reference: &str, version: i64) -> ImageInfo {
    ImageInfo {
        reference: reference.to_owned(),
        digest: digest(version),
        size_bytes: 1_000 * version.unsigned_abs(),
        created_at_us: NOON_US,
        in_use: true,
    }
}

fn hold_images(world: &World, images: Vec<ImageInfo>) {
    *world.runtime.images.lock().expect("no test panics with the lock") = images;
}

#[tokio::test]
async fn a_plan_says_what_would_happen_and_does_nothing() {
    let world = World::new().await;
    let alice = world.alice().await;
    let config = alice.make("/api/configs/", json!({"name": "c"})).await;
    let items = format!("/api/configs/{config}/items/");
    let item = alice.make(&items, json!({"key": "LEVEL", "value": "info"})).await;
    let secret = alice.make("/api/secrets/", json!({"name": "s"})).await;
    let secrets = format!("/api/secrets/{secret}/items/");
    let token = alice
        .make(&secrets, json!({"key": "TOKEN", "value": "hunter2hunter2"}))
        .await;
    let body = json!({
        "name": "web", "image": "app:1", "port": 80, "replicas_target": 2, "config": config, "secret": secret,
        "resources": {"memory_mb": 100},
    });
    let service = alice.make("/api/services/", body).await;
    world.succeed(&service).await;
    hold_images(&world, vec![image("app:1", 1), image("app:2", 2)]);
    alice
        .patch(&format!("{items}{item}/"), json!({"value": "debug"}))
        .await
        .expect(200);
    alice
        .patch(&format!("{secrets}{token}/"), json!({"value": "hunter3hunter3"}))
        .await
        .expect(200);

    let path = format!("/api/services/{service}/");
    let change = json!({"image": "app:2", "replicas_target": 3});
    let plan = alice.post(&format!("{path}plan/"), change).await;
    assert!(!plan.text.contains("hunter"), "a plan tells no secret: {}", plan.text);
    let plan = plan.expect(200);
    let told: Vec<Value> = plan["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .map(|it| json!([it["what"], it["key"], it["before"], it["after"]]))
        .collect();
    let expected = json!([
        ["image", null, "app:1", "app:2"],
        ["digest", null, digest(1), digest(2)],
        ["replicas", null, 2, 3],
        ["config", "LEVEL", "info", "debug"],
        ["secret", "TOKEN", "version 1", "version 2"],
    ]);
    assert_eq!(json!(told), expected);
    assert_eq!(
        (&plan["deploys"], &plan["version"], &plan["running_version"]),
        (&json!(true), &json!(2), &json!(1))
    );
    let local = json!({"reference": "app:2", "digest": digest(2), "local": true, "size_bytes": 2_000});
    assert_eq!(plan["image"], local);
    let why = "new instances are healthy and routed before old ones leave";
    assert_eq!(plan["downtime"], json!({"class": "none", "why": why}));
    let memory = json!({"needed_mb": 400, "running_mb": 200, "free_mb": null, "fits": null});
    assert_eq!(plan["memory"], memory);
    assert!(plan["expected_ms"].is_u64(), "{plan}");
    let back = json!({"exists": true, "version": 1, "why": "its image is in the local store"});
    assert_eq!(plan["way_back"], back);

    let after = alice.get(&path).await.expect(200);
    assert_eq!(
        (&after["image"], &after["active_deployment"]),
        (&json!("app:1"), &Value::Null)
    );
}

#[tokio::test]
async fn a_change_that_is_bound_to_a_plan_happens_as_planned_or_not_at_all() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    world.succeed(&service).await;
    let path = format!("/api/services/{service}/");
    hold_images(&world, vec![image("app:2", 2)]);
    let plan = alice
        .post(&format!("{path}plan/"), json!({"image": "app:2"}))
        .await
        .expect(200);
    hold_images(&world, vec![image("app:2", 3)]);
    let bound = |hash: &Value| json!({"image": "app:2", "apply_hash": hash});
    let refused = alice.patch(&path, bound(&plan["hash"])).await.expect(409);
    assert_eq!(
        refused["error"],
        "What this plan rests on has changed since it was made; look at the new plan"
    );
    assert_eq!(refused["plan"]["image"]["digest"], json!(digest(3)));
    assert_eq!(alice.get(&path).await.expect(200)["active_deployment"], Value::Null);
    let done = alice.patch(&path, bound(&refused["plan"]["hash"])).await.expect(200);
    assert_ne!(done["active_deployment"], Value::Null);
    alice.patch(&path, bound(&refused["plan"]["hash"])).await.expect(409);
}

#[tokio::test]
async fn values_that_come_with_a_change_are_planned_and_set_with_it() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    world.succeed(&service).await;
    let path = format!("/api/services/{service}/");
    let body = json!({"env": {"LEVEL": "debug"}});
    let plan = alice.post(&format!("{path}plan/"), body).await.expect(200);
    assert_eq!(plan["deploys"], json!(true));
    let told: Vec<Value> = plan["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .map(|it| json!([it["what"], it["key"], it["before"], it["after"]]))
        .collect();
    assert_eq!(json!(told), json!([["config", "LEVEL", null, "debug"]]));
    assert_eq!(alice.get("/api/configs/?name=web").await.expect(200)["count"], json!(0));

    let body = json!({"env": {"LEVEL": "debug"}, "apply_hash": plan["hash"]});
    let done = alice.patch(&path, body).await.expect(200);
    assert_ne!(done["active_deployment"], Value::Null);
    let config = done["config"].as_str().expect("a config is attached").to_owned();
    let items = alice.get(&format!("/api/configs/{config}/items/")).await.expect(200);
    assert_eq!(
        (&items["results"][0]["key"], &items["results"][0]["value"]),
        (&json!("LEVEL"), &json!("debug"))
    );

    for (env, field) in [
        (json!({"1A": "x"}), "env"),
        (json!({"A": 1}), "env.A"),
        (json!({"A": "\0"}), "env.A"),
        (json!(["A=1"]), "env"),
    ] {
        let refused = alice.patch(&path, json!({"env": env})).await.expect(400);
        assert!(refused[field].is_array(), "{field}: {refused}");
    }
}

#[tokio::test]
async fn a_service_that_does_not_exist_yet_is_planned_and_made() {
    let world = World::new().await;
    let alice = world.alice().await;
    let body = json!({"name": "web", "image": "app:1", "port": 80});
    let plan = alice.post("/api/services/plan/", body.clone()).await.expect(200);
    assert_eq!(
        (&plan["service"], &plan["name"], &plan["version"]),
        (&Value::Null, &json!("web"), &json!(1))
    );
    assert_eq!(plan["downtime"], json!({"class": "none", "why": "nothing serves yet"}));
    assert_eq!(plan["way_back"]["exists"], false);
    assert_eq!(alice.get("/api/services/").await.expect(200)["count"], 0);
    let mut bound = body.clone();
    bound["apply_hash"] = json!("0000");
    alice.post("/api/services/", bound.clone()).await.expect(409);
    bound["apply_hash"] = plan["hash"].clone();
    alice.post("/api/services/", bound).await.expect(201);
    let taken = alice.post("/api/services/plan/", body).await.expect(400);
    assert_eq!(taken, json!({"name": ["service with this name already exists."]}));
}

#[tokio::test]
async fn a_change_without_a_deployment_says_what_the_next_one_takes_up() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    world.succeed(&service).await;
    let path = format!("/api/services/{service}/plan/");
    let plan = alice.post(&path, json!({"strategy": "recreate"})).await.expect(200);
    assert_eq!((&plan["deploys"], &plan["replaces"]), (&json!(false), &json!(false)));
    assert_eq!(plan["changes"][0]["what"], "strategy");
    let plan = alice
        .post(&path, json!({"strategy": "recreate", "deploy": true}))
        .await
        .expect(200);
    assert_eq!(
        (&plan["deploys"], &plan["downtime"]["class"]),
        (&json!(true), &json!("hold"))
    );
    let deployed = json!({"strategy": "recreate", "deploy": true, "apply_hash": plan["hash"]});
    let done = alice
        .patch(&format!("/api/services/{service}/"), deployed)
        .await
        .expect(200);
    assert_ne!(done["active_deployment"], Value::Null);
}

#[tokio::test]
async fn going_back_is_planned_like_any_change() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    let first = world.succeed(&service).await;
    let path = format!("/api/services/{service}/");
    alice.patch(&path, json!({"image": "app:2"})).await.expect(200);
    world.succeed(&service).await;
    let target = format!("/api/deployments/{first}/");
    let plan = alice.post(&format!("{target}plan/"), json!({})).await.expect(200);
    assert_eq!((&plan["version"], &plan["running_version"]), (&json!(3), &json!(2)));
    assert_eq!(plan["changes"][0]["before"], "app:2");
    alice
        .post(&format!("{target}rollback/"), json!({"apply_hash": "0000"}))
        .await
        .expect(409);
    alice
        .post(&format!("{target}rollback/"), json!({"apply_hash": plan["hash"]}))
        .await
        .expect(201);
}

#[tokio::test]
async fn two_deployments_are_compared_with_how_they_behaved() {
    let world = World::new().await;
    let alice = world.alice().await;
    let secret = alice.make("/api/secrets/", json!({"name": "s"})).await;
    alice
        .make(
            &format!("/api/secrets/{secret}/items/"),
            json!({"key": "TOKEN", "value": "hunter2hunter2"}),
        )
        .await;
    let service = alice.make_service("web").await;
    let first = world.succeed(&service).await;
    let domain = alice
        .make("/api/domains/", json!({"hostname": "shop.example.com"}))
        .await;
    let route = json!({"path": "/api", "domain": domain, "service": service});
    alice.make("/api/routes/", route).await;
    let path = format!("/api/services/{service}/");
    let change = json!({"image": "app:2", "port": 9000, "secret": secret});
    alice.patch(&path, change).await.expect(200);
    let second = world.succeed(&service).await;
    hold_images(&world, vec![image("app:2", 2)]);
    let mut seen = Behaviour {
        requests: 10,
        failed: 1,
        ..Behaviour::default()
    };
    seen.latency[0] = 10;
    let seen = [(second, seen)];
    world
        .store
        .system()
        .add_behaviours(Uuid::now_v7(), &seen)
        .await
        .expect("kept");

    let answer = alice.get(&format!("/api/deployments/{first}/diff/{second}/")).await;
    assert!(
        !answer.text.contains("hunter"),
        "a diff tells no secret: {}",
        answer.text
    );
    let diff = answer.expect(200);
    assert_eq!(
        (&diff["before"]["version"], &diff["after"]["version"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(
        (&diff["before"]["size_bytes"], &diff["after"]["size_bytes"]),
        (&Value::Null, &json!(2_000))
    );
    assert_eq!(diff["before"]["behaviour"], Value::Null);
    let behaviour = json!({"requests": 10, "failed": 1, "error_rate": 0.1, "p50_ms": 0.064, "p95_ms": 0.064});
    assert_eq!(diff["after"]["behaviour"], behaviour);
    let told: Vec<&Value> = diff["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .map(|it| &it["what"])
        .collect();
    assert_eq!(json!(told), json!(["image", "digest", "port", "secret", "route"]));
    assert_eq!(
        diff["changes"][4],
        json!({"what": "route", "before": null, "after": "shop.example.com/api", "replaces": false})
    );
    assert_eq!(
        (&diff["before"]["routes"], &diff["after"]["routes"]),
        (&json!([]), &json!(["shop.example.com/api"]))
    );
    assert_eq!(diff["before"]["memory_peak_bytes"], ENDED_MEMORY);
    assert_eq!(diff["after"]["memory_peak_bytes"], LIVE_MEMORY);

    // One that never came to serve has no routes to compare.
    alice.patch(&path, json!({"image": "app:3"})).await.expect(200);
    let failed = world.fail(&service, "it crashed").await;
    let diff = alice
        .get(&format!("/api/deployments/{second}/diff/{failed}/"))
        .await
        .expect(200);
    assert_eq!(diff["after"]["routes"], Value::Null);
    assert_eq!(diff["changes"].as_array().expect("changes").len(), 2);

    let other = alice.make_service("other").await;
    let other: DeploymentId = world.succeed(&other).await;
    alice
        .get(&format!("/api/deployments/{first}/diff/{other}/"))
        .await
        .refuses(400, json!({"error": "These deployments are of two services"}));
}
