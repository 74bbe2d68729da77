//! Randomness that replays: the same seed gives the same throws on every machine and with every toolchain.

/// A seeded generator (SplitMix64). Small and fast; not for secrets.
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice { state: seed }
    }

    pub fn throw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product is uniform to within bound / 2^64, far below what a test can see.
        ((u128::from(self.throw()) * u128::from(bound)) >> 64) as u64
    }

    /// True `permille` times in a thousand.
    pub fn chance(&mut self, permille: u16) -> bool {
        permille > 0 && self.below(1000) < u64::from(permille)
    }

    /// One of `items`, each as likely as its weight.
    ///
    /// `None` when all weights are 0.
    pub fn weighted<'a, T>(&mut self, items: &'a [(T, u32)]) -> Option<&'a T> {
        let total: u64 = items.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut left = self.below(total);
        items.iter().find_map(|(item, weight)| {
            let weight = u64::from(*weight);
            if left < weight {
                return Some(item);
            }
            left -= weight;
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_throws() {
        let throws = |seed| {
            let mut dice = Dice::new(seed);
            (0..100).map(|_| dice.below(1_000_000)).collect::<Vec<_>>()
        };
        assert_eq!(throws(7), throws(7));
        assert_ne!(throws(7), throws(8));
    }

    #[test]
    fn weights_are_kept_to_within_a_few_percent() {
        let mut dice = Dice::new(1);
        let items = [("a", 70), ("b", 30), ("never", 0)];
        let a = (0..10_000).filter(|_| dice.weighted(&items) == Some(&"a")).count();
        assert!((6_700..7_300).contains(&a), "{a}");
        assert_eq!(dice.weighted(&[("x", 0)]), None);
    }
}
