//! One run of one scenario: the parts put together, commands and faults at their times, and the end.

mod audit;
mod end;
mod reign;
mod user;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use store::{OpenOptions, Principal, RootKey, Scope, Store, Via};
use testkit::{Dice, FakeEdge, FakeEngine};
use tokio::time::Instant;

use crate::book::{Book, Violation};
use crate::life::{Aim, Fate, Fuses, Life, Moment, Op};
use crate::mutants::Mutant;
use crate::scenario::{RELEASE, Scenario};
use crate::turns::{Class, Key, Turns};
use crate::wires::{ImageTroubles, digest_of};

/// The wall clock at the beginning: 2026-01-01, in microseconds since the epoch.
const BEGAN_US: i64 = 1_767_225_600_000_000;
/// What came of a run.
pub struct Outcome {
    pub violation: Option<Violation>,
    pub lines: Vec<String>,
    /// Turns given: effects, commands, faults, audits.
    pub steps: u64,
    /// Decisions of the planner: each is one pass of the reconciler over one service.
    pub decisions: u64,
    /// Contacts of the control plane with the world.
    pub contacts: BTreeMap<(Op, Moment), u32>,
    /// The version that each service serves at the end.
    pub serving: Vec<Option<i64>>,
    /// Virtual time that passed.
    pub lasted: Duration,
}

/// What a run is made with, apart from its scenario.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    /// A bug that is put in on purpose.
    pub mutant: Option<Mutant>,
    pub ruin: Option<Ruin>,
}

/// One thing that goes wrong at one enumerated contact, beside all that the scenario says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruin {
    /// The control plane dies there and comes back at once.
    Crash(Op, Moment, u32),
    /// It happens twice. A commit that succeeded and whose answer was lost: it is tried again.
    Twice(Op, u32),
}

/// Runs a scenario to its end or to its first violation.
pub fn run(scenario: &Scenario, mutant: Option<Mutant>) -> anyhow::Result<Outcome> {
    run_with(scenario, Setup { mutant, ruin: None })
}

pub fn run_with(scenario: &Scenario, setup: Setup) -> anyhow::Result<Outcome> {
    let turns = Turns::new(scenario.seed ^ 0x7075_726E);
    let quiet = turns.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .on_thread_park(move || quiet.quiesce())
        .build()?;
    let director = direct(scenario.clone(), setup, turns.clone());
    let outcome = runtime.block_on(async { tokio::spawn(director).await });
    turns.forget();
    drop(runtime);
    outcome?
}

/// Everything of one run. Clones are the same.
#[derive(Clone)]
struct World {
    turns: Turns,
    book: Book,
    store: Store,
    scope: Scope,
    engine: FakeEngine,
    edge: FakeEdge,
    images: ImageTroubles,
    fuses: Fuses,
    jumps_us: Arc<AtomicI64>,
    began: Instant,
    mutant: Option<Mutant>,
    ruin: Option<Ruin>,
    /// The newest life of the control plane.
    now: Arc<Mutex<Option<Life>>>,
    /// All that may still do something.
    lives: Arc<Mutex<Vec<Life>>>,
    ids: Arc<AtomicU64>,
    decisions: Arc<AtomicU64>,
}

async fn direct(scenario: Scenario, setup: Setup, turns: Turns) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    let world = World::open(&scenario, setup, turns.clone(), began).await?;
    let inspected = world.book.clone();
    turns.inspect(Box::new(move || inspected.inspect()));
    tokio::spawn(world.clone().audit());
    tokio::spawn(world.clone().reign(Dice::new(scenario.seed ^ 0x1149)));
    let outcome = tokio::select! {
        biased;
        () = world.book.violated() => Ok(()),
        outcome = world.play(&scenario) => outcome,
    };
    turns.forget();
    if let Err(error) = outcome {
        world
            .book
            .violate(0, format!("the simulator was refused: {}", error.context));
    }
    let mut pages = world.book.pages();
    Ok(Outcome {
        violation: pages.violation.clone(),
        lines: std::mem::take(&mut pages.lines),
        steps: turns.given(),
        decisions: world.decisions.load(Ordering::Relaxed),
        contacts: world.fuses.seen(),
        serving: pages.serving(),
        lasted: began.elapsed(),
    })
}

