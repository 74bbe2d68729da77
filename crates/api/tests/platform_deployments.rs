//! `/api/deployments/…`

use serde_json::{Value, json};

use crate::world::{Actor, World};

/// Three versions as in the documents' example: 1 success, 2 failed, 3 success.
async fn three_versions(world: &World, alice: &Actor) -> (String, [String; 3]) {
    let id = alice.make_service("web").await;
    let first = world.succeed(&id).await;
    alice
        .patch(&format!("/api/services/{id}/"), json!({"image": "myapp:v1.1.0"}))
        .await
        .expect(200);
    let second = world.fail(&id, "exit code 3").await;
    alice
        .patch(
            &format!("/api/services/{id}/"),
            json!({"image": "myapp:v1.2.0", "replicas_target": 2}),
        )
        .await
        .expect(200);
    let third = world.succeed(&id).await;
    (id, [first, second, third].map(|d| d.to_string()))
}

fn rows(list: &Value) -> &[Value] {
    list["results"].as_array().expect("results")
}

/// S0.3, S0.8 to S0.21, S0.30, S0.31: fourteen fields, in order, with their types.
#[tokio::test]
async fn a_deployment_has_exactly_the_fourteen_fields_in_order() {
    let world = World::new().await;
    let alice = world.alice().await;
    let config = alice.make("/api/configs/", json!({"name": "c"})).await;
    let secret = alice.make("/api/secrets/", json!({"name": "s"})).await;
    let items = [("API_URL", "https://api.example.com"), ("LOG_LEVEL", "info")];
    for (key, value) in items {
        alice
            .make(
                &format!("/api/configs/{config}/items/"),
                json!({"key": key, "value": value}),
            )
            .await;
    }
    for key in ["DATABASE_PASSWORD", "API_KEY"] {
        alice
            .make(
                &format!("/api/secrets/{secret}/items/"),
                json!({"key": key, "value": "hunter2hunter2"}),
            )
            .await;
    }
    let body = json!({
        "name": "web", "image": "myapp:v1.2.0", "port": 8080, "replicas_target": 3, "config": config, "secret": secret,
    });
    let service = alice.make("/api/services/", body).await;
    let id = alice.newest_deployment(&service).await;
    let answer = alice.get(&format!("/api/deployments/{id}/")).await;
    let fourteen = [
        "id",
        "service",
        "version_number",
        "image",
        "port",
        "replicas",
        "config_snapshot",
        "secret_keys_snapshot",
        "status",
        "deployed_at",
        "deployed_by",
        "rollback_from",
        "notes",
        "error_message",
    ];
    assert_eq!(answer.field_order(), fourteen);
    assert!(!answer.text.contains("hunter2"));

    let me = alice.get("/api/account/").await.expect(200)["id"].clone();
    let mut seen = answer.expect(200);
    let mut keys: Vec<Value> = seen["secret_keys_snapshot"].as_array().expect("keys").clone();
    keys.sort_by_key(Value::to_string);
    seen["secret_keys_snapshot"] = keys.into();
    assert_eq!(
        seen,
        json!({
            "id": id, "service": service, "version_number": 1, "image": "myapp:v1.2.0", "port": 8080, "replicas": 3,
            "config_snapshot": {"API_URL": "https://api.example.com", "LOG_LEVEL": "info"},
            "secret_keys_snapshot": ["API_KEY", "DATABASE_PASSWORD"], "status": "pending",
            "deployed_at": "2024-10-15T12:00:07Z", "deployed_by": me, "rollback_from": null, "notes": "",
            "error_message": "",
        })
    );
}

