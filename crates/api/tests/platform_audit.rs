//! `/api/audit/`, and who has read which secret.

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use crate::world::{Actor, World};

async fn lines(actor: &Actor, query: &str) -> Vec<Value> {
    let page = actor.get(&format!("/api/audit/{query}")).await.expect(200);
    page["results"].as_array().expect("results").clone()
}

fn told(line: &Value) -> (String, String) {
    let text = |field: &str| line[field].as_str().expect("text").to_owned();
    (text("action"), text("outcome"))
}

/// Who, when, what and how it ended; one line for each act, however it ended.
#[tokio::test]
async fn every_write_leaves_one_line() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    let path = format!("/api/services/{service}/");
    alice.patch(&path, json!({"image": "a:2"})).await.expect(200);
    alice.patch(&path, json!({"image": "a:2"})).await.expect(200);
    alice.patch(&path, json!({"port": 0})).await.expect(400);
    alice
        .post(&format!("{path}plan/"), json!({"image": "a:3"}))
        .await
        .expect(200);
    alice.post("/api/images/?name=x", json!({})).await.expect(403);
    let refused = alice
        .delete("/api/services/123e4567-e89b-12d3-a456-426614174000/")
        .await;
    assert_eq!(refused.status, 404);
    alice.get(&path).await.expect(200);

    let lines = lines(&alice, "?after=0").await;
    let expected = [
        ("POST /api/services/", "done"),
        ("PATCH /api/services/{id}/", "done"),
        ("PATCH /api/services/{id}/", "done"),
        ("PATCH /api/services/{id}/", "refused"),
        ("POST /api/services/{id}/plan/", "done"),
        ("POST /api/images/", "denied"),
        ("DELETE /api/services/{id}/", "refused"),
    ];
    let seen: Vec<_> = lines.iter().map(told).collect();
    assert_eq!(
        seen,
        expected.map(|(action, outcome)| (action.to_owned(), outcome.to_owned()))
    );
    assert_eq!(lines[1]["object"], json!(path));
    assert_eq!(lines[1]["subject"], json!(alice.newest_deployment(&service).await));
    assert_eq!(lines[6]["request"], json!(refused.header("x-request-id")));
    assert!(
        lines
            .iter()
            .all(|line| line["via"].as_str().is_some_and(|via| via.starts_with("key:")))
    );
    assert_eq!(
        world.store.system().check_audit().await.expect("the log can be read"),
        None
    );
}

/// What no transaction covers is recorded before it happens.
#[tokio::test]
async fn privileged_acts_are_recorded_before_and_after() {
    let world = World::new().await;
    let operator = world.operator();
    let newest = |lines: Vec<Value>| lines.iter().rev().map(told).collect::<Vec<_>>();
    operator
        .send(Method::DELETE, "/api/images/?ref=a:1", Body::empty())
        .await;
    let action = || "DELETE /api/images/".to_owned();
    let image = newest(lines(&operator, "?limit=2").await);
    assert_eq!(image[0], (action(), "begun".to_owned()));
    assert_eq!(image[1].0, action());
    assert_ne!(image[1].1, "begun");
    operator
        .post("/local/users", json!({"name": "carol"}))
        .await
        .expect(201);
    let user = newest(lines(&operator, "?limit=2").await);
    let action = || "POST /local/users".to_owned();
    assert_eq!(user, [(action(), "begun".to_owned()), (action(), "done".to_owned())]);
}

/// G.32, G.33: each read of a value is logged, with who and when, and the list of reads is there to be read.
#[tokio::test]
async fn reads_of_a_secret_are_listed() {
    let world = World::new().await;
    let alice = world.alice().await;
    let secret = alice.make("/api/secrets/", json!({"name": "s"})).await;
    let items = format!("/api/secrets/{secret}/items/");
    let item = alice.make(&items, json!({"key": "A", "value": "b"})).await;
    alice.get(&format!("{items}?keys=1")).await.expect(200);
    alice.get(&format!("{items}{item}/")).await.expect(200);
    alice.get(&items).await.expect(200);
    let path = format!("{items}{item}/accesses/");
    let accesses = alice.get(&path).await.expect(200);
    let how: Vec<&Value> = accesses["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|it| &it["how"])
        .collect();
    assert_eq!(how, ["api item get", "api item list"]);
    let me = alice.get("/api/account/").await.expect(200)["id"].clone();
    assert!(
        accesses["results"]
            .as_array()
            .expect("results")
            .iter()
            .all(|it| it["account"] == me)
    );
    let rest = alice
        .get(&format!("{path}?after={}", accesses["next_after"]))
        .await
        .expect(200);
    assert_eq!(rest, json!({"results": [], "next_after": null}));
    let seen: Vec<_> = lines(&alice, "").await.iter().map(told).collect();
    let read = |action: &str| (action.to_owned(), "done".to_owned());
    assert_eq!(seen[0], read("GET /api/secrets/{id}/items/"));
    assert_eq!(seen[1], read("GET /api/secrets/{id}/items/{item}/"));
}
