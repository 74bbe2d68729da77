//! Safety and convergence for any service, any behaviour, any sequence of commands.
//!
//! The world checks [`super::guard`] on every single plan, so each run here is a proof of invariants 1 to 4 for that
//! run; the assertions below add what only a whole run can show.

use std::time::Duration;

use proptest::prelude::*;

use super::world::{Behaviour, World, goal};
use crate::change::{Downtime, downtime};
use crate::{Advance, Delivery, Gate, HealthCheck, Resources, RolloutOptions, Spec, Stage, Step, Strategy};

#[derive(Debug, Clone)]
enum Command {
    Deploy {
        version: u32,
        instances: u32,
        strategy: Strategy,
        release: Option<(u64, bool)>,
    },
    RollBack {
        version: u32,
        instances: u32,
        strategy: Strategy,
    },
    Continue,
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
        5 => (1..5u32, 1..9u32, strategy(), prop::option::weighted(0.2, (0..10_000u64, prop::bool::weighted(0.8))))
            .prop_map(|(version, instances, strategy, release)| {
                Command::Deploy { version, instances, strategy, release }
            }),
        1 => (1..5u32, 1..9u32, strategy())
            .prop_map(|(version, instances, strategy)| Command::RollBack { version, instances, strategy }),
        2 => Just(Command::Continue),
        1 => Just(Command::Cancel),
        1 => Just(Command::Pause),
        1 => Just(Command::Resume),
        2 => Just(Command::Restart),
        2 => (0..9usize).prop_map(|nth| Command::Kill { nth }),
    ]
}

fn strategy() -> impl Strategy_<Value = Strategy> {
    prop_oneof![
        3 => Just(Strategy::Rolling),
        3 => Just(Strategy::Canary),
        2 => Just(Strategy::BlueGreen),
        1 => Just(Strategy::Recreate),
    ]
}

fn steps() -> impl Strategy_<Value = Vec<Step>> {
    let then = prop_oneof![
        2 => Just(Advance::Continue),
        1 => (0..20_000u64).prop_map(Advance::AfterMs),
        1 => Just(Advance::Gate(Gate { min_requests: 10, observe_ms: 3_000, ..Gate::default() })),
    ];
    let weight = prop_oneof![6 => 1..100u32, 1 => Just(100)];
    let step = (weight, prop::option::of(0..101u32), then);
    let step = step.prop_map(|(weight, traffic, then)| Step { weight, traffic, then });
    // Weights never shrink: anything else is refused before there is a plan.
    prop::collection::vec(step, 0..4).prop_map(|mut steps| {
        steps.sort_by_key(|step| step.weight);
        steps
    })
}

fn behaviour() -> impl Strategy_<Value = Behaviour> {
    let healthy = prop_oneof![5 => (0..2_000u64).prop_map(Some), 1 => Just(None)];
    let dies = prop_oneof![5 => Just(None), 1 => (0..5_000u64).prop_map(Some)];
    let fails = prop_oneof![3 => Just(0), 1 => 0..100u64];
    (healthy, dies, 0..40_000u64, fails).prop_map(|(healthy, dies, drains, fails)| Behaviour {
        healthy_after: healthy.map(Duration::from_millis),
        dies_after: dies.map(Duration::from_millis),
        drains_in: Duration::from_millis(drains),
        fails,
    })
}

fn options() -> impl Strategy_<Value = RolloutOptions> {
    (
        prop::option::of(1..5u32),
        prop::option::of(0..4u32),
        0..3u32,
        0..3_000u64,
        steps(),
        prop_oneof![Just(0), 0..60_000u64],
        prop_oneof![Just(0), 0..60_000u64],
    )
        .prop_map(
            |(max_in_flight, max_surge, max_unavailable, min_ready_ms, steps, keep_warm_ms, watch_ms)| RolloutOptions {
                max_in_flight,
                max_surge,
                max_unavailable,
                min_ready_ms,
                progress_deadline_ms: 60_000,
                steps,
                keep_warm_ms,
                watch_ms,
                ..RolloutOptions::default()
            },
        )
}

