//! `/api/routes/…`

use serde_json::{Value, json};

use crate::world::{Actor, World};

async fn domain_and_service(alice: &Actor) -> (String, String) {
    let domain = alice
        .make("/api/domains/", json!({"hostname": "app.example.com"}))
        .await;
    (domain, alice.make_service("web").await)
}

/// S2.8, G.17 to G.20: the fields in their order; `enabled` is true unless said otherwise.
#[tokio::test]
async fn a_route_maps_a_domain_and_a_path_to_a_service() {
    let world = World::new().await;
    let alice = world.alice().await;
    let (domain, service) = domain_and_service(&alice).await;
    let answer = alice
        .post(
            "/api/routes/",
            json!({"path": "/api", "domain": domain, "service": service}),
        )
        .await;
    let documented = [
        "id",
        "path",
        "enabled",
        "domain",
        "service",
        "status",
        "deploy_successful",
        "created_at",
        "updated_at",
    ];
    assert_eq!(answer.field_order()[..documented.len()], documented);
    let route = answer.expect(201);
    assert_eq!((&route["path"], &route["enabled"]), (&json!("/api"), &json!(true)));
    assert_eq!((&route["domain"], &route["service"]), (&json!(domain), &json!(service)));
    assert_eq!(
        (&route["status"], &route["deploy_successful"]),
        (&json!("pending"), &json!(false))
    );
    assert_eq!(route["hostname"], "app.example.com");

    world.succeed(&service).await;
    let id = route["id"].as_str().expect("an id");
    let path = format!("/api/routes/{id}/");
    let route = alice.get(&path).await.expect(200);
    assert_eq!(
        (&route["status"], &route["deploy_successful"]),
        (&json!("ready"), &json!(true))
    );
    let off = alice
        .patch(&path, json!({"enabled": false, "status": "error"}))
        .await
        .expect(200);
    assert_eq!((&off["enabled"], &off["status"]), (&json!(false), &json!("ready")));
    alice.delete(&path).await.expect(204);
    alice.get(&path).await.expect(404);
}

/// G.20: a domain and a service that one owns; the path starts with a slash.
#[tokio::test]
async fn what_a_route_needs_is_said_all_at_once() {
    let world = World::new().await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    let required = ["This field is required"];
    alice
        .post("/api/routes/", json!({}))
        .await
        .refuses(400, json!({"path": required, "domain": required, "service": required}));
    let (domain, service) = domain_and_service(&alice).await;
    bob.post(
        "/api/routes/",
        json!({"path": "api", "domain": domain, "service": service}),
    )
    .await
    .refuses(
        400,
        json!({
            "path": ["A path starts with /"],
            "domain": [format!("Invalid pk \"{domain}\" - object does not exist.")],
            "service": [format!("Invalid pk \"{service}\" - object does not exist.")],
        }),
    );
    let long = format!("/{}", "x".repeat(255));
    let problem = alice
        .post(
            "/api/routes/",
            json!({"path": long, "domain": domain, "service": service}),
        )
        .await;
    problem.refuses(
        400,
        json!({"path": ["Ensure this field has no more than 255 characters."]}),
    );
}

#[tokio::test]
async fn a_domain_and_a_path_lead_to_one_service() {
    let world = World::new().await;
    let alice = world.alice().await;
    let (domain, service) = domain_and_service(&alice).await;
    let route = |path: &str| json!({"path": path, "domain": domain, "service": service});
    alice.make("/api/routes/", route("/")).await;
    let taken = json!({"non_field_errors": ["The fields domain, path must make a unique set."]});
    alice.post("/api/routes/", route("/")).await.refuses(400, taken.clone());
    let other = alice.make("/api/routes/", route("/other")).await;
    alice
        .patch(&format!("/api/routes/{other}/"), json!({"path": "/"}))
        .await
        .refuses(400, taken);
}

/// G.21: in pages, by project.
#[tokio::test]
async fn routes_are_listed() {
    let world = World::new().await;
    let alice = world.alice().await;
    let (domain, service) = domain_and_service(&alice).await;
    let other = alice.make_service("other").await;
    for (path, service) in [("/b", &service), ("/a", &other)] {
        alice
            .make(
                "/api/routes/",
                json!({"path": path, "domain": domain, "service": service}),
            )
            .await;
    }
    let paths = async |query: &str| {
        let list = alice.get(&format!("/api/routes/{query}")).await.expect(200);
        let rows = list["results"].as_array().expect("results").clone();
        rows.iter().map(|route| route["path"].clone()).collect::<Vec<Value>>()
    };
    assert_eq!(paths("").await, [json!("/a"), json!("/b")]);
    assert_eq!(paths("?ordering=-path").await, [json!("/b"), json!("/a")]);
    assert_eq!(paths(&format!("?service={other}")).await, [json!("/a")]);
    let empty = alice.make("/api/projects/", json!({"name": "empty"})).await;
    assert_eq!(paths(&format!("?project={empty}")).await, [] as [Value; 0]);
}

#[tokio::test]
async fn a_deleted_service_takes_its_routes_along() {
    let world = World::new().await;
    let alice = world.alice().await;
    let (domain, service) = domain_and_service(&alice).await;
    let route = alice
        .make(
            "/api/routes/",
            json!({"path": "/", "domain": domain, "service": service}),
        )
        .await;
    alice.delete(&format!("/api/services/{service}/")).await.expect(204);
    alice.get(&format!("/api/routes/{route}/")).await.expect(404);
}
