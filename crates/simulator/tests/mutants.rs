//! The simulator's own proof: bugs that are put in on purpose are found, each by an invariant that it breaks.

use simulator::{Mutant, Scenario, run};

/// Seeds that a bug may stay hidden for.
const SEEDS: u64 = 400;

/// Runs seeds until one fails that is well without the bug.
fn found(mutant: Mutant) -> Option<(u64, u8)> {
    let broken = |seed, mutant| run(&Scenario::of(seed), mutant).expect("the simulator runs").violation;
    (0..SEEDS).find_map(|seed| {
        let violation = broken(seed, Some(mutant))?;
        broken(seed, None).is_none().then_some((seed, violation.number))
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

/// What is told of a bug, the bug, and the invariants that may show it first.
macro_rules! is_found {
    ($($name:ident: $mutant:ident by $numbers:expr;)+) => {$(
        #[test]
        fn $name() {
            is_found(Mutant::$mutant, &$numbers);
        }
    )+};
}

is_found! {
    an_edge_that_acknowledges_what_it_has_not_applied: AckBeforeApply by [2, 4, 10];
    an_edge_that_hides_what_is_in_flight: HideBusy by [4];
    a_first_table_that_is_empty: EmptyFirstTable by [2, 10, 21];
    epochs_that_begin_anew: EpochsBeginAnew by [19];
    a_lease_that_nobody_looks_at: SkipLease by [19];
    a_target_with_an_address_of_nobody: WrongAddress by [3];
    an_edge_that_goes_deaf: EdgeGoesDeaf by [15];
    a_check_that_always_passes: BlindProbe by [3];
    an_engine_that_does_not_stop: StopDoesNothing by [15];
    an_engine_that_does_not_remove: RemoveDoesNothing by [15];
    a_listing_that_leaves_something_out: PartialListing by [1, 2, 4, 15, 18, 20, 21];
    a_start_that_starts_two: StartsTwo by [15];
    a_listing_that_never_changes: ListsNothingNew by [14, 15];

    one_instance_more_than_the_surge_allows: SurgeOffByOne by [1];
    a_stop_before_the_drain: StopBeforeDrain by [4];
    an_acknowledgement_that_is_not_waited_for: DropAcknowledgement by [2, 4, 10];
    a_success_before_all_are_routed: SuccessTooEarly by [10];
    a_cancel_that_brings_the_new_version: CancelKeepsNew by [1, 2, 10, 11, 22];
    a_rollout_without_a_floor: ForgetFloor by [1, 2, 21];
    a_route_to_what_is_not_ready: RouteUnready by [3];
    a_rollout_that_is_never_given_up: NoDeadline by [14, 15];
    a_gate_that_takes_silence_for_consent: GateBySilence by [22];
    a_watch_that_takes_back_what_is_well: WatchRegretsAll by [8, 12];
    a_watch_that_never_looks: WatchLooksAway by [12];
    a_release_command_that_is_not_waited_for: ReleaseNotAwaited by [22];
    an_end_that_is_never_recorded: NeverCollect by [1, 15];

    a_canary_that_waits_at_no_step: SkipSteps by [22];

    a_version_number_that_is_given_again: ReuseVersion by [6, 9];
    a_retention_that_lets_go_what_serves: PruneServing by [23];
    a_rollback_to_something_else: RollbackToNow by [12];
    a_decision_on_a_record_that_has_changed: StaleDecision by [1, 22];
}
