//! The reconciler's ends of engine, edge and image store: every call takes its turn, is written down and checked, and
//! dies with the life that made it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::routing::{EdgeView, RoutingTable};
use domain::{Behaviour, DeploymentId, HealthCheck, InstanceId};
use engine::{Engine, EngineError, Finding, InstanceSpec, InstanceStatus, LogChunk, LogCursor, ProbeFailure};
use reconcile::{EdgePort, ImageSource, ObtainError};
use testkit::{FakeEdge, FakeEngine};
use tokio::sync::watch;
use uuid::Uuid;

use crate::book::{Book, label};
use crate::life::{Life, Moment, Op};
use crate::mutants::Mutant;
use crate::turns::{Class, Key, Turns};

/// What the ends share.
#[derive(Clone)]
pub struct Ends {
    pub life: Life,
    pub turns: Turns,
    pub book: Book,
    pub mutant: Option<Mutant>,
}

impl Ends {
    async fn turn(&self, what: u8, subject: u128) {
        let key = Key {
            class: Class::Effect,
            life: self.life.number,
            what,
            subject,
        };
        let turn = async {
            self.turns.turn(key).await;
            // A process that stands still does nothing with its turn until it goes on.
            self.life.awake().await;
        };
        self.life.while_alive(turn).await;
    }

    /// A point at which the control plane may die, in a task that is not its own: then nothing more comes of it.
    async fn touch(&self, op: Op, moment: Moment) {
        self.life.touch(op, moment);
        self.life.while_alive(async {}).await;
    }
}

pub struct SimEngine {
    pub ends: Ends,
    pub engine: FakeEngine,
    pub first_listing: OnceLock<Vec<InstanceStatus>>,
}

impl SimEngine {
    /// One effect: waits for its turn, happens (twice, where that is arranged), and may be the last thing that this
    /// life does.
    async fn effect<F>(&self, op: Op, id: InstanceId, call: impl Fn() -> F) -> Result<(), EngineError>
    where
        F: Future<Output = Result<(), EngineError>>,
    {
        let Ends { life, book, .. } = &self.ends;
        let (order, what) = match op {
            Op::Start => (1, "start"),
            Op::Stop => (2, "stop"),
            _ => (3, "remove"),
        };
        self.ends.turn(order, id.0.as_u128()).await;
        book.effect(life, what, id);
        self.ends.touch(op, Moment::Before).await;
        if life.fuses.doubles(op) {
            book.say(format!("[{}] {what} {} happens twice", life.number, label(id)));
            let _ = life.while_alive(call()).await;
        }
        let done = life.while_alive(call()).await;
        self.ends.touch(op, Moment::After).await;
        self.ends.turn(order, id.0.as_u128()).await;
        if let Err(error) = &done {
            book.say(format!("[{}] {what} {} failed: {error}", life.number, label(id)));
        }
        done
    }
}

#[async_trait]
impl Engine for SimEngine {
    async fn start(&self, spec: &InstanceSpec) -> Result<(), EngineError> {
        if self.ends.mutant == Some(Mutant::StartsTwo) {
            let twin = InstanceSpec {
                id: InstanceId(Uuid::from_u128(spec.id.0.as_u128() ^ (1 << 64))),
                ..spec.clone()
            };
            self.engine.start(&twin).await?;
        }
        self.effect(Op::Start, spec.id, || self.engine.start(spec)).await
    }

    async fn stop(&self, id: InstanceId, grace: Duration) -> Result<(), EngineError> {
        if self.ends.mutant == Some(Mutant::StopDoesNothing) {
            return self.effect(Op::Stop, id, || async { Ok(()) }).await;
        }
        self.effect(Op::Stop, id, || self.engine.stop(id, grace)).await
    }

    async fn remove(&self, id: InstanceId) -> Result<(), EngineError> {
        if self.ends.mutant == Some(Mutant::RemoveDoesNothing) {
            return self.effect(Op::Remove, id, || async { Ok(()) }).await;
        }
        self.effect(Op::Remove, id, || self.engine.remove(id)).await
    }

    async fn list(&self) -> Result<Vec<InstanceStatus>, EngineError> {
        let Ends { life, book, .. } = &self.ends;
        life.touch(Op::List, Moment::Before);
        self.ends.turn(4, 0).await;
        let mut listing = life.while_alive(self.engine.list()).await;
        match &mut listing {
            Ok(rows) => {
                life.listed.store(true, Ordering::Relaxed);
                book.listed(life.number, rows);
                if self.ends.mutant == Some(Mutant::ListsNothingNew) {
                    *rows = self.first_listing.get_or_init(|| rows.clone()).clone();
                }
                if self.ends.mutant == Some(Mutant::PartialListing) && rows.len() > 2 {
                    rows.pop();
                }
            }
            Err(error) => book.say(format!("[{}] list failed: {error}", life.number)),
        }
        listing
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.engine.changes()
    }

    async fn probe(&self, id: InstanceId, port: Option<u16>, check: &HealthCheck) -> Result<(), ProbeFailure> {
        let Ends { life, book, .. } = &self.ends;
        self.ends.turn(5, id.0.as_u128()).await;
        let seen = life.while_alive(self.engine.probe(id, port, check)).await;
        book.probed(life.number, id, seen.is_ok());
        if self.ends.mutant == Some(Mutant::BlindProbe) {
            return Ok(());
        }
        seen
    }

