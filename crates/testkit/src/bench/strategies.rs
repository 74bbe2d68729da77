//! Every strategy under mixed load, and how soon a version that cannot live is given up.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};

use super::rollout::{deploy, platform};
use super::{Bench, Measure, Row, median};
use crate::load::{Load, LoadPlan};
use crate::system::{App, Hob, eventually};

const RATE: f64 = 300.0;
const INSTANCES: u32 = 4;
const SOON: Duration = Duration::from_secs(120);
/// Beyond the time in which three instances of it die.
const GIVEN_UP_AIM_MS: f64 = 2_000.0;
const GIVE_UPS: usize = 5;

/// What a strategy is told, and how many `continue` it waits for.
const STORIES: [(&str, &str, u32); 3] = [
    (
        "canary",
        r#"{"steps": [{"weight": 25}, {"weight": 50, "traffic": 20}], "max_in_flight": 2}"#,
        2,
    ),
    ("blue_green", r#"{"keep_warm_ms": 0}"#, 1),
    ("recreate", r#"{"hold_ms": 60000}"#, 0),
];

/// Each strategy there and back, with an app that drains and with one that does not.
pub(super) fn under_load(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (strategy, options, continues) in STORIES {
        for (what, setting) in [("drains", "DRAIN=1"), ("exits at once", "HOSTILE=1")] {
            let options = serde_json::from_str(options)?;
            rows.push(story(bench, strategy, options, continues, what, setting)?);
        }
    }
    rows.push(given_up(bench)?);
    Ok(rows)
}

fn story(
    bench: &Bench,
    strategy: &str,
    options: Value,
    continues: u32,
    what: &str,
    setting: &str,
) -> anyhow::Result<Row> {
    let hob = platform(bench)?;
    deploy(&hob, "web", "web:0", INSTANCES, &["--env", setting]);
    let tail = hob.tail();
    let plan = LoadPlan {
        lasts: Duration::from_secs(600),
        // A request that is held is answered when the app is back.
        timeout: Duration::from_secs(60),
        ..hob.load("web.localhost").rate(RATE).mixed()
    };
    let load = Load::start(plan);
    eventually(SOON, "the load has begun", || load.ok() + load.failed() > 300);
    for image in ["web:1", "web:0"] {
        roll(&hob, image, strategy, &options)?;
        for step in 0..continues {
            let paused = format!("step {} is reached", step + 1);
            eventually(SOON, &paused, || is_at_step(&hob, step));
            go_on(&hob)?;
        }
        eventually(SOON, "the rollout has succeeded", || hob.stage("web") == "succeeded");
    }
    let row = Row::new(format!("{strategy} there and back under load, an app that {what}"));
    Ok(row.of_load(&load.finish(), tail))
}

/// From the accepted change until a crash-looping version is given up and the old one is whole and alone.
fn given_up(bench: &Bench) -> anyhow::Result<Row> {
    let hob = platform(bench)?;
    deploy(&hob, "web", "web:0", INSTANCES, &[]);
    App::pack_with(&hob, "web:bad", &["--env", "CRASH_AT_START=3"]).ok();
    let mut times = Vec::new();
    for round in 0..GIVE_UPS {
        let versions = hob.deployments("web").len();
        let began = Instant::now();
        roll(&hob, "web:bad", "rolling", &json!({}))?;
        eventually(SOON, "the version is given up", || {
            let failed = hob.stage("web") == "failed" && hob.deployments("web").len() > versions;
            failed && hob.serving("web").len() == INSTANCES as usize && hob.instances("web").len() == INSTANCES as usize
        });
        times.push(began.elapsed().as_secs_f64() * 1e3);
        // The next round is to change something again.
        let good = if round % 2 == 0 { "web:1" } else { "web:0" };
        deploy(&hob, "web", good, INSTANCES, &[]);
    }
    let row = Row::new("a crash-looping version is given up and the old one whole");
    Ok(row.at_most(Measure::new(median(times), "ms"), GIVEN_UP_AIM_MS))
}

fn path(hob: &Hob, end: &str) -> String {
    let service = hob.service("web");
    format!("/api/services/{}/{end}", service["id"].as_str().unwrap_or_default())
}

fn roll(hob: &Hob, image: &str, strategy: &str, options: &Value) -> anyhow::Result<()> {
    let body = json!({ "image": image, "strategy": strategy, "options": options });
    let (status, answer) = hob.api("PATCH", &path(hob, ""), Some(body));
    ensure!(status == 200, "{status} {answer}");
    Ok(())
}

/// Paused with so many steps behind it, which the number of passed steps in its rollout says.
fn is_at_step(hob: &Hob, passed: u32) -> bool {
    let rollout = hob.api("GET", &path(hob, "rollout/"), None).1;
    rollout["stage"] == "paused" && rollout["step"] == passed
}

fn go_on(hob: &Hob) -> anyhow::Result<()> {
    let (status, answer) = hob.api("POST", &path(hob, "continue/"), None);
    ensure!(status == 200, "{status} {answer}");
    Ok(())
}
