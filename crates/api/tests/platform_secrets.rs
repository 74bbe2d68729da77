//! `/api/secrets/…` and their items.

use serde_json::{Value, json};

use crate::world::{World, leaks};

const VALUE: &str = "correct horse battery staple";

/// S2.11, G.30, G.31: the same shape as a config, and a default one too.
#[tokio::test]
async fn an_account_comes_with_a_default_secret() {
    let world = World::new().await;
    let alice = world.alice().await;
    let list = alice.get("/api/secrets/").await.expect(200);
    assert_eq!(
        (&list["count"], &list["results"][0]["is_default"]),
        (&json!(1), &json!(true))
    );
    let path = format!("/api/secrets/{}/", list["results"][0]["id"].as_str().expect("an id"));
    let order = alice.get(&path).await.field_order();
    assert_eq!(
        order[..6],
        ["id", "name", "is_default", "status", "deploy_successful", "created_at"]
    );
    alice
        .delete(&path)
        .await
        .refuses(400, json!({"error": "Cannot delete the default secret"}));
}

/// G.30, G.32, G.33: the value is shown, and whoever reads it is remembered.
#[tokio::test]
async fn reading_a_value_is_remembered() {
    let world = World::new().await;
    let alice = world.alice().await;
    let me = alice.get("/api/account/").await.expect(200)["id"].clone();
    let secret = alice.make("/api/secrets/", json!({"name": "s"})).await;
    let items = format!("/api/secrets/{secret}/items/");
    let answer = alice.post(&items, json!({"key": "API_KEY", "value": VALUE})).await;
    let order = answer.field_order();
    let documented = [
        "id",
        "secret",
        "key",
        "value",
        "last_accessed_at",
        "last_accessed_by",
        "created_at",
        "updated_at",
    ];
    assert_eq!(order, documented);
    let made = answer.expect(201);
    assert_eq!(
        (&made["value"], &made["last_accessed_at"]),
        (&json!(VALUE), &Value::Null)
    );

    let path = format!("{items}{}/", made["id"].as_str().expect("an id"));
    world.advance(60);
    let read = alice.get(&path).await.expect(200);
    assert_eq!((&read["value"], &read["last_accessed_by"]), (&json!(VALUE), &me));
    assert_eq!(read["last_accessed_at"], "2024-10-15T12:01:02Z");
    let log = accesses(&world, &made).await;
    assert_eq!(log, ["api item get"]);

    world.advance(60);
    let listed = alice.get(&items).await.expect(200);
    assert_eq!(listed["results"][0]["value"], VALUE);
    assert_eq!(accesses(&world, &made).await, ["api item get", "api item list"]);

    let keys = alice.get(&format!("{items}?keys=1")).await.expect(200);
    assert_eq!(keys["results"][0]["key"], "API_KEY");
    assert!(keys["results"][0].get("value").is_none());
    assert_eq!(accesses(&world, &made).await.len(), 2);
}

async fn accesses(world: &World, item: &Value) -> Vec<String> {
    let scope = world.store.scope(store::Principal {
        account: world.api.operator,
        admin: true,
        via: store::Via::LocalOperator,
    });
    let id = item["id"].as_str().expect("an id").parse().expect("a UUID");
    let log = scope.secret_accesses(id, 0, 100).await.expect("the access log");
    log.into_iter().map(|access| access.how).collect()
}

/// S0.15, S0.31, G.33: keys in the snapshot; the value nowhere but where it was asked for.
#[tokio::test]
async fn a_value_is_shown_nowhere_else() {
    let world = World::new().await;
    let alice = world.alice().await;
    let secret = alice.make("/api/secrets/", json!({"name": "s"})).await;
    let items = format!("/api/secrets/{secret}/items/");
    alice.make(&items, json!({"key": "PASSWORD", "value": VALUE})).await;
    let body = json!({"name": "web", "image": "a", "port": 80, "secret": secret});
    let service = alice.make("/api/services/", body).await;
    let deployment = world.succeed(&service).await;
    for path in [
        format!("/api/deployments/{deployment}/?detail=full"),
        format!("/api/deployments/{deployment}/events/"),
        format!("/api/services/{service}/"),
        format!("/api/services/{service}/rollout/"),
        format!("/api/services/{service}/instances/?all=1"),
        format!("/api/secrets/{secret}/"),
        format!("{items}?keys=1"),
        "/metrics".to_owned(),
    ] {
        let answer = alice.get(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.text.contains("horse"), "{path}");
    }
    // Nor in an answer to a request that was wrong.
    let wrong = alice.post(&items, json!({"key": "PASSWORD", "value": VALUE})).await;
    assert_eq!(wrong.status, 400);
    assert!(!wrong.text.contains("horse"), "{}", wrong.text);
    let broken = alice.post(&items, json!({"key": "X", "value": [VALUE]})).await;
    assert!(!broken.text.contains("horse"), "{}", broken.text);

    let secrets = world.store.system().instance_secrets(deployment).await.expect("values");
    assert_eq!(secrets.get("PASSWORD").map(String::as_str), Some(VALUE));
}

