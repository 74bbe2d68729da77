//! Who uses a connection, who waits for one, and what is committed together.
//!
//! # Expected flow
//! A transaction borrows a connection and gives it back at its end, to the next in line. One that has made a change and
//! wants it durable leaves the change in the open transaction, as a [`Member`] of its batch, if somebody else is in line:
//! the next change joins it, and one commit, one wait for the disk, makes them all durable. Whoever gives the connection
//! back with nobody in line has the batch committed, so nobody waits for company.
//!
//! # Guarantees
//! - A member hears of its commit after it is durable, or why it is not.
//! - A connection that is lent comes back, whatever becomes of the borrower; so every batch ends.
//! - One transaction that is rolled back takes nothing of the others with it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{Error, Result};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::super::errors::{busy, of_sqlite};
use super::session::Session;
use super::{Access, connect};

/// Longest wait for a free connection to a file. In memory, where a simulated clock may run ahead, there is no limit.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// Most changes that one commit makes durable; the first of them waits for the last.
const BATCH: usize = 16;

pub(super) struct Shelf {
    state: Mutex<State>,
    source: Source,
}

struct State {
    idle: Vec<Session>,
    /// Connections that may be opened yet.
    unopened: usize,
    line: VecDeque<oneshot::Sender<Lent>>,
}

/// Where further connections come from.
pub(super) enum Source {
    File(PathBuf, Access),
    /// From nowhere: another one would see another database.
    Memory,
}

/// A connection in use. Dropped, it goes to the next in line.
pub(super) struct Lent {
    place: Place,
    shelf: Arc<Shelf>,
}

enum Place {
    Open(Session),
    /// Not needed before, or broken since.
    Unopened,
    /// Given to somebody else.
    Gone,
}

/// Hears what came of a commit.
type Then = Box<dyn FnOnce(&Result<()>) + Send>;

/// A change that waits for the commit.
pub(super) struct Member {
    /// Is called whether or not somebody waits for the answer.
    then: Then,
    answer: oneshot::Sender<Result<()>>,
}

impl Shelf {
    pub(super) fn new(idle: Vec<Session>, unopened: usize, source: Source) -> Arc<Shelf> {
        let state = Mutex::new(State {
            idle,
            unopened,
            line: VecDeque::new(),
        });
        Arc::new(Shelf { state, source })
    }

    /// A connection for one transaction. Whoever asks first gets one first.
    pub(super) async fn borrow(self: &Arc<Self>) -> Result<Lent> {
        let (lend, lent) = oneshot::channel();
        {
            let mut state = self.state();
            if let Some(session) = state.idle.pop() {
                return Ok(self.lend(Place::Open(session)));
            }
            if state.unopened > 0 {
                state.unopened -= 1;
                return Ok(self.lend(Place::Unopened));
            }
            state.line.push_back(lend);
        }
        let lent = match self.source {
            Source::File(..) => tokio::time::timeout(ACQUIRE_TIMEOUT, lent)
                .await
                .map_err(|_| busy("no connection was free in time"))?,
            Source::Memory => lent.await,
        };
        lent.map_err(|_| Error::internal("the connections are closed"))
    }

    fn lend(self: &Arc<Self>, place: Place) -> Lent {
        let shelf = self.clone();
        Lent { place, shelf }
    }

    fn take_back(self: &Arc<Self>, place: Place) {
        let mut place = place.settled();
        loop {
            let next = {
                let mut state = self.state();
                match (place, state.line.pop_front()) {
                    (Place::Open(session), Some(next)) if session.batch.len() >= BATCH => {
                        state.line.push_front(next);
                        drop(state);
                        return self.flush(session);
                    }
                    (Place::Open(session), None) if !session.batch.is_empty() => {
                        drop(state);
                        return self.flush(session);
                    }
                    (Place::Open(session), None) => return state.idle.push(session),
                    (Place::Unopened, None) => return state.unopened += 1,
                    (Place::Gone, None) => return,
                    (lent, Some(next)) => {
                        place = lent;
                        next
                    }
                }
            };
            match next.send(self.lend(place)) {
                Ok(()) => return,
                // That one has gone away.
                Err(mut refused) => place = refused.leave(),
            }
        }
    }

    /// Makes a batch durable where waiting is allowed, then takes the connection back.
    fn flush(self: &Arc<Self>, mut session: Session) {
        let shelf = self.clone();
        let commit = move || {
            let outcome = session.run("commit", &[]).map(drop);
            session.tell(&outcome);
            if outcome.is_err() {
                // What SQLite has rolled back by itself cannot be rolled back again, and need not be.
                let _ = session.run("rollback", &[]);
            }
            shelf.take_back(Place::Open(session));
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(commit)),
            Err(_) => commit(),
        }
    }

    fn open(&self) -> Result<Session> {
        match &self.source {
            Source::File(path, access) => connect(path, *access)
                .and_then(Session::new)
                .map_err(|error| of_sqlite(&error, "open")),
            Source::Memory => Err(Error::internal("the only connection is away")),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lent {
    pub(super) fn session(&mut self) -> Result<&mut Session> {
        if let Place::Unopened = self.place {
            self.place = Place::Open(self.shelf.open()?);
        }
        match &mut self.place {
            Place::Open(session) => Ok(session),
            Place::Unopened | Place::Gone => Err(Error::internal("a transaction lost its connection")),
        }
    }

    /// Whether a commit takes as long as the disk does.
    pub(super) fn waits_for_disk(&self) -> bool {
        matches!(self.shelf.source, Source::File(..))
    }

    /// Closes the connection, and with it ends the transaction of all of the batch.
    pub(super) fn spoil(&mut self) {
        if let Place::Open(mut session) = std::mem::replace(&mut self.place, Place::Unopened) {
            session.tell(&lost());
        }
    }

    fn leave(&mut self) -> Place {
        std::mem::replace(&mut self.place, Place::Gone)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        match self.leave() {
            Place::Gone => {}
            place => self.shelf.take_back(place),
        }
    }
}

impl Place {
    /// A connection is in a transaction exactly if changes wait in it. If not so, the transaction was ended by SQLite or
    /// cannot be ended.
    fn settled(self) -> Place {
        match self {
            Place::Open(mut session) if session.is_in_transaction() == session.batch.is_empty() => {
                session.tell(&lost());
                match session.is_in_transaction() {
                    true => Place::Unopened,
                    false => Place::Open(session),
                }
            }
            place => place,
        }
    }
}

impl Member {
    pub(super) fn new(then: impl FnOnce(&Result<()>) + Send + 'static) -> (Member, impl Future<Output = Result<()>>) {
        let (answer, answered) = oneshot::channel();
        let then = Box::new(then);
        let answered = async {
            let gone = |_| Err(Error::internal("a commit was given up, as the runtime ends"));
            answered.await.unwrap_or_else(gone)
        };
        (Member { then, answer }, answered)
    }

    pub(super) fn tell(self, outcome: &Result<()>) {
        (self.then)(outcome);
        // Whoever waited may be gone.
        let _ = self.answer.send(outcome.clone());
    }
}

fn lost() -> Result<()> {
    Err(busy("SQLite gave up a transaction of several changes"))
}
