//! What one seed means: services, versions and their behaviour, commands and faults with their times.

use std::time::Duration;

use domain::{Advance, Gate, HealthCheck, RolloutOptions, Step, Strategy, spec::CheckKind};
use store::ServiceKind;
use testkit::fake_engine::{Chaos, Fault, Op};
use testkit::{Dice, Health, Script};

use crate::book::Traffic;
use crate::life::{Aim, Fate};

/// Versions that each service can be told to run.
pub const VERSIONS: u64 = 5;
/// Instances that a service of the simulation wants at most; small numbers meet all the corners.
const INSTANCES_MAX: u64 = 5;
/// Deployments that a flood asks for at once; more than are kept of a service.
pub const FLOOD: u64 = 12;
/// The release command of those that have one.
pub const RELEASE: &str = "migrate";
/// How long commands and faults go on.
const ACTION: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    pub services: Vec<Subject>,
    /// In the order of their times.
    pub events: Vec<Event>,
}

/// One service.
#[derive(Debug, Clone)]
pub struct Subject {
    pub name: String,
    pub kind: ServiceKind,
    pub instances: u32,
    pub strategy: Strategy,
    pub options: RolloutOptions,
    pub health: HealthCheck,
    /// Of its versions 1 to [`VERSIONS`].
    pub scripts: Vec<Script>,
    pub traffic: Traffic,
    /// Runs of its release command, if it has one: of its versions 1 to [`VERSIONS`].
    pub release: Option<Vec<Script>>,
}

impl Subject {
    pub fn image(&self, version: u64) -> String {
        format!("{}:{version}", self.name)
    }
}

/// Where version `version` of any service listens.
pub fn port(version: u64) -> u16 {
    8_000 + version as u16
}

#[derive(Debug, Clone)]
pub struct Event {
    pub at: Duration,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    // Commands; the first number is the service.
    Image(usize, u64),
    Scale(usize, u32),
    ImageAndScale(usize, u64, u32),
    Restart(usize),
    Again(usize),
    /// To the n-th of the deployments that can be gone back to.
    Rollback(usize, u64),
    Cancel(usize),
    /// Lets a deployment that waits at a step go on.
    Continue(usize),
    Pause(usize),
    /// Lets a paused deployment go on.
    Resume(usize),
    /// Two images at once, the second before anybody could see the first.
    ImageTwice(usize, u64, u64),
    /// [`FLOOD`] images at once, beginning after this one: more than are kept come after the one that serves.
    Flood(usize, u64),
    /// Another strategy and other options, from the next deployment on.
    Manner(usize, Strategy, RolloutOptions),
    Delete(usize),
    // Faults.
    /// The control plane dies or stands still where it is aimed at.
    Fate(Aim, Fate),
    /// After so many transactions that write, this happens to so many.
    StoreTrouble(u32, store::Fault, u32),
    /// So many next images are not obtained, for good or for now.
    ImageTrouble(u32, bool),
    /// The n-th live instance dies.
    Kill(u64),
    /// The n-th instance is gone without a trace.
    Vanish(u64),
    EdgeDown,
    EdgeUp,
    /// Down and up again before anybody can notice; the last acknowledgement is lost with it.
    EdgeRestart,
    LoseAcks(u32),
    AckDelay(Duration),
    Load(u64, Duration),
    Chaos(Chaos),
    EngineDown(bool),
    FailNext(Op, Fault),
    LoseChanges(u32),
    /// Those who wait for changes of the engine are woken so often for nothing.
    WakeForNothing(u32),
    /// Seconds by which the wall clock jumps.
    ClockJump(i64),
}

impl Scenario {
    pub fn of(seed: u64) -> Scenario {
        let mut dice = Dice::new(seed ^ 0x51A1_0000_0000_0000);
        // Some owners are busy: more deployments of one service than are kept.
        let busy = dice.chance(100);
        let count = if busy { 1 } else { 1 + dice.below(3) };
        let mut services: Vec<Subject> = (0..count).map(|n| subject(n, &mut dice)).collect();
        let mut sight = Dice::new(seed ^ 0x5164_0000_0000_0000);
        services.iter_mut().for_each(|subject| sights(subject, &mut sight));
        let mut events = Vec::new();
        // Some owners are busy: more deployments than are kept.
        let commands = if dice.chance(100) {
            14 + dice.below(12)
        } else {
            2 + dice.below(9)
        };
        for _ in 0..commands {
            let at = time(&mut dice);
            let what = command(&services, &mut dice);
            events.push(Event { at, what });
        }
        // Some seeds are calm: they show what must hold without any fault.
        let faults = if dice.chance(150) { 0 } else { 1 + dice.below(9) };
        for _ in 0..faults {
            fault(&mut dice, &mut events);
        }
        // Dice of their own, so that no other seed means something else for it.
        let mut flood = Dice::new(seed ^ 0xF100_0000_0000_0000);
        if flood.chance(80) {
            let of = flood.below(services.len() as u64) as usize;
            let at = ms(&mut flood, ACTION.as_millis() as u64);
            let what = What::Flood(of, 1 + flood.below(VERSIONS));
            events.push(Event { at, what });
        }
        events.sort_by_key(|event| event.at);
        Scenario { seed, services, events }
    }
}

