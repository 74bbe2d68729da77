//! Every contact of a small rollout with the world: a crash before it, a crash after it, and the same thing twice.

use domain::Strategy;
use simulator::exhaustive::{ruins, scenario, try_one};

/// Fewer points than this would mean that they are not counted any more.
const POINTS_MIN: usize = 150;

fn survives_everything(strategy: Strategy) {
    let scenario = scenario(strategy);
    let (sound, wrong) = try_one(&scenario, None).expect("the simulator runs");
    assert_eq!(wrong, None, "{strategy:?} without any fault");
    let points = ruins(&sound);
    for ruin in &points {
        let (outcome, wrong) = try_one(&scenario, Some(*ruin)).expect("the simulator runs");
        if let Some(wrong) = wrong {
            panic!("{strategy:?} with {ruin:?} {wrong}\n{}", outcome.lines.join("\n"));
        }
    }
    println!("{strategy:?}: {} points", points.len());
    assert!(
        points.len() >= POINTS_MIN,
        "{strategy:?} has only {} points",
        points.len()
    );
}

#[test]
fn a_rolling_rollout_survives_everything_at_every_point() {
    survives_everything(Strategy::Rolling);
}

#[test]
fn a_recreate_rollout_survives_everything_at_every_point() {
    survives_everything(Strategy::Recreate);
}

#[test]
fn a_canary_rollout_survives_everything_at_every_point() {
    survives_everything(Strategy::Canary);
}

#[test]
fn a_blue_green_rollout_survives_everything_at_every_point() {
    survives_everything(Strategy::BlueGreen);
}
