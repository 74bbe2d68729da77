//! Sends on schedule.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::kind::{Judged, perform};
use super::pool::Pool;
use super::{Kind, LoadPlan, Outcome, Report};
use crate::Dice;

/// A thread wakes up late by about this much; the rest is waited for by turning.
const SPIN: Duration = Duration::from_micros(60);
/// Longest sleep of the schedule's thread, so that it hears of a stop.
const NAP_MAX: Duration = Duration::from_millis(50);

/// A run under way, in threads of its own.
pub struct Load {
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<std::io::Result<Report>>>,
}

struct Shared {
    plan: LoadPlan,
    report: Mutex<Report>,
    pool: Pool,
    began: Instant,
}

impl Load {
    pub fn start(plan: LoadPlan) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared {
            plan,
            report: Mutex::default(),
            pool: Pool::default(),
            began: Instant::now(),
        });
        let (flag, theirs) = (stop.clone(), shared.clone());
        let thread = thread::spawn(move || send_all(theirs, &flag));
        Load {
            stop,
            shared,
            thread: Some(thread),
        }
    }

    /// No request is sent from now on; those in flight go on. [`Load::finish`] waits for them.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Requests that have ended and failed so far.
    pub fn failed(&self) -> u64 {
        self.shared.lock().failed()
    }

    /// Requests that have ended well so far.
    pub fn ok(&self) -> u64 {
        self.shared.lock().ok()
    }

    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(thread::JoinHandle::is_finished)
    }

    /// Stops, lets what is in flight end (each within its own time limit), and tells what came of it all.
    pub fn finish(self) -> Report {
        self.stop();
        self.wait()
    }

    /// Waits until the plan is done.
    pub fn wait(mut self) -> Report {
        match self.thread.take().map(thread::JoinHandle::join) {
            Some(Ok(Ok(report))) => report,
            // Without a runtime nothing was sent: the empty report says so.
            _ => Report::default(),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs the plan to its end on this thread.
pub fn run(plan: LoadPlan) -> Report {
    Load::start(plan).wait()
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, kind: Kind, id: Uuid, due: Instant, judged: Judged) {
        let (outcome, detail) = judged.err().unwrap_or((Outcome::Ok, String::new()));
        let mut report = self.lock();
        if kind == Kind::Post {
            report.record_post(id, outcome);
        }
        report.record(kind, due - self.began, due.elapsed(), outcome, detail);
    }
}

fn send_all(shared: Arc<Shared>, stop: &AtomicBool) -> std::io::Result<Report> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let slots = Arc::new(Semaphore::new(shared.plan.in_flight_max));
    dispatch(&shared, runtime.handle(), &slots, stop);
    let lasted = shared.began.elapsed();
    let all = u32::try_from(shared.plan.in_flight_max).unwrap_or(u32::MAX);
    // Ends: each request has its own time limit, and gives its slot back with it.
    let _ = runtime.block_on(slots.acquire_many(all));
    runtime.shutdown_timeout(Duration::from_secs(1));
    let mut report = std::mem::take(&mut *shared.lock());
    report.lasted = lasted;
    Ok(report)
}

/// The schedule: request `n` is due at `n / rate`, whatever happened to the ones before it.
fn dispatch(shared: &Arc<Shared>, runtime: &Handle, slots: &Arc<Semaphore>, stop: &AtomicBool) {
    let plan = &shared.plan;
    let mut dice = Dice::new(plan.seed);
    for n in 0..plan.requests_max {
        let offset = Duration::from_secs_f64(n as f64 / plan.rate.max(0.001));
        let due = shared.began + offset;
        if offset >= plan.lasts || !wait_until(due, stop) {
            return;
        }
        let Some(kind) = dice.weighted(&plan.mix).copied() else {
            return;
        };
        let id = Uuid::new_v4();
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            let why = format!("{} requests in flight", plan.in_flight_max);
            shared.record(kind, id, due, Err((Outcome::NotSent, why)));
            continue;
        };
        let shared = shared.clone();
        runtime.spawn(async move {
            let limit = shared.plan.patience(kind);
            let judged = tokio::time::timeout(limit, perform(kind, id, &shared.plan, &shared.pool)).await;
            let late = || {
                Err((
                    Outcome::Timeout,
                    format!("no whole answer within {} ms", limit.as_millis()),
                ))
            };
            shared.record(kind, id, due, judged.unwrap_or_else(|_| late()));
            drop(slot);
        });
    }
}

/// False: told to stop meanwhile.
fn wait_until(due: Instant, stop: &AtomicBool) -> bool {
    loop {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        if left > SPIN {
            thread::sleep((left - SPIN).min(NAP_MAX));
        } else {
            std::hint::spin_loop();
        }
    }
}
