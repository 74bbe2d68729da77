//! How long starts and rollouts take, against what the machine allows and against Docker Swarm.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::bare::{Runtime, app_ready};
use super::{Bench, Measure, Row, median};
use crate::system::{App, Hob, eventually};

const INSTANCES: u32 = 10;
/// As many start at once as a quarter of ten, rounded up: the default.
const IN_FLIGHT: u32 = 3;
const SOON: Duration = Duration::from_secs(60);

/// A platform with the images `web:0` and `web:1`.
pub(super) fn platform(bench: &Bench) -> anyhow::Result<Hob> {
    let hob = bench.hob.to_str().context("a plain path")?;
    let hob = Hob::start(hob).context("the kernel forbids containers")?;
    App::pack(&hob, "web:0");
    App::pack(&hob, "web:1");
    Ok(hob)
}

pub(super) fn deploy(hob: &Hob, name: &str, image: &str, instances: u32, more: &[&str]) {
    let instances = instances.to_string();
    let fixed = [
        "deploy",
        name,
        "--image",
        image,
        "--port",
        "8080",
        "--instances",
        &instances,
        "--wait",
    ];
    hob.cli(&[&fixed[..], more].concat()).ok();
}

/// From the accepted change of the number until one more instance serves, against a bare runtime's whole run.
pub(super) fn start(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let runtime = Runtime::find()?;
    let hob = platform(bench)?;
    deploy(&hob, "web", "web:0", 1, &[]);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for wanted in 2..=8_u32 {
        theirs.push(runtime.start()?.as_secs_f64() * 1e3);
        ours.push(scale(&hob, wanted)?.as_secs_f64() * 1e3);
    }
    let ms = |values: Vec<f64>| Measure::new(median(values), "ms");
    let row = Row::new("start of one instance, from the request to serving");
    Ok(vec![row.against(
        ms(ours),
        ms(theirs),
        &format!("{} run", runtime.name),
        3.0,
    )])
}

fn scale(hob: &Hob, wanted: u32) -> anyhow::Result<Duration> {
    let id = hob.service("web")["id"].as_str().context("an id")?.to_owned();
    let began = Instant::now();
    let change = serde_json::json!({ "replicas_target": wanted });
    let (status, answer) = hob.api("PATCH", &format!("/api/services/{id}/"), Some(change));
    ensure!(status == 200, "{status} {answer}");
    let wanted = usize::try_from(wanted)?;
    let path = format!("/api/services/{id}/instances/");
    while began.elapsed() < SOON {
        let rows = hob.api("GET", &path, None).1;
        let serving = rows["results"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|row| row["state"] == "serving")
            .count();
        if serving == wanted {
            return Ok(began.elapsed());
        }
        // The interface answers in about a millisecond: looking more often would be most of the load.
        std::thread::sleep(Duration::from_millis(1));
    }
    anyhow::bail!("{wanted} instances do not serve within {SOON:?}")
}

/// From the accepted change of the image until the deployment has succeeded.
pub(super) fn wall_clock(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let runtime = Runtime::find()?;
    let hob = platform(bench)?;
    let ready = app_ready(hob.scratch())?;
    let options = serde_json::json!({ "max_in_flight": IN_FLIGHT });
    deploy(&hob, "web", "web:0", INSTANCES, &[]);
    let (mut ours, mut ideal) = (Vec::new(), Vec::new());
    for round in 1..=bench.rounds.min(7) {
        let once = runtime.start()? + ready;
        ideal.push((once * INSTANCES.div_ceil(IN_FLIGHT)).as_secs_f64() * 1e3);
        let image = if round % 2 == 1 { "web:1" } else { "web:0" };
        ours.push(roll(&hob, image, &options)?.as_secs_f64() * 1e3);
    }
    let ms = |values: Vec<f64>| Measure::new(median(values), "ms");
    let what = format!("rollout of {INSTANCES} instances, {IN_FLIGHT} in flight");
    let of = format!(
        "ideal ({} start + ready) x {}",
        runtime.name,
        INSTANCES.div_ceil(IN_FLIGHT)
    );
    Ok(vec![Row::new(what).against(ms(ours), ms(ideal), &of, 1.3)])
}

pub(super) fn roll(hob: &Hob, image: &str, options: &serde_json::Value) -> anyhow::Result<Duration> {
    let id = hob.service("web")["id"].as_str().context("an id")?.to_owned();
    let began = Instant::now();
    let change = serde_json::json!({ "image": image, "options": options });
    let (status, answer) = hob.api("PATCH", &format!("/api/services/{id}/"), Some(change));
    ensure!(status == 200, "{status} {answer}");
    let path = format!("/api/services/{id}/rollout/");
    eventually(SOON * 5, "the rollout is over", || {
        hob.api("GET", &path, None).1["done"] == true
    });
    let took = began.elapsed();
    let stage = hob.stage("web");
    ensure!(stage == "succeeded", "the rollout ended as {stage}");
    Ok(took)
}

/// Docker Swarm, driven by `bin/bench`, which starts a daemon of its own and hands over what it measured.
pub(super) fn swarm(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let theirs = std::env::var("SWARM_MS").context("no dockerd was started (see bin/bench)")?;
    let theirs: f64 = theirs.parse().context("SWARM_MS")?;
    let hob = platform(bench)?;
    deploy(&hob, "web", "web:0", INSTANCES, &[]);
    let one = serde_json::json!({ "max_in_flight": 1 });
    let ours = median([
        roll(&hob, "web:1", &one)?.as_secs_f64() * 1e3,
        roll(&hob, "web:0", &one)?.as_secs_f64() * 1e3,
        roll(&hob, "web:1", &one)?.as_secs_f64() * 1e3,
    ]);
    let ms = |value| Measure::new(value, "ms");
    let what = format!("rollout of {INSTANCES} instances, 1 in flight");
    Ok(vec![Row::new(what).against(
        ms(ours),
        ms(theirs),
        "Swarm start-first, monitor 0 s",
        0.2,
    )])
}
