//! One run of one scenario: the parts put together, commands and faults at their times, and the end.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::error::Kind;
use domain::{InstanceId, ServiceId};
use reconcile::{Live, Parts, Reconciler, Settings};
use store::{
    Deployment, ListQuery, NewService, OpenOptions, Principal, RollbackRequest, RootKey, Scope, ServiceKind,
    ServicePatch, ServiceState, Store, Via,
};
use testkit::fake_engine::Chaos;
use testkit::{Dice, FakeEdge, FakeEngine};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::book::{Book, Violation, killed};
use crate::life::{End, Fuses, Life, Touch};
use crate::scenario::{Scenario, What};
use crate::turns::{Class, Key, Turns};
use crate::wires::{Ends, Mutant, SimEdge, SimEngine, SimImages, digest_of};

/// The wall clock at the beginning: 2026-01-01, in microseconds since the epoch.
const BEGAN_US: i64 = 1_767_225_600_000_000;
/// Virtual time after the last command and fault within which everything must be done (invariant 15).
const CONVERGES_WITHIN: Duration = Duration::from_secs(2 * 3_600);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// What is done must stay so for this long.
const STAYS_FOR: Duration = Duration::from_secs(600);
/// Instance ids are counted from here: time-ordered like the real ones, and short in a trace.
const FIRST_INSTANCE: u128 = 0x0190_0000_0000_7000_8000_0000_0000_0000;

/// What came of a run.
pub struct Outcome {
    pub violation: Option<Violation>,
    pub lines: Vec<String>,
    /// Turns given: effects, commands, faults, audits.
    pub steps: u64,
    /// Virtual time that passed.
    pub lasted: Duration,
}

/// What a run is made with, apart from its scenario.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    /// A bug that is put in on purpose.
    pub mutant: Option<Mutant>,
    pub driver: Driver,
}

/// How SQLite is reached.
#[derive(Debug, Clone, Copy, Default)]
pub enum Driver {
    /// On the simulator's own thread: some five times as many steps a second.
    #[default]
    Local,
    /// As the product does it, on a thread of its own.
    Threaded,
}

impl Driver {
    fn url(self) -> &'static str {
        match self {
            Driver::Local => "sqlite::local:",
            Driver::Threaded => "sqlite::memory:",
        }
    }
}

/// Runs a scenario to its end or to its first violation.
pub fn run(scenario: &Scenario, mutant: Option<Mutant>) -> anyhow::Result<Outcome> {
    let driver = Driver::default();
    run_with(scenario, Setup { mutant, driver })
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
    let outcome = runtime.block_on(async {
        tokio::spawn(turns.clone().spin());
        tokio::spawn(director).await
    });
    turns.forget();
    drop(runtime);
    outcome?
}

#[derive(Clone)]
struct World {
    turns: Turns,
    book: Book,
    store: Store,
    scope: Scope,
    engine: FakeEngine,
    edge: FakeEdge,
    fuses: Fuses,
    jumps_us: Arc<AtomicI64>,
    began: Instant,
    mutant: Option<Mutant>,
    now: Arc<Mutex<Option<Life>>>,
    ids: Arc<AtomicU64>,
}

async fn direct(scenario: Scenario, setup: Setup, turns: Turns) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    let world = World::open(&scenario, setup, turns.clone(), began).await?;
    turns.follow(world.store.clone());
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
        lasted: began.elapsed(),
    })
}

