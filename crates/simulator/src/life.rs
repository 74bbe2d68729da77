//! One life of the control plane, and the ways in which it ends or stands still.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use crate::book::Book;
use crate::switch::Switch;

/// A contact of the control plane with the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// A commit of the store.
    Commit,
    Start,
    Stop,
    Remove,
    List,
    Publish,
    /// The edge's word arrives.
    Acknowledge,
    /// An image is resolved.
    Obtain,
    /// Requests in flight are cut.
    Cut,
    /// The clock is read, as in every transaction.
    Clock,
    /// An id is drawn.
    Id,
}

impl Op {
    /// What changes the world, or brings news that decisions rest on.
    pub const EFFECTS: [Op; 7] = [
        Op::Commit,
        Op::Start,
        Op::Stop,
        Op::Remove,
        Op::Publish,
        Op::Acknowledge,
        Op::Obtain,
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    Before,
    After,
}

/// Where the control plane is to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// At the n-th next contact of the reconciler's own task, whatever it is.
    Contact(u32),
    /// Right after the n-th next start, stop or removal in the engine, before it can learn of it.
    Effect(u32),
    /// At the n-th contact of this kind since the run began, counted from 0.
    Point(Op, Moment, u32),
}

/// What happens to the control plane there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It dies, and comes back so much later.
    Dies(Duration),
    /// Its process stands still for so long, then goes on as if nothing had been.
    StandsStill(Duration),
}

/// Fates that are arranged, and contacts that were counted, over all lives.
#[derive(Clone, Default)]
pub struct Fuses {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    armed: Vec<(Aim, Fate)>,
    /// The n-th operation of this kind happens twice.
    double: Option<(Op, u32)>,
    seen: BTreeMap<(Op, Moment), u32>,
}

impl Fuses {
    pub fn arm(&self, aim: Aim, fate: Fate) {
        self.lock().armed.push((aim, fate));
    }

    pub fn double(&self, op: Op, nth: u32) {
        self.lock().double = Some((op, nth));
    }

    pub fn disarm(&self) {
        let mut state = self.lock();
        state.armed.clear();
        state.double = None;
    }

    /// Contacts so far.
    pub fn seen(&self) -> BTreeMap<(Op, Moment), u32> {
        self.lock().seen.clone()
    }

    /// Whether the operation that was just announced happens twice.
    pub fn doubles(&self, op: Op) -> bool {
        let state = self.lock();
        let begun = state.seen.get(&(op, Moment::Before)).copied().unwrap_or(0);
        state
            .double
            .is_some_and(|(doubled, nth)| doubled == op && nth + 1 == begun)
    }