use proptest::strategy::Strategy as Strategy_;

fn spec(version: u32) -> Spec {
    Spec {
        image: format!("app:{version}"),
        digest: Some(format!("sha256:{version}")),
        port: Some(8080),
        instances: 1,
        config: [].into(),
        secrets: [].into(),
        delivery: Delivery::Env,
        command: None,
        release: None,
        health: HealthCheck::default(),
        resources: Resources::default(),
        strategy: Strategy::Rolling,
        options: RolloutOptions::default(),
        restart: 0,
    }
}

fn apply(world: &mut World, command: &Command, options: &RolloutOptions) {
    match *command {
        Command::Deploy {
            version,
            instances,
            strategy,
            release,
        } => {
            world.release = release.map(|(ms, succeeds)| (Duration::from_millis(ms), succeeds));
            world.deploy(goal(version, instances, strategy, options.clone()));
        }
        Command::RollBack {
            version,
            instances,
            strategy,
        } => {
            world.release = None;
            world.roll_back(goal(version, instances, strategy, options.clone()));
        }
        Command::Continue => world.go_on(),
        Command::Cancel => world.set_stage(Stage::Canceling),
        Command::Pause => {
            if world.rollout.as_ref().is_some_and(|r| r.stage == Stage::Deploying) {
                world.set_stage(Stage::Paused);
            }
        }
        Command::Resume => {
            if world
                .rollout
                .as_ref()
                .is_some_and(|r| r.stage == Stage::Paused && r.at_step.is_none())
            {
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
        load in prop_oneof![Just(0), 1..100u64],
    ) {
        let mut world = World::new();
        world.load = load;
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
        for _ in 0..5 {
            until += Duration::from_secs(3_600);
            world.run(until);
            world.go_on();
        }

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

    /// What a plan says beforehand of downtime is what a rollout of well versions then does.
    #[test]
    fn the_downtime_that_is_foretold_is_the_downtime_that_comes(
        before in 1..7u32,
        after in 1..7u32,
        max_unavailable in 0..9u32,
        options in options(),
        strategy in strategy(),
        healthy_after in 1..2_000u64,
        acknowledged_in in 0..100u64,
        goes_back in any::<bool>(),
    ) {
        let options = RolloutOptions { max_unavailable, watch_ms: 0, ..options };
        let spec = |instances, version| Spec {
            instances,
            strategy,
            options: options.clone(),
            ..spec(version)
        };
        let (foretold, why) = downtime(Some(&spec(before, 1)), &spec(after, 2), true);

        let mut world = World::new();
        world.acknowledged_in = Duration::from_millis(acknowledged_in);
        let slow = Behaviour { healthy_after: Some(Duration::from_millis(healthy_after)), ..Behaviour::default() };
        for version in ["v1", "v2"] {
            world.behaviours.insert(crate::Template(version.into()), slow);
        }
        world.deploy(goal(1, before, Strategy::Rolling, RolloutOptions::default()));
        world.run(Duration::from_secs(1_000));
        prop_assert_eq!(world.routed_versions().len(), before as usize);
        world.fewest_routed = usize::MAX;
        let next = goal(2, after, strategy, options.clone());
        match goes_back {
            true => world.roll_back(next),
            false => world.deploy(next),
        }
        for hour in 1..6 {
            world.run(Duration::from_secs(3_600 * hour));
            world.go_on();
        }
        prop_assert_eq!(world.routed_versions(), vec!["v2".to_owned(); after as usize]);
        let nobody_served = world.fewest_routed == 0;
        prop_assert_eq!(
            nobody_served, foretold != Downtime::None,
            "foretold {:?}: {}\n{}", foretold, why, world.log.join("\n")
        );
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
