//! Rollouts and kills without end: what fails, counted.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::rollout::{deploy, platform};
use super::{Bench, Measure, Row, median};
use crate::Dice;
use crate::load::{Audit, Load, LoadPlan, Report};
use crate::system::{Hob, LogTail, Role, eventually, eventually_some, kill};

const RATE: f64 = 300.0;
const SOON: Duration = Duration::from_secs(120);
const EDGE_GAP_AIM_MS: f64 = 300.0;
/// Failures further apart than this belong to different outages.
const PAUSE: Duration = Duration::from_secs(2);

pub(super) fn rollouts(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    [
        ("an app that drains", "DRAIN=1"),
        ("an app that exits at once", "HOSTILE=1"),
    ]
    .into_iter()
    .map(|(what, setting)| rollouts_of(bench, what, setting))
    .collect()
}

fn rollouts_of(bench: &Bench, what: &str, setting: &str) -> anyhow::Result<Row> {
    let hob = platform(bench)?;
    deploy(&hob, "web", "web:0", 4, &["--env", setting]);
    let tail = hob.tail();
    let plan = LoadPlan {
        lasts: Duration::from_secs(3_600),
        ..hob.load("web.localhost").rate(RATE).mixed()
    };
    let load = Load::start(plan);
    let began = Instant::now();
    for n in 1..=bench.rollouts {
        deploy(
            &hob,
            "web",
            if n % 2 == 0 { "web:0" } else { "web:1" },
            4,
            &["--env", setting],
        );
    }
    let each = began.elapsed().as_secs_f64() / bench.rollouts.max(1) as f64;
    let row = Row::new(format!("{} rollouts of {each:.1} s under load, {what}", bench.rollouts));
    Ok(row.of_load(&load.finish(), tail))
}

impl Row {
    /// What became of every request of a load, and of every POST that `tail` saw delivered.
    pub(super) fn of_load(self, report: &Report, tail: LogTail) -> Self {
        eprintln!("{}", report.table());
        let audit = Audit::new(&report.posts, &tail.delivered());
        let bad = report.failed() + (audit.twice.len() + audit.lost.len()) as u64;
        Row {
            ours: format!(
                "{} failed of {}, {} delivered twice, {} lost of {}",
                report.failed(),
                report.sent(),
                audit.twice.len(),
                audit.lost.len(),
                audit.sent
            ),
            aim: "0".to_owned(),
            met: Some(bad == 0 && report.sent() > 0),
            ..self
        }
    }
}

pub(super) fn kills(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut hob = platform(bench)?;
    deploy(&hob, "web", "web:0", 4, &["--env", "DRAIN=1"]);
    let control = control_plane_kills(bench, &mut hob)?;
    let edge = edge_kills(bench, &hob)?;
    Ok(vec![control, edge])
}

fn control_plane_kills(bench: &Bench, hob: &mut Hob) -> anyhow::Result<Row> {
    let seed = u64::from(std::process::id());
    eprintln!("   seed {seed}");
    let mut dice = Dice::new(seed);
    let load = short(hob);
    for round in 1..=bench.kills {
        let image = if round % 2 == 0 { "web:0" } else { "web:1" };
        hob.cli(&["deploy", "web", "--image", image, "--no-wait"]).ok();
        // Not a wait for something: the fault's moment.
        std::thread::sleep(Duration::from_millis(dice.below(2_000)));
        hob.kill_control_plane();
        hob.up();
        eventually(SOON, "the rollout is over and four instances serve", || {
            hob.stage("web") == "succeeded" && hob.serving("web").len() == 4 && hob.instances("web").len() == 4
        });
    }
    let report = load.finish();
    Ok(Row {
        ours: format!("{} failed of {}", report.failed(), report.sent()),
        aim: "0".to_owned(),
        met: Some(report.failed() == 0),
        ..Row::new(format!("{} kills of the control plane within rollouts", bench.kills))
    })
}

fn edge_kills(bench: &Bench, hob: &Hob) -> anyhow::Result<Row> {
    let mut gaps = Vec::new();
    for _ in 0..bench.kills {
        let load = short(hob);
        let edge = eventually_some(SOON, "an edge runs", || hob.processes(Role::Edge).first().copied());
        let ok = load.ok();
        kill(edge);
        eventually(SOON, "another edge serves", || {
            !hob.processes(Role::Edge).contains(&edge) && load.ok() > ok + 50
        });
        let report: Report = load.finish();
        ensure!(report.sent() > 0, "nothing was sent");
        gaps.push(report.longest_outage(PAUSE).as_secs_f64() * 1e3);
    }
    let longest = gaps.iter().copied().fold(0.0, f64::max);
    let typical = median(gaps);
    let row = Row::new(format!(
        "{} kills of the edge: longest gap (median {typical:.0} ms)",
        bench.kills
    ));
    Ok(row.at_most(Measure::new(longest, "ms"), EDGE_GAP_AIM_MS))
}

fn short(hob: &Hob) -> Load {
    let load = Load::start(hob.load("web.localhost").rate(RATE).lasts(Duration::from_secs(3_600)));
    eventually(SOON, "the load has begun", || load.ok() > 20);
    load
}
