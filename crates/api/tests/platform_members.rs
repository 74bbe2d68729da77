//! `/api/projects/{id}/members/`, and what the roles may do.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use crate::platform_tenancy::{belongings, walk};
use crate::world::{Actor, World};

async fn default_project(actor: &Actor) -> String {
    let list = actor.get("/api/projects/?name=default").await.expect(200);
    list["results"][0]["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn members_come_change_and_go() {
    let world = World::new().await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    let project = default_project(&alice).await;
    let members = format!("/api/projects/{project}/members/");
    let founder = alice.get(&members).await.expect(200);
    assert_eq!(
        (&founder["count"], &founder["results"][0]["role"]),
        (&json!(1), &json!("owner"))
    );
    bob.get(&members).await.expect(404);

    let made = alice
        .post(&members, json!({"name": "bob", "role": "viewer"}))
        .await
        .expect(201);
    let member = format!("{members}{}/", made["id"].as_str().expect("an id"));
    assert_eq!(bob.get(&member).await.expect(200), made);
    bob.patch(&member, json!({"role": "owner"})).await.expect(403);
    assert_eq!(
        alice.patch(&member, json!({"role": "developer"})).await.expect(200)["role"],
        "developer"
    );
    alice.patch(&member, json!({"role": "king"})).await.expect(400);
    let expected = json!({"name": ["This field is required"], "role": ["This field is required"]});
    alice.post(&members, json!({})).await.refuses(400, expected);
    let service = json!({"name": "his", "image": "a", "port": 80, "project": project});
    bob.post("/api/services/", service).await.expect(201);
    alice.delete(&member).await.expect(204);
    bob.get(&members).await.expect(404);
    assert_eq!(bob.get("/api/services/").await.expect(200)["count"], 0);
}

/// C6.2: on every route of the router, and the log tells of it.
#[tokio::test]
async fn a_viewer_writes_nothing_anywhere_and_each_try_is_in_the_audit_log() {
    let world = World::new().await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    let hers = belongings(&world, &alice, "a.example.com").await;
    for project in [default_project(&alice).await, hers["/api/projects/"].0.clone()] {
        let members = format!("/api/projects/{project}/members/");
        alice
            .post(&members, json!({"name": "bob", "role": "viewer"}))
            .await
            .expect(201);
    }
    let shared: BTreeMap<_, _> = hers.into_iter().filter(|(base, _)| *base != "/api/api-keys/").collect();
    let mut denied = 0;
    walk(&bob, &shared, async |method, pattern, path| {
        let secret_values = pattern.starts_with("/api/secrets/{id}/items/");
        if method == Method::GET && !secret_values && !pattern.ends_with("/logs/") {
            let answer = bob.get(&path).await;
            assert!(
                matches!(answer.status.as_u16(), 200 | 404),
                "{pattern}: {}",
                answer.text
            );
        } else if method != Method::GET || !pattern.ends_with("/logs/") {
            let answer = bob.json(method.clone(), &path, json!({"name": "bobs"})).await;
            assert_eq!(answer.status, 403, "{method} {pattern}: {}", answer.text);
            denied += 1;
        }
    })
    .await;
    assert!(denied >= 40, "only {denied}");
    let mut logged = 0;
    let mut before = i64::MAX;
    loop {
        let page = bob
            .get(&format!("/api/audit/?before={before}&limit=20"))
            .await
            .expect(200);
        let lines = page["results"].as_array().expect("results").clone();
        logged += lines.iter().filter(|line| line["outcome"] == "denied").count();
        match page["next"].as_i64() {
            Some(next) => before = next,
            None => break,
        }
    }
    assert_eq!(logged, denied);
    let keys = format!("/api/secrets/{}/items/?keys=1", shared["/api/secrets/"].0);
    assert_eq!(
        bob.get(&keys).await.expect(200)["results"][0].get("value"),
        None::<&Value>
    );
}

/// Default deny: a route that the policy does not name is open to nobody, and no such route is there.
#[tokio::test]
async fn every_route_and_method_has_a_policy() {
    let world = World::new().await;
    let operator = world.operator();
    let mut judged = 0;
    for pattern in api::platform::router::paths() {
        let id = "123e4567-e89b-12d3-a456-426614174000";
        let path = pattern.replace("{id}", id).replace("{item}", id);
        let allow = operator
            .json(Method::PUT, &path, json!({}))
            .await
            .header("allow")
            .to_owned();
        for method in allow.split(',') {
            let method: Method = method.parse().expect("a method");
            assert!(api::policy::right(&method, &pattern).is_some(), "{method} {pattern}");
            judged += 1;
        }
    }
    assert!(judged > 100, "{judged}");
}
