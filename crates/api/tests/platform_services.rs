//! `/api/services/…`

use serde_json::{Value, json};

use crate::world::World;

/// S2.15, S2.40, S2.24, S2.26, I.11: name, image and port are enough; everything else has a default. S0.40: it makes v1.
#[tokio::test]
async fn a_service_is_made_from_name_image_and_port() {
    let world = World::new().await;
    let alice = world.alice().await;
    let body = json!({"name": "my-service", "image": "nginx:1.25", "port": 80});
    let made = alice.post("/api/services/", body).await.expect(201);
    assert_eq!(made["name"], "my-service");
    assert_eq!(made["image"], "nginx:1.25");
    assert_eq!(made["port"], 80);
    assert_eq!(made["replicas_target"], 1);
    assert_eq!(made["replicas_running"], 0);
    assert_eq!(made["config"], Value::Null);
    assert_eq!(made["secret"], Value::Null);
    assert_eq!(made["deploy_successful"], false);
    assert_eq!(made["created_at"], "2024-10-15T12:00:01Z");

    let id = made["id"].as_str().expect("an id");
    let history = alice.get(&format!("/api/services/{id}/deployments/")).await.expect(200);
    assert_eq!(history["count"], 1);
    assert_eq!(history["results"][0]["version_number"], 1);
    assert_eq!(history["results"][0]["status"], "pending");
}

/// G.8, G.12, S2.16: the fields in their order; Hob's own only follow.
#[tokio::test]
async fn a_service_shows_the_documents_fields_first_and_in_order() {
    let world = World::new().await;
    let alice = world.alice().await;
    let id = alice.make_service("web").await;
    let order = alice.get(&format!("/api/services/{id}/")).await.field_order();
    let documented = [
        "id",
        "name",
        "image",
        "port",
        "replicas_target",
        "replicas_running",
        "status",
        "config",
        "secret",
        "deploy_successful",
        "created_at",
        "updated_at",
    ];
    assert_eq!(order[..documented.len()], documented);
}

/// G.10, S0.47: pending, ready, updating, error; `ready` and `error` are how it ends.
#[tokio::test]
async fn the_status_follows_the_deployments() {
    let world = World::new().await;
    let alice = world.alice().await;
    let id = alice.make_service("web").await;
    let path = format!("/api/services/{id}/");
    let seen = async || {
        let service = alice.get(&path).await.expect(200);
        (
            service["status"].clone(),
            service["deploy_successful"].clone(),
            service["replicas_running"].clone(),
        )
    };
    assert_eq!(seen().await, (json!("pending"), json!(false), json!(0)));
    world.succeed(&id).await;
    assert_eq!(seen().await, (json!("ready"), json!(true), json!(1)));
    alice.patch(&path, json!({"image": "nginx:1.26"})).await.expect(200);
    assert_eq!(seen().await.0, json!("updating"));
    world.fail(&id, "exit code 3").await;
    assert_eq!(seen().await, (json!("error"), json!(false), json!(1)));
}

/// S0.41, S0.42, S0.51, S2.41, S2.25, S0.1: changing what runs makes exactly one deployment, whatever the number of fields.
#[tokio::test]
async fn a_patch_that_changes_what_runs_makes_one_deployment() {
    let world = World::new().await;
    let alice = world.alice().await;
    let id = alice.make_service("web").await;
    let path = format!("/api/services/{id}/");
    let config = alice.make("/api/configs/", json!({"name": "c"})).await;
    let secret = alice.make("/api/secrets/", json!({"name": "s"})).await;
    let patches = [
        json!({"image": "myapp:v1.3.0"}),
        json!({"port": 8080}),
        json!({"replicas_target": 3}),
        json!({"config": config}),
        json!({"secret": secret}),
        json!({"image": "myapp:v1.4.0", "port": 81, "replicas_target": 2}),
    ];
    for (n, patch) in patches.into_iter().enumerate() {
        alice.patch(&path, patch.clone()).await.expect(200);
        assert_eq!(alice.deployments(&id).await.len(), n + 2, "{patch}");
    }
}

