//! The ways in which calls of the [`super::FakeEngine`] go wrong (faults C5.9 to C5.11).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::Dice;

/// An operation of [`engine::Engine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Start,
    Stop,
    Remove,
    List,
    Probe,
    Logs,
}

/// What happens to one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Refused for now; nothing happened.
    Transient,
    /// Refused for good, with this text; nothing happened.
    Permanent(String),
    /// Nothing happened, and the caller learns of a time-out after [`Faults::call_timeout`].
    TimesOutUndone,
    /// It happened, and the caller learns of a time-out after [`Faults::call_timeout`] (C5.9).
    TimesOutDone,
    /// It happens, so much later.
    Slow(Duration),
}

/// Faults by chance, in thousandths of all calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chaos {
    pub transient: u16,
    pub times_out_undone: u16,
    pub times_out_done: u16,
    pub slow: u16,
    /// Of all changes, those that wake nobody.
    pub lost_change: u16,
}

/// What has been arranged to go wrong.
#[derive(Debug)]
pub(super) struct Faults {
    next: BTreeMap<Op, VecDeque<Fault>>,
    pub(super) chaos: Chaos,
    /// Every call is refused for now.
    pub(super) down: bool,
    pub(super) call_timeout: Duration,
    pub(super) lose_changes: u32,
    dice: Dice,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Faults {
            next: BTreeMap::new(),
            chaos: Chaos::default(),
            down: false,
            call_timeout: Duration::from_secs(10),
            lose_changes: 0,
            dice: Dice::new(seed),
        }
    }

    pub(super) fn arrange(&mut self, op: Op, fault: Fault) {
        self.next.entry(op).or_default().push_back(fault);
    }

    /// The fate of a call that is made now.
    pub(super) fn draw(&mut self, op: Op) -> Option<Fault> {
        if self.down {
            return Some(Fault::Transient);
        }
        if let Some(fault) = self.next.get_mut(&op).and_then(VecDeque::pop_front) {
            return Some(fault);
        }
        let chaos = self.chaos;
        if self.dice.chance(chaos.transient) {
            Some(Fault::Transient)
        } else if self.dice.chance(chaos.times_out_undone) {
            Some(Fault::TimesOutUndone)
        } else if self.dice.chance(chaos.times_out_done) {
            Some(Fault::TimesOutDone)
        } else if self.dice.chance(chaos.slow) {
            Some(Fault::Slow(Duration::from_millis(self.dice.below(2_000))))
        } else {
            None
        }
    }

    /// Whether the change that just happened wakes nobody.
    pub(super) fn loses_change(&mut self) -> bool {
        if self.lose_changes > 0 {
            self.lose_changes -= 1;
            return true;
        }
        self.dice.chance(self.chaos.lost_change)
    }
}
