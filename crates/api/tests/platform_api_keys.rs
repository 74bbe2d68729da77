//! `/api/api-keys/…`

use http::HeaderName;
use serde_json::json;

use crate::world::World;

/// G.1, G.2, G.5, S2.5: shown once, begins with `gob_`; the list has name, creation and last use, never the key.
#[tokio::test]
async fn a_key_is_shown_once() {
    let world = World::new().await;
    let alice = world.alice().await;
    let made = alice.post("/api/api-keys/", json!({"name": "ci"})).await.expect(201);
    let key = made["key"].as_str().expect("the key").to_owned();
    assert!(key.starts_with("gob_") && key.len() >= 36, "{}", key.len());
    assert!(key.starts_with(made["prefix"].as_str().expect("a prefix")));

    let user = world.anonymous().with_key(&key);
    user.get("/api/services/").await.expect(200);
    let answer = alice.get("/api/api-keys/").await;
    assert!(!answer.text.contains(&key));
    let list = answer.expect(200);
    let rows = list["results"].as_array().expect("results");
    let row = rows.iter().find(|row| row["name"] == "ci").expect("the new key");
    assert!(row.get("key").is_none());
    assert!(row["created_at"].is_string());
    assert_eq!(row["last_used_at"], "2024-10-15T12:00:01Z");
}

/// G.4: revoked at once; ten active ones at most.
#[tokio::test]
async fn keys_are_revoked_at_once_and_ten_is_the_limit() {
    let world = World::new().await;
    let alice = world.alice().await;
    let made = alice.post("/api/api-keys/", json!({"name": "1"})).await.expect(201);
    let user = world.anonymous().with_key(made["key"].as_str().expect("the key"));
    let path = format!("/api/api-keys/{}/", made["id"].as_str().expect("an id"));
    user.get("/api/account/").await.expect(200);
    alice.delete(&path).await.expect(204);
    user.get("/api/account/")
        .await
        .refuses(401, json!({"detail": "Invalid API key."}));

    // One is the key that alice speaks with.
    for n in 2..=10 {
        alice.make("/api/api-keys/", json!({"name": n.to_string()})).await;
    }
    let refused = json!({"error": "Maximum of 10 active API keys reached"});
    alice
        .post("/api/api-keys/", json!({"name": "11"}))
        .await
        .refuses(400, refused);
}

/// G.4: an optional end.
#[tokio::test]
async fn an_expired_key_opens_nothing() {
    let world = World::new().await;
    let alice = world.alice().await;
    let body = json!({"name": "short", "expires_at": "2024-10-15T12:10:00Z"});
    let made = alice.post("/api/api-keys/", body).await.expect(201);
    assert_eq!(made["expires_at"], "2024-10-15T12:10:00Z");
    let user = world.anonymous().with_key(made["key"].as_str().expect("the key"));
    user.get("/api/account/").await.expect(200);
    world.advance(600);
    user.get("/api/account/")
        .await
        .refuses(401, json!({"detail": "Invalid API key."}));
    for bad in ["yesterday", "2020-01-01T00:00:00Z", ""] {
        let answer = alice
            .post("/api/api-keys/", json!({"name": "x", "expires_at": bad}))
            .await
            .expect(400);
        assert!(answer["expires_at"].is_array(), "{answer}");
    }
}

/// G.6 knows no REST form; ours shows nobody else's keys.
#[tokio::test]
async fn keys_of_others_are_out_of_reach() {
    let world = World::new().await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    let made = alice.post("/api/api-keys/", json!({"name": "ci"})).await.expect(201);
    let path = format!("/api/api-keys/{}/", made["id"].as_str().expect("an id"));
    bob.delete(&path).await.expect(404);
    bob.get(&path).await.expect(404);
    let user = world.anonymous().with_header(
        HeaderName::from_static("x-api-key"),
        made["key"].as_str().expect("the key"),
    );
    user.get(&path).await.expect(200);
}

/// G.4, C6.23: the limit holds against a race too.
#[tokio::test]
async fn a_race_for_keys_ends_at_ten() {
    let world = World::new().await;
    let alice = world.alice().await;
    let racers = (0..16).map(|n| alice.post("/api/api-keys/", json!({"name": n.to_string()})));
    let answers = futures_util::future::join_all(racers).await;
    let won = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(won, 9, "alice speaks with the tenth");
}
