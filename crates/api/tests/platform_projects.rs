//! `/api/projects/…`

use serde_json::json;

use crate::world::World;

/// S2.34: every resource belongs to one; without a word, to the default one.
#[tokio::test]
async fn resources_belong_to_a_project() {
    let world = World::new().await;
    let alice = world.alice().await;
    let list = alice.get("/api/projects/").await.expect(200);
    assert_eq!(
        (&list["count"], &list["results"][0]["is_default"]),
        (&json!(1), &json!(true))
    );
    let default = list["results"][0]["id"].clone();
    let service = alice.make_service("web").await;
    assert_eq!(
        alice.get(&format!("/api/services/{service}/")).await.expect(200)["project"],
        default
    );

    let shop = alice.make("/api/projects/", json!({"name": "shop"})).await;
    for (path, body) in [
        (
            "/api/services/",
            json!({"name": "s", "image": "a", "port": 80, "project": shop}),
        ),
        ("/api/workers/", json!({"name": "w", "image": "a", "project": shop})),
        (
            "/api/domains/",
            json!({"hostname": "shop.example.com", "project": shop}),
        ),
        ("/api/configs/", json!({"name": "c", "project": shop})),
        ("/api/secrets/", json!({"name": "s", "project": shop})),
    ] {
        let made = alice.post(path, body).await.expect(201);
        assert_eq!(made["project"], json!(shop), "{path}");
        let filtered = alice.get(&format!("{path}?project={shop}")).await.expect(200);
        assert_eq!(filtered["results"][0]["id"], made["id"], "{path}");
    }
    let unseen = "123e4567-e89b-12d3-a456-426614174000";
    let none = alice.get(&format!("/api/services/?project={unseen}")).await.expect(200);
    assert_eq!((&none["count"], &none["results"]), (&json!(0), &json!([])));
}

#[tokio::test]
async fn a_project_is_named_renamed_and_deleted_when_empty() {
    let world = World::new().await;
    let alice = world.alice().await;
    let made = alice.post("/api/projects/", json!({"name": " shop "})).await;
    assert_eq!(
        made.field_order(),
        ["id", "name", "is_default", "created_at", "updated_at", "environment"]
    );
    let made = made.expect(201);
    assert_eq!(made["name"], "shop");
    let path = format!("/api/projects/{}/", made["id"].as_str().expect("an id"));
    assert_eq!(
        alice.patch(&path, json!({"name": "store"})).await.expect(200)["name"],
        "store"
    );
    assert_eq!(alice.get("/api/projects/?name=store").await.expect(200)["count"], 1);
    let body = json!({"name": "w", "image": "a", "project": made["id"]});
    let worker = alice.make("/api/workers/", body).await;
    alice
        .delete(&path)
        .await
        .refuses(400, json!({"error": "Project is not empty"}));
    alice.delete(&format!("/api/workers/{worker}/")).await.expect(204);
    for bad in [
        json!({}),
        json!({"name": ""}),
        json!({"name": "x".repeat(65)}),
        json!({"name": "a\u{202e}b"}),
    ] {
        alice.post("/api/projects/", bad).await.expect(400);
    }
}

#[tokio::test]
async fn the_default_project_stays() {
    let world = World::new().await;
    let alice = world.alice().await;
    let id = alice.get("/api/projects/").await.expect(200)["results"][0]["id"].clone();
    let answer = alice
        .delete(&format!("/api/projects/{}/", id.as_str().expect("an id")))
        .await
        .expect(400);
    assert!(answer["error"].is_string(), "{answer}");
}

/// What a project is for, in its owner's word.
#[tokio::test]
async fn a_project_may_name_its_environment() {
    let world = World::new().await;
    let alice = world.alice().await;
    let project = alice
        .make("/api/projects/", json!({"name": "shop", "environment": "production"}))
        .await;
    let path = format!("/api/projects/{project}/");
    let shown = async || alice.get(&path).await.expect(200)["environment"].clone();
    assert_eq!(shown().await, "production");
    alice.patch(&path, json!({"name": "store"})).await.expect(200);
    assert_eq!(shown().await, "production");
    alice
        .patch(&path, json!({"environment": "x".repeat(65)}))
        .await
        .expect(400);
    alice.patch(&path, json!({"environment": "staging"})).await.expect(200);
    assert_eq!(shown().await, "staging");
    alice.patch(&path, json!({"environment": null})).await.expect(200);
    assert_eq!(shown().await, serde_json::Value::Null);
    let plain = alice.make("/api/projects/", json!({"name": "plain"})).await;
    assert_eq!(
        alice.get(&format!("/api/projects/{plain}/")).await.expect(200)["environment"],
        serde_json::Value::Null
    );
}
