//! How a service goes from one version to the next: strategy, steps, limits and waits.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a service goes from one version to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Start new, wait until ready, route, drain old, stop old; a few at a time.
    #[default]
    Rolling,
    /// As rolling, but step by step: a part of the instances (or of the requests) first, and on only when a step is
    /// passed ([`Step::then`]).
    Canary,
    /// Stop, then start; for apps that may run only once. The edge holds new requests in between.
    Recreate,
    /// The new version at full size beside the old one, reachable at a preview host only, then one switch of all
    /// requests. The old one is kept warm for a while, so that going back is one switch as well.
    BlueGreen,
}

/// One step of a canary rollout, or the preview of a blue-green one (whose weights are not looked at).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Percent of the wanted instances that run the new version, 1 to 100. How many those are: [`Step::sizes`].
    pub weight: u32,
    /// Percent of the requests that the edge sends to the new version, 0 to 100, whatever the numbers of instances.
    /// `None`: every ready instance gets its equal share.
    #[serde(default)]
    pub traffic: Option<u32>,
    #[serde(default)]
    pub then: Advance,
}

/// What ends a step.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Advance {
    /// A user's `continue`.
    #[default]
    Continue,
    /// So much time at the step. Measured in memory on a monotonic clock: a restart of the control plane begins it
    /// anew, so that it is never cut short.
    AfterMs(u64),
    /// What the edge sees of the new version beside the old one.
    Gate(Gate),
}

/// Passed when the new version answered enough requests for long enough and no worse than the old one; the rollout
/// fails when it did worse. Too few requests decide nothing, ever: then a user's `continue` or `cancel` does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gate {
    /// Requests to the new version without which nothing is decided, at least 1.
    pub min_requests: u64,
    /// Time at the step without which nothing is decided.
    pub observe_ms: u64,
    /// The new version's share of failed requests may exceed the old one's by so many percentage points.
    pub max_error_points: u32,
    /// The new version's 95th percentile of latency may be so many percent of the old one's. Not looked at while the
    /// old version has answered less than [`Gate::min_requests`].
    pub max_p95_percent: u32,
}

impl Default for Gate {
    fn default() -> Self {
        Gate {
            min_requests: 100,
            observe_ms: 60_000,
            max_error_points: 1,
            max_p95_percent: 150,
        }
    }
}

/// How many instances of each version a step wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Of the version that is rolled out.
    pub canary: u32,
    /// Of the version that served before.
    pub original: u32,
}

impl Step {
    /// Cloud Foundry's arithmetic: canary is `base` times weight, rounded half up, at least 1; original is what is
    /// left and one more, and none at weight 100.
    pub fn sizes(&self, base: u32) -> Sizes {
        let weight = self.weight.clamp(1, 100);
        let share = (u64::from(base) * u64::from(weight) + 50) / 100;
        let canary = u32::try_from(share).unwrap_or(u32::MAX).max(1);
        let original = match weight {
            100 => 0,
            _ => (base + 1).saturating_sub(canary),
        };
        Sizes { canary, original }
    }
}

/// Limits and waits of a rollout. All durations are measured on a monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutOptions {
    /// Instances that may be on their way at once; `None`: 1, or 25 % (rounded up) above four instances.
    pub max_in_flight: Option<u32>,
    /// Instances above the wanted number that may be alive at once, draining ones included; `None`: as max_in_flight.
    /// Those that were told to stop are counted as [`RolloutOptions::uncounted_stopping`] says.
    pub max_surge: Option<u32>,
    /// Wanted instances that may be missing while rolling.
    pub max_unavailable: u32,
    /// An instance counts as available when it has been healthy for so long.
    pub min_ready_ms: u64,
    /// Longest wait for requests in flight before an unrouted instance is stopped anyway.
    pub drain_ms: u64,
    /// Longest wait between the stop signal and the kill.
    pub stop_grace_ms: u64,
    /// A rollout without progress for so long has failed.
    pub progress_deadline_ms: u64,
    /// New instances that may die before the rollout is given up.
    pub max_failures: u32,
    /// Canary: its steps; none is one step with one instance. Blue-green: what ends the preview; none is `continue`.
    pub steps: Vec<Step>,
    /// Canary: a client that has met one version stays with it, by a cookie.
    pub sticky: bool,
    /// Recreate: the edge holds requests for so long while no instance is there. Then 503.
    pub hold_ms: u64,
    /// Blue-green: where the new version is reached before the switch. `None`: `<service>-preview.<base domain>`.
    pub preview_host: Option<String>,
    /// Blue-green: how long the old version lives on after the switch.
    pub keep_warm_ms: u64,
    /// For so long after success the edge watches, and a version that fails where the one before did not is rolled
    /// back. 0: not at all.
    pub watch_ms: u64,
}