/// S0.4, S0.26 to S0.29, S0.45: newest first, failed ones stay, the same envelope and fields.
#[tokio::test]
async fn the_history_of_a_service_is_newest_first() {
    let world = World::new().await;
    let alice = world.alice().await;
    let (service, [_, failed, _]) = three_versions(&world, &alice).await;
    let list = alice
        .get(&format!("/api/services/{service}/deployments/"))
        .await
        .expect(200);
    assert_eq!(
        (&list["count"], &list["next"], &list["previous"]),
        (&json!(3), &Value::Null, &Value::Null)
    );
    let seen: Vec<_> = rows(&list)
        .iter()
        .map(|d| (d["version_number"].clone(), d["status"].clone()))
        .collect();
    let expected = [(3, "success"), (2, "failed"), (1, "success")].map(|(n, s)| (json!(n), json!(s)));
    assert_eq!(seen, expected);
    let one = alice.get(&format!("/api/deployments/{failed}/")).await.expect(200);
    assert_eq!(rows(&list)[1], one);
    assert_eq!(one["error_message"], "exit code 3");
}

/// S0.2, S2.12, S0.6: all of mine, nobody else's; read-only but for the rollback.
#[tokio::test]
async fn the_list_of_all_deployments_is_the_callers() {
    let world = World::new().await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    let (service, [first, ..]) = three_versions(&world, &alice).await;
    let other = alice.make_service("other").await;
    bob.make_service("bobs").await;
    let list = alice.get("/api/deployments/").await.expect(200);
    assert_eq!(list["count"], 4);
    assert_eq!(rows(&list)[0]["service"], json!(other));
    assert_eq!(
        alice
            .get(&format!("/api/deployments/?service={service}"))
            .await
            .expect(200)["count"],
        3
    );
    let versions = alice.get("/api/deployments/?ordering=version_number").await.expect(200);
    assert_eq!(rows(&versions)[0]["version_number"], 1);
    for verb in ["POST", "PATCH", "PUT", "DELETE"] {
        let verb = verb.parse().expect("a verb");
        alice
            .json(verb, &format!("/api/deployments/{first}/"), json!({}))
            .await
            .expect(405);
    }
}

/// S0.5, S0.32 to S0.34, S0.37, S0.38, S0.52: 201 with the new deployment, linked to its target, with the next number.
#[tokio::test]
async fn a_rollback_is_a_new_deployment_of_the_old_version() {
    let world = World::new().await;
    let alice = world.alice().await;
    let (service, [first, ..]) = three_versions(&world, &alice).await;
    let body = json!({"notes": "Rolling back due to bug in v1.2.0"});
    let answer = alice.post(&format!("/api/deployments/{first}/rollback/"), body).await;
    assert_eq!(answer.field_order().len(), 14);
    let back = answer.expect(201);
    assert_ne!(back["id"], json!(first));
    assert_eq!(back["version_number"], 4);
    assert_eq!(back["image"], "nginx:1.25");
    assert_eq!(back["replicas"], 1);
    assert_eq!(back["status"], "pending");
    assert_eq!(back["rollback_from"], json!(first));
    assert_eq!(back["notes"], "Rolling back due to bug in v1.2.0");
    let now = alice.get(&format!("/api/services/{service}/")).await.expect(200);
    assert_eq!(
        (&now["image"], &now["replicas_target"], &now["status"]),
        (&json!("nginx:1.25"), &json!(1), &json!("updating"))
    );
}

/// S0.22 to S0.25, S0.36, OPEN-2: the target stays as it was; what was current becomes `rolled_back` once the rollback serves.
#[tokio::test]
async fn the_four_statuses_and_who_gets_them() {
    let world = World::new().await;
    let alice = world.alice().await;
    let (service, [first, second, third]) = three_versions(&world, &alice).await;
    let status = async |id: &str| alice.get(&format!("/api/deployments/{id}/")).await.expect(200)["status"].clone();
    let target_before = alice.get(&format!("/api/deployments/{first}/")).await.expect(200);
    alice
        .post_nothing(&format!("/api/deployments/{first}/rollback/"))
        .await
        .expect(201);
    assert_eq!(status(&third).await, "success");
    let fourth = alice.newest_deployment(&service).await;
    assert_eq!(status(&fourth).await, "pending");
    world.succeed(&service).await;
    assert_eq!(status(&third).await, "rolled_back");
    assert_eq!(status(&second).await, "failed");
    assert_eq!(status(&fourth).await, "success");
    assert_eq!(
        alice.get(&format!("/api/deployments/{first}/")).await.expect(200),
        target_before
    );
}

