//! Virtual time, and one effect at a time in an order that the seed decides.
//!
//! # Expected flow
//! Tokio's clock is paused: it jumps to the next timer whenever the only thread has nothing to do. The store answers on
//! that thread, so an answer is never on its way. [`Turns::quiesce`] runs before the thread parks:
//! - while somebody waits for a turn, it gives the turn to one of them, chosen by the seed;
//! - else nothing can happen before the next timer, and it lets tokio's clock jump there.
//!
//! # Guarantees
//! Every call to the engine and the edge, every command and every fault takes a turn, so each begins when nothing else
//! can run. What happens between two turns is the work of one reconciler task and of read-only helpers. Hence the same
//! seed gives the same trace.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use testkit::Dice;
use tokio::sync::oneshot;

/// Who waits: the lowest class goes first, the seed chooses within a class. The rest only makes keys differ and sorts
/// them independently of the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub class: Class,
    /// Which life of the control plane.
    pub life: u32,
    pub what: u8,
    pub subject: u128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Looks at what was just written, before anything else happens.
    Audit,
    Effect,
}

/// A handle; clones are the same.
#[derive(Clone)]
pub struct Turns {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    dice: Dice,
    waiting: BTreeMap<(Key, u64), oneshot::Sender<()>>,
    arrivals: u64,
    given: u64,
    inspector: Option<Box<dyn FnMut() + Send>>,
}

impl Turns {
    pub fn new(seed: u64) -> Self {
        Turns {
            shared: Arc::new(Mutex::new(Shared {
                dice: Dice::new(seed),
                waiting: BTreeMap::new(),
                arrivals: 0,
                given: 0,
                inspector: None,
            })),
        }
    }

    /// `inspector` looks at the world each time nothing can run.
    pub fn inspect(&self, inspector: Box<dyn FnMut() + Send>) {
        self.lock().inspector = Some(inspector);
    }

    /// Nobody looks any more.
    pub fn forget(&self) {
        let inspector = self.lock().inspector.take();
        drop(inspector);
    }

    /// Turns given so far.
    pub fn given(&self) -> u64 {
        self.lock().given
    }

    /// Waits until nothing else can run and the seed says that it is this one's turn.
    pub async fn turn(&self, key: Key) {
        let turn = {
            let mut shared = self.lock();
            let (go, turn) = oneshot::channel();
            shared.arrivals += 1;
            let arrival = shared.arrivals;
            shared.waiting.insert((key, arrival), go);
            turn
        };
        // The sender is only dropped together with the whole world.
        let _ = turn.await;
    }

    /// Called by the runtime's only thread when no task can run.
    pub fn quiesce(&self) {
        let audit_waits = self
            .lock()
            .waiting
            .first_key_value()
            .is_some_and(|((key, _), _)| key.class == Class::Audit);
        if !audit_waits {
            let inspector = self.lock().inspector.take();
            if let Some(mut inspector) = inspector {
                inspector();
                self.lock().inspector = Some(inspector);
            }
        }
        self.give();
    }

    fn give(&self) {
        let mut shared = self.lock();
        loop {
            let Some(class) = shared.waiting.first_key_value().map(|((key, _), _)| key.class) else {
                return;
            };
            let count = shared.waiting.keys().take_while(|(key, _)| key.class == class).count();
            // How many audits there are depends on how commits fall together: they must not move the dice.
            let nth = match count {
                1 => 0,
                _ => shared.dice.below(count as u64) as usize,
            };
            let Some(key) = shared.waiting.keys().nth(nth).copied() else {
                return;
            };
            let Some(go) = shared.waiting.remove(&key) else { return };
            shared.given += 1;
            // One that was given up meanwhile needs no turn.
            if go.send(()).is_ok() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
