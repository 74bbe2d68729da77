//! Waiting for conditions, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until `condition` holds or `limit` has passed; whether it held.
pub(super) fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// With `what` when it does not within `limit`.
#[track_caller]
pub fn eventually(limit: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(within(limit, condition), "not within {limit:?}: {what}");
}

/// Waits until `find` finds something.
///
/// # Panics
/// With `what` when it does not within `limit`.
#[track_caller]
pub fn eventually_some<T>(limit: Duration, what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    within(limit, || {
        found = find();
        found.is_some()
    });
    found.unwrap_or_else(|| panic!("not within {limit:?}: {what}"))
}