/// S0.35, S0.39, I.1: only successful ones can be gone back to; the text and the key `error` are the documents'.
#[tokio::test]
async fn only_a_successful_deployment_can_be_rolled_back_to() {
    let world = World::new().await;
    let alice = world.alice().await;
    let (service, [first, failed, third]) = three_versions(&world, &alice).await;
    let refused = |status: &str| json!({"error": format!("Cannot rollback to deployment with status '{status}'")});
    let rollback = async |id: &str| alice.post_nothing(&format!("/api/deployments/{id}/rollback/")).await;
    rollback(&failed).await.refuses(400, refused("failed"));
    let back = rollback(&first).await.expect(201);
    let pending = back["id"].as_str().expect("an id").to_owned();
    rollback(&pending).await.refuses(400, refused("pending"));
    world.succeed(&service).await;
    rollback(&third).await.refuses(400, refused("rolled_back"));
    assert_eq!(alice.deployments(&service).await.len(), 4);
}

/// S0.46: the documents' own recipe after a failure.
#[tokio::test]
async fn the_first_success_in_the_list_is_the_last_good_one() {
    let world = World::new().await;
    let alice = world.alice().await;
    let (service, [.., third]) = three_versions(&world, &alice).await;
    alice
        .patch(&format!("/api/services/{service}/"), json!({"image": "broken:1"}))
        .await
        .expect(200);
    world.fail(&service, "nobody listens on port 80").await;
    let list = alice
        .get(&format!("/api/services/{service}/deployments/"))
        .await
        .expect(200);
    let last_good = rows(&list)
        .iter()
        .find(|d| d["status"] == "success")
        .expect("a good one")["id"]
        .clone();
    assert_eq!(last_good, json!(third));
    let body = json!({"notes": "Automatic rollback after failed deployment"});
    let path = format!("/api/deployments/{third}/rollback/");
    let back = alice.post(&path, body).await.expect(201);
    assert_eq!(
        (&back["version_number"], &back["image"]),
        (&json!(5), &json!("myapp:v1.2.0"))
    );
}

/// OPEN-3: config values of then, secrets of now, unless the body says otherwise.
#[tokio::test]
async fn a_rollback_takes_the_config_of_then() {
    let world = World::new().await;
    let alice = world.alice().await;
    let config = alice.make("/api/configs/", json!({"name": "c"})).await;
    let items = format!("/api/configs/{config}/items/");
    let item = alice.make(&items, json!({"key": "LEVEL", "value": "then"})).await;
    let body = json!({"name": "web", "image": "a:1", "port": 80, "config": config});
    let service = alice.make("/api/services/", body).await;
    let first = world.succeed(&service).await;
    alice
        .patch(&format!("{items}{item}/"), json!({"value": "now"}))
        .await
        .expect(200);
    alice
        .patch(&format!("/api/services/{service}/"), json!({"image": "a:2"}))
        .await
        .expect(200);
    world.succeed(&service).await;

    let path = format!("/api/deployments/{first}/rollback/");
    let then = alice.post(&path, json!({})).await.expect(201);
    assert_eq!(then["config_snapshot"], json!({"LEVEL": "then"}));
    let now = alice.post(&path, json!({"config": "current"})).await.expect(201);
    assert_eq!(now["config_snapshot"], json!({"LEVEL": "now"}));
    let problems = alice
        .post(&path, json!({"config": "old", "notes": 5.5, "secrets": []}))
        .await
        .expect(400);
    assert!(
        problems["config"].is_array() && problems["secrets"].is_array(),
        "{problems}"
    );
}

