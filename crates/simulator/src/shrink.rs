//! From a scenario that fails to the shortest list of its commands and faults that still fails.

use crate::mutants::Mutant;
use crate::scenario::Scenario;
use crate::world::run;

/// Runs that shrinking may take.
const RUNS_MAX: usize = 300;

/// Leaves out events one by one for as long as the same invariant is violated.
pub fn shrink(scenario: &Scenario, mutant: Option<Mutant>, number: u8) -> Scenario {
    let mut smallest = scenario.clone();
    let mut runs = 0;
    loop {
        let before = smallest.events.len();
        let mut nth = smallest.events.len();
        while nth > 0 && runs < RUNS_MAX {
            nth -= 1;
            let mut fewer = smallest.clone();
            fewer.events.remove(nth);
            runs += 1;
            let still = run(&fewer, mutant)
                .ok()
                .and_then(|outcome| outcome.violation)
                .is_some_and(|violation| violation.number == number);
            if still {
                smallest = fewer;
            }
        }
        if smallest.events.len() == before || runs >= RUNS_MAX {
            return smallest;
        }
    }
}
