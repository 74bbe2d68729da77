//! Which part of a service's requests goes to which of its versions.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use domain::routing::{Pool, Share};

/// The golden ratio's part of all 32-bit numbers. Steps of this size, one after the other, fall as evenly as any can:
/// after each number of steps, every stretch has had its part of them but for one or two.
const GOLDEN: u32 = 0x9e37_79b9;

/// The pools of a service as parts of a line from 0 to 2^32; each request is a point on it.
pub struct Shares {
    /// In the order of the line. Only those that have a ready target.
    lots: Box<[Lot]>,
    /// The points: one sequence for each worker, alone on its cache lines. None where there is nothing to choose.
    points: Box<[Slot]>,
}

/// Instances among which the least loaded is taken: one pool with a percentage, or all pools that go by instances.
struct Lot {
    /// Its part of the line.
    line: Range<u64>,
    members: Range<usize>,
}

#[repr(align(128))]
struct Slot(AtomicU32);

impl Shares {
    /// `pools` with the members that each has. Those that go by instances are side by side.
    pub fn new<'a>(pools: impl Iterator<Item = (&'a Pool, Range<usize>)>, workers: usize) -> Shares {
        let mut weighted: Vec<(u64, Range<usize>)> = Vec::new();
        let mut by_instances: Option<Range<usize>> = None;
        for (pool, members) in pools.filter(|(_, members)| !members.is_empty()) {
            match pool.share {
                Share::Percent(0) => {}
                Share::Percent(percent) => weighted.push((percent.into(), members)),
                Share::ByInstances => {
                    let begin = by_instances.map_or(members.start, |all| all.start);
                    by_instances = Some(begin..members.end);
                }
            }
        }
        let given: u64 = weighted.iter().map(|(percent, _)| percent).sum();
        // Last, so that it takes over where the others have all of the line and none can be reached.
        weighted.extend(by_instances.map(|members| (100_u64.saturating_sub(given), members)));
        let total = weighted.iter().map(|(weight, _)| weight).sum::<u64>().max(1);
        let mut before = 0;
        let mut lot = |(weight, members)| {
            let begin = (before << 32) / total;
            before += weight;
            let line = begin..(before << 32) / total;
            Lot { line, members }
        };
        let lots: Box<[Lot]> = weighted.into_iter().map(&mut lot).collect();
        let sequences = if lots.len() > 1 { workers } else { 0 };
        // Begun anywhere: tables may follow each other quickly, and a fixed beginning would favour one pool.
        let point = |_| Slot(AtomicU32::new(uuid::Uuid::new_v4().as_u128() as u32));
        Shares {
            lots,
            points: (0..sequences).map(point).collect(),
        }
    }

    /// The stretches of members to look for an instance in, one after the other: that of the next point first.
    pub fn draw(&self, worker: usize) -> impl Iterator<Item = Range<usize>> {
        let first = self.points.get(worker).map_or(0, |slot| {
            let point = slot.0.load(Ordering::Relaxed).wrapping_add(GOLDEN);
            // Exactly one worker writes here.
            slot.0.store(point, Ordering::Relaxed);
            let at = self.lots.iter().position(|lot| u64::from(point) < lot.line.end);
            at.unwrap_or_default()
        });
        let count = self.lots.len();
        (0..count).map(move |i| self.lots[(first + i) % count].members.clone())
    }

    /// Whether a pool with these members gets requests as long as no other one yields.
    pub fn give_to(&self, members: &Range<usize>) -> bool {
        let includes = |lot: &Lot| lot.members.start <= members.start && members.end <= lot.members.end;
        !members.is_empty() && self.lots.iter().any(|lot| !lot.line.is_empty() && includes(lot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(pools: &[(Share, usize)]) -> Shares {
        let mut at = 0;
        let pools: Vec<(Pool, Range<usize>)> = pools
            .iter()
            .map(|(share, members)| {
                let pool = Pool {
                    share: *share,
                    ..Pool::new(uuid::Uuid::new_v4().into(), 1, vec![])
                };
                at += members;
                (pool, at - members..at)
            })
            .collect();
        Shares::new(pools.iter().map(|(pool, members)| (pool, members.clone())), 2)
    }

    /// How many of `draws` begin in each stretch.
    fn counts(shares: &Shares, draws: usize) -> Vec<(Range<usize>, usize)> {
        let mut counts: Vec<(Range<usize>, usize)> = Vec::new();
        for _ in 0..draws {
            let first = shares.draw(0).next().unwrap();
            match counts.iter_mut().find(|(range, _)| *range == first) {
                Some((_, count)) => *count += 1,
                None => counts.push((first, 1)),
            }
        }
        counts.sort_by_key(|(range, _)| range.start);
        counts
    }

    #[test]
    fn a_percentage_is_exact_in_the_long_run_and_fair_in_the_short_run() {
        for percent in 1..100_usize {
            let percents = Share::Percent(percent.try_into().unwrap());
            let shares = shares(&[(Share::ByInstances, 4), (percents, 1)]);
            let mut seen = 0;
            for drawn in 1..=20_000_usize {
                seen += usize::from(shares.draw(0).next() == Some(4..5));
                let off = (seen as f64 - drawn as f64 * percent as f64 / 100.0).abs();
                assert!(off < 5.0, "{percent} %: {seen} of {drawn}");
            }
        }
    }

    #[test]
    fn the_rest_goes_by_instances_over_all_such_pools() {
        use Share::{ByInstances, Percent};
        let all = shares(&[(ByInstances, 3), (ByInstances, 2), (Percent(20), 1), (Percent(30), 7)]);
        let counts = counts(&all, 10_000);
        let expected = [(0..5, 5_000), (5..6, 2_000), (6..13, 3_000)];
        for ((range, count), (wanted, about)) in counts.iter().zip(&expected) {
            assert!(range == wanted && count.abs_diff(*about) < 5, "{counts:?}");
        }
    }

    #[test]
    fn a_pool_without_targets_yields_and_one_at_zero_is_never_drawn() {
        use Share::{ByInstances, Percent};
        let drawn = |pools: &[(Share, usize)]| {
            let counts = counts(&shares(pools), 1_000);
            counts
                .into_iter()
                .map(|(range, _)| (range.start, range.end))
                .collect::<Vec<_>>()
        };
        assert_eq!(drawn(&[(ByInstances, 2), (Percent(30), 0)]), [(0, 2)]);
        assert_eq!(drawn(&[(ByInstances, 0), (Percent(30), 1)]), [(0, 1)]);
        assert_eq!(drawn(&[(ByInstances, 2), (Percent(100), 1)]), [(2, 3)]);
        assert_eq!(drawn(&[(ByInstances, 2), (Percent(0), 3)]), [(0, 2)]);
        assert!(shares(&[(Percent(0), 3)]).draw(0).next().is_none());
        assert!(shares(&[]).draw(0).next().is_none());
    }

    #[test]
    fn every_other_pool_follows_the_one_drawn() {
        use Share::{ByInstances, Percent};
        let shares = shares(&[(ByInstances, 1), (Percent(100), 1), (Percent(0), 1)]);
        assert_eq!(shares.draw(1).collect::<Vec<_>>(), [1..2, 0..1]);
        assert_eq!(
            [0..1, 1..2, 2..3].map(|pool| shares.give_to(&pool)),
            [false, true, false]
        );
    }
}