/// OPEN-1.
#[tokio::test]
async fn a_patch_that_changes_nothing_that_runs_makes_no_deployment() {
    let world = World::new().await;
    let alice = world.alice().await;
    let id = alice.make_service("web").await;
    let path = format!("/api/services/{id}/");
    for patch in [
        json!({}),
        json!({"name": "web2"}),
        json!({"image": "nginx:1.25", "port": 80}),
        json!({"config": null}),
    ] {
        alice.patch(&path, patch.clone()).await.expect(200);
        assert_eq!(alice.deployments(&id).await.len(), 1, "{patch}");
    }
}

/// G.7, S2.42, S2.25, S2.29, I.13: gone with its deployments and routes, at once.
#[tokio::test]
async fn a_deleted_service_is_gone() {
    let world = World::new().await;
    let alice = world.alice().await;
    let id = alice.make_service("web").await;
    let deployment = alice.newest_deployment(&id).await;
    let path = format!("/api/services/{id}/");
    let answer = alice.delete(&path).await;
    assert_eq!(answer.text, "");
    answer.expect(204);
    alice.get(&path).await.refuses(404, json!({"detail": "Not found."}));
    alice.delete(&path).await.expect(404);
    alice.get(&format!("/api/deployments/{deployment}/")).await.expect(404);
    assert_eq!(alice.get("/api/services/").await.expect(200)["count"], 0);
}

/// S2.18, G.9, G.35, G.36, I.12: one answer names every bad field, in the documents' words where they have some.
#[tokio::test]
async fn every_bad_field_is_named_at_once() {
    let world = World::new().await;
    let alice = world.alice().await;
    alice.post("/api/services/", json!({"port": 0})).await.refuses(
        400,
        json!({
            "name": ["This field is required"],
            "image": ["This field is required"],
            "port": ["Ensure this value is between 1 and 65535"],
        }),
    );
    let nobody = "123e4567-e89b-12d3-a456-426614174000";
    let body = json!({
        "name": "x".repeat(33), "image": "", "port": "many", "replicas_target": 13, "config": nobody, "secret": 5,
    });
    alice.post("/api/services/", body).await.refuses(
        400,
        json!({
            "name": ["Ensure this field has no more than 32 characters."],
            "image": ["This field may not be blank."],
            "port": ["A valid integer is required."],
            "replicas_target": ["Ensure this value is between 1 and 12"],
            "config": [format!("Invalid pk \"{nobody}\" - object does not exist.")],
            "secret": ["Must be a valid UUID."],
        }),
    );
    assert_eq!(alice.get("/api/services/").await.expect(200)["count"], 0);
}

/// G.9: the ends of both ranges, from both sides.
#[tokio::test]
async fn ports_and_instances_have_ranges() {
    let world = World::new().await;
    let alice = world.alice().await;
    let try_it = async |name: &str, port: Value, replicas: Value| {
        let body = json!({"name": name, "image": "a", "port": port, "replicas_target": replicas});
        alice.post("/api/services/", body).await.status.as_u16()
    };
    assert_eq!(try_it("a", json!(1), json!(1)).await, 201);
    assert_eq!(try_it("b", json!(65535), json!(12)).await, 201);
    for (port, replicas) in [(0, 1), (65536, 1), (80, 0), (80, 13), (-1, 1), (80, -1)] {
        assert_eq!(
            try_it("c", json!(port), json!(replicas)).await,
            400,
            "{port} {replicas}"
        );
    }
    for odd in [
        json!(true),
        json!([80]),
        json!({}),
        json!(80.5),
        json!("1e3"),
        json!(1e18),
    ] {
        assert_eq!(try_it("c", odd.clone(), json!(1)).await, 400, "{odd}");
    }
}

