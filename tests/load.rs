//! Rollouts under load: no request fails, nothing is delivered twice.

use std::time::{Duration, Instant};

use testkit::load::{Audit, Load, LoadPlan, Report};
use testkit::system::{App, Hob, eventually};

const HOB: &str = env!("CARGO_BIN_EXE_hob");
const ROLLOUTS: usize = 3;
const INSTANCES: &str = "4";
/// Requests a second: what a debug build on two busy cores carries with ease.
const RATE: f64 = 150.0;

/// Shorter than by default, so that a rollout does not wait for ever for its downloads: still several times longer
/// than the hostile app gives them.
fn mixed(hob: &Hob) -> LoadPlan {
    LoadPlan {
        download_lasts: Duration::from_secs(3),
        download_bytes: 300_000,
        lasts: Duration::from_secs(600),
        ..hob.load("web.localhost").rate(RATE).mixed()
    }
}

/// Rolls back and forth under mixed load; `settings` are given to the app by its environment.
fn roll_under_load(settings: &[&str]) {
    let Some(hob) = Hob::start(HOB) else { return };
    App::pack(&hob, "web:0");
    App::pack(&hob, "web:1");
    let deploy = |n: usize| {
        let image = format!("web:{}", n % 2);
        let mut arguments = vec![
            "deploy",
            "web",
            "--image",
            &image,
            "--port",
            "8080",
            "--instances",
            INSTANCES,
            "--wait",
        ];
        settings.iter().for_each(|setting| arguments.extend(["--env", setting]));
        hob.cli(&arguments).ok();
    };
    deploy(0);
    let tail = hob.tail();
    let load = Load::start(mixed(&hob));
    eventually(Duration::from_secs(20), "the load has begun", || {
        load.ok() + load.failed() > 100
    });
    let began = Instant::now();
    (1..=ROLLOUTS).for_each(deploy);
    println!("{ROLLOUTS} rollouts took {:.1} s", began.elapsed().as_secs_f64());
    let report = load.finish();
    judge(&report);
    let audit = Audit::new(&report.posts, &tail.delivered());
    assert!(audit.sent > 100, "{audit:?}");
    assert!(audit.twice.is_empty() && audit.lost.is_empty(), "{audit:?}");
    let versions: Vec<_> = hob
        .deployments("web")
        .iter()
        .map(|d| d["stage"].as_str().map(str::to_owned))
        .collect();
    assert!(
        versions.iter().all(|stage| stage.as_deref() == Some("succeeded")),
        "{versions:?}"
    );
}

fn judge(report: &Report) {
    println!("{}", report.table());
    assert_eq!(report.failed(), 0, "{}", report.table());
    assert_eq!(
        report.rows.len(),
        6,
        "every kind of request was sent:\n{}",
        report.table()
    );
}

#[test]
fn no_request_fails_while_an_app_that_drains_is_rolled() {
    roll_under_load(&["DRAIN=1"]);
}

/// The app exits 50 ms after SIGTERM whatever it is doing: all the waiting is Hob's.
#[test]
fn no_request_fails_while_a_hostile_app_is_rolled() {
    roll_under_load(&["HOSTILE=1"]);
}

#[test]
fn no_request_fails_while_instances_are_added_and_removed() {
    let Some(hob) = Hob::start(HOB) else { return };
    App::pack(&hob, "web:0");
    let deploy = [
        "deploy",
        "web",
        "--image",
        "web:0",
        "--port",
        "8080",
        "--instances",
        "2",
        "--env",
        "HOSTILE=1",
        "--wait",
    ];
    hob.cli(&deploy).ok();
    let load = Load::start(mixed(&hob));
    for (wanted, count) in [("5", 5), ("1", 1), ("3", 3)] {
        hob.cli(&["scale", "web", wanted]).ok();
        let done = || hob.serving("web").len() == count && hob.instances("web").len() == count;
        eventually(
            Duration::from_secs(60),
            "the number is reached and the rest is gone",
            done,
        );
    }
    judge(&load.finish());
}
