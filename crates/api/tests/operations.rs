//! `/healthz`, `/readyz`, `/metrics`, `/`, `/local/status`, `/local/doctor`.

use http::header::ACCEPT;
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn alive_ready_and_counted() {
    let world = World::new().await;
    let anybody = world.anonymous();
    assert_eq!(anybody.get("/healthz").await.text, "ok\n");
    anybody
        .get("/readyz")
        .await
        .refuses(200, json!({"ready": true, "store": "ok", "engine": "ok"}));
    *world.runtime.readiness.lock().expect("the lock") = Err("no cgroups".to_owned());
    anybody
        .get("/readyz")
        .await
        .refuses(503, json!({"ready": false, "store": "ok", "engine": "no cgroups"}));
    assert_eq!(anybody.get("/healthz").await.status, 200);
    let metrics = anybody.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    assert!(
        metrics.text.contains("hob_api_requests_total{class=\"2xx\"} 3"),
        "{}",
        metrics.text
    );
    assert!(
        metrics.text.contains("hob_api_requests_total{class=\"5xx\"} 1"),
        "{}",
        metrics.text
    );
    assert!(
        metrics.text.contains("hob_api_requests_in_flight 1"),
        "{}",
        metrics.text
    );
    assert!(metrics.text.ends_with("hob_fake 1\n"));
}

#[tokio::test]
async fn the_landing_page_suits_its_reader() {
    let world = World::new().await;
    let program = world.anonymous().get("/").await.expect(200);
    assert_eq!(program["links"]["api"], "https://hob.example/api/");
    let browser = world.anonymous().with_header(ACCEPT, "text/html,*/*").get("/").await;
    assert!(browser.text.starts_with("<!doctype html>"));
    world
        .anonymous()
        .get("/nothing")
        .await
        .refuses(404, json!({"detail": "Not found."}));
}

#[tokio::test]
async fn status_and_doctor_are_for_the_owner_of_the_machine() {
    let world = World::new().await;
    world.advance(90);
    let status = world.operator().get("/local/status").await.expect(200);
    assert_eq!((&status["uptime_s"], &status["ready"]), (&json!(90), &json!(true)));
    assert_eq!(status["public_url"], "https://hob.example");
    let doctor = world.operator().get("/local/doctor").await.expect(200);
    assert_eq!(doctor["results"][0]["subject"], "cgroups");
}

/// S2.1, S2.6 to S2.12: the root names every resource by its absolute link, and each link answers.
#[tokio::test]
async fn the_root_names_every_resource() {
    let world = World::new().await;
    let alice = world.alice().await;
    let root = alice.get("/api/").await.expect(200);
    for resource in [
        "services",
        "workers",
        "routes",
        "domains",
        "configs",
        "secrets",
        "deployments",
    ] {
        let link = format!("https://hob.example/api/{resource}/");
        assert_eq!(root[resource], link);
        alice.get(&format!("/api/{resource}/")).await.expect(200);
    }
}