    async fn logs(
        &self,
        id: InstanceId,
        cursor: Option<LogCursor>,
        tail: usize,
        max_bytes: usize,
    ) -> Result<LogChunk, EngineError> {
        self.engine.logs(id, cursor, tail, max_bytes).await
    }

    async fn diagnose(&self) -> Vec<Finding> {
        self.engine.diagnose().await
    }
}

pub struct SimEdge {
    ends: Ends,
    edge: FakeEdge,
    view: watch::Sender<EdgeView>,
    tables: AtomicU64,
}

impl SimEdge {
    /// A new wire: it knows nothing of the edge until it is connected, `connects_after` from now.
    pub fn connect(ends: Ends, edge: FakeEdge, connects_after: Duration) -> SimEdge {
        let view = watch::Sender::new(EdgeView::default());
        if connects_after.is_zero() {
            view.send_replace(edge.view().borrow().clone());
        }
        tokio::spawn(mirror(ends.clone(), edge.clone(), view.clone(), connects_after));
        SimEdge {
            ends,
            edge,
            view,
            tables: AtomicU64::new(0),
        }
    }
}

/// Tells the control plane what the edge says, each time in its turn.
async fn mirror(ends: Ends, edge: FakeEdge, view: watch::Sender<EdgeView>, connects_after: Duration) {
    let mut said = edge.view();
    let telling = async {
        tokio::time::sleep(connects_after).await;
        loop {
            ends.turn(6, 0).await;
            ends.touch(Op::Acknowledge, Moment::Before).await;
            let mut newest = said.borrow_and_update().clone();
            if ends.mutant == Some(Mutant::HideBusy) {
                newest.busy.clear();
            }
            if ends.mutant == Some(Mutant::AckBeforeApply) {
                newest.acked_epoch = newest.acked_epoch.max(view.borrow().acked_epoch);
            }
            view.send_if_modified(|known| std::mem::replace(known, newest.clone()) != newest);
            if ends.life.fuses.doubles(Op::Acknowledge) {
                view.send_modify(|_| ());
            }
            ends.touch(Op::Acknowledge, Moment::After).await;
            if said.changed().await.is_err() {
                return;
            }
        }
    };
    ends.life.while_alive(telling).await;
}

impl EdgePort for SimEdge {
    fn publish(&self, mut table: RoutingTable) {
        let Ends { life, book, mutant, .. } = &self.ends;
        life.touch(Op::Publish, Moment::Before);
        let nth = self.tables.fetch_add(1, Ordering::Relaxed);
        match mutant {
            Some(Mutant::EmptyFirstTable) if nth == 0 => {
                table.services.iter_mut().for_each(|service| service.pools.clear());
            }
            Some(Mutant::EpochsBeginAnew) => table.epoch = nth + 1,
            Some(Mutant::WrongAddress) => {
                let targets = table
                    .services
                    .iter_mut()
                    .flat_map(|service| &mut service.pools)
                    .flat_map(|pool| &mut pool.targets);
                targets
                    .skip(2)
                    .step_by(3)
                    .for_each(|target| target.address = std::net::Ipv4Addr::BROADCAST.into());
            }
            Some(Mutant::AckBeforeApply) => self.view.send_modify(|view| view.acked_epoch = table.epoch),
            Some(Mutant::EdgeGoesDeaf) if nth >= 5 => return,
            _ => {}
        }
        book.published(life.number, &table);
        if life.fuses.doubles(Op::Publish) {
            self.edge.publish(table.clone());
        }
        self.edge.publish(table);
        life.touch(Op::Publish, Moment::After);
    }

    fn view(&self) -> watch::Receiver<EdgeView> {
        self.view.subscribe()
    }

    fn behaviour(&self, deployment: DeploymentId) -> Behaviour {
        self.edge.behaviour(deployment)
    }

    fn close_busy(&self, instances: &[InstanceId]) {
        self.ends.life.touch(Op::Cut, Moment::Before);
        self.ends.book.cut(instances);
        self.edge.close_busy(instances);
        self.ends.life.touch(Op::Cut, Moment::After);
    }
}

/// Obtaining an image takes a moment, and may fail as arranged.
pub struct SimImages {
    pub ends: Ends,
    pub takes: Duration,
    pub troubles: ImageTroubles,
}

/// How many of the next images are not obtained. Clones are the same.
#[derive(Clone, Default)]
pub struct ImageTroubles(Arc<Mutex<(u32, bool)>>);

impl ImageTroubles {
    pub fn fail_next(&self, count: u32, for_good: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (count, for_good);
    }

    fn meet(&self) -> Result<(), ObtainError> {
        let mut arranged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, for_good) = *arranged;
        if left == 0 {
            return Ok(());
        }
        arranged.0 -= 1;
        Err(if for_good {
            ObtainError::Permanent("there is no such image".to_owned())
        } else {
            ObtainError::Transient("the registry does not answer".to_owned())
        })
    }
}

#[async_trait]
impl ImageSource for SimImages {
    async fn obtain(
        &self,
        reference: &str,
        digest: Option<&str>,
        _progress: watch::Sender<String>,
    ) -> Result<String, ObtainError> {
        tokio::time::sleep(self.takes).await;
        self.ends.turn(7, 0).await;
        self.ends.touch(Op::Obtain, Moment::Before).await;
        self.troubles.meet()?;
        self.ends.touch(Op::Obtain, Moment::After).await;
        Ok(digest.map_or_else(|| digest_of(reference), str::to_owned))
    }
}

pub fn digest_of(image: &str) -> String {
    format!("sha256:{image}")
}