fn time(dice: &mut Dice) -> Duration {
    // Half of all actions come in a rush, so that they meet in the middle of each other.
    let span = if dice.chance(500) {
        Duration::from_secs(10)
    } else {
        ACTION
    };
    Duration::from_millis(dice.below(span.as_millis() as u64))
}

fn ms(dice: &mut Dice, most: u64) -> Duration {
    Duration::from_millis(dice.below(most))
}

fn subject(n: u64, dice: &mut Dice) -> Subject {
    let name = ["ant", "bee", "cat"][n as usize % 3].to_owned();
    let worker = dice.chance(150);
    let kind = if worker {
        ServiceKind::Worker
    } else {
        ServiceKind::Service
    };
    let (strategy, options) = manner(kind, dice);
    let health = HealthCheck {
        kind: if worker { CheckKind::Process } else { CheckKind::Tcp },
        interval_ms: 500 + dice.below(9_500),
        timeout_ms: 1_000,
        healthy_after: 1 + dice.below(3) as u32,
        unhealthy_after: 1 + dice.below(3) as u32,
    };
    let scripts = (0..VERSIONS).map(|_| script(dice)).collect();
    Subject {
        name,
        kind,
        instances: 1 + dice.below(INSTANCES_MAX) as u32,
        strategy,
        options,
        health,
        scripts,
        traffic: Traffic::default(),
        release: None,
    }
}

/// What was thought of later is drawn with dice of its own, so that it changes nothing else of a seed.
fn sights(subject: &mut Subject, dice: &mut Dice) {
    subject.traffic = Traffic::draw(dice);
    for step in &mut subject.options.steps {
        if dice.chance(400) {
            step.then = Advance::Gate(gate(dice));
        }
    }
    if subject.kind == ServiceKind::Service && dice.chance(400) {
        subject.options.watch_ms = 1 + dice.below(60_000);
    }
    if dice.chance(250) {
        subject.release = Some((0..VERSIONS).map(|_| release(dice)).collect());
    }
}

fn gate(dice: &mut Dice) -> Gate {
    Gate {
        min_requests: 1 + dice.below(60),
        observe_ms: dice.below(8_000),
        max_error_points: dice.below(10) as u32,
        max_p95_percent: 100 + dice.below(200) as u32,
    }
}

/// The run of a release command.
fn release(dice: &mut Dice) -> Script {
    let run = Script::default().start_after(ms(dice, 1_000));
    match dice.below(20) {
        0..3 => run.crash_after(ms(dice, 3_000), 7),
        3 => run.refused("no such program: migrate"),
        // Longer than most may take.
        4 => run.crash_after(Duration::from_secs(100), 0),
        _ => run.crash_after(ms(dice, 3_000), 0),
    }
}

fn manner(kind: ServiceKind, dice: &mut Dice) -> (Strategy, RolloutOptions) {
    let service = kind == ServiceKind::Service;
    let strategy = match dice.below(10) {
        0..2 => Strategy::Recreate,
        2 | 3 if service => Strategy::Canary,
        4 if service => Strategy::BlueGreen,
        _ => Strategy::Rolling,
    };
    let steps = match strategy {
        Strategy::Canary => steps(dice),
        _ => vec![],
    };
    let options = RolloutOptions {
        max_in_flight: dice.chance(600).then(|| 1 + dice.below(4) as u32),
        max_surge: dice.chance(500).then(|| dice.below(4) as u32),
        max_unavailable: dice.below(3) as u32,
        min_ready_ms: if dice.chance(400) { dice.below(5_000) } else { 0 },
        drain_ms: dice.below(30_000),
        stop_grace_ms: dice.below(10_000),
        progress_deadline_ms: 10_000 + dice.below(110_000),
        max_failures: 1 + dice.below(4) as u32,
        steps,
        keep_warm_ms: dice.below(60_000),
        hold_ms: dice.below(30_000),
        ..RolloutOptions::default()
    };
    (strategy, options)
}

/// None to three, each larger than the one before.
fn steps(dice: &mut Dice) -> Vec<Step> {
    let mut weight = 0;
    let count = dice.below(4);
    (0..count)
        .map(|_| {
            weight += 1 + dice.below(33) as u32;
            let then = if dice.chance(300) {
                Advance::AfterMs(1 + dice.below(20_000))
            } else {
                Advance::Continue
            };
            Step {
                weight,
                traffic: dice.chance(300).then_some(weight),
                then,
            }
        })
        .collect()
}

