//! Not by chance: one small rollout, and for every single contact of the control plane with the world a run in which it
//! dies right before it, one in which it dies right after it, and one in which it happens twice (C5.1, C5.2).

use std::time::Duration;

use domain::{HealthCheck, RolloutOptions, Step, Strategy, spec::CheckKind};
use store::ServiceKind;
use testkit::Script;

use crate::book::Traffic;
use crate::life::{Moment, Op};
use crate::scenario::{Event, Scenario, Subject, VERSIONS, What};
use crate::world::{Outcome, Ruin, Setup, run_with};

/// The version that the small rollout leads to.
pub const GOAL: i64 = 2;

/// From version 1 to version 2 of a service with two instances and a request in flight on each.
pub fn scenario(strategy: Strategy) -> Scenario {
    let step = |weight| Step {
        weight,
        traffic: None,
        then: Default::default(),
    };
    let options = RolloutOptions {
        drain_ms: 2_000,
        stop_grace_ms: 1_000,
        keep_warm_ms: 10_000,
        steps: match strategy {
            Strategy::Canary => vec![step(50), step(100)],
            _ => vec![],
        },
        ..RolloutOptions::default()
    };
    let health = HealthCheck {
        kind: CheckKind::Tcp,
        interval_ms: 30_000,
        timeout_ms: 1_000,
        healthy_after: 1,
        unhealthy_after: 1,
    };
    let ant = Subject {
        name: "ant".to_owned(),
        kind: ServiceKind::Service,
        instances: 2,
        strategy,
        options,
        health,
        scripts: (0..VERSIONS).map(|_| Script::default()).collect(),
        traffic: Traffic::default(),
        release: None,
    };
    let at = |seconds, what| Event {
        at: Duration::from_secs(seconds),
        what,
    };
    let events = vec![
        at(3, What::Load(1, Duration::from_millis(500))),
        at(5, What::Image(0, GOAL as u64)),
        at(20, What::Continue(0)),
        at(40, What::Continue(0)),
        at(60, What::Continue(0)),
    ];
    Scenario {
        seed: 1,
        services: vec![ant],
        events,
    }
}

/// Everything that can go wrong at one contact of a run that had these.
pub fn ruins(sound: &Outcome) -> Vec<Ruin> {
    let mut ruins = Vec::new();
    for op in Op::EFFECTS {
        let count = sound.contacts.get(&(op, Moment::Before)).copied().unwrap_or(0);
        for nth in 0..count {
            ruins.push(Ruin::Crash(op, Moment::Before, nth));
            ruins.push(Ruin::Crash(op, Moment::After, nth));
            ruins.push(Ruin::Twice(op, nth));
        }
    }
    ruins
}

/// One run; what is wrong with its end, if anything.
///
/// # Errors
/// Only where the simulator itself cannot run.
pub fn try_one(scenario: &Scenario, ruin: Option<Ruin>) -> anyhow::Result<(Outcome, Option<String>)> {
    let setup = Setup {
        ruin,
        ..Setup::default()
    };
    let outcome = run_with(scenario, setup)?;
    let wrong = match &outcome.violation {
        Some(violation) => Some(format!("violates {}: {}", violation.number, violation.what)),
        None if outcome.serving != [Some(GOAL)] => Some(format!("ends with {:?} serving", outcome.serving)),
        None => None,
    };
    Ok((outcome, wrong))
}
