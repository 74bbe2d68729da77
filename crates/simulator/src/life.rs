//! One life of the control plane, and the ways in which it ends.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;

use crate::book::Book;

/// Crashes that are arranged, over all lives.
#[derive(Clone, Default)]
pub struct Fuses {
    armed: Arc<Mutex<Vec<Fuse>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// The reconciler's own task reads the clock (as it does in every transaction), draws an id, lists, publishes.
    Contact,
    /// A start, stop or removal has just happened in the engine.
    Effect,
}

struct Fuse {
    touch: Touch,
    left: u32,
    back_after: Duration,
}

impl Fuses {
    pub fn arm(&self, touch: Touch, left: u32, back_after: Duration) {
        self.lock().push(Fuse {
            touch,
            left,
            back_after,
        });
    }

    pub fn disarm(&self) {
        self.lock().clear();
    }

    /// Whether a fuse has burnt down, and when the control plane comes back then.
    fn burn(&self, touch: Touch) -> Option<Duration> {
        let mut armed = self.lock();
        let burning = armed.iter_mut().find(|fuse| fuse.touch == touch)?;
        burning.left = burning.left.saturating_sub(1);
        let back_after = (burning.left == 0).then_some(burning.back_after)?;
        armed.retain(|fuse| fuse.left > 0);
        Some(back_after)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fuse>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clones are the same life.
#[derive(Clone)]
pub struct Life {
    pub number: u32,
    pub listed: Arc<AtomicBool>,
    fuses: Fuses,
    dead: watch::Sender<bool>,
    on_main: Arc<AtomicBool>,
    back_after: Arc<Mutex<Duration>>,
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
            dead: watch::Sender::new(false),
            on_main: Arc::default(),
            back_after: Arc::default(),
            book,
        }
    }

    pub fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    /// A point at which the reconciler's own task can be cut off: nothing after it happens. Called anywhere else, it
    /// does nothing.
    pub fn contact(&self, what: &str) {
        if !self.on_main.load(Ordering::Relaxed) {
            return;
        }
        if let Some(back_after) = self.fuses.burn(Touch::Contact) {
            self.die(&format!("at {what}"), back_after);
            resume_unwind(Box::new(Crash));
        }
    }

    /// A point right after an effect. The caller must not let its own caller learn of it when this life is dead.
    pub fn effect(&self, what: &str) {
        if self.is_dead() {
            return;
        }
        if let Some(back_after) = self.fuses.burn(Touch::Effect) {
            self.die(&format!("right after {what}"), back_after);
        }
    }

    fn die(&self, how: &str, back_after: Duration) {
        self.book.say(format!("[{}] CRASHES {how}", self.number));
        *self.back_after.lock().unwrap_or_else(PoisonError::into_inner) = back_after;
        self.dead.send_replace(true);
    }

    /// `work` for as long as this life lasts; never ready again after that.
    pub async fn while_alive<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = self.death() => std::future::pending().await,
            done = work => done,
        }
    }

    async fn death(&self) {
        // The sender lives as long as this life is known to anybody.
        let _ = self.dead.subscribe().wait_for(|dead| *dead).await.is_ok();
    }

    /// Runs the reconciler's own task until it ends or this life does.
    pub async fn live<T>(&self, main: impl Future<Output = T>) -> End<T> {
        let mut main = Box::pin(main);
        let guarded = std::future::poll_fn(|context| {
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
        let end = tokio::select! {
            biased;
            () = self.death() => self.crashed(),
            end = guarded => end,
        };
        // Whatever it started elsewhere ends with it.
        self.dead.send_replace(true);
        end
    }

    fn crashed<T>(&self) -> End<T> {
        let back_after = *self.back_after.lock().unwrap_or_else(PoisonError::into_inner);
        End::Crashed { back_after }
    }
}

fn text_of(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a text").to_owned()
}