fn script(dice: &mut Dice) -> Script {
    let (start, ready, stop) = (ms(dice, 2_000), ms(dice, 3_000), ms(dice, 4_000));
    let script = Script::default().start_after(start).ready_after(ready).stop_after(stop);
    match dice.below(20) {
        0 => script.crash_at_start(3),
        1 => script.crash_after(ms(dice, 20_000), 4),
        2 => script.never_healthy(),
        3 => script.health(Health::Flaps {
            good: Duration::from_millis(1_000 + dice.below(40_000)),
            bad: Duration::from_millis(500 + dice.below(20_000)),
        }),
        4 => script.health(Health::GoodUntil(ms(dice, 60_000))),
        6 => {
            // Dies right after it became ready.
            let lives = script.ready + ms(dice, 50);
            script.crash_after(lives, 5)
        }
        5 => script.refused("no such user: app"),
        _ => script,
    }
}

fn command(services: &[Subject], dice: &mut Dice) -> What {
    let of = dice.below(services.len() as u64) as usize;
    let version = 1 + dice.below(VERSIONS);
    let instances = 1 + dice.below(INSTANCES_MAX) as u32;
    match dice.below(28) {
        20 | 24 => What::Continue(of),
        25 | 26 => What::Pause(of),
        27 => What::Resume(of),
        21 | 22 => What::ImageTwice(of, version, 1 + dice.below(VERSIONS)),
        23 => {
            let (strategy, options) = manner(services[of].kind, dice);
            What::Manner(of, strategy, options)
        }
        0..8 => What::Image(of, version),
        8..11 => What::Scale(of, instances),
        11..13 => What::ImageAndScale(of, version, instances),
        13 => What::Restart(of),
        14 => What::Again(of),
        15 | 16 => What::Rollback(of, dice.below(10)),
        17 | 18 => What::Cancel(of),
        _ => What::Delete(of),
    }
}

fn fault(dice: &mut Dice, events: &mut Vec<Event>) {
    let at = time(dice);
    let later = at + ms(dice, 15_000);
    let back_after = if dice.chance(500) {
        Duration::ZERO
    } else {
        ms(dice, 20_000)
    };
    let mut add = |at, what| events.push(Event { at, what });
    match dice.below(22) {
        0..3 => {
            let aim = Aim::Contact(1 + dice.below(40) as u32);
            add(at, What::Fate(aim, Fate::Dies(back_after)));
        }
        3 | 4 => {
            let aim = Aim::Effect(1 + dice.below(4) as u32);
            add(at, What::Fate(aim, Fate::Dies(back_after)));
        }
        16 => {
            let aim = Aim::Contact(1 + dice.below(40) as u32);
            add(at, What::Fate(aim, Fate::StandsStill(ms(dice, 90_000))));
        }
        17 | 18 => {
            let fault = [store::Fault::Busy, store::Fault::CommitFails, store::Fault::AnswerLost];
            let fault = fault[dice.below(3) as usize];
            let (spared, count) = (dice.below(12) as u32, 1 + dice.below(4) as u32);
            add(at, What::StoreTrouble(spared, fault, count));
        }
        19 => add(at, What::ImageTrouble(1 + dice.below(4) as u32, dice.chance(200))),
        20 => add(at, What::EdgeRestart),
        21 => add(at, What::WakeForNothing(1 + dice.below(3) as u32)),
        5 => add(at, What::Kill(dice.below(20))),
        6 => add(at, What::Vanish(dice.below(20))),
        7 => {
            add(at, What::EdgeDown);
            add(later, What::EdgeUp);
        }
        8 => add(at, What::LoseAcks(1 + dice.below(3) as u32)),
        9 => add(at, What::AckDelay(ms(dice, 3_000))),
        10 => add(at, What::Load(1 + dice.below(3), ms(dice, 40_000))),
        11 => {
            let chaos = Chaos {
                transient: dice.below(200) as u16,
                times_out_undone: dice.below(50) as u16,
                times_out_done: dice.below(50) as u16,
                slow: dice.below(200) as u16,
                lost_change: dice.below(200) as u16,
            };
            add(at, What::Chaos(chaos));
            add(later, What::Chaos(Chaos::default()));
        }
        12 => {
            add(at, What::EngineDown(true));
            add(later, What::EngineDown(false));
        }
        13 => {
            let op = [Op::Start, Op::Stop, Op::Remove, Op::List][dice.below(4) as usize];
            let fault = match dice.below(4) {
                0 => Fault::Transient,
                1 => Fault::TimesOutUndone,
                2 => Fault::TimesOutDone,
                _ => Fault::Slow(ms(dice, 5_000)),
            };
            add(at, What::FailNext(op, fault));
        }
        14 => add(at, What::LoseChanges(1 + dice.below(5) as u32)),
        _ => add(at, What::ClockJump(dice.below(7_200) as i64 - 3_600)),
    }
}