/// G.9: names are unique per account, among services.
#[tokio::test]
async fn a_name_belongs_to_one_service_of_an_account() {
    let world = World::new().await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    alice.make_service("web").await;
    let again = json!({"name": "web", "image": "nginx:1.25", "port": 80});
    let taken = json!({"name": ["service with this name already exists."]});
    alice
        .post("/api/services/", again.clone())
        .await
        .refuses(400, taken.clone());
    bob.post("/api/services/", again).await.expect(201);
    // Beside other problems too.
    let both = alice
        .post("/api/services/", json!({"name": "web", "image": "a", "port": 0}))
        .await
        .expect(400);
    assert_eq!((&both["name"], both["port"].is_array()), (&taken["name"], true));
    let other = alice.make_service("api").await;
    alice
        .patch(&format!("/api/services/{other}/"), json!({"name": "web"}))
        .await
        .refuses(400, taken);
}

/// I.10, C6.3: read-only and unknown fields are ignored, never stored.
#[tokio::test]
async fn nobody_writes_what_is_read_only() {
    let world = World::new().await;
    let alice = world.alice().await;
    let wish = json!({
        "name": "web", "image": "a", "port": 80, "id": "123e4567-e89b-12d3-a456-426614174000", "status": "ready",
        "replicas_running": 9, "deploy_successful": true, "created_at": "1999-01-01T00:00:00Z", "colour": "red",
        "account": "mine", "version_counter": 40, "revision": 1,
    });
    let made = alice.post("/api/services/", wish).await.expect(201);
    assert_ne!(made["id"], "123e4567-e89b-12d3-a456-426614174000");
    assert_eq!(
        (&made["status"], &made["replicas_running"]),
        (&json!("pending"), &json!(0))
    );
    assert_eq!(made["created_at"], "2024-10-15T12:00:01Z");
    let id = made["id"].as_str().expect("an id");
    let patched = alice
        .patch(&format!("/api/services/{id}/"), json!({"status": "ready", "id": "x"}))
        .await
        .expect(200);
    assert_eq!(patched["status"], "pending");
    assert_eq!(alice.deployments(id).await.len(), 1);
}

/// G.11, S2.13, S2.34, S2.35.
#[tokio::test]
async fn lists_are_ordered_and_filtered() {
    let world = World::new().await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    let other = alice.make("/api/projects/", json!({"name": "other"})).await;
    for name in ["b", "c"] {
        alice.make_service(name).await;
    }
    let body = json!({"name": "a", "image": "a", "port": 80, "project": other});
    alice.make("/api/services/", body).await;
    bob.make_service("d").await;

    let names = async |query: &str| {
        let list = alice.get(&format!("/api/services/{query}")).await.expect(200);
        let names = list["results"].as_array().expect("results").iter();
        names
            .map(|s| s["name"].as_str().expect("a name").to_owned())
            .collect::<String>()
    };
    assert_eq!(names("").await, "acb");
    assert_eq!(names("?ordering=name").await, "abc");
    assert_eq!(names("?ordering=-name").await, "cba");
    assert_eq!(names("?ordering=created_at").await, "bca");
    assert_eq!(names("?ordering=-created_at").await, "acb");
    assert_eq!(names("?ordering=colour;drop%20table%20services").await, "acb");
    assert_eq!(names(&format!("?project={other}")).await, "a");
    assert_eq!(names("?name=b").await, "b");
    assert_eq!(names("?name=d").await, "");
    let bad = json!({"project": ["Must be a valid UUID."]});
    alice.get("/api/services/?project=mine").await.refuses(400, bad);
}

/// S0.48 to S0.50: deploy beside, point the route at it, delete the old one.
#[tokio::test]
async fn blue_green_is_four_requests() {
    let world = World::new().await;
    let alice = world.alice().await;
    let blue = alice.make_service("my-app-v1").await;
    let domain = alice
        .make("/api/domains/", json!({"hostname": "app.example.com"}))
        .await;
    let body = json!({"path": "/", "domain": domain, "service": blue});
    let route = alice.make("/api/routes/", body).await;
    let config = alice.make("/api/configs/", json!({"name": "c"})).await;
    let secret = alice.make("/api/secrets/", json!({"name": "s"})).await;
    let body = json!({"name": "my-app-v2", "image": "myapp:v2.0.0", "port": 8080, "config": config, "secret": secret});
    let green = alice.make("/api/services/", body).await;
    world.succeed(&green).await;
    let moved = alice
        .patch(&format!("/api/routes/{route}/"), json!({"service": green}))
        .await
        .expect(200);
    assert_eq!(moved["service"], json!(green));
    assert_eq!(moved["status"], "ready");
    alice.delete(&format!("/api/services/{blue}/")).await.expect(204);
    alice.get(&format!("/api/routes/{route}/")).await.expect(200);
}