impl World {
    async fn open(scenario: &Scenario, setup: Setup, turns: Turns, began: Instant) -> anyhow::Result<World> {
        let jumps_us = Arc::new(AtomicI64::new(0));
        let now: Arc<Mutex<Option<Life>>> = Arc::default();
        let options = OpenOptions {
            url: "sqlite::memory:".to_owned(),
            root_key: RootKey::new([7; 32]),
            clock: clock(began, jumps_us.clone(), now.clone()),
            create: true,
        };
        let store = Store::open(options).await.map_err(|e| anyhow::anyhow!(e.context))?;
        let operator = store.system().bootstrap().await;
        let operator = operator.map_err(|e| anyhow::anyhow!(e.context))?;
        let scope = store.scope(Principal {
            account: operator.id,
            admin: true,
            via: Via::LocalOperator,
        });
        let fuses = Fuses::default();
        if let Some(bug) = setup.mutant.and_then(Mutant::of_store) {
            store.trouble().set_mutant(bug);
        }
        match setup.ruin {
            Some(Ruin::Crash(op, moment, nth)) => fuses.arm(Aim::Point(op, moment, nth), Fate::Dies(Duration::ZERO)),
            Some(Ruin::Twice(op, nth)) if op != Op::Commit => fuses.double(op, nth),
            Some(Ruin::Twice(..)) | None => {}
        }
        let engine = FakeEngine::with_seed(scenario.seed);
        for subject in &scenario.services {
            for (n, script) in (1..).zip(&subject.scripts) {
                engine.set_script(&digest_of(&subject.image(n)), script.clone());
            }
            for (n, run) in (1..).zip(subject.release.iter().flatten()) {
                let commanded = format!("{} {}", digest_of(&subject.image(n)), RELEASE);
                engine.set_script(&commanded, run.clone());
            }
        }
        let edge = FakeEdge::new();
        edge.set_ack_delay(Duration::from_millis(5));
        let world = World {
            turns,
            book: Book::new(scenario.clone(), engine.clone(), edge.clone()),
            store,
            scope,
            engine,
            edge,
            images: ImageTroubles::default(),
            fuses,
            jumps_us,
            began,
            mutant: setup.mutant,
            ruin: setup.ruin,
            now,
            lives: Arc::default(),
            ids: Arc::default(),
            decisions: Arc::default(),
        };
        watch_commits(&world);
        Ok(world)
    }

    async fn turn(&self, what: u8, subject: u128) {
        let key = Key {
            class: Class::Effect,
            life: 0,
            what,
            subject,
        };
        self.turns.turn(key).await;
    }
}

/// The wall clock: virtual time and its jumps. Reading it is a point at which the control plane can be cut off.
fn clock(began: Instant, jumps_us: Arc<AtomicI64>, now: Arc<Mutex<Option<Life>>>) -> store::Clock {
    Arc::new(move || {
        let life = now.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(life) = life {
            life.touch(Op::Clock, Moment::Before);
        }
        BEGAN_US + began.elapsed().as_micros() as i64 + jumps_us.load(Ordering::Relaxed)
    })
}

/// Every commit is a point at which the control plane can be cut off, on either side.
fn watch_commits(world: &World) {
    let (now, lives, book) = (world.now.clone(), world.lives.clone(), world.book.clone());
    world.store.trouble().watch(Arc::new(move |done| {
        let acting = {
            let lives = lives.lock().unwrap_or_else(PoisonError::into_inner);
            lives.iter().find(|life| life.acts()).map(|life| life.number)
        };
        if let Some(life) = acting
            && done
        {
            book.decides(life);
        }
        let life = now.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(life) = life {
            life.touch(Op::Commit, if done { Moment::After } else { Moment::Before });
        }
    }));
}
