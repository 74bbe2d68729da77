//! C6.1: every route and method, with another account's ids.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use crate::world::{Actor, Answer, World};

/// Everything that an account can own, by the path of its list.
pub async fn belongings(world: &World, actor: &Actor, host: &str) -> BTreeMap<&'static str, (String, String)> {
    let service = actor.make_service("web").await;
    let worker = actor.make("/api/workers/", json!({"name": "w", "image": "a"})).await;
    let deployment = world.succeed(&service).await.to_string();
    let domain = actor.make("/api/domains/", json!({"hostname": host})).await;
    let route = actor
        .make(
            "/api/routes/",
            json!({"path": "/", "domain": domain, "service": service}),
        )
        .await;
    let config = actor.make("/api/configs/", json!({"name": "c"})).await;
    let config_item = actor
        .make(
            &format!("/api/configs/{config}/items/"),
            json!({"key": "A", "value": "b"}),
        )
        .await;
    let secret = actor.make("/api/secrets/", json!({"name": "s"})).await;
    let secret_item = actor
        .make(
            &format!("/api/secrets/{secret}/items/"),
            json!({"key": "A", "value": "b"}),
        )
        .await;
    let project = actor.make("/api/projects/", json!({"name": "p"})).await;
    let key = actor.make("/api/api-keys/", json!({"name": "k"})).await;
    BTreeMap::from([
        ("/api/services/", (service, String::new())),
        ("/api/workers/", (worker, String::new())),
        ("/api/deployments/", (deployment, String::new())),
        ("/api/domains/", (domain, String::new())),
        ("/api/routes/", (route, String::new())),
        ("/api/configs/", (config, config_item)),
        ("/api/secrets/", (secret, secret_item)),
        ("/api/projects/", (project, String::new())),
        ("/api/api-keys/", (key, String::new())),
    ])
}

/// S2.2, S2.6, S2.28: from the router's own list of paths and their `Allow`, so that a new route is walked the day it is made.
#[tokio::test]
async fn another_accounts_ids_open_nothing_on_any_route_with_any_method() {
    let world = World::new().await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    let hers = belongings(&world, &alice, "a.example.com").await;
    let before = everything(&alice, &hers).await;

    let mut walked = 0;
    walk(&bob, &hers, async |method, pattern, path| {
        let body = json!({"name": "bobs", "role": "viewer", "notes": "x"});
        let answer = bob.json(method.clone(), &path, body.clone()).await;
        assert_eq!(answer.status, 404, "{method} {pattern}: {}", answer.text);
        // Nothing tells it from an id that nobody has.
        let (random, item) = (uuid::Uuid::now_v7().to_string(), uuid::Uuid::now_v7().to_string());
        let nobodys = pattern.replace("{id}", &random).replace("{item}", &item);
        let same = bob.json(method.clone(), &nobodys, body).await;
        assert_eq!(answer.text, same.text, "{method} {pattern}");
        let names = |answer: &Answer| answer.headers.keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            (names(&answer), answer.status),
            (names(&same), same.status),
            "{method} {pattern}"
        );
        walked += 1;
    })
    .await;
    assert!(walked >= 60, "only {walked} requests were made");
    assert_eq!(everything(&alice, &hers).await, before, "nothing of hers was touched");
}

/// Every path of the router that names something, filled in from `owned`, with every method that it has.
pub async fn walk(
    actor: &Actor,
    owned: &BTreeMap<&'static str, (String, String)>,
    mut step: impl AsyncFnMut(Method, String, String),
) {
    for pattern in api::platform::router::paths()
        .iter()
        .filter(|path| path.contains("{id}"))
    {
        let Some((_, (id, item))) = owned.iter().find(|(base, _)| pattern.starts_with(**base)) else {
            continue;
        };
        let item = if item.is_empty() { id } else { item };
        let path = pattern.replace("{id}", id).replace("{item}", item);
        let allow = actor
            .json(Method::PUT, &path, json!({}))
            .await
            .header("allow")
            .to_owned();
        assert!(!allow.is_empty(), "{pattern}");
        for method in allow.split(',').filter(|method| *method != "HEAD") {
            step(method.parse().expect("a method"), pattern.clone(), path.clone()).await;
        }
    }
}