/// S0.20: notes are a string of at most 1000 characters.
#[tokio::test]
async fn notes_are_checked() {
    let world = World::new().await;
    let alice = world.alice().await;
    let (_, [first, ..]) = three_versions(&world, &alice).await;
    let path = format!("/api/deployments/{first}/rollback/");
    let problem = json!({"notes": ["Not a valid string."]});
    for wrong in [json!(["x"]), json!(5), json!(true)] {
        alice
            .post(&path, json!({"notes": wrong}))
            .await
            .refuses(400, problem.clone());
    }
    let problem = json!({"notes": ["Ensure this field has no more than 1000 characters."]});
    alice
        .post(&path, json!({"notes": "x".repeat(1001)}))
        .await
        .refuses(400, problem);
    alice.post(&path, json!({"notes": "ü".repeat(1000)})).await.expect(201);
}

/// S0.43, S0.44: ten are kept, and the current one always.
#[tokio::test]
async fn the_last_ten_are_kept_and_the_current_one_always() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    let current = world.succeed(&service).await.to_string();
    for n in 2..=14 {
        alice
            .patch(&format!("/api/services/{service}/"), json!({"image": format!("a:{n}")}))
            .await
            .expect(200);
        world.fail(&service, "no").await;
    }
    let list = alice
        .get(&format!("/api/services/{service}/deployments/"))
        .await
        .expect(200);
    let versions: Vec<i64> = rows(&list)
        .iter()
        .map(|d| d["version_number"].as_i64().expect("a number"))
        .collect();
    assert_eq!(versions, [14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 1]);
    assert_eq!(rows(&list)[10]["id"], json!(current));
    assert_eq!(list["count"], 11);
    // Statistics forget nothing.
    let outcomes = alice
        .get(&format!("/api/services/{service}/outcomes/"))
        .await
        .expect(200);
    assert_eq!(
        outcomes,
        json!({"succeeded": 1, "failed": 13, "canceled": 0, "superseded": 0, "rolled_back": 0})
    );
}

#[tokio::test]
async fn detail_receipt_and_events_tell_more() {
    let world = World::new().await;
    let alice = world.alice().await;
    let (service, [first, ..]) = three_versions(&world, &alice).await;
    let full = alice
        .get(&format!("/api/deployments/{first}/?detail=full"))
        .await
        .expect(200);
    assert_eq!(full["stage"], "succeeded");
    assert_eq!(full["digest"], crate::world::digest(1));
    assert_eq!(full["receipt"]["total"], 0);
    let list = alice
        .get(&format!("/api/services/{service}/deployments/?detail=full&version=2"))
        .await
        .expect(200);
    assert_eq!(
        (&list["count"], &rows(&list)[0]["stage"]),
        (&json!(1), &json!("failed"))
    );
    let receipt = alice
        .get(&format!("/api/deployments/{first}/receipt/"))
        .await
        .expect(200);
    assert_eq!(receipt["deployment"], json!(first));
    assert_eq!(receipt["failed_by_hob"], 0);

    let path = format!("/api/deployments/{first}/events/");
    let events = alice.get(&path).await.expect(200);
    let stages: Vec<&Value> = rows(&events)
        .iter()
        .map(|e| &e["to"])
        .filter(|to| !to.is_null())
        .collect();
    assert_eq!(stages.last(), Some(&&json!("succeeded")), "{events}");
    let last = rows(&events).last().expect("events")["seq"].clone();
    assert_eq!(events["next_after"], last);
    let rest = alice.get(&format!("{path}?after={last}")).await.expect(200);
    assert_eq!((rows(&rest).len(), &rest["next_after"]), (0, &Value::Null));
    assert_eq!(rows(&alice.get(&format!("{path}?limit=1")).await.expect(200)).len(), 1);
}