/// Most steps of one rollout.
pub const STEPS_MAX: usize = 20;

impl Default for RolloutOptions {
    fn default() -> Self {
        RolloutOptions {
            max_in_flight: None,
            max_surge: None,
            max_unavailable: 0,
            min_ready_ms: 0,
            drain_ms: 30_000,
            stop_grace_ms: 10_000,
            progress_deadline_ms: 600_000,
            max_failures: 3,
            steps: vec![],
            sticky: false,
            hold_ms: 30_000,
            preview_host: None,
            keep_warm_ms: 300_000,
            watch_ms: 0,
        }
    }
}

impl RolloutOptions {
    /// Instances that may be on their way at once, for `instances` wanted ones. At least 1.
    pub fn in_flight(&self, instances: u32) -> u32 {
        let default = if instances > 4 { instances.div_ceil(4) } else { 1 };
        self.max_in_flight.unwrap_or(default).max(1)
    }

    /// Instances above the wanted number. With nothing allowed above and nothing allowed to be missing no step could
    /// ever be taken, so that pair means one above.
    pub fn surge(&self, instances: u32) -> u32 {
        let surge = self.max_surge.unwrap_or_else(|| self.in_flight(instances));
        if surge == 0 && self.max_unavailable == 0 {
            1
        } else {
            surge
        }
    }

    /// Instances that do not count against the surge, because they were drained and told to stop: as many as may be on
    /// their way at once, and never more than the surge itself. So a rollout's next step need not wait for the last
    /// one's processes to end, and who allows nothing above the wanted number gets nothing above it.
    pub fn uncounted_stopping(&self, instances: u32) -> u32 {
        self.in_flight(instances).min(self.max_surge.unwrap_or(u32::MAX))
    }

    /// The steps that a strategy takes before it goes all the way. Empty: it goes all the way at once.
    pub fn steps(&self, strategy: Strategy) -> Vec<Step> {
        const ONE: Step = Step {
            weight: 1,
            traffic: None,
            then: Advance::Continue,
        };
        match strategy {
            Strategy::Rolling | Strategy::Recreate => vec![],
            Strategy::Canary | Strategy::BlueGreen if self.steps.is_empty() => vec![ONE],
            Strategy::Canary => self.steps.clone(),
            Strategy::BlueGreen => self.steps[..1].to_vec(),
        }
    }

    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }

    pub fn min_ready(&self) -> Duration {
        Duration::from_millis(self.min_ready_ms)
    }

    pub fn progress_deadline(&self) -> Duration {
        Duration::from_millis(self.progress_deadline_ms)
    }

    pub fn stop_grace(&self) -> Duration {
        Duration::from_millis(self.stop_grace_ms)
    }

    pub fn keep_warm(&self) -> Duration {
        Duration::from_millis(self.keep_warm_ms)
    }

    pub fn watch(&self) -> Duration {
        Duration::from_millis(self.watch_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_sizes_follow_cloud_foundrys_arithmetic() {
        let sizes = |base, weight| {
            let step = Step {
                weight,
                traffic: None,
                then: Advance::Continue,
            };
            let Sizes { canary, original } = step.sizes(base);
            (canary, original)
        };
        let of_ten = [20, 40, 80, 1, 25, 45, 50, 99, 100].map(|weight| sizes(10, weight));
        let expected = [
            (2, 9),
            (4, 7),
            (8, 3),
            (1, 10),
            (3, 8),
            (5, 6),
            (5, 6),
            (10, 1),
            (10, 0),
        ];
        assert_eq!(of_ten, expected);
        assert_eq!(sizes(1, 50), (1, 1));
        assert_eq!(sizes(0, 50), (1, 0));
    }

    #[test]
    fn a_step_reads_as_it_is_written_in_requests() {
        let text = r#"[{"weight": 10}, {"weight": 50, "traffic": 5, "then": {"after_ms": 300000}},
                       {"weight": 50, "then": {"gate": {"min_requests": 20}}}]"#;
        let steps: Vec<Step> = serde_json::from_str(text).unwrap();
        assert_eq!(steps[0].then, Advance::Continue);
        assert_eq!(steps[1].then, Advance::AfterMs(300_000));
        let Advance::Gate(gate) = &steps[2].then else {
            panic!("{steps:?}")
        };
        assert_eq!((gate.min_requests, gate.max_p95_percent), (20, 150));
    }
}
