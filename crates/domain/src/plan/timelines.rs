//! Rollout cases as text, one file a case in `timelines/`: the commands, a line of dashes, what happens.
//!
//! `UPDATE_TIMELINES=1 cargo test -p domain timelines` writes the second part anew; read the difference before you
//! commit it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::world::{Behaviour, World, goal};
use crate::{Advance, Gate, RolloutOptions, Stage, Step, Strategy, Template};

const SEPARATOR: &str = "\n----\n";

#[test]
fn every_timeline_reads_as_it_is_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("timelines");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 10, "timelines are missing");
    for file in files {
        check(&file);
    }
}

fn check(file: &Path) {
    let text = std::fs::read_to_string(file).unwrap();
    let (input, expected) = text.split_once(SEPARATOR).unwrap_or((text.trim_end(), ""));
    let transcript = play(input);
    if std::env::var_os("UPDATE_TIMELINES").is_some() {
        std::fs::write(file, format!("{input}{SEPARATOR}{transcript}\n")).unwrap();
    } else {
        assert_eq!(transcript, expected.trim_end(), "\nin {}", file.display());
    }
}

fn play(input: &str) -> String {
    let mut world = World::new();
    let mut options = RolloutOptions::default();
    let mut strategy = Strategy::Rolling;
    for line in input
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["table", "acknowledged-in", time] => world.acknowledged_in = duration(time),
            ["option", name, value] => set(&mut options, &mut strategy, name, value),
            [version, "is", ref traits @ ..] if version.starts_with('v') => {
                world.behaviours.insert(Template(version.into()), behaviour(traits));
            }
            ["load", per_second] => world.load = per_second.parse().unwrap(),
            ["release", "takes", time] => world.release = Some((duration(time), true)),
            ["release", "fails-after", time] => world.release = Some((duration(time), false)),
            [at, ref command @ ..] => {
                world.run(duration(at));
                perform(&mut world, command, strategy, &options);
            }
            [] => {}
        }
    }
    world.run(world.now + Duration::from_secs(3_600));
    let routed = match world.routed_versions().join(" ") {
        nothing if nothing.is_empty() => "nothing".to_owned(),
        versions => versions,
    };
    format!("{}\n     end   routed: {routed}", world.log.join("\n"))
}

fn perform(world: &mut World, command: &[&str], strategy: Strategy, options: &RolloutOptions) {
    match *command {
        ["deploy", version, instances] => {
            let version = version[1..].parse().unwrap();
            world.deploy(goal(version, instances.parse().unwrap(), strategy, options.clone()));
        }
        ["roll", "back", "to", version] => {
            let version = version[1..].parse().unwrap();
            let instances = world.serving.as_ref().unwrap().instances;
            world.roll_back(goal(version, instances, strategy, options.clone()));
        }
        ["continue"] => world.go_on(),
        ["cancel"] => world.set_stage(Stage::Canceling),
        ["pause"] => world.set_stage(Stage::Paused),
        ["resume"] => world.set_stage(Stage::Deploying),
        ["kill", nth] => world.kill(nth.parse().unwrap()),
        ["restart"] => world.restart(),
        ["delete"] => world.deleting = true,
        _ => panic!("no such command: {command:?}"),
    }
}

fn set(options: &mut RolloutOptions, strategy: &mut Strategy, name: &str, value: &str) {
    match name {
        "strategy" => *strategy = serde_json::from_value(value.into()).unwrap(),
        "steps" => options.steps = value.split(',').map(step).collect(),
        "sticky" => options.sticky = value == "on",
        "keep_warm" => options.keep_warm_ms = duration(value).as_millis() as u64,
        "watch" => options.watch_ms = duration(value).as_millis() as u64,
        "max_in_flight" => options.max_in_flight = Some(value.parse().unwrap()),
        "max_surge" => options.max_surge = Some(value.parse().unwrap()),
        "max_unavailable" => options.max_unavailable = value.parse().unwrap(),
        "min_ready" => options.min_ready_ms = duration(value).as_millis() as u64,
        "drain" => options.drain_ms = duration(value).as_millis() as u64,
        "progress_deadline" => options.progress_deadline_ms = duration(value).as_millis() as u64,
        _ => panic!("no such option: {name} {value}"),
    }
}

fn behaviour(traits: &[&str]) -> Behaviour {
    let mut behaviour = Behaviour::default();
    for pair in traits.chunks(2) {
        match *pair {
            ["healthy-after", "never"] => behaviour.healthy_after = None,
            ["healthy-after", after] => behaviour.healthy_after = Some(duration(after)),
            ["dies-after", after] => behaviour.dies_after = Some(duration(after)),
            ["fails", percent] => behaviour.fails = percent.strip_suffix('%').unwrap().parse().unwrap(),
            ["drains-in", time] => behaviour.drains_in = duration(time),
            _ => panic!("no such trait: {pair:?}"),
        }
    }
    behaviour
}

/// `20`, `20:5` (percent of the requests), each with `@10s` (timed) or `@gate`.
fn step(text: &str) -> Step {
    let (weights, then) = text.split_once('@').unwrap_or((text, ""));
    let (weight, traffic) = match weights.split_once(':') {
        Some((weight, traffic)) => (weight, Some(traffic.parse().unwrap())),
        None => (weights, None),
    };
    let then = match then {
        "" => Advance::Continue,
        "gate" => Advance::Gate(Gate::default()),
        time => Advance::AfterMs(duration(time).as_millis() as u64),
    };
    let weight = weight.parse().unwrap();
    Step { weight, traffic, then }
}

fn duration(text: &str) -> Duration {
    match text.strip_suffix("ms") {
        Some(ms) => Duration::from_millis(ms.parse().unwrap()),
        None => Duration::from_secs_f64(text.strip_suffix('s').unwrap().parse().unwrap()),
    }
}
