//! The simulator's own proof: bugs that are put in on purpose are found, each by the invariant that it breaks.

use simulator::Mutant::{self, *};
use simulator::{Scenario, run};

/// Seeds that a bug may stay hidden for.
const SEEDS: u64 = 40;

/// Runs seeds until one fails.
fn found(mutant: Mutant) -> Option<(u64, u8)> {
    (0..SEEDS).find_map(|seed| {
        let outcome = run(&Scenario::of(seed), Some(mutant)).expect("the simulator runs");
        outcome.violation.map(|violation| (seed, violation.number))
    })
}

fn is_found(mutant: Mutant, numbers: &[u8]) {
    let Some((seed, number)) = found(mutant) else {
        panic!("{mutant:?} stays hidden for {SEEDS} seeds");
    };
    println!("{mutant:?} is found by seed {seed}: invariant {number}");
    assert!(
        numbers.contains(&number),
        "{mutant:?} is taken for a breach of {number}"
    );
}

#[test]
fn an_edge_that_acknowledges_what_it_has_not_applied() {
    is_found(AckBeforeApply, &[2, 4, 10]);
}

#[test]
fn an_edge_that_hides_what_is_in_flight() {
    is_found(HideBusy, &[4]);
}

#[test]
fn a_check_that_always_passes() {
    is_found(BlindProbe, &[3]);
}

#[test]
fn an_engine_that_does_not_stop() {
    is_found(StopDoesNothing, &[15]);
}

#[test]
fn an_engine_that_does_not_remove() {
    is_found(RemoveDoesNothing, &[15]);
}

#[test]
fn a_listing_that_leaves_something_out() {
    is_found(PartialListing, &[1, 2, 4, 15, 20, 21]);
}

#[test]
fn a_first_table_that_is_empty() {
    is_found(EmptyFirstTable, &[2, 10, 21]);
}

#[test]
fn epochs_that_begin_anew() {
    is_found(EpochsBeginAnew, &[19]);
}

#[test]
fn a_target_with_an_address_of_nobody() {
    is_found(WrongAddress, &[3]);
}

#[test]
fn a_start_that_starts_two() {
    is_found(StartsTwo, &[15]);
}

#[test]
fn an_edge_that_goes_deaf() {
    is_found(EdgeGoesDeaf, &[15]);
}

#[test]
fn an_engine_whose_changes_wake_nobody() {
    is_found(ListsNothingNew, &[15]);
}
