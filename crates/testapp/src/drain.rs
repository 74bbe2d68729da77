//! The end: SIGTERM, then no new connections, then the requests in progress.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{Shutdown, shutdown};

use crate::settings::Settings;

/// Takes SIGTERM and SIGINT away from all threads that are made afterwards.
pub fn block_signals() -> SigSet {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Only an invalid mask is refused. As the first process of a container we would not even die of the signal.
    let _ = signals.thread_block();
    signals
}

/// Returns when the app is asked to end.
pub fn wait(signals: &SigSet) {
    while signals.wait().is_err() {}
}

/// Counts the requests in progress.
#[derive(Default)]
pub struct Drain {
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    busy: usize,
    ending: bool,
}

/// A request in progress, from its first byte to the last byte of its answer.
pub struct Busy<'a>(&'a Drain);

impl Drain {
    pub fn begin(&self) -> Busy<'_> {
        self.lock().busy += 1;
        Busy(self)
    }

    /// Whether connections should be closed after their request.
    pub fn is_ending(&self) -> bool {
        self.lock().ending
    }

    /// Returns when the process may end. A connection that is idle by then has nothing to lose.
    pub fn end(&self, listener: &TcpListener, settings: &Settings) {
        self.lock().ending = true;
        // Wakes the thread that accepts. It cannot fail in a way that matters: the process ends soon.
        let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
        if let Some(moment) = settings.exit_after_term {
            std::thread::sleep(moment);
            return;
        }
        let deadline = Instant::now() + settings.drain;
        let mut state = self.lock();
        while state.busy > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                println!("{} requests are cut off after {:?}", state.busy, settings.drain);
                return;
            }
            state = self
                .idle
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        println!("drained");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.busy -= 1;
        if state.busy == 0 {
            self.0.idle.notify_all();
        }
    }
}