impl World {
    async fn open(scenario: &Scenario, setup: Setup, turns: Turns, began: Instant) -> anyhow::Result<World> {
        let jumps_us = Arc::new(AtomicI64::new(0));
        let now: Arc<Mutex<Option<Life>>> = Arc::default();
        let options = OpenOptions {
            url: setup.driver.url().to_owned(),
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
        let engine = FakeEngine::with_seed(scenario.seed);
        for subject in &scenario.services {
            for (n, script) in (1..).zip(&subject.scripts) {
                engine.set_script(&digest_of(&subject.image(n)), script.clone());
            }
        }
        let edge = FakeEdge::new();
        edge.set_ack_delay(Duration::from_millis(5));
        Ok(World {
            turns,
            book: Book::new(scenario.clone(), engine.clone(), edge.clone()),
            store,
            scope,
            engine,
            edge,
            fuses: Fuses::default(),
            jumps_us,
            began,
            mutant: setup.mutant,
            now,
            ids: Arc::new(AtomicU64::new(0)),
        })
    }

    /// One control plane after the other, until the run ends.
    async fn reign(self, mut dice: Dice) {
        for number in 1.. {
            let life = Life::new(number, self.fuses.clone(), self.book.clone());
            *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(life.clone());
            self.book.say(format!("[{number}] begins"));
            let parts = self.parts(&life, &mut dice);
            let main = async move {
                let (_running, stopped) = watch::channel(false);
                Reconciler::start(parts, Live::default()).await?.run(stopped).await
            };
            let pause = match life.live(main).await {
                End::Crashed { back_after } => back_after,
                End::Panicked(text) => {
                    self.book.violate(0, format!("the reconciler panicked: {text}"));
                    return;
                }
                End::Ended(Ok(())) => return,
                End::Ended(Err(error)) => {
                    self.book.say(format!("[{number}] ends: {}", error.context));
                    Duration::from_secs(1)
                }
            };
            self.edge.forget_unsent();
            tokio::time::sleep(pause).await;
            self.turn(8, 0).await;
        }
    }

    fn parts(&self, life: &Life, dice: &mut Dice) -> Parts {
        let ends = Ends {
            life: life.clone(),
            turns: self.turns.clone(),
            book: self.book.clone(),
            mutant: self.mutant,
        };
        let connects_after = Duration::from_millis(if dice.chance(500) { 0 } else { dice.below(500) });
        let (ids, drawing) = (self.ids.clone(), life.clone());
        Parts {
            store: self.store.clone(),
            engine: Arc::new(SimEngine {
                ends: ends.clone(),
                engine: self.engine.clone(),
            }),
            edge: Arc::new(SimEdge::connect(ends.clone(), self.edge.clone(), connects_after)),
            images: Arc::new(SimImages {
                ends,
                takes: Duration::from_millis(dice.below(1_000)),
            }),
            clock: clock(self.began, self.jumps_us.clone(), self.now.clone()),
            new_id: Arc::new(move || {
                drawing.contact("an id");
                let n = 1 + ids.fetch_add(1, Ordering::Relaxed);
                Uuid::from_u128(FIRST_INSTANCE | u128::from(n))
            }),
            settings: Settings {
                base_domain: "localhost".to_owned(),
                launches_at_once: 1 + dice.below(8) as usize,
                holder: "simulator".to_owned(),
                lease_us: 60_000_000,
            },
        }
    }

    /// Reads what was committed, before anything else may happen.
    async fn audit(self) {
        let mut wake = self.store.wake();
        loop {
            let key = Key {
                class: Class::Audit,
                life: 0,
                what: 0,
                subject: 0,
            };
            self.turns.turn(key).await;
            wake.borrow_and_update();
            if let Err(error) = self.audit_changed().await {
                self.book
                    .violate(0, format!("the store cannot be read: {}", error.context));
            }
            if wake.changed().await.is_err() {
                return;
            }
        }
    }

    async fn audit_changed(&self) -> domain::Result<()> {
        let kept = self.store.system().services_changed_since(0, 1_000).await?;
        let ids = self.book.pages().moved(&kept.into_iter().collect());
        if ids.is_empty() {
            return Ok(());
        }
        let mut states = self.store.system().load(&ids).await?.into_iter().peekable();
        for id in ids {
            let state = states.next_if(|state| state.service.id == id);
            let before = self
                .book
                .pages()
                .services
                .get(&id)
                .and_then(|known| known.state.clone());
            if revision(&before) == revision(&state) {
                continue;
            }
            // Deployments of a service that is being deleted are out of sight.
            let visible = state.as_ref().is_some_and(|state| !state.service.deleting);
            let moved = standing(&before) != standing(&state);
            let deployments = if visible && moved {
                Some(self.deployments(id).await?)
            } else {
                None
            };
            self.book.pages().audit(id, state, deployments.as_deref());
            for deployment in deployments.iter().flatten() {
                let from = self.book.pages().journal_from(id, deployment.id);
                let Some(from) = from else { continue };
                let entries = self.scope.journal(deployment.id, from, 1_000).await?;
                self.book.pages().journal(id, deployment.id, &entries);
            }
        }
        Ok(())
    }

    async fn deployments(&self, service: ServiceId) -> domain::Result<Vec<Deployment>> {
        let query = ListQuery {
            page_size: 100,
            service: Some(service),
            ..ListQuery::default()
        };
        Ok(self.scope.list_deployments(&query).await?.rows)
    }

    async fn play(&self, scenario: &Scenario) -> domain::Result<()> {
        let mut services = Vec::new();
        for (n, subject) in scenario.services.iter().enumerate() {
            self.turn(0, n as u128).await;
            let port = (subject.kind == ServiceKind::Service).then_some(8080);
            let new = NewService {
                instances: subject.instances,
                strategy: subject.strategy,
                options: subject.options.clone(),
                health: subject.health.clone(),
                ..NewService::new(subject.kind, subject.name.clone(), subject.image(1), port)
            };
            let (service, _) = self.scope.create_service(new).await?;
            self.book.enroll(service.id, n);
            self.book.say(format!("{} is created: {subject:?}", subject.name));
            services.push(service.id);
        }
        // What was written before it was enrolled is looked at with the next commit.
        for event in &scenario.events {
            tokio::time::sleep_until(self.began + event.at).await;
            self.turn(0, 0).await;
            if self.book.is_violated() {
                return Ok(());
            }
            self.book.say(format!("* {:?}", event.what));
            self.perform(scenario, &services, &event.what).await?;
        }
        self.turn(0, 0).await;
        self.heal();
        self.converge(&services).await;
        Ok(())
    }

    async fn perform(&self, scenario: &Scenario, services: &[ServiceId], what: &What) -> domain::Result<()> {
        let image = |n: usize, version: u64| Some(scenario.services[n].image(version));
        let patch = |n: usize, patch: ServicePatch| self.scope.patch_service(services[n], patch);
        let nothing = ServicePatch::default;
        let answer = match what {
            What::Image(n, version) => {
                let wish = ServicePatch {
                    image: image(*n, *version),
                    ..nothing()
                };
                patch(*n, wish).await.map(drop)
            }
            What::Scale(n, instances) => {
                let wish = ServicePatch {
                    instances: Some(*instances),
                    ..nothing()
                };
                patch(*n, wish).await.map(drop)
            }
            What::ImageAndScale(n, version, instances) => {
                let (image, instances) = (image(*n, *version), Some(*instances));
                let wish = ServicePatch {
                    image,
                    instances,
                    ..nothing()
                };
                patch(*n, wish).await.map(drop)
            }
            What::Restart(n) => patch(
                *n,
                ServicePatch {
                    restart: true,
                    ..nothing()
                },
            )
            .await
            .map(drop),
            What::Again(n) => self.scope.deploy_again(services[*n], "").await.map(drop),
            What::Rollback(n, nth) => self.roll_back(services[*n], *nth).await,
            What::Cancel(n) => self.scope.cancel(services[*n]).await.map(drop),
            What::Delete(n) => self.scope.delete_service(services[*n]).await,
            fault => {
                self.fault(fault);
                Ok(())
            }
        };
        match answer {
            Err(error) if matches!(error.kind, Kind::Internal | Kind::Unavailable(_)) => Err(error),
            Err(error) => {
                self.book.say(format!("  refused: {:?}", error.kind));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn roll_back(&self, service: ServiceId, nth: u64) -> domain::Result<()> {
        let all = self.deployments(service).await?;
        let Some(target) = all.get(nth as usize % all.len().max(1)) else {
            return Ok(());
        };
        let made = self.scope.rollback(target.id, RollbackRequest::default()).await?;
        if target.stage != domain::Stage::Succeeded || made.spec.digest != target.spec.digest {
            self.book
                .violate(12, "a rollback leads to something else than a success");
        }
        Ok(())
    }

    fn fault(&self, fault: &What) {
        match fault {
            What::Crash { contacts, back_after } => self.fuses.arm(Touch::Contact, *contacts, *back_after),
            What::CrashAfterEffect { effects, back_after } => self.fuses.arm(Touch::Effect, *effects, *back_after),
            What::Kill(nth) => {
                if let Some(id) = self.nth_live(*nth) {
                    self.engine.kill(id, killed());
                }
            }
            What::Vanish(nth) => {
                if let Some(id) = self.nth_live(*nth) {
                    self.engine.vanish(id);
                }
            }
            What::EdgeDown => self.edge.go_down(),
            What::EdgeUp => self.edge.come_up(),
            What::LoseAcks(count) => self.edge.lose_next_acks(*count),
            What::AckDelay(delay) => self.edge.set_ack_delay(*delay),
            What::Load(requests, lasts) => self.edge.set_load(*requests, *lasts),
            What::Chaos(chaos) => {
                self.book.disturb();
                self.engine.set_chaos(*chaos);
            }
            What::EngineDown(down) => {
                self.book.disturb();
                self.engine.set_down(*down);
            }
            What::FailNext(op, fault) => self.engine.fail_next(*op, fault.clone()),
            What::LoseChanges(count) => self.engine.lose_next_changes(*count),
            What::ClockJump(seconds) => {
                self.jumps_us.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    fn nth_live(&self, nth: u64) -> Option<InstanceId> {
        let live = self.engine.live();
        let nth = nth as usize % live.len().max(1);
        live.get(nth).map(|spec| spec.id)
    }

    /// All faults end.
    fn heal(&self) {
        self.book.say("* all faults end");
        self.fuses.disarm();
        self.engine.set_chaos(Chaos::default());
        self.engine.set_down(false);
        self.engine.lose_next_changes(0);
        self.edge.lose_next_acks(0);
        self.edge.set_ack_delay(Duration::from_millis(5));
        self.edge.set_load(0, Duration::ZERO);
        self.edge.come_up();
    }

    /// Invariant 15: everything is done after a bounded time, and then nothing is done any more.
    async fn converge(&self, services: &[ServiceId]) {
        let healed = Instant::now();
        let missing = loop {
            tokio::time::sleep(LOOK).await;
            self.turn(0, 0).await;
            if self.book.is_violated() {
                return;
            }
            let missing = services.iter().find_map(|id| self.book.pages().whole(*id).err());
            match missing {
                Some(_) if healed.elapsed() < CONVERGES_WITHIN => {}
                missing => break missing,
            }
        };
        if let Some(missing) = missing {
            let what = format!("{} s after the last fault {missing}", healed.elapsed().as_secs());
            return self.book.violate(15, what);
        }
        self.book.say("* everything is done");
        tokio::time::sleep(LOOK).await;
        self.turn(0, 0).await;
        let steady: Vec<ServiceId> = services
            .iter()
            .copied()
            .filter(|id| self.book.pages().is_steady(*id))
            .collect();
        let stillness = || {
            steady
                .iter()
                .map(|id| self.book.pages().stillness(*id))
                .collect::<Vec<_>>()
        };
        let published = || {
            if steady.len() == services.len() {
                self.edge.published()
            } else {
                0
            }
        };
        let before = (stillness(), published());
        tokio::time::sleep(STAYS_FOR).await;
        self.turn(0, 0).await;
        let after = (stillness(), published());
        if before != after {
            let what = format!("it was done, and then something was done: {before:?}, then {after:?}");
            self.book.violate(15, what);
        }
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
            life.contact("a look at the clock");
        }
        BEGAN_US + began.elapsed().as_micros() as i64 + jumps_us.load(Ordering::Relaxed)
    })
}

fn revision(state: &Option<ServiceState>) -> Option<i64> {
    state.as_ref().map(|state| state.service.revision)
}

/// What changes whenever a deployment of the service is made or moves.
fn standing(state: &Option<ServiceState>) -> Option<impl PartialEq + use<>> {
    let state = state.as_ref()?;
    let service = &state.service;
    let active = state
        .active
        .as_ref()
        .map(|active| (active.id, active.stage, active.spec.digest.clone()));
    Some((service.version_counter, service.serving, service.last_stage, active))
}
