//! Durations, counted in buckets that are at most 1/64 wide: any quantile to within 1.6 %, in constant memory.

use std::time::Duration;

/// Buckets per power of two.
const FINE: u64 = 64;
const FINE_BITS: u32 = FINE.trailing_zeros();
/// Microseconds up to 2^40 (twelve days) fit; longer ones count as that.
const POWERS: u32 = 40;
const BUCKETS: usize = ((POWERS - FINE_BITS + 1) as usize) * FINE as usize;

#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            counts: vec![0; BUCKETS],
            total: 0,
            max_us: 0,
        }
    }
}

impl Histogram {
    pub fn record(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(us)] += 1;
        self.total += 1;
        self.max_us = self.max_us.max(us);
    }

    pub fn count(&self) -> u64 {
        self.total
    }

    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max_us)
    }

    /// The duration that `q` (0 to 1) of all are at most as long as; zero when there are none.
    pub fn quantile(&self, q: f64) -> Duration {
        // Rounding up: of 100 durations, the 0.99 quantile is the 99th.
        let rank = ((self.total as f64 * q).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(upper_end(index).min(self.max_us));
            }
        }
        Duration::ZERO
    }

    pub fn merge(&mut self, other: &Histogram) {
        self.counts
            .iter_mut()
            .zip(&other.counts)
            .for_each(|(mine, theirs)| *mine += theirs);
        self.total += other.total;
        self.max_us = self.max_us.max(other.max_us);
    }
}

fn bucket(us: u64) -> usize {
    let us = us.min((1 << POWERS) - 1);
    if us < FINE {
        return us as usize;
    }
    let power = us.ilog2() - FINE_BITS;
    (u64::from(power) * FINE + (us >> power)) as usize
}

fn upper_end(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * FINE {
        return index;
    }
    let power = index / FINE - 1;
    ((index % FINE + FINE + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_a_bucket_that_is_narrow_enough() {
        let mut us = 0_u64;
        while us < 1 << 39 {
            let end = upper_end(bucket(us));
            assert!(
                end >= us && end as f64 <= us as f64 * (1.0 + 1.0 / 64.0) + 1.0,
                "{us} in a bucket up to {end}"
            );
            us += 1 + us / 1_000;
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_of_a_known_row_come_out() {
        let mut histogram = Histogram::default();
        (1..=1_000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        for (q, ms) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)] {
            let found = histogram.quantile(q).as_secs_f64() * 1_000.0;
            assert!((found - ms).abs() <= ms / 60.0, "q {q}: {found} ms, not {ms}");
        }
        assert_eq!(histogram.max(), Duration::from_secs(1));
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }
}
