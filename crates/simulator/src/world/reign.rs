//! One control plane after the other.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use reconcile::{Live, Parts, Reconciler, Settings};
use testkit::Dice;
use tokio::sync::watch;
use uuid::Uuid;

use super::{World, clock};
use crate::life::{End, Life, Moment, Op};
use crate::mutants;
use crate::wires::{Ends, SimEdge, SimEngine, SimImages};

/// Instance ids are counted from here: time-ordered like the real ones, and short in a trace.
const FIRST_INSTANCE: u128 = 0x0190_0000_0000_7000_8000_0000_0000_0000;
/// How long a control plane waits that could not begin, or was overtaken.
const TRIES_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How long a lease lasts without renewal.
const LEASE_US: i64 = 20_000_000;

impl World {
    /// One control plane after the other, until the run ends. Where one stands still, another one of another name
    /// takes over as soon as the lease of the first has run out.
    pub(super) async fn reign(self, mut dice: Dice) {
        let mut holder = 1;
        for number in 1.. {
            let life = Life::new(number, self.fuses.clone(), self.book.clone());
            *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(life.clone());
            self.know(&life);
            self.book.say(format!("[{number}] begins, as hob-{holder}"));
            self.book.reigns();
            let parts = self.parts(&life, holder, &mut dice);
            let running = tokio::spawn(self.clone().rule(life.clone(), parts));
            let pause = tokio::select! {
                biased;
                pause = running => match pause {
                    Ok(Some(pause)) => {
                        // One that never came to power has told the edge nothing.
                        if life.listed.load(Ordering::Relaxed) {
                            self.edge.forget_unsent();
                        }
                        pause
                    }
                    Ok(None) | Err(_) => return,
                },
                lasts = life.pausing() => {
                    holder += 1;
                    tokio::spawn(self.clone().goes_on(life.clone(), lasts));
                    Duration::ZERO
                }
            };
            tokio::time::sleep(pause).await;
            self.turn(8, 0).await;
        }
    }

    async fn goes_on(self, life: Life, after: Duration) {
        tokio::time::sleep(after).await;
        self.turn(9, u128::from(life.number)).await;
        self.book.say(format!("[{}] goes on", life.number));
        self.book.reigns();
        life.resume();
    }

    fn know(&self, life: &Life) {
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.retain(|life| !life.is_dead());
        lives.push(life.clone());
    }

    /// Whether exactly one control plane is at work. While another one takes over, or before one that was overtaken has
    /// found out, nothing can be said about an end.
    pub(super) fn is_ruled(&self) -> bool {
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.iter().filter(|life| life.is_at_work()).count() == 1
    }

    /// None stands still any more.
    pub(super) fn wake_all(&self) {
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.iter().for_each(Life::resume);
    }

    /// One life, to its end. Answers when the next one begins; `None`: never.
    async fn rule(self, life: Life, parts: Parts) -> Option<Duration> {
        let number = life.number;
        let main = async move {
            let (_running, stopped) = watch::channel(false);
            Reconciler::start(parts, Live::default()).await?.run(stopped).await
        };
        match life.live(main).await {
            End::Crashed { back_after } => Some(back_after),
            End::Panicked(text) => {
                self.book.violate(0, format!("the reconciler panicked: {text}"));
                None
            }
            End::Ended(Ok(())) => None,
            End::Ended(Err(error)) => {
                self.book.say(format!("[{number}] ends: {}", error.context));
                Some(TRIES_AGAIN_AFTER)
            }
        }
    }

    fn parts(&self, life: &Life, holder: u32, dice: &mut Dice) -> Parts {
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
                first_listing: OnceLock::new(),
            }),
            edge: Arc::new(SimEdge::connect(ends.clone(), self.edge.clone(), connects_after)),
            images: Arc::new(SimImages {
                ends,
                takes: Duration::from_millis(dice.below(1_000)),
                troubles: self.images.clone(),
            }),
            planner: mutants::planner(self.mutant, self.decisions.clone()),
            clock: clock(self.began, self.jumps_us.clone(), self.now.clone()),
            new_id: Arc::new(move || {
                drawing.touch(Op::Id, Moment::Before);
                let n = 1 + ids.fetch_add(1, Ordering::Relaxed);
                Uuid::from_u128(FIRST_INSTANCE | u128::from(n))
            }),
            settings: Settings {
                base_domain: "localhost".to_owned(),
                launches_at_once: 1 + dice.below(8) as usize,
                holder: format!("hob-{holder}"),
                lease_us: LEASE_US,
            },
        }
    }
}
