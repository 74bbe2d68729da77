//! `/api/configs/…` and their items.

use serde_json::{Value, json};

use crate::world::World;

/// S2.10, G.25, G.26, G.29: an account comes with a default one, which cannot be deleted.
#[tokio::test]
async fn an_account_comes_with_a_default_config() {
    let world = World::new().await;
    let alice = world.alice().await;
    let list = alice.get("/api/configs/").await.expect(200);
    assert_eq!(list["count"], 1);
    let default = &list["results"][0];
    assert_eq!(
        (&default["name"], &default["is_default"]),
        (&json!("Default"), &json!(true))
    );
    assert_eq!(
        (&default["status"], &default["deploy_successful"]),
        (&json!("ready"), &json!(true))
    );
    let path = format!("/api/configs/{}/", default["id"].as_str().expect("an id"));
    let order = alice.get(&path).await.field_order();
    assert_eq!(
        order[..6],
        ["id", "name", "is_default", "status", "deploy_successful", "created_at"]
    );
    let refused = json!({"error": "Cannot delete the default config"});
    alice.delete(&path).await.refuses(400, refused);
}

/// G.25, G.27.
#[tokio::test]
async fn items_are_made_changed_and_deleted() {
    let world = World::new().await;
    let alice = world.alice().await;
    let config = alice.make("/api/configs/", json!({"name": "production"})).await;
    let items = format!("/api/configs/{config}/items/");
    let answer = alice
        .post(
            &items,
            json!({"key": "DATABASE_URL", "value": " postgres://x \n", "config": "x"}),
        )
        .await;
    assert_eq!(
        answer.field_order(),
        ["id", "config", "key", "value", "created_at", "updated_at"]
    );
    let item = answer.expect(201);
    assert_eq!(
        (&item["config"], &item["value"]),
        (&json!(config), &json!(" postgres://x \n"))
    );
    let path = format!("{items}{}/", item["id"].as_str().expect("an id"));
    assert_eq!(alice.get(&path).await.expect(200), item);
    let changed = alice.patch(&path, json!({"value": ""})).await.expect(200);
    assert_eq!(
        (&changed["key"], &changed["value"]),
        (&json!("DATABASE_URL"), &json!(""))
    );
    assert_eq!(alice.get(&items).await.expect(200)["count"], 1);
    alice.delete(&path).await.expect(204);
    alice.delete(&path).await.expect(404);
}

#[tokio::test]
async fn item_keys_are_environment_names_and_unique() {
    let world = World::new().await;
    let alice = world.alice().await;
    let config = alice.make("/api/configs/", json!({"name": "c"})).await;
    let items = format!("/api/configs/{config}/items/");
    alice.make(&items, json!({"key": "A", "value": "1"})).await;
    let twice = alice.post(&items, json!({"key": "A", "value": "2"})).await.expect(400);
    assert!(
        twice["key"].is_array() || twice["non_field_errors"].is_array(),
        "{twice}"
    );
    for key in ["", "1A", "A-B", "A=B", "A\u{0}B"] {
        let problem = alice.post(&items, json!({"key": key, "value": "x"})).await.expect(400);
        assert!(problem["key"].is_array(), "{key:?}: {problem}");
    }
    let too_long = alice
        .post(&items, json!({"key": "B", "value": "ü".repeat(40_000)}))
        .await
        .expect(400);
    assert!(too_long["value"].is_array(), "{too_long}");
    alice
        .post(&items, json!({"key": "B", "value": "x".repeat(65_536)}))
        .await
        .expect(201);
    let required = ["This field is required"];
    alice
        .post(&items, json!({}))
        .await
        .refuses(400, json!({"key": required, "value": required}));
}

/// An item of another config, though one's own, is not there.
#[tokio::test]
async fn an_item_is_found_in_its_own_config_only() {
    let world = World::new().await;
    let alice = world.alice().await;
    let one = alice.make("/api/configs/", json!({"name": "one"})).await;
    let two = alice.make("/api/configs/", json!({"name": "two"})).await;
    let item = alice
        .make(&format!("/api/configs/{one}/items/"), json!({"key": "A", "value": "1"}))
        .await;
    let wrong = format!("/api/configs/{two}/items/{item}/");
    alice.get(&wrong).await.expect(404);
    alice.patch(&wrong, json!({"value": "2"})).await.expect(404);
    alice.delete(&wrong).await.expect(404);
    assert_eq!(
        alice
            .get(&format!("/api/configs/{one}/items/{item}/"))
            .await
            .expect(200)["value"],
        "1"
    );
}

/// G.28, S0.14: values of the moment of deployment; a later change makes no deployment by itself.
#[tokio::test]
async fn a_deployment_keeps_the_values_of_its_moment() {
    let world = World::new().await;
    let alice = world.alice().await;
    let config = alice.make("/api/configs/", json!({"name": "c"})).await;
    let items = format!("/api/configs/{config}/items/");
    let item = alice.make(&items, json!({"key": "LEVEL", "value": "info"})).await;
    let body = json!({"name": "web", "image": "a", "port": 80, "config": config});
    let service = alice.make("/api/services/", body).await;
    let first = world.succeed(&service).await;

    alice
        .patch(&format!("{items}{item}/"), json!({"value": "debug"}))
        .await
        .expect(200);
    assert_eq!(alice.deployments(&service).await.len(), 1);
    let snapshot = alice.get(&format!("/api/deployments/{first}/")).await.expect(200)["config_snapshot"].clone();
    assert_eq!(snapshot, json!({"LEVEL": "info"}));
    let again = alice
        .post_nothing(&format!("/api/services/{service}/deployments/"))
        .await
        .expect(201);
    assert_eq!(again["config_snapshot"], json!({"LEVEL": "debug"}));
}

#[tokio::test]
async fn a_deleted_config_is_detached() {
    let world = World::new().await;
    let alice = world.alice().await;
    let config = alice.make("/api/configs/", json!({"name": "c"})).await;
    let body = json!({"name": "web", "image": "a", "port": 80, "config": config});
    let service = alice.make("/api/services/", body).await;
    alice.delete(&format!("/api/configs/{config}/")).await.expect(204);
    assert_eq!(
        alice.get(&format!("/api/services/{service}/")).await.expect(200)["config"],
        Value::Null
    );
}

/// Found by name without walking pages; nobody else's, and nothing that is not there.
#[tokio::test]
async fn configs_and_secrets_are_found_by_name() {
    let world = World::new().await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    let project = alice.make("/api/projects/", json!({"name": "p"})).await;
    for path in ["/api/configs/", "/api/secrets/"] {
        let id = alice.make(path, json!({"name": "live"})).await;
        alice.make(path, json!({"name": "lively"})).await;
        let found = alice.get(&format!("{path}?name=live")).await.expect(200);
        assert_eq!(
            (&found["count"], &found["results"][0]["id"]),
            (&json!(1), &json!(id)),
            "{path}"
        );
        for nothing in [
            format!("{path}?name=liv"),
            format!("{path}?name=live%25"),
            format!("{path}?name=live&project={project}"),
        ] {
            assert_eq!(alice.get(&nothing).await.expect(200)["count"], 0, "{nothing}");
        }
        assert_eq!(bob.get(&format!("{path}?name=live")).await.expect(200)["count"], 0);
        // It has one page, as every short list (I.7).
        alice.get(&format!("{path}?name=live&page=last")).await.expect(200);
        let beyond = alice.get(&format!("{path}?name=live&page=2")).await.expect(404);
        assert_eq!(beyond, json!({"detail": "Invalid page."}), "{path}");
    }
}
