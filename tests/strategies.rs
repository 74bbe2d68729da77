//! Every strategy end to end: real containers, mixed load, a draining and a hostile app. No request fails, nothing is
//! delivered twice.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::load::{Audit, Load, LoadPlan};
use testkit::system::{App, Hob, Instance, eventually};

const HOB: &str = env!("CARGO_BIN_EXE_hob");
const SOON: Duration = Duration::from_secs(90);
const RATE: f64 = 120.0;
const DRAINS: &str = "DRAIN=1";
/// Exits 50 ms after SIGTERM, whatever it is doing.
const HOSTILE: &str = "HOSTILE=1";

/// A platform with a service `web` of so many instances, and the images `web:0` to `web:2` that tell their version.
fn platform(instances: &str, settings: &[&str]) -> Option<Hob> {
    let hob = Hob::start(HOB)?;
    for version in ["0", "1", "2"] {
        App::pack_with(
            &hob,
            &format!("web:{version}"),
            &["--env", &format!("VERSION={version}")],
        )
        .ok();
    }
    let mut arguments = vec!["deploy", "web", "--image", "web:0", "--port", "8080", "--wait"];
    arguments.extend(["--instances", instances]);
    settings.iter().for_each(|setting| arguments.extend(["--env", setting]));
    hob.cli(&arguments).ok();
    Some(hob)
}

/// Asks for another version, and answers when it is recorded.
fn roll(hob: &Hob, image: &str, strategy: &str, options: Value) {
    let service = hob.service("web");
    let path = format!("/api/services/{}/", service["id"].as_str().expect("an id"));
    let body = json!({ "image": image, "strategy": strategy, "options": options });
    let (status, answer) = hob.api("PATCH", &path, Some(body));
    assert_eq!(status, 200, "{answer}");
}

/// Passes the step that the rollout waits at.
fn go_on(hob: &Hob) {
    let service = hob.service("web");
    let path = format!("/api/services/{}/continue/", service["id"].as_str().expect("an id"));
    let (status, answer) = hob.api("POST", &path, None);
    assert_eq!(status, 200, "{answer}");
}

fn until_stage(hob: &Hob, stage: &str) {
    eventually(SOON, &format!("the deployment is {stage}"), || {
        hob.stage("web") == stage
    });
}

/// What a page of this host says of its version.
fn version_at(hob: &Hob, host: &str) -> String {
    let page = hob.get(host, "/").expect("an answer").text();
    let version = page.split("version ").nth(1).and_then(|rest| rest.split(',').next());
    version.map(str::to_owned).unwrap_or(page)
}

fn ids_of(instances: Vec<Instance>) -> Vec<String> {
    instances.into_iter().map(|instance| instance.id).collect()
}

/// The newest deployment, whole.
fn newest(hob: &Hob) -> Value {
    hob.deployments("web").into_iter().next().expect("a deployment")
}

/// How far the newest rollout is.
fn rollout(hob: &Hob) -> Value {
    let service = hob.service("web");
    let path = format!("/api/services/{}/rollout/", service["id"].as_str().expect("an id"));
    hob.api("GET", &path, None).1
}

/// Runs `story` under mixed load, and judges it.
fn under_load(hob: &Hob, story: impl FnOnce(&Load)) {
    let tail = hob.tail();
    let plan = LoadPlan {
        download_lasts: Duration::from_secs(3),
        download_bytes: 300_000,
        lasts: Duration::from_secs(600),
        ..hob.load("web.localhost").rate(RATE).mixed()
    };
    let load = Load::start(plan);
    eventually(SOON, "the load has begun", || load.ok() + load.failed() > 100);
    story(&load);
    let report = load.finish();
    println!("{}", report.table());
    assert_eq!(report.failed(), 0, "{}", report.table());
    let audit = Audit::new(&report.posts, &tail.delivered());
    assert!(audit.sent > 20, "{audit:?}");
    assert!(audit.twice.is_empty() && audit.lost.is_empty(), "{audit:?}");
}

/// Whoever reads this far has seen so many more good answers.
fn serve_on(load: &Load) {
    let ok = load.ok();
    eventually(SOON, "a hundred more answers are good", || load.ok() > ok + 100);
}

