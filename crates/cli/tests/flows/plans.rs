//! What a change would do, what it waits for, and what it came to: plans, steps, comparisons.

use cli::Outcome;
use serde_json::{Value, json};

use super::{environment, run, says};
use crate::fake::{Fake, Script};

#[tokio::test]
async fn a_plan_changes_nothing_and_says_how_to_bind_the_change_to_it() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 1);
    let ran = run(
        &environment(&fake),
        "hob deploy web --image web:2 --strategy recreate --route a.example/ --plan",
    )
    .await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    says(
        &ran.out,
        &[
            "web version 2 takes the place of version 1; instances are replaced",
            "~! image: web:1 -> web:2",
            "+  route a.example/",
            "downtime  hold: recreate stops",
            "way back  none: no version has succeeded yet",
            "--apply 0123abcd",
        ],
    );
    assert_eq!(fake.writes(), ["POST /api/services/services-1/plan/"]);
    let asked = fake.body("POST /api/services/services-1/plan/");
    assert_eq!(
        asked,
        json!({ "image": "web:2", "strategy": "recreate", "deploy": true })
    );

    let ran = run(&environment(&fake), "hob deploy new --image new:1 --plan --json").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    assert_eq!(
        serde_json::from_str::<Value>(&ran.out).expect("JSON")["hash"],
        "0123abcd"
    );
    let ran = run(&environment(&fake), "hob rollback web --plan").await;
    assert_ne!(ran.outcome, Outcome::Usage, "{}", ran.err);
}

#[tokio::test]
async fn a_change_is_bound_to_its_plan() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 1);
    let ran = run(&environment(&fake), "hob deploy web --apply stale").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    says(
        &ran.err,
        &["What this plan rests on has changed", "--plan instead of --apply"],
    );
    let ran = run(&environment(&fake), "hob deploy web --apply 0123abcd --note why").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    assert_eq!(fake.writes().len(), 2, "one request each: {:?}", fake.writes());
    let bodies: Vec<Value> = {
        let state = fake.state();
        let patches = state.requests.iter().filter(|(line, _)| line.starts_with("PATCH"));
        patches.map(|(_, body)| body.clone()).collect()
    };
    assert_eq!(
        bodies[1],
        json!({ "apply_hash": "0123abcd", "deploy": true, "notes": "why" })
    );
}

#[tokio::test]
async fn settings_that_come_with_a_deploy_are_planned_and_bound_with_it() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 1);
    let line = "hob deploy web --image web:2 --env LEVEL=debug";
    let ran = run(&environment(&fake), &format!("{line} --plan")).await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    says(&ran.out, &["config LEVEL", "debug", "--apply 0123abcd"]);
    assert_eq!(fake.writes(), ["POST /api/services/services-1/plan/"]);
    let ran = run(&environment(&fake), &format!("{line} --apply 0123abcd")).await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    assert_eq!(fake.writes()[1..], ["PATCH /api/services/services-1/"]);
    assert_eq!(
        fake.body("PATCH /api/services/services-1/"),
        json!({ "image": "web:2", "env": { "LEVEL": "debug" }, "apply_hash": "0123abcd", "deploy": true })
    );
}

#[tokio::test]
async fn a_rollout_that_waits_at_a_step_is_no_failure_and_says_how_to_go_on() {
    let fake = Fake::start(Script::WaitsAtAStep).await.with_service("web", 1);
    let line = "hob deploy web --image web:2 --strategy canary --steps 10%,50 --sticky --watch 10m --hold 5s \
                --keep-warm 1m --preview-host next.example --release ./migrate --all";
    let ran = run(&environment(&fake), line).await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    says(
        &ran.out,
        &[
            "paused (step 1 of 1: 10% traffic 5%)",
            "waits for `continue`",
            "the new version alone: http://next.example:8080/",
            "`hob continue web` goes on, `hob cancel web` takes it back",
        ],
    );
    let sent = fake.body("PATCH /api/services/services-1/");
    assert_eq!(sent["strategy"], "canary");
    assert_eq!(sent["release"], json!(["./migrate", "--all"]));
    let step = |weight| json!({ "weight": weight, "traffic": null, "then": "continue" });
    assert_eq!(
        sent["options"],
        json!({ "steps": [step(10), step(50)], "sticky": true, "watch_ms": 600_000, "hold_ms": 5_000,
            "keep_warm_ms": 60_000, "preview_host": "next.example" })
    );
    for command in ["continue", "resume"] {
        let ran = run(&environment(&fake), &format!("hob {command} web")).await;
        assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    }
    let ran = run(&environment(&fake), "hob pause web").await;
    says(&ran.out, &["web version 2 is paused; `hob resume web` lets it go on"]);
    let asked = |verb: &str| format!("POST /api/services/services-1/{verb}/");
    let writes = fake.writes();
    assert_eq!(writes[1..], [asked("continue"), asked("resume"), asked("pause")]);
}

#[tokio::test]
async fn two_versions_are_compared_by_their_numbers() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 3);
    let ran = run(&environment(&fake), "hob diff web").await;
    says(&ran.out, &["web version 2 -> 3", "nothing differs"]);
    let ran = run(&environment(&fake), "hob diff web 1 2").await;
    says(&ran.out, &["web version 1 -> 2"]);
    let ran = run(&environment(&fake), "hob diff web 1 9").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    says(&ran.err, &["web has no version 9", "Kept versions: 3, 2, 1"]);
}