/// A patch that shows the old value has read it.
#[tokio::test]
async fn renaming_a_key_shows_the_value_and_counts_as_a_read() {
    let world = World::new().await;
    let alice = world.alice().await;
    let secret = alice.make("/api/secrets/", json!({"name": "s"})).await;
    let items = format!("/api/secrets/{secret}/items/");
    let made = alice
        .post(&items, json!({"key": "A", "value": VALUE}))
        .await
        .expect(201);
    let path = format!("{items}{}/", made["id"].as_str().expect("an id"));
    let changed = alice.patch(&path, json!({"value": "other"})).await.expect(200);
    assert_eq!(changed["value"], "other");
    assert!(accesses(&world, &made).await.is_empty());
    let renamed = alice.patch(&path, json!({"key": "B"})).await.expect(200);
    assert_eq!((&renamed["key"], &renamed["value"]), (&json!("B"), &json!("other")));
    assert_eq!(accesses(&world, &made).await, ["api item patch"]);
    alice.delete(&path).await.expect(204);
    alice.get(&path).await.expect(404);
}

/// Invariant 25: a planted secret and a key are sent in every right and wrong way; no log line, at any level, and no
/// answer that was not asked for it holds a piece of them.
#[tokio::test]
async fn planted_secrets_reach_no_log() {
    leaks::watch_all_logs();
    leaks::canary();
    let world = World::new().await;
    let alice = world.alice().await;
    let secret = alice.make("/api/secrets/", json!({"name": "s"})).await;
    let items = format!("/api/secrets/{secret}/items/");
    let item = alice
        .make(&items, json!({"key": "PASSWORD", "value": leaks::PLANTED}))
        .await;
    let path = format!("{items}{item}/");
    assert_eq!(alice.get(&path).await.expect(200)["value"], leaks::PLANTED);
    assert_eq!(
        alice.get(&items).await.expect(200)["results"][0]["value"],
        leaks::PLANTED
    );
    alice
        .patch(&path, json!({"value": format!("{}2", leaks::PLANTED)}))
        .await
        .expect(200);
    let service = alice
        .make(
            "/api/services/",
            json!({"name": "w", "image": "a", "port": 1, "secret": secret}),
        )
        .await;
    let deployment = world.succeed(&service).await;
    world.store.system().instance_secrets(deployment).await.expect("values");

    let planted = json!(leaks::PLANTED);
    for (path, body) in [
        (items.as_str(), json!({"key": "PASSWORD", "value": planted})),
        (items.as_str(), json!({"key": "OTHER", "value": [planted]})),
        (
            items.as_str(),
            json!({"key": "OTHER", "value": format!("{}\0", leaks::PLANTED)}),
        ),
        ("/api/api-keys/", json!({"name": "x", "expires_at": planted})),
        (
            "/local/users",
            json!({"name": "x", "password": planted, "admin": "perhaps"}),
        ),
    ] {
        let answer = world.operator().with_headers_of(&alice).post(path, body).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text);
        assert_eq!(leaks::find(&answer.text), None, "{path}");
    }
    let broken = format!("{{\"key\": \"X\", \"value\": {}", json!(leaks::PLANTED));
    let sender = alice
        .clone()
        .with_header(http::header::CONTENT_TYPE, "application/json");
    let answer = sender.send(http::Method::POST, &items, broken.into()).await;
    assert_eq!(leaks::find(&answer.text), None);
    let key = format!("gob_{}", leaks::PLANTED);
    let answer = world.anonymous().with_key(&key).get("/api/account/").await;
    assert_eq!((answer.status.as_u16(), leaks::find(&answer.text)), (401, None));

    let leaks = leaks::leaks();
    assert!(leaks.len() == 1 && leaks[0].contains("the canary"), "{leaks:#?}");
}

/// Hob's own: as files in memory, where a program does not hand its environment on to whatever it starts.
#[tokio::test]
async fn values_may_arrive_as_files() {
    let world = World::new().await;
    let alice = world.alice().await;
    for (path, body) in [
        ("/api/services/", json!({"name": "web", "image": "a:1", "port": 80})),
        ("/api/workers/", json!({"name": "jobs", "image": "a:1"})),
    ] {
        let id = alice.make(path, body).await;
        let path = format!("{path}{id}/");
        assert_eq!(alice.get(&path).await.expect(200)["delivery"], "env");
        for way in ["secret_files", "files", "files", "env"] {
            let patched = alice.patch(&path, json!({"delivery": way})).await.expect(200);
            assert_eq!(patched["delivery"], way);
        }
        let refused = alice.patch(&path, json!({"delivery": "smoke"})).await.expect(400);
        assert!(
            refused["delivery"][0]
                .as_str()
                .is_some_and(|text| text.contains("secret_files")),
            "{refused}"
        );
        let deployments = alice.get(&format!("{path}deployments/")).await.expect(200);
        assert_eq!(deployments["count"], 4, "the first, and one for each real change");
    }
}
