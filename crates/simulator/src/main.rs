//! `cargo run -p simulator -- --seeds 0..1000`, or `--seed 17 --trace` to see one of them.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use simulator::{Outcome, Scenario, run, shrink::shrink};

#[derive(Parser)]
#[command(about = "Runs the real reconciler against faults, one seed after the other")]
struct Arguments {
    /// Seeds to run, the end left out.
    #[arg(long, value_name = "A..B", value_parser = range, default_value = "0..100")]
    seeds: std::ops::Range<u64>,
    /// Run this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Look for the shortest list of commands and faults that fails.
    #[arg(long)]
    shrink: bool,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("seeds are given as A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    Ok(number(from)?..number(to)?)
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let seeds = arguments.seed.map_or(arguments.seeds.clone(), |seed| seed..seed + 1);
    let began = Instant::now();
    let (mut steps, mut decisions, mut runs, mut failures) = (0, 0, 0u64, 0u64);
    for seed in seeds {
        let scenario = Scenario::of(seed);
        let outcome = run(&scenario, None)?;
        steps += outcome.steps;
        decisions += outcome.decisions;
        runs += 1;
        if arguments.trace {
            outcome.lines.iter().for_each(|line| println!("{line}"));
        }
        if outcome.violation.is_some() {
            failures += 1;
            tell(&scenario, &outcome, arguments.shrink)?;
            if !arguments.keep_going {
                break;
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{runs} seeds in {seconds:.1} s: {:.1} seeds/s, {:.0} turns/s, {:.0} decisions/s, {failures} failed",
        runs as f64 / seconds,
        steps as f64 / seconds,
        decisions as f64 / seconds,
    );
    Ok(if failures > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn tell(scenario: &Scenario, outcome: &Outcome, shrinking: bool) -> anyhow::Result<()> {
    let Some(violation) = &outcome.violation else {
        return Ok(());
    };
    println!(
        "seed {} violates {}: {}   (cargo run -p simulator -- --seed {} --trace)",
        scenario.seed, violation.number, violation.what, scenario.seed
    );
    if !shrinking {
        return Ok(());
    }
    let smallest = shrink(scenario, None, violation.number);
    println!("the shortest list that still fails:");
    for event in &smallest.events {
        println!("  {:>8.3} s  {:?}", event.at.as_secs_f64(), event.what);
    }
    println!("and what happens then:");
    run(&smallest, None)?.lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}