#[tokio::test]
async fn hobs_own_fields_are_optional_and_read_back() {
    let world = World::new().await;
    let alice = world.alice().await;
    let body = json!({
        "name": "web", "image": "a", "port": 80, "command": ["/app", "--verbose"], "strategy": "recreate",
        "health_check": {"type": "http", "path": "/health?deep=1", "status": 204, "interval_ms": 2000},
        "options": {"max_in_flight": 2, "drain_ms": 5000}, "resources": {"memory_mb": 64, "read_only_root": true},
        "notes": "first",
    });
    let made = alice.post("/api/services/", body).await.expect(201);
    let id = made["id"].as_str().expect("an id");
    let seen = alice.get(&format!("/api/services/{id}/")).await.expect(200);
    assert_eq!(seen, made);
    assert_eq!(seen["command"], json!(["/app", "--verbose"]));
    assert_eq!(seen["strategy"], "recreate");
    assert_eq!(seen["health_check"]["path"], "/health?deep=1");
    assert_eq!(seen["health_check"]["status"], 204);
    assert_eq!(seen["health_check"]["timeout_ms"], 5000);
    assert_eq!(seen["options"]["drain_ms"], 5000);
    assert_eq!(seen["options"]["stop_grace_ms"], 10_000);
    assert_eq!(seen["resources"]["memory_mb"], 64);
    let deployment = alice.newest_deployment(id).await;
    assert_eq!(
        alice.get(&format!("/api/deployments/{deployment}/")).await.expect(200)["notes"],
        "first"
    );

    // Options and resources change key by key.
    let patch = json!({"options": {"max_in_flight": null}, "resources": {"pids": 100}});
    let patched = alice.patch(&format!("/api/services/{id}/"), patch).await.expect(200);
    assert_eq!(patched["options"]["max_in_flight"], Value::Null);
    assert_eq!(patched["options"]["drain_ms"], 5000);
    assert_eq!(patched["resources"]["memory_mb"], 64);
    assert_eq!(patched["resources"]["pids"], 100);
}

