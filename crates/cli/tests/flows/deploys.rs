//! Deploying, scaling and going back, followed to their end.

use cli::Outcome;
use serde_json::{Value, json};

use super::{environment, run, says};
use crate::fake::{Fake, Script};

#[tokio::test]
async fn a_new_service_is_made_with_its_settings_and_routes_and_followed_to_its_end() {
    let fake = Fake::start(Script::Succeeds).await;
    let line = "hob deploy web --image web:1 --instances 2 --env A=1 --env B=x=y --route shop.example.com/api \
                --health-path /healthz --memory 64 --max-in-flight 1 --note first";
    let ran = run(&environment(&fake), line).await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    says(
        &ran.out,
        &["web version 1  deploying; new: 1 starting; old: 1 routed; waits: for its check"],
    );
    says(
        &ran.out,
        &[
            "web version 1 serves: web:1 with 2 instances",
            "http://shop.example.com:8080/api",
        ],
    );
    says(&ran.out, &["took 1.5 s; 12 requests ok, 0 failed"]);
    let expected = ["POST /api/services/", "POST /api/domains/", "POST /api/routes/"];
    assert_eq!(fake.writes(), expected);
    let service = fake.body("POST /api/services/");
    assert_eq!(
        service,
        json!({ "name": "web", "image": "web:1", "port": 8080, "replicas_target": 2, "env": { "A": "1", "B": "x=y" },
            "health_check": { "type": "http", "path": "/healthz" }, "resources": { "memory_mb": 64 },
            "options": { "max_in_flight": 1 }, "notes": "first" })
    );
}

#[tokio::test]
async fn a_change_makes_one_deployment_and_no_change_asks_for_one() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 1);
    let ran = run(&environment(&fake), "hob deploy web --image web:2").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    assert_eq!(fake.writes(), ["PATCH /api/services/services-1/"]);
    assert_eq!(
        fake.body("PATCH /api/services/services-1/"),
        json!({ "image": "web:2", "deploy": true })
    );

    fake.state().requests.clear();
    let ran = run(&environment(&fake), "hob deploy web --image web:2 --note again").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    says(&ran.out, &["web version 3 serves"]);
    assert_eq!(fake.writes(), ["PATCH /api/services/services-1/"]);
    let sent = fake.body("PATCH /api/services/services-1/");
    assert_eq!(sent, json!({ "image": "web:2", "deploy": true, "notes": "again" }));

    fake.state().requests.clear();
    let ran = run(&environment(&fake), "hob deploy web --note once-more").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    let posted = "POST /api/services/services-1/deployments/";
    assert_eq!(fake.writes(), [posted]);
    assert_eq!(fake.body(posted), json!({ "notes": "once-more" }));
}

#[tokio::test]
async fn a_failure_tells_why_what_serves_and_what_to_do() {
    let fake = Fake::start(Script::Fails).await.with_service("web", 1);
    let ran = run(&environment(&fake), "hob deploy web --image web:2").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    says(
        &ran.err,
        &[
            "web version 2 failed after 1.5 s: instances end at once: exit code 3",
            "| no database",
        ],
    );
    says(&ran.err, &["version 1 (web:1) still serves", "hob logs web"]);
}

#[tokio::test]
async fn waiting_ends_and_the_operation_goes_on() {
    let fake = Fake::start(Script::Hangs).await.with_service("web", 1);
    let ran = run(&environment(&fake), "hob deploy web --image web:2 --timeout 1s").await;
    assert_eq!(ran.outcome, Outcome::TimedOut);
    says(
        &ran.err,
        &["not over within 1 s", "the rollout of web goes on", "hob cancel web"],
    );
    let ran = run(&environment(&fake), "hob deploy web --image web:3 --no-wait").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
}

#[tokio::test]
async fn a_stream_that_breaks_is_opened_again() {
    let fake = Fake::start(Script::BreaksOnce).await.with_service("web", 1);
    let ran = run(&environment(&fake), "hob scale web 3").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    let watches = fake
        .state()
        .requests
        .iter()
        .filter(|(line, _)| line.contains("watch=1"))
        .count();
    assert_eq!(watches, 2);
    assert_eq!(
        ran.out.matches("deploying").count(),
        1,
        "what is known is not told again:\n{}",
        ran.out
    );
}

#[tokio::test]
async fn programs_get_one_object_a_line() {
    let fake = Fake::start(Script::Succeeds).await;
    let ran = run(&environment(&fake), "hob deploy web --image web:1 --json").await;
    let documents: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(
        documents.last().map(|d| (d["done"].clone(), d["stage"].clone())),
        Some((json!(true), json!("succeeded")))
    );
    assert!(ran.err.is_empty(), "{}", ran.err);

    let ran = run(&environment(&fake), "hob status nobody --json").await;
    let error: Value = serde_json::from_str(&ran.err).expect("JSON");
    assert_eq!(error["error"]["exit_code"], 1);
    for line in [
        "hob status --json",
        "hob status web --json",
        "hob ps --json",
        "hob history web --json",
    ] {
        let ran = run(&environment(&fake), line).await;
        assert_eq!(ran.outcome, Outcome::Done, "{line}: {}", ran.err);
        serde_json::from_str::<Value>(&ran.out).expect("one document");
    }
}

#[tokio::test]
async fn going_back_tells_the_plan_and_names_the_target() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 2);
    let ran = run(&environment(&fake), "hob rollback web").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    says(
        &ran.err,
        &["web goes back to version 1", "secrets stay as they are now"],
    );
    assert_eq!(fake.writes(), ["POST /api/deployments/d1/rollback/"]);
    let ran = run(&environment(&fake), "hob rollback web --to 9").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    says(&ran.err, &["web has no version 9", "gone back to: 3, 2, 1"]);
}
