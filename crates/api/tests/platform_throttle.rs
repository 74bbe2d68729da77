//! Rate limits.

use api::RateLimits;
use serde_json::json;

use crate::world::World;

/// S2.22, S2.30, S2.36, S2.38, S2.39, G.34: the hundred-and-first write of an hour is refused, with a wait; reads go on.
#[tokio::test]
async fn a_hundred_writes_an_hour() {
    let world = World::with(Some(RateLimits::default())).await;
    let alice = world.alice().await;
    // Bad requests count too. The first is made at second 1, the hundredth at second 100.
    for n in 1..=100 {
        let answer = alice.post("/api/domains/", json!({"hostname": "?"})).await;
        assert_eq!(answer.status, 400, "{n}");
    }
    for _ in 0..3 {
        alice.get("/api/domains/").await.expect(200);
    }
    let answer = alice.post("/api/domains/", json!({"hostname": "a.example.com"})).await;
    assert_eq!(answer.header("retry-after"), "3500");
    answer.refuses(
        429,
        json!({"detail": "Request was throttled. Expected available in 3500 seconds."}),
    );
    // Refused ones do not count, so that waiting as told is enough.
    world.advance(3498);
    let answer = alice.patch("/api/domains/x/", json!({})).await;
    assert_eq!(answer.header("retry-after"), "1");
    answer.refuses(
        429,
        json!({"detail": "Request was throttled. Expected available in 1 second."}),
    );
    alice
        .post("/api/domains/", json!({"hostname": "a.example.com"}))
        .await
        .expect(201);
}

/// S2.37: values of secrets are counted apart, in lists and one by one.
#[tokio::test]
async fn a_hundred_reads_of_secrets_an_hour() {
    let limits = RateLimits {
        secrets: 3,
        ..RateLimits::default()
    };
    let world = World::with(Some(limits)).await;
    let alice = world.alice().await;
    let secret = alice.make("/api/secrets/", json!({"name": "s"})).await;
    let items = format!("/api/secrets/{secret}/items/");
    let item = alice.make(&items, json!({"key": "A", "value": "b"})).await;
    let path = format!("{items}{item}/");
    alice.get(&items).await.expect(200);
    alice.get(&path).await.expect(200);
    alice.get(&path).await.expect(200);
    alice.get(&path).await.expect(429);
    alice.get(&items).await.expect(429);
    alice.get(&format!("{items}?keys=1")).await.expect(200);
    alice.get("/api/secrets/").await.expect(200);
    alice.patch(&path, json!({"value": "c"})).await.expect(200);
}

/// I.14, C6.20: per account. A second key buys nothing, another account is not touched, and the operator on the machine is
/// not throttled.
#[tokio::test]
async fn accounts_are_counted_not_keys() {
    let limits = RateLimits {
        resources: 2,
        secrets: 2,
    };
    let world = World::with(Some(limits)).await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    let made = alice
        .post("/api/api-keys/", json!({"name": "second"}))
        .await
        .expect(201);
    let also_alice = world.anonymous().with_key(made["key"].as_str().expect("the key"));
    also_alice.make("/api/projects/", json!({"name": "p"})).await;
    alice.post("/api/projects/", json!({"name": "q"})).await.expect(429);
    also_alice
        .post("/api/projects/", json!({"name": "q"}))
        .await
        .expect(429);
    bob.make("/api/projects/", json!({"name": "q"})).await;
    for n in 0..5 {
        world
            .operator()
            .make("/api/projects/", json!({"name": n.to_string()}))
            .await;
    }
}

#[tokio::test]
async fn requests_without_a_good_key_are_not_counted() {
    let limits = RateLimits {
        resources: 1,
        secrets: 1,
    };
    let world = World::with(Some(limits)).await;
    let alice = world.alice().await;
    for _ in 0..5 {
        world
            .anonymous()
            .with_key("gob_wrong")
            .post("/api/projects/", json!({"name": "x"}))
            .await
            .expect(401);
    }
    alice.post("/api/projects/", json!({"name": "x"})).await.expect(201);
}

/// C6.20: a restart buys nothing, and the wait is the same after it.
#[tokio::test]
async fn a_restart_forgets_no_request() {
    let limits = RateLimits {
        resources: 4,
        secrets: 1,
    };
    let world = World::with(Some(limits)).await;
    let alice = world.alice().await;
    let secret = alice.make("/api/secrets/", json!({"name": "s"})).await;
    let items = format!("/api/secrets/{secret}/items/");
    alice.make(&items, json!({"key": "A", "value": "b"})).await;
    alice.post("/api/domains/", json!({"hostname": "?"})).await.expect(400);
    alice.get(&items).await.expect(200);

    let alice = world.restarted(alice);
    alice
        .delete("/api/services/123e4567-e89b-12d3-a456-426614174000/")
        .await
        .expect(404);
    let answer = alice.post("/api/domains/", json!({"hostname": "a.example.com"})).await;
    // The first was made at second 1, this is second 5.
    assert_eq!(answer.header("retry-after"), "3596");
    answer.expect(429);
    alice.get(&items).await.expect(429);

    let alice = world.restarted(alice);
    alice.get(&items).await.expect(429);
    world.advance(3595);
    alice
        .post("/api/domains/", json!({"hostname": "a.example.com"}))
        .await
        .expect(201);
}
