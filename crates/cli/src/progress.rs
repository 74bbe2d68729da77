//! A rollout in words.

use std::collections::BTreeMap;

use crate::model::{Behaviour, Rollout, Trial};
use crate::text;

/// Longest reason that is shown.
const REASON_MAX: usize = 200;

/// States in the order of a life, with the words that are shown for them.
const STATES: [(&str, &str); 8] = [
    ("starting", "starting"),
    ("healthy", "ready"),
    ("serving", "routed"),
    ("unhealthy", "unhealthy"),
    ("draining", "draining"),
    ("stopping", "stopping"),
    ("exited", "exited"),
    ("gone", "gone"),
];

/// One line: the stage, instances by state, and why it waits. Two equal lines mean that nothing was learned.
pub fn describe(rollout: &Rollout) -> String {
    let reason = reason(rollout);
    if reason.is_empty() {
        states(rollout)
    } else {
        format!("{}; {reason}", states(rollout))
    }
}

/// The stage, and instances by state.
pub fn states(rollout: &Rollout) -> String {
    let mut line = rollout.stage.clone();
    line.push_str(&step(rollout));
    for (side, states) in [("new", &rollout.instances.new), ("old", &rollout.instances.old)] {
        if !states.is_empty() {
            line.push_str(&format!("; {side}: {}", counted(states)));
        }
    }
    line
}

/// Which step of how many, and what is special about it; empty where there are none, or none is left.
fn step(rollout: &Rollout) -> String {
    let next = rollout.steps.get(rollout.step as usize).filter(|_| !rollout.done);
    let Some(next) = next else { return String::new() };
    let (number, of) = (rollout.step + 1, rollout.steps.len());
    match rollout.strategy.as_str() {
        "blue_green" => " (preview)".to_owned(),
        _ => format!(" (step {number} of {of}: {})", next.text),
    }
}

/// Why it waits, or no longer goes on; empty when neither is so.
pub fn reason(rollout: &Rollout) -> String {
    match &rollout.frozen {
        Some(why) => format!("frozen: {}", text::first_line(why, REASON_MAX)),
        None if rollout.done => String::new(),
        None if rollout.waiting.is_empty() => match &rollout.ends {
            Some(ends) => format!("waits {}", text::first_line(ends, REASON_MAX)),
            None => String::new(),
        },
        None => format!("waits: {}", text::first_line(&rollout.waiting, REASON_MAX)),
    }
}

/// The figures by which a step is judged; nothing where none is.
pub fn trial(rollout: &Rollout) -> Option<String> {
    let Trial { min_requests, new, old } = rollout.trial.as_ref()?;
    let missing = min_requests.filter(|wanted| new.requests < *wanted);
    Some(format!(
        "new: {}; old: {}",
        behaviour(new, missing),
        behaviour(old, None)
    ))
}

/// `wanted`: so many requests would decide, and these are fewer.
fn behaviour(seen: &Behaviour, wanted: Option<u64>) -> String {
    let mut line = text::count(seen.requests, "request");
    if let Some(wanted) = wanted {
        line.push_str(&format!(" of the {wanted} that decide"));
    }
    if seen.requests > 0 {
        line.push_str(&format!(", {:.1} % failed", seen.error_rate * 100.0));
    }
    if let Some(p95) = seen.p95_ms {
        line.push_str(&format!(", p95 {p95:.1} ms"));
    }
    line
}

fn counted(states: &BTreeMap<String, u32>) -> String {
    let known = STATES
        .iter()
        .filter_map(|(state, word)| Some((*word, *states.get(*state)?)));
    let unknown = states
        .iter()
        .filter(|(state, _)| STATES.iter().all(|(known, _)| known != state));
    let parts = known.chain(unknown.map(|(state, number)| (state.as_str(), *number)));
    parts
        .map(|(word, number)| format!("{number} {word}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// For programs that read lines: when, and what.
pub fn line(rollout: &Rollout) -> String {
    let elapsed = text::duration(rollout.elapsed_ms);
    format!(
        "{elapsed:>9}  {} version {}  {}",
        rollout.name,
        rollout.version,
        describe(rollout)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_the_step_and_what_ends_it() {
        let document = serde_json::json!({
            "deployment": "d", "name": "web", "version": 4, "image": "web:2", "stage": "paused", "done": false,
            "strategy": "canary", "step": 1, "steps": [{ "text": "10%" }, { "text": "50% traffic 5% for 5m" }],
            "at_step": true, "ends": "for 5m at this step", "share": 5, "replicas": 4, "elapsed_ms": 100,
        });
        let rollout: Rollout = crate::model::read(&document).unwrap();
        assert_eq!(
            describe(&rollout),
            "paused (step 2 of 2: 50% traffic 5% for 5m); waits for 5m at this step"
        );
    }

    #[test]
    fn the_figures_of_a_step_say_how_many_requests_it_takes_to_decide() {
        let told = |requests: u64| {
            let document = serde_json::json!({
                "deployment": "d", "name": "web", "version": 4, "image": "web:2", "stage": "paused", "done": false,
                "replicas": 4, "elapsed_ms": 100,
                "trial": {
                    "min_requests": 100,
                    "new": { "requests": requests, "error_rate": 0.025, "p95_ms": 12.34 },
                    "old": { "requests": 0, "error_rate": 0.0, "p95_ms": null },
                },
            });
            trial(&crate::model::read(&document).unwrap()).unwrap()
        };
        assert_eq!(
            told(40),
            "new: 40 requests of the 100 that decide, 2.5 % failed, p95 12.3 ms; old: 0 requests"
        );
        assert!(told(100).starts_with("new: 100 requests, 2.5 % failed"));
    }

    #[test]
    fn a_line_tells_states_in_the_order_of_a_life() {
        let document = serde_json::json!({
            "deployment": "d", "name": "web", "version": 4, "image": "web:2", "stage": "deploying", "done": false,
            "waiting": "for instance 1234 to pass its check: connection refused", "replicas": 4, "elapsed_ms": 2_345,
            "instances": { "new": { "serving": 1, "healthy": 1, "starting": 2 }, "old": { "draining": 1, "odd": 3 } },
        });
        let rollout: Rollout = crate::model::read(&document).unwrap();
        assert_eq!(
            line(&rollout),
            "    2.3 s  web version 4  deploying; new: 2 starting, 1 ready, 1 routed; old: 1 draining, 3 odd; \
             waits: for instance 1234 to pass its check: connection refused"
        );
    }
}