#[tokio::test]
async fn hobs_own_fields_are_checked_with_their_whole_names() {
    let world = World::new().await;
    let alice = world.alice().await;
    let body = json!({
        "name": "web", "image": "a", "port": 80, "command": "sh -c x", "strategy": "yolo",
        "health_check": {"type": "http", "path": "health", "intervall_ms": 5},
        "options": {"drain_ms": -1}, "resources": {"memory_mb": 1},
    });
    let problems = alice.post("/api/services/", body).await.expect(400);
    let mut fields: Vec<&str> = problems
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    fields.sort_unstable();
    let expected = [
        "command",
        "health_check.intervall_ms",
        "health_check.path",
        "options.drain_ms",
        "resources.memory_mb",
        "strategy",
    ];
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn an_empty_deploy_call_a_restart_and_a_cancel_are_deployments_of_the_same_service() {
    let world = World::new().await;
    let alice = world.alice().await;
    let id = alice.make_service("web").await;
    world.succeed(&id).await;
    let again = alice
        .post_nothing(&format!("/api/services/{id}/deployments/"))
        .await
        .expect(201);
    assert_eq!(
        (&again["version_number"], &again["status"]),
        (&json!(2), &json!("pending"))
    );
    let restart = alice
        .post(&format!("/api/services/{id}/restart/"), json!({"notes": "stuck"}))
        .await
        .expect(201);
    assert_eq!(
        (&restart["version_number"], &restart["notes"]),
        (&json!(3), &json!("stuck"))
    );
    alice
        .post_nothing(&format!("/api/services/{id}/cancel/"))
        .await
        .expect(200);
    let idle = alice.make_service("idle").await;
    world.succeed(&idle).await;
    let nothing = alice
        .post_nothing(&format!("/api/services/{idle}/cancel/"))
        .await
        .expect(400);
    assert!(nothing["error"].is_string(), "{nothing}");
}

/// C6.23: of many who want one name at once, one gets it and the others are told so.
#[tokio::test]
async fn a_race_for_a_name_has_one_winner() {
    let world = World::new().await;
    let alice = world.alice().await;
    let body = json!({"name": "web", "image": "a", "port": 80});
    let racers = (0..16).map(|_| alice.post("/api/services/", body.clone()));
    let answers = futures_util::future::join_all(racers).await;
    let won = answers.iter().filter(|answer| answer.status == 201).count();
    let told = answers.iter().filter(|answer| answer.status == 400).count();
    assert_eq!((won, told), (1, 15));
    assert_eq!(alice.get("/api/services/").await.expect(200)["count"], 1);
}

/// Invariants 6 and 7: however many change a service at once, numbers are given once and one deployment is on its way.
#[tokio::test]
async fn a_race_of_changes_leaves_one_deployment_on_its_way() {
    let world = World::new().await;
    let alice = world.alice().await;
    let id = alice.make_service("web").await;
    let path = format!("/api/services/{id}/");
    let racers = (0..8).map(|n| alice.patch(&path, json!({"image": format!("a:{n}")})));
    for answer in futures_util::future::join_all(racers).await {
        answer.expect(200);
    }
    let list = alice
        .get(&format!("{path}deployments/?ordering=version_number"))
        .await
        .expect(200);
    let rows = list["results"].as_array().expect("results");
    let versions: Vec<&Value> = rows.iter().map(|row| &row["version_number"]).collect();
    assert_eq!(json!(versions), json!([1, 2, 3, 4, 5, 6, 7, 8, 9]));
    let pending: Vec<&Value> = rows.iter().filter(|row| row["status"] == "pending").collect();
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0]["version_number"], 9);
}

/// Edits wait, in plain view, until a deployment is asked for; scaling asks for none.
#[tokio::test]
async fn edits_are_pending_until_an_empty_deploy_call() {
    let world = World::new().await;
    let alice = world.alice().await;
    let config = alice.make("/api/configs/", json!({"name": "c"})).await;
    let items = format!("/api/configs/{config}/items/");
    let item = alice.make(&items, json!({"key": "LEVEL", "value": "info"})).await;
    let body = json!({"name": "web", "image": "a:1", "port": 80, "config": config});
    let id = alice.make("/api/services/", body).await;
    let path = format!("/api/services/{id}/");
    world.succeed(&id).await;
    let pending = async |path: &str| alice.get(path).await.expect(200)["pending_changes"].clone();
    assert_eq!(pending(&path).await, json!([]));

    alice
        .patch(&format!("{items}{item}/"), json!({"value": "debug"}))
        .await
        .expect(200);
    let edited = json!([{"of": "config", "key": "LEVEL", "change": "changed"}]);
    assert_eq!(pending(&path).await, edited);
    let scaled = alice.patch(&path, json!({"replicas_target": 3})).await.expect(200);
    assert_eq!(scaled["pending_changes"], edited);
    let list = alice.get("/api/services/").await.expect(200);
    assert_eq!(list["results"][0]["pending_changes"], edited);
    let newest = alice.newest_deployment(&id).await;
    let newest = alice.get(&format!("/api/deployments/{newest}/")).await.expect(200);
    assert_eq!(
        (&newest["replicas"], &newest["config_snapshot"]),
        (&json!(3), &json!({"LEVEL": "info"}))
    );

    let made = alice.post_nothing(&format!("{path}deployments/")).await.expect(201);
    assert_eq!(made["config_snapshot"], json!({"LEVEL": "debug"}));
    assert_eq!(pending(&path).await, json!([]));
}
