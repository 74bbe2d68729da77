//! Whether one version did as well as another.

use std::time::Duration;

use super::inputs::{Evidence, Trial};
use crate::Gate;

/// A version under watch is rolled back when its failed requests exceed the old one's share by so many points.
const WATCH_POINTS: u32 = 5;
/// Requests without which a watched version is not judged.
const WATCH_REQUESTS: u64 = 20;

/// What the evidence says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Decision {
    Passed,
    /// Not enough seen; what of.
    Open(String),
    /// Did worse; how.
    Failed(String),
}

/// Judges what was seen at a step. What is open is said without figures that grow: those are told by whom asks for them,
/// and a sentence is written to the record whenever it changes.
pub(super) fn decide(gate: &Gate, trial: &Trial) -> Decision {
    let Evidence { new, old } = &trial.evidence;
    let wanted = gate.min_requests.max(1);
    if new.requests < wanted {
        return Decision::Open(format!(
            "the new version has answered fewer than {wanted} requests: not enough to decide"
        ));
    }
    if let Some(what) = fails_more(&trial.evidence, gate.max_error_points) {
        return Decision::Failed(what);
    }
    let p95 = |behaviour: &crate::Behaviour| behaviour.quantile(0.95).unwrap_or_default();
    let slowest = p95(old) * gate.max_p95_percent / 100;
    if old.requests >= wanted && p95(new) > slowest {
        return Decision::Failed(format!(
            "the 95th percentile of its latency was {:.1} ms, the old version's {:.1} ms; at most {} % of that is allowed",
            p95(new).as_secs_f64() * 1e3,
            p95(old).as_secs_f64() * 1e3,
            gate.max_p95_percent
        ));
    }
    let observe = Duration::from_millis(gate.observe_ms);
    if trial.lasts < observe {
        return Decision::Open(format!("well so far; decided after {} s", observe.as_secs_f64()));
    }
    Decision::Passed
}

/// Why a version that has succeeded should be taken back after all, if it should.
pub(super) fn regrets(evidence: &Evidence) -> Option<String> {
    if evidence.new.requests < WATCH_REQUESTS {
        return None;
    }
    fails_more(evidence, WATCH_POINTS)
}

fn fails_more(Evidence { new, old }: &Evidence, points: u32) -> Option<String> {
    if new.error_rate() * 100.0 <= old.error_rate() * 100.0 + f64::from(points) {
        return None;
    }
    Some(format!(
        "{} of its {} requests failed ({:.1} %), of the old version's {:.1} %; the limit is {points} percentage points more",
        new.failed,
        new.requests,
        new.error_rate() * 100.0,
        old.error_rate() * 100.0,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Behaviour;

    fn behaviour(requests: u64, failed: u64, ms: u64) -> Behaviour {
        let mut behaviour = Behaviour {
            requests,
            failed,
            ..Behaviour::default()
        };
        behaviour.latency[Behaviour::bucket(Duration::from_millis(ms))] = requests;
        behaviour
    }

    fn decision(new: (u64, u64, u64), old: (u64, u64, u64), seconds: u64) -> Decision {
        let evidence = Evidence {
            new: behaviour(new.0, new.1, new.2),
            old: behaviour(old.0, old.1, old.2),
        };
        let lasts = Duration::from_secs(seconds);
        decide(&Gate::default(), &Trial { lasts, evidence })
    }

    fn is_failed(decision: &Decision) -> bool {
        matches!(decision, Decision::Failed(_))
    }

    #[test]
    fn silence_never_promotes_and_never_fails() {
        for seconds in [0, 60, 100_000] {
            let silent = decision((99, 99, 1), (100_000, 0, 1), seconds);
            assert!(matches!(silent, Decision::Open(_)), "{silent:?}");
        }
    }

    #[test]
    fn enough_good_requests_for_long_enough_pass() {
        assert!(matches!(decision((100, 0, 10), (900, 0, 10), 59), Decision::Open(_)));
        assert_eq!(decision((100, 0, 10), (900, 0, 10), 60), Decision::Passed);
    }

    #[test]
    fn more_failures_than_the_old_version_fail_at_once() {
        assert!(is_failed(&decision((100, 2, 10), (900, 0, 10), 1)));
        assert_eq!(decision((100, 1, 10), (900, 0, 10), 60), Decision::Passed);
        assert_eq!(decision((100, 50, 10), (900, 450, 10), 60), Decision::Passed);
    }

    #[test]
    fn slower_than_allowed_fails_where_the_old_version_can_be_compared() {
        assert!(is_failed(&decision((100, 0, 40), (900, 0, 10), 60)));
        assert_eq!(decision((100, 0, 40), (99, 0, 10), 60), Decision::Passed);
    }

    #[test]
    fn a_watched_version_is_regretted_for_failures_that_the_old_one_did_not_have() {
        let evidence = |new, old| Evidence { new, old };
        assert!(regrets(&evidence(behaviour(20, 5, 1), behaviour(20, 0, 1))).is_some());
        assert!(regrets(&evidence(behaviour(19, 19, 1), behaviour(20, 0, 1))).is_none());
        assert!(regrets(&evidence(behaviour(20, 5, 1), behaviour(20, 4, 1))).is_none());
    }
}
