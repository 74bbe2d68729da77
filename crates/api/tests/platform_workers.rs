//! `/api/workers/…`

use serde_json::json;

use crate::world::World;

/// S2.7, G.13, G.14: a service's object without `port`.
#[tokio::test]
async fn a_worker_is_a_service_without_a_port() {
    let world = World::new().await;
    let alice = world.alice().await;
    let body = json!({"name": "email-processor", "image": "myapp/worker:v1.0.0", "replicas_target": 2});
    let id = alice.make("/api/workers/", body).await;
    let answer = alice.get(&format!("/api/workers/{id}/")).await;
    let documented = [
        "id",
        "name",
        "image",
        "replicas_target",
        "replicas_running",
        "status",
        "config",
        "secret",
        "deploy_successful",
        "created_at",
        "updated_at",
    ];
    let order = answer.field_order();
    assert_eq!(order[..documented.len()], documented);
    assert!(!order.iter().any(|field| field == "port"));
    let worker = answer.expect(200);
    assert_eq!(
        (&worker["replicas_target"], &worker["status"]),
        (&json!(2), &json!("pending"))
    );
    assert_eq!(worker["health_check"]["type"], "process");
    world.succeed(&id).await;
    assert_eq!(
        alice.get(&format!("/api/workers/{id}/")).await.expect(200)["status"],
        "ready"
    );
}

/// G.15: no port, no route, no check that needs one.
#[tokio::test]
async fn a_worker_cannot_be_routed_to() {
    let world = World::new().await;
    let alice = world.alice().await;
    let worker = alice
        .make("/api/workers/", json!({"name": "w", "image": "a", "port": 80}))
        .await;
    let domain = alice.make("/api/domains/", json!({"hostname": "w.example.com"})).await;
    let body = json!({"path": "/", "domain": domain, "service": worker});
    let problem = json!({"service": [format!("Invalid pk \"{worker}\" - object does not exist.")]});
    alice.post("/api/routes/", body).await.refuses(400, problem);
    let body = json!({"name": "x", "image": "a", "health_check": {"type": "tcp"}});
    let problem = alice.post("/api/workers/", body).await.expect(400);
    assert!(problem["health_check.type"].is_array(), "{problem}");
}

/// G.14: names are unique among the workers of an account, and services have names of their own.
#[tokio::test]
async fn services_and_workers_do_not_meet() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("same").await;
    let worker = alice.make("/api/workers/", json!({"name": "same", "image": "a"})).await;
    alice.get(&format!("/api/workers/{service}/")).await.expect(404);
    alice.get(&format!("/api/services/{worker}/")).await.expect(404);
    alice.delete(&format!("/api/services/{worker}/")).await.expect(404);
    alice
        .patch(&format!("/api/services/{worker}/"), json!({"image": "b"}))
        .await
        .expect(404);
    assert_eq!(alice.get("/api/workers/").await.expect(200)["count"], 1);
    assert_eq!(alice.get("/api/services/").await.expect(200)["count"], 1);
    let taken = alice
        .post("/api/workers/", json!({"name": "same", "image": "a"}))
        .await
        .expect(400);
    assert_eq!(taken, json!({"name": ["worker with this name already exists."]}));
}

#[tokio::test]
async fn a_worker_has_a_history_and_can_be_rolled_back() {
    let world = World::new().await;
    let alice = world.alice().await;
    let id = alice.make("/api/workers/", json!({"name": "w", "image": "a:1"})).await;
    let first = world.succeed(&id).await;
    alice
        .patch(&format!("/api/workers/{id}/"), json!({"image": "a:2"}))
        .await
        .expect(200);
    world.succeed(&id).await;
    let list = alice.get(&format!("/api/workers/{id}/deployments/")).await.expect(200);
    assert_eq!(list["count"], 2);
    assert_eq!(list["results"][0]["port"], json!(null));
    let back = alice
        .post_nothing(&format!("/api/deployments/{first}/rollback/"))
        .await
        .expect(201);
    assert_eq!(back["image"], "a:1");
}

/// G.16: the list of all deployments is the services'. A worker's are asked for by the worker or by their own id.
#[tokio::test]
async fn the_list_of_deployments_speaks_of_services_only() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    let worker = alice.make("/api/workers/", json!({"name": "w", "image": "a"})).await;
    let of_worker = world.succeed(&worker).await;
    for caller in [&alice, &world.operator()] {
        let list = caller.get("/api/deployments/").await.expect(200);
        assert_eq!(list["count"], 1);
        assert_eq!(list["results"][0]["service"], service);
    }
    let found = alice.get(&format!("/api/deployments/{of_worker}/")).await.expect(200);
    assert_eq!(found["service"], worker);
}