/// Lists and filters show nobody else's either.
#[tokio::test]
async fn lists_and_filters_never_reach_over() {
    let world = World::new().await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    let hers = belongings(&world, &alice, "a.example.com").await;
    let his = belongings(&world, &bob, "b.example.com").await;
    let projects: Vec<String> = alice.get("/api/projects/").await.expect(200)["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|project| project["id"].as_str().expect("an id").to_owned())
        .collect();
    for base in hers.keys() {
        let mut queries = vec![String::new()];
        if *base != "/api/projects/" && *base != "/api/api-keys/" {
            queries.extend(projects.iter().map(|id| format!("?project={id}")));
            queries.push(format!("?service={}", hers["/api/services/"].0));
        }
        queries.push("?hostname=a.example.com".to_owned());
        for query in queries {
            let seen = bob.get(&format!("{base}{query}")).await.expect(200).to_string();
            for (id, item) in hers.values() {
                assert!(!seen.contains(id.as_str()), "{base}{query}");
                assert!(item.is_empty() || !seen.contains(item.as_str()), "{base}{query}");
            }
        }
    }
    assert_eq!(his.len(), hers.len());
}

/// Another's ids in a body are ids of nothing.
#[tokio::test]
async fn foreign_ids_in_a_body_do_not_exist() {
    let world = World::new().await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    let hers = belongings(&world, &alice, "a.example.com").await;
    let his = belongings(&world, &bob, "b.example.com").await;
    let id = |map: &BTreeMap<&str, (String, String)>, base: &str| map[base].0.clone();
    let invalid = |id: &str| json!([format!("Invalid pk \"{id}\" - object does not exist.")]);
    let (project, config, secret) = (
        id(&hers, "/api/projects/"),
        id(&hers, "/api/configs/"),
        id(&hers, "/api/secrets/"),
    );
    let body = json!({"name": "x", "image": "a", "port": 80, "project": project, "config": config, "secret": secret});
    let expected = json!({"project": invalid(&project), "config": invalid(&config), "secret": invalid(&secret)});
    bob.post("/api/services/", body).await.refuses(400, expected);
    let (domain, service) = (id(&hers, "/api/domains/"), id(&hers, "/api/services/"));
    let path = format!("/api/routes/{}/", id(&his, "/api/routes/"));
    let expected = json!({"domain": invalid(&domain), "service": invalid(&service)});
    bob.patch(&path, json!({"domain": domain, "service": service}))
        .await
        .refuses(400, expected);
    for base in ["/api/domains/", "/api/configs/", "/api/secrets/"] {
        let body = json!({"name": "n", "hostname": "n.example.com", "project": project});
        bob.post(base, body)
            .await
            .refuses(400, json!({"project": invalid(&project)}));
    }
    let path = format!(
        "/api/services/{}/rollout/?deployment={}",
        id(&his, "/api/services/"),
        id(&hers, "/api/deployments/")
    );
    assert!(bob.get(&path).await.status.is_client_error());
}

async fn everything(actor: &Actor, ids: &BTreeMap<&str, (String, String)>) -> Vec<Value> {
    let mut seen = Vec::new();
    for (base, (id, item)) in ids {
        let mut value = actor.get(&format!("{base}{id}/")).await.expect(200);
        if let Value::Object(map) = &mut value {
            map.remove("last_used_at");
        }
        seen.push(value);
        if !item.is_empty() {
            let keys = actor.get(&format!("{base}{id}/items/?keys=1")).await.expect(200);
            assert_eq!(keys["count"], 1);
        }
    }
    let history = actor.get("/api/deployments/").await.expect(200);
    seen.push(history);
    seen
}