fn canary_story(setting: &str) {
    let Some(hob) = platform("4", &[setting]) else { return };
    under_load(&hob, |load| {
        let steps = json!([{ "weight": 25 }, { "weight": 50, "traffic": 20 }]);
        roll(&hob, "web:1", "canary", json!({ "steps": steps, "max_in_flight": 2 }));
        until_stage(&hob, "paused");
        serve_on(load);
        go_on(&hob);
        eventually(SOON, "the second step is reached", || {
            hob.stage("web") == "paused" && hob.serving("web").len() >= 5
        });
        serve_on(load);
        go_on(&hob);
        until_stage(&hob, "succeeded");
        // And one that is cancelled at its step.
        roll(&hob, "web:0", "canary", json!({ "steps": [{ "weight": 50 }] }));
        until_stage(&hob, "paused");
        serve_on(load);
        hob.cli(&["cancel", "web"]).ok();
        until_stage(&hob, "canceled");
        serve_on(load);
    });
    assert_eq!(version_at(&hob, "web.localhost"), "1");
}

#[test]
fn no_request_fails_in_a_canary_of_an_app_that_drains() {
    canary_story(DRAINS);
}

#[test]
fn no_request_fails_in_a_canary_of_a_hostile_app() {
    canary_story(HOSTILE);
}

#[test]
fn a_canary_gets_its_share_of_the_requests_and_not_more() {
    const REQUESTS: u32 = 2_000;
    const PERCENT: u32 = 20;
    let Some(hob) = platform("2", &[]) else { return };
    let steps = json!([{ "weight": 50, "traffic": PERCENT }]);
    roll(&hob, "web:1", "canary", json!({ "steps": steps }));
    until_stage(&hob, "paused");
    let new = (0..REQUESTS)
        .filter(|_| version_at(&hob, "web.localhost") == "1")
        .count();
    let p = f64::from(PERCENT) / 100.0;
    let expected = f64::from(REQUESTS) * p;
    let deviation = (expected * (1.0 - p)).sqrt();
    let off = (new as f64 - expected).abs();
    assert!(off <= 4.0 * deviation, "{new} of {REQUESTS}, {expected} were expected");
    hob.cli(&["cancel", "web"]).ok();
}

#[test]
fn a_gate_decides_by_what_the_edge_has_seen_and_silence_decides_nothing() {
    const WANTED: u64 = 40;
    let Some(hob) = platform("2", &[]) else { return };
    let gate = json!({ "gate": { "min_requests": WANTED, "observe_ms": 0, "max_p95_percent": 10_000 } });
    let options = json!({ "steps": [{ "weight": 50, "then": gate }] });
    roll(&hob, "web:1", "canary", options.clone());
    until_stage(&hob, "paused");
    let asked = |path| hob.get("web.localhost", path).expect("an answer").status();
    assert!((0..20).all(|_| asked("/") == 200));
    eventually(SOON, "the edge's figures are told", || {
        rollout(&hob)["trial"]["new"]["requests"].as_u64() > Some(0)
    });
    let seen = rollout(&hob);
    assert!(seen["trial"]["new"]["requests"].as_u64() < Some(WANTED), "{seen}");
    assert!(seen["trial"]["old"]["p95_ms"].is_number(), "{seen}");
    assert!(
        seen["waiting"]
            .as_str()
            .is_some_and(|why| why.contains("not enough to decide")),
        "{seen}"
    );
    let told = hob.cli(&["status", "web"]).ok();
    assert!(told.stdout.contains("of the 40 that decide"), "{}", told.stdout);
    eventually(SOON, "enough good answers pass the step", || {
        asked("/") == 200 && hob.stage("web") == "succeeded"
    });

    App::pack_with(&hob, "web:bad", &["--env", "FAIL_HEALTH=1"]).ok();
    roll(&hob, "web:bad", "canary", options);
    until_stage(&hob, "paused");
    eventually(SOON, "bad answers end the rollout", || {
        asked("/healthz");
        hob.stage("web") == "failed"
    });
    let why = newest(&hob)["error_message"].as_str().expect("a text").to_owned();
    assert!(why.contains("requests failed"), "{why}");
    assert_eq!(version_at(&hob, "web.localhost"), "1");
}

