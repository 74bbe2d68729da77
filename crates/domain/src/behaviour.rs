//! How a version behaves, as the edge measures it: requests, failures, latency.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buckets for each doubling of latency: a quantile is at most 19 % above the truth.
const PER_OCTAVE: u32 = 4;
/// Latencies up to here share the first bucket, microseconds.
const FIRST_US: u64 = 64;
/// Buckets of a latency histogram; the last one holds everything above a minute.
pub const BUCKETS: usize = 82;

/// Counts of one deployment since some beginning; they only grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behaviour {
    /// Answered requests, failed ones included.
    pub requests: u64,
    /// Those that the app answered with 5xx, broke off or did not answer at all.
    pub failed: u64,
    /// How many were first answered within each bucket's time; [`Behaviour::bucket`] says which one.
    pub latency: Vec<u64>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            requests: 0,
            failed: 0,
            latency: vec![0; BUCKETS],
        }
    }
}

impl Behaviour {
    /// The bucket of one latency.
    pub fn bucket(latency: Duration) -> usize {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        if us <= FIRST_US {
            return 0;
        }
        let octaves = (us as f64 / FIRST_US as f64).log2();
        let bucket = (octaves * f64::from(PER_OCTAVE)).ceil() as usize;
        bucket.min(BUCKETS - 1)
    }

    /// The longest latency of a bucket.
    fn upper(bucket: usize) -> Duration {
        let octaves = bucket as f64 / f64::from(PER_OCTAVE);
        Duration::from_micros((FIRST_US as f64 * octaves.exp2()) as u64)
    }

    /// What was counted since `earlier`. A counter that shrank was begun anew (the edge was restarted): then all of it.
    pub fn since(&self, earlier: &Behaviour) -> Behaviour {
        if self.requests < earlier.requests || self.latency.len() != earlier.latency.len() {
            return self.clone();
        }
        let latency = self.latency.iter().zip(&earlier.latency);
        Behaviour {
            requests: self.requests - earlier.requests,
            failed: self.failed.saturating_sub(earlier.failed),
            latency: latency.map(|(now, then)| now.saturating_sub(*then)).collect(),
        }
    }

    /// Field-wise sum.
    pub fn plus(&self, other: &Behaviour) -> Behaviour {
        let (longer, shorter) = if self.latency.len() < other.latency.len() {
            (other, self)
        } else {
            (self, other)
        };
        let added = shorter.latency.iter().copied().chain(std::iter::repeat(0));
        Behaviour {
            requests: self.requests + other.requests,
            failed: self.failed + other.failed,
            latency: longer.latency.iter().zip(added).map(|(a, b)| a + b).collect(),
        }
    }

    /// Within which time the given share (0 to 1) of the requests was first answered. `None` without requests.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total: u64 = self.latency.iter().sum();
        let rank = ((total as f64 * share).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        let bucket = self.latency.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Self::upper(bucket))
    }

    /// Share of failed requests, 0 to 1; 0 without requests.
    pub fn error_rate(&self) -> f64 {
        if self.requests == 0 {
            return 0.0;
        }
        self.failed as f64 / self.requests as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(latencies_ms: &[u64]) -> Behaviour {
        let mut behaviour = Behaviour::default();
        for ms in latencies_ms {
            behaviour.requests += 1;
            behaviour.latency[Behaviour::bucket(Duration::from_millis(*ms))] += 1;
        }
        behaviour
    }

    #[test]
    fn a_quantile_is_never_below_the_truth_and_at_most_a_fifth_above_it() {
        let behaviour = seen(&(1..=1_000).collect::<Vec<_>>());
        for (share, truth_ms) in [(0.5, 500.0), (0.95, 950.0), (1.0, 1_000.0)] {
            let found_ms = behaviour.quantile(share).unwrap().as_secs_f64() * 1e3;
            assert!((truth_ms..truth_ms * 1.2).contains(&found_ms), "{share}: {found_ms}");
        }
        assert_eq!(seen(&[]).quantile(0.95), None);
    }

    #[test]
    fn every_latency_has_a_bucket() {
        assert_eq!(Behaviour::bucket(Duration::ZERO), 0);
        assert_eq!(Behaviour::bucket(Duration::MAX), BUCKETS - 1);
        assert!(Behaviour::upper(BUCKETS - 1) > Duration::from_secs(60));
    }

    #[test]
    fn behaviours_add_up() {
        assert_eq!(seen(&[1, 2]).plus(&seen(&[2, 700])), seen(&[1, 2, 2, 700]));
    }

    #[test]
    fn a_restarted_edge_counts_from_nothing() {
        let before = seen(&[1, 2, 3]);
        let after = seen(&[1]);
        assert_eq!(after.since(&before), after);
        assert_eq!(seen(&[1, 2, 3, 4]).since(&before).requests, 1);
    }
}
