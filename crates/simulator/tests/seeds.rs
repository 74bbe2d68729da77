//! A budget of seeds that must pass, and the promise that a seed replays.

use std::time::{Duration, Instant};

use simulator::{Scenario, run};

/// Seeds of every test run. More run with `cargo run -p simulator -- --seeds A..B`.
const SEEDS: u64 = 200;
/// Longest time that they may take; a slow machine runs fewer, and at least [`SEEDS_MIN`].
const BUDGET: Duration = Duration::from_secs(50);
const SEEDS_MIN: u64 = 40;

#[test]
fn every_seed_keeps_every_invariant() {
    let began = Instant::now();
    let (mut steps, mut seeds) = (0, 0);
    while seeds < SEEDS && (seeds < SEEDS_MIN || began.elapsed() < BUDGET) {
        let outcome = run(&Scenario::of(seeds), None).expect("the simulator runs");
        if let Some(violation) = outcome.violation {
            panic!(
                "seed {seeds} violates {}: {}; cargo run -p simulator -- --seed {seeds} --trace",
                violation.number, violation.what
            );
        }
        steps += outcome.steps;
        seeds += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds, {steps} steps in {seconds:.1} s: {:.1} seeds/s, {:.0} steps/s",
        seeds as f64 / seconds,
        steps as f64 / seconds
    );
}

#[test]
fn the_same_seed_gives_the_same_trace_to_the_byte() {
    for seed in 1_000..1_012 {
        let trace = || run(&Scenario::of(seed), None).expect("the simulator runs").lines;
        let (first, second) = (trace(), trace());
        assert!(first.len() > 20, "seed {seed} does nothing");
        for (one, other) in first.iter().zip(&second) {
            assert_eq!(one, other, "seed {seed}");
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}
