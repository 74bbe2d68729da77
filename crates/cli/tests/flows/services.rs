//! Services by their name: routes, output, removal.

use cli::Outcome;
use serde_json::{Value, json};

use super::{environment, run, says};
use crate::fake::{Fake, Script};

#[tokio::test]
async fn a_name_that_is_unknown_is_answered_with_the_nearest() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 1);
    for line in [
        "hob status wbe",
        "hob scale wbe 2",
        "hob logs wbe",
        "hob rm wbe --yes",
        "hob history wbe",
    ] {
        let ran = run(&environment(&fake), line).await;
        assert_eq!(ran.outcome, Outcome::Failed, "{line}");
        says(&ran.err, &["there is no service wbe", "Did you mean web?"]);
    }
    let ran = run(&environment(&fake), "hob deploy wbe --instances 2").await;
    assert_eq!(ran.outcome, Outcome::Usage);
    says(&ran.err, &["no service wbe yet", "hob deploy wbe --image"]);
}

#[tokio::test]
async fn how_all_deployments_of_a_service_ended_is_told() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 1);
    let ran = run(&environment(&fake), "hob status web").await;
    says(&ran.out, &["so far", "3 succeeded, 1 failed (deployments of all time)"]);
    let ran = run(&environment(&fake), "hob status web --json").await;
    let told: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(told["outcomes"]["succeeded"], 3);
}

#[tokio::test]
async fn a_route_of_another_service_is_taken_only_on_request() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 1);
    let environment = environment(&fake);
    run(&environment, "hob deploy api --image api:1 --route a.example.com").await;
    let ran = run(&environment, "hob route add a.example.com web").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    says(&ran.err, &["a.example.com/ leads to another service", "--move"]);
    fake.state().requests.clear();
    let ran = run(&environment, "hob deploy web --image web:9 --route a.example.com").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    assert!(
        fake.writes().is_empty(),
        "refused before anything moves: {:?}",
        fake.writes()
    );
    let ran = run(&environment, "hob route add a.example.com web --move").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
}

#[tokio::test]
async fn a_log_is_followed_across_a_break_and_no_line_is_told_twice() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 1);
    let line = |second: u32, text: &str| {
        json!({ "at": format!("2026-01-02T03:04:{second:02}.000000Z"), "instance": "i-0000000a", "version": 1,
            "stream": "stdout", "text": text })
    };
    let first = vec![line(1, "one"), json!({}), line(2, "two"), line(2, "two again")];
    let second = vec![line(1, "one"), line(2, "two"), line(2, "two again"), line(3, "three")];
    fake.state().logs.extend([first, second]);
    let ran = run(&environment(&fake), "hob logs web -f").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    says(&ran.err, &["web has been removed"]);
    let texts: Vec<&str> = ran.out.lines().filter_map(|line| line.split(" | ").nth(1)).collect();
    assert_eq!(texts, ["one", "two", "two again", "three"]);
    assert!(ran.out.starts_with("v1 0000000a | "), "{}", ran.out);
}

#[tokio::test]
async fn a_service_goes_with_the_settings_that_are_its_own() {
    let fake = Fake::start(Script::Succeeds).await;
    let environment = environment(&fake);
    run(&environment, "hob deploy web --image web:1 --env A=1").await;
    let ran = run(&environment, "hob rm web").await;
    assert_eq!(ran.outcome, Outcome::Usage, "nobody is there to confirm it");
    fake.state().requests.clear();
    let ran = run(&environment, "hob rm web --yes").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    let service = "DELETE /api/services/services-2/";
    assert_eq!(fake.writes(), [service, "DELETE /api/configs/configs-1/"]);
}
