//! A switch that people wait for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Wakes those who wait in the order in which they came. A watch of tokio's wakes them in any order, and then one seed
/// has several traces.
#[derive(Clone, Default)]
pub struct Switch {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    on: bool,
    waiting: Vec<(bool, oneshot::Sender<()>)>,
}

impl Switch {
    pub fn is_on(&self) -> bool {
        self.lock().on
    }

    pub fn set(&self, on: bool) {
        let mut state = self.lock();
        state.on = on;
        let waiting = std::mem::take(&mut state.waiting);
        let (woken, waiting) = waiting.into_iter().partition(|(wanted, _)| *wanted == on);
        state.waiting = waiting;
        drop(state);
        for (_, bell) in woken {
            // Whoever has gone meanwhile hears nothing.
            let _ = bell.send(());
        }
    }

    /// Returns once the switch stands as wanted.
    pub async fn until(&self, wanted: bool) {
        loop {
            let heard = {
                let mut state = self.lock();
                if state.on == wanted {
                    return;
                }
                let (bell, heard) = oneshot::channel();
                state.waiting.retain(|(_, bell)| !bell.is_closed());
                state.waiting.push((wanted, bell));
                heard
            };
            // The bell lies in the state that this holds.
            let _ = heard.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