    /// What happens here, if a fuse has burnt down.
    fn burn(&self, op: Op, moment: Moment, on_main: bool) -> Option<Fate> {
        let mut state = self.lock();
        let seen = state.seen.entry((op, moment)).or_default();
        let nth = *seen;
        *seen += 1;
        let effect = moment == Moment::After && matches!(op, Op::Start | Op::Stop | Op::Remove);
        let burnt = state.armed.iter_mut().position(|(aim, _)| match aim {
            Aim::Contact(left) if on_main => count_down(left),
            Aim::Effect(left) if effect => count_down(left),
            Aim::Point(at, when, wanted) => (*at, *when, *wanted) == (op, moment, nth),
            Aim::Contact(_) | Aim::Effect(_) => false,
        })?;
        Some(state.armed.remove(burnt).1)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_down(left: &mut u32) -> bool {
    *left = left.saturating_sub(1);
    *left == 0
}

/// Clones are the same life.
#[derive(Clone)]
pub struct Life {
    pub number: u32,
    pub listed: Arc<AtomicBool>,
    pub fuses: Fuses,
    dead: Switch,
    /// Its process stands still, as one that was stopped or swapped out.
    paused: Switch,
    on_main: Arc<AtomicBool>,
    /// How long it stays dead, or stands still.
    lasts: Arc<Mutex<Duration>>,
    book: Book,
}

/// What a panic carries that is a simulated crash.
struct Crash;

/// How a life ended.
pub enum End<T> {
    Crashed { back_after: Duration },
    Panicked(String),
    Ended(T),
}

impl Life {
    pub fn new(number: u32, fuses: Fuses, book: Book) -> Life {
        Life {
            number,
            listed: Arc::default(),
            fuses,
            dead: Switch::default(),
            paused: Switch::default(),
            on_main: Arc::default(),
            lasts: Arc::default(),
            book,
        }
    }

    pub fn is_dead(&self) -> bool {
        self.dead.is_on()
    }

    /// It has begun to act, and nothing has ended or stopped it.
    pub fn is_at_work(&self) -> bool {
        self.listed.load(Ordering::Relaxed) && !self.is_dead() && !self.paused.is_on()
    }

    /// A point at which the control plane can be cut off: nothing after it happens. Its own task ends here at once;
    /// any other caller must not let its own caller go on, which [`Life::while_alive`] sees to.
    pub fn touch(&self, op: Op, moment: Moment) {
        let on_main = self.on_main.load(Ordering::Relaxed);
        if self.is_dead() {
            return;
        }
        let when = if moment == Moment::Before { "before" } else { "after" };
        match self.fuses.burn(op, moment, on_main) {
            None => {}
            Some(Fate::StandsStill(lasts)) => {
                self.book.say(format!("[{}] STANDS STILL {when} {op:?}", self.number));
                *self.lasts.lock().unwrap_or_else(PoisonError::into_inner) = lasts;
                self.paused.set(true);
            }
            Some(Fate::Dies(back_after)) => {
                self.book.say(format!("[{}] CRASHES {when} {op:?}", self.number));
                *self.lasts.lock().unwrap_or_else(PoisonError::into_inner) = back_after;
                self.dead.set(true);
                if on_main {
                    resume_unwind(Box::new(Crash));
                }
            }
        }
    }

    /// Whether its own task is running right now.
    pub fn acts(&self) -> bool {
        self.on_main.load(Ordering::Relaxed)
    }

    pub fn resume(&self) {
        self.paused.set(false);
    }

    /// Until its process stands still. Answers for how long.
    pub async fn pausing(&self) -> Duration {
        self.paused.until(true).await;
        self.lasts()
    }

    fn lasts(&self) -> Duration {
        *self.lasts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until its process does not stand still.
    pub async fn awake(&self) {
        self.paused.until(false).await;
    }

    /// `work` for as long as this life lasts; never ready again after that.
    pub async fn while_alive<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = self.dead.until(true) => std::future::pending().await,
            done = work => done,
        }
    }

    /// Runs the reconciler's own task until it ends or this life does.
    pub async fn live<T>(&self, main: impl Future<Output = T>) -> End<T> {
        let mut main = Box::pin(main);
        let mut guarded = std::future::poll_fn(|context| {
            self.on_main.store(true, Ordering::Relaxed);
            let polled = catch_unwind(AssertUnwindSafe(|| main.as_mut().poll(context)));
            self.on_main.store(false, Ordering::Relaxed);
            match polled {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(done)) => Poll::Ready(End::Ended(done)),
                Err(payload) if payload.is::<Crash>() => Poll::Ready(self.crashed()),
                Err(payload) => Poll::Ready(End::Panicked(text_of(payload.as_ref()))),
            }
        });
        let end = loop {
            tokio::select! {
                biased;
                () = self.dead.until(true) => break self.crashed(),
                _ = self.pausing() => {}
                end = &mut guarded => break end,
            }
            self.awake().await;
        };
        // Whatever it started elsewhere ends with it.
        self.dead.set(true);
        end
    }

    fn crashed<T>(&self) -> End<T> {
        End::Crashed {
            back_after: self.lasts(),
        }
    }
}

fn text_of(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a text").to_owned()
}