#[test]
fn a_success_whose_requests_fail_soon_after_is_taken_back() {
    let Some(hob) = platform("2", &[]) else { return };
    App::pack_with(&hob, "web:bad", &["--env", "FAIL_HEALTH=1"]).ok();
    let asked = |path| hob.get("web.localhost", path).expect("an answer").status();
    assert!(
        (0..30).all(|_| asked("/healthz") == 200),
        "the old version does not fail"
    );
    roll(&hob, "web:bad", "rolling", json!({ "watch_ms": 600_000 }));
    until_stage(&hob, "succeeded");
    assert_eq!(asked("/healthz"), 503);
    eventually(SOON, "the old version answers again", || asked("/healthz") == 200);
    until_stage(&hob, "succeeded");
    assert_eq!(version_at(&hob, "web.localhost"), "0");
    let back = newest(&hob);
    assert!(back["rollback_from"].is_string(), "{back}");
}

fn blue_green_story(setting: &str) {
    let Some(hob) = platform("3", &[setting]) else { return };
    under_load(&hob, |load| {
        roll(&hob, "web:1", "blue_green", json!({ "keep_warm_ms": 600_000 }));
        until_stage(&hob, "paused");
        assert_eq!(version_at(&hob, "web-preview.localhost"), "1");
        assert_eq!(version_at(&hob, "web.localhost"), "0");
        serve_on(load);
        go_on(&hob);
        until_stage(&hob, "succeeded");
        assert_eq!(version_at(&hob, "web.localhost"), "1");
        assert_eq!(hob.instances("web").len(), 6, "the old version is kept warm");
        serve_on(load);
        let warm = ids_of(hob.instances("web"));
        hob.cli(&["rollback", "web", "--wait"]).ok();
        assert_eq!(version_at(&hob, "web.localhost"), "0");
        let serving = ids_of(hob.serving("web"));
        assert_eq!(serving.len(), 3);
        assert!(serving.iter().all(|id| warm.contains(id)), "nothing had to be started");
        serve_on(load);
    });
}

#[test]
fn no_request_fails_in_a_blue_green_switch_and_back_of_an_app_that_drains() {
    blue_green_story(DRAINS);
}

#[test]
fn no_request_fails_in_a_blue_green_switch_and_back_of_a_hostile_app() {
    blue_green_story(HOSTILE);
}

#[test]
fn no_request_fails_while_an_app_that_may_run_only_once_is_replaced() {
    let Some(hob) = platform("1", &[DRAINS]) else { return };
    let plan = LoadPlan {
        lasts: Duration::from_secs(600),
        timeout: Duration::from_secs(30),
        ..hob.load("web.localhost").rate(50.0)
    };
    let load = Load::start(plan);
    eventually(SOON, "the load has begun", || load.ok() + load.failed() > 50);
    roll(&hob, "web:1", "recreate", json!({ "hold_ms": 30_000 }));
    until_stage(&hob, "succeeded");
    serve_on(&load);
    let report = load.finish();
    assert_eq!(report.failed(), 0, "{}", report.table());
    assert_eq!(version_at(&hob, "web.localhost"), "1");
}

#[test]
fn no_request_fails_while_a_crash_looping_image_is_tried_and_given_up() {
    let Some(hob) = platform("3", &[HOSTILE]) else { return };
    App::pack_with(&hob, "web:bad", &["--env", "CRASH_AT_START=3"]).ok();
    under_load(&hob, |load| {
        roll(&hob, "web:bad", "rolling", json!({}));
        until_stage(&hob, "failed");
        serve_on(load);
    });
    let message = newest(&hob)["error_message"].to_string();
    assert!(message.contains("exit code 3"), "{message}");
}

#[test]
fn a_release_command_runs_once_in_the_new_image_and_its_failure_changes_nothing() {
    let Some(hob) = platform("2", &[]) else { return };
    let serving = || ids_of(hob.serving("web"));
    let before = serving();
    let service = hob.service("web");
    let path = format!("/api/services/{}/", service["id"].as_str().expect("an id"));
    let release = |image: &str, code: &str| {
        let body = json!({ "image": image, "release": ["/app", "exit", code] });
        let (status, answer) = hob.api("PATCH", &path, Some(body));
        assert_eq!(status, 200, "{answer}");
    };
    release("web:1", "7");
    until_stage(&hob, "failed");
    let message = newest(&hob)["error_message"].to_string();
    assert!(
        message.contains("release command") && message.contains("exit code 7"),
        "{message}"
    );
    assert_eq!(serving(), before);
    release("web:2", "0");
    until_stage(&hob, "succeeded");
    assert_eq!(version_at(&hob, "web.localhost"), "2");
}
