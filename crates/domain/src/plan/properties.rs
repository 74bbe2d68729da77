//! Safety and convergence for any service, any behaviour, any sequence of commands.
//!
//! The world checks [`super::guard`] on every single plan, so each run here is a proof of invariants 1 to 4 for that
//! run; the assertions below add what only a whole run can show.

use std::time::Duration;

use proptest::prelude::*;

use super::world::{Behaviour, World, goal};
use crate::{RolloutOptions, Stage, Strategy};

#[derive(Debug, Clone)]
enum Command {
    Deploy {
        version: u32,
        instances: u32,
        recreate: bool,
    },
    Cancel,
    Pause,
    Resume,
    Restart,
    Kill {
        nth: usize,
    },
}

fn command() -> impl Strategy_<Value = Command> {
    prop_oneof![
        4 => (1..5u32, 1..9u32, prop::bool::weighted(0.2))
            .prop_map(|(version, instances, recreate)| Command::Deploy { version, instances, recreate }),
        1 => Just(Command::Cancel),
        1 => Just(Command::Pause),
        1 => Just(Command::Resume),
        2 => Just(Command::Restart),
        2 => (0..9usize).prop_map(|nth| Command::Kill { nth }),
    ]
}

fn behaviour() -> impl Strategy_<Value = Behaviour> {
    let healthy = prop_oneof![5 => (0..2_000u64).prop_map(Some), 1 => Just(None)];
    let dies = prop_oneof![5 => Just(None), 1 => (0..5_000u64).prop_map(Some)];
    (healthy, dies, 0..40_000u64).prop_map(|(healthy, dies, drains)| Behaviour {
        healthy_after: healthy.map(Duration::from_millis),
        dies_after: dies.map(Duration::from_millis),
        drains_in: Duration::from_millis(drains),
    })
}

fn options() -> impl Strategy_<Value = RolloutOptions> {
    (
        prop::option::of(1..5u32),
        prop::option::of(0..4u32),
        0..3u32,
        0..3_000u64,
    )
        .prop_map(
            |(max_in_flight, max_surge, max_unavailable, min_ready_ms)| RolloutOptions {
                max_in_flight,
                max_surge,
                max_unavailable,
                min_ready_ms,
                progress_deadline_ms: 60_000,
                ..RolloutOptions::default()
            },
        )
}

use proptest::strategy::Strategy as Strategy_;

fn apply(world: &mut World, command: &Command, options: &RolloutOptions) {
    match *command {
        Command::Deploy {
            version,
            instances,
            recreate,
        } => {
            let strategy = if recreate {
                Strategy::Recreate
            } else {
                Strategy::Rolling
            };
            world.deploy(goal(version, instances, strategy, options.clone()));
        }
        Command::Cancel => world.set_stage(Stage::Canceling),
        Command::Pause => {
            if world.rollout.as_ref().is_some_and(|r| r.stage == Stage::Deploying) {
                world.set_stage(Stage::Paused);
            }
        }
        Command::Resume => {
            if world.rollout.as_ref().is_some_and(|r| r.stage == Stage::Paused) {
                world.set_stage(Stage::Deploying);
            }
        }
        Command::Kill { nth } => world.kill(nth),
        Command::Restart => world.restart(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Invariants 1 to 4 on every plan, and 15: when commands stop, every rollout ends and what serves is whole.
    #[test]
    fn every_rollout_ends_and_leaves_the_service_whole(
        behaviours in prop::collection::vec(behaviour(), 4),
        options in options(),
        commands in prop::collection::vec((command(), 0..20_000u64), 1..8),
        acknowledged_in in 0..100u64,
    ) {
        let mut world = World::new();
        world.acknowledged_in = Duration::from_millis(acknowledged_in);
        for (n, behaviour) in behaviours.iter().enumerate() {
            world.behaviours.insert(crate::Template(format!("v{}", n + 1)), *behaviour);
        }
        let mut until = Duration::ZERO;
        for (command, wait_ms) in &commands {
            apply(&mut world, command, &options);
            until += Duration::from_millis(*wait_ms);
            world.run(until);
        }
        apply(&mut world, &Command::Resume, &options);
        world.run(until + Duration::from_secs(3_600));

        prop_assert!(world.rollout.is_none(), "still rolling:\n{}", world.log.join("\n"));
        if let Some(serving) = &world.serving {
            let behaviour = world.behaviours[&serving.template];
            // What dies again and again cannot be whole; what is well must be.
            if behaviour.dies_after.is_none() {
                let whole = vec![serving.template.0.clone(); serving.instances as usize];
                prop_assert_eq!(world.routed_versions(), whole, "\n{}", world.log.join("\n"));
                prop_assert_eq!(world.alive(), serving.instances as usize, "\n{}", world.log.join("\n"));
            }
        } else {
            prop_assert_eq!(world.alive(), 0, "\n{}", world.log.join("\n"));
        }
    }

    /// A new version that never becomes healthy takes nothing away from the one that serves.
    #[test]
    fn a_bad_version_never_costs_a_healthy_instance(
        instances in 1..9u32,
        wanted in 1..9u32,
        options in options(),
        dies_after in prop::option::of(0..500u64),
    ) {
        let options = RolloutOptions { max_unavailable: 0, ..options };
        let mut world = World::new();
        world.deploy(goal(1, instances, Strategy::Rolling, options.clone()));
        world.run(Duration::from_secs(100));
        prop_assert_eq!(world.routed_versions().len(), instances as usize);
        let bad = Behaviour {
            healthy_after: None,
            dies_after: dies_after.map(Duration::from_millis),
            ..Behaviour::default()
        };
        world.behaviours.insert(crate::Template("v2".into()), bad);
        world.deploy(goal(2, wanted, Strategy::Rolling, options));
        for second in 0..900u64 {
            world.run(Duration::from_secs(100 + second));
            let floor = instances.min(wanted) as usize;
            prop_assert!(world.routed_versions().len() >= floor, "\n{}", world.log.join("\n"));
        }
        prop_assert!(world.rollout.is_none());
        prop_assert_eq!(world.routed_versions(), vec!["v1".to_owned(); instances as usize]);
    }
}
