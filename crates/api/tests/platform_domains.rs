//! `/api/domains/…`

use serde_json::json;

use crate::world::World;

/// S2.9, G.22 to G.24.
#[tokio::test]
async fn a_domain_is_registered_renamed_and_forgotten() {
    let world = World::new().await;
    let alice = world.alice().await;
    let answer = alice
        .post("/api/domains/", json!({"hostname": "App.Example.com"}))
        .await;
    assert_eq!(answer.field_order()[..3], ["id", "hostname", "created_at"]);
    let domain = answer.expect(201);
    assert_eq!(domain["hostname"], "app.example.com");
    let path = format!("/api/domains/{}/", domain["id"].as_str().expect("an id"));
    assert_eq!(alice.get(&path).await.expect(200), domain);
    let renamed = alice
        .patch(&path, json!({"hostname": "www.example.com"}))
        .await
        .expect(200);
    assert_eq!(renamed["hostname"], "www.example.com");
    assert_eq!(
        alice.get("/api/domains/?hostname=WWW.example.com").await.expect(200)["count"],
        1
    );
    assert_eq!(
        alice.get("/api/domains/?hostname=app.example.com").await.expect(200)["count"],
        0
    );
    alice.delete(&path).await.expect(204);
    alice.get(&path).await.expect(404);
}

/// Invariant 24: one owner in the whole system; who it is is not told.
#[tokio::test]
async fn a_host_name_belongs_to_one_account_of_all() {
    let world = World::new().await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    alice
        .make("/api/domains/", json!({"hostname": "app.example.com"}))
        .await;
    let taken = json!({"hostname": ["domain with this hostname already exists."]});
    bob.post("/api/domains/", json!({"hostname": "APP.example.com"}))
        .await
        .refuses(400, taken.clone());
    let other = bob
        .make("/api/domains/", json!({"hostname": "other.example.com"}))
        .await;
    let path = format!("/api/domains/{other}/");
    bob.patch(&path, json!({"hostname": "app.example.com"}))
        .await
        .refuses(400, taken);
}

#[tokio::test]
async fn what_is_no_host_name_is_refused() {
    let world = World::new().await;
    let alice = world.alice().await;
    for bad in [
        "",
        "a..b",
        "127.0.0.1",
        "a:80",
        "*.example.com",
        "a b",
        "münchen.de",
        "x\u{202e}y.com",
        "-a.com",
    ] {
        alice.post("/api/domains/", json!({"hostname": bad})).await.expect(400);
    }
    let required = json!({"hostname": ["This field is required"]});
    alice.post("/api/domains/", json!({})).await.refuses(400, required);
}

#[tokio::test]
async fn a_deleted_domain_takes_its_routes_along() {
    let world = World::new().await;
    let alice = world.alice().await;
    let domain = alice.make("/api/domains/", json!({"hostname": "a.example.com"})).await;
    let service = alice.make_service("web").await;
    let route = alice
        .make(
            "/api/routes/",
            json!({"path": "/", "domain": domain, "service": service}),
        )
        .await;
    alice.delete(&format!("/api/domains/{domain}/")).await.expect(204);
    alice.get(&format!("/api/routes/{route}/")).await.expect(404);
    alice.get(&format!("/api/services/{service}/")).await.expect(200);
}
