//! How long starts and rollouts take, against what the machine allows and against Docker Swarm.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::bare::{Ground, Start, app_ready};
use super::{Bench, Measure, Row, median};
use crate::system::{App, Hob, eventually};

const INSTANCES: u32 = 10;
/// As many start at once as a quarter of ten, rounded up: the default.
const IN_FLIGHT: u32 = 3;
const SOON: Duration = Duration::from_secs(60);
/// Most instances that are added one by one before they are taken away again.
const SCALE_MAX: u32 = 7;

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

/// Starts of each contestant, in turns.
const STARTS: usize = 15;

/// One instance of an unpacked image: on the embedded engine against bare runtimes with the same bundle, until the
/// program's first output; and through the whole platform, from the accepted change of the number until it serves.
pub(super) fn start(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let ground = Ground::new(bench)?;
    let runtimes = ground.runtimes()?;
    let hob = platform(bench)?;
    deploy(&hob, "web", "web:0", 1, &[]);
    let (mut ours, mut serving) = (Vec::new(), Vec::new());
    let mut theirs: Vec<Vec<Start>> = vec![Vec::new(); runtimes.len()];
    ground.engine()?;
    for round in 0..STARTS {
        ours.push(ground.engine()?);
        for (runtime, starts) in runtimes.iter().zip(&mut theirs) {
            starts.push(ground.bare(runtime)?);
        }
        let wanted = u32::try_from(round)? % SCALE_MAX + 2;
        if wanted == 2 && round > 0 {
            scale(&hob, 1)?;
        }
        serving.push(scale(&hob, wanted)?.as_secs_f64() * 1e3);
    }
    let ms = |value| Measure::new(value, "ms");
    let first = |starts: &[Start]| {
        median(
            starts
                .iter()
                .map(|s| s.first_output.as_secs_f64() * 1e3)
                .collect::<Vec<_>>(),
        )
    };
    let whole = |starts: &[Start]| median(starts.iter().map(|s| s.whole.as_secs_f64() * 1e3).collect::<Vec<_>>());
    let mut rows = Vec::new();
    for (runtime, starts) in runtimes.iter().zip(&theirs) {
        let of = format!("{runtime} run (whole run {}), same bundle,", ms(whole(starts)).text());
        let row = Row::new("start of one instance on the engine, to its first output");
        rows.push(row.against(ms(first(&ours)), ms(first(starts)), &of, 3.0));
    }
    let row = Row::new("start of one instance, from the request to serving");
    let of = format!("{} run, to its first output,", runtimes[0]);
    rows.push(Row {
        aim: String::new(),
        met: None,
        ..row.against(ms(median(serving)), ms(first(&theirs[0])), &of, 3.0)
    });
    Ok(rows)
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
    let ground = Ground::new(bench)?;
    let runtimes = ground.runtimes()?;
    let hob = platform(bench)?;
    let ready = app_ready(hob.scratch())?;
    deploy(&hob, "web", "web:0", INSTANCES, &[]);
    let mut rows = Vec::new();
    let mut image = 0;
    for in_flight in [IN_FLIGHT, 1] {
        let waves = INSTANCES.div_ceil(in_flight);
        let options = serde_json::json!({ "max_in_flight": in_flight });
        let mut ours = Vec::new();
        // Where several are in flight: as many at once as that, and as if the others cost nothing.
        let ideals: Vec<(&str, u32)> = runtimes
            .iter()
            .flat_map(|runtime| {
                if in_flight == 1 {
                    vec![(*runtime, 1)]
                } else {
                    vec![(*runtime, in_flight), (*runtime, 1)]
                }
            })
            .collect();
        let mut theirs: Vec<Vec<f64>> = vec![Vec::new(); ideals.len()];
        for _ in 0..bench.rounds.min(7) {
            for ((runtime, at_once), times) in ideals.iter().zip(&mut theirs) {
                let once = (0..3)
                    .map(|_| Ok(ground.wave(runtime, *at_once)?.as_secs_f64()))
                    .collect::<anyhow::Result<Vec<_>>>()?;
                times.push((median(once) + ready.as_secs_f64()) * f64::from(waves) * 1e3);
            }
            image = 1 - image;
            ours.push(roll(&hob, &format!("web:{image}"), &options)?.as_secs_f64() * 1e3);
        }
        let ms = |values: &[f64]| Measure::new(median(values.to_vec()), "ms");
        for ((runtime, at_once), times) in ideals.iter().zip(&theirs) {
            let what = format!("rollout of {INSTANCES} instances, {in_flight} in flight");
            let of = format!("ideal ({at_once} {runtime} run + ready) x {waves}");
            rows.push(Row::new(what).against(ms(&ours), ms(times), &of, 1.3));
        }
    }
    Ok(rows)
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
