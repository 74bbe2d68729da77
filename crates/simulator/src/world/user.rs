//! Commands and faults at their times.

use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::error::Kind;
use domain::{InstanceId, ServiceId};
use store::{NewService, RollbackRequest, ServiceKind, ServicePatch};
use testkit::fake_engine::Chaos;

use super::{Ruin, World};
use crate::book::killed;
use crate::life::Op;
use crate::scenario::{FLOOD, RELEASE, Scenario, VERSIONS, What, port};

impl World {
    pub(super) async fn play(&self, scenario: &Scenario) -> domain::Result<()> {
        let mut services = Vec::new();
        for (n, subject) in scenario.services.iter().enumerate() {
            self.turn(0, n as u128).await;
            let port = (subject.kind == ServiceKind::Service).then_some(port(1));
            let new = NewService {
                instances: subject.instances,
                strategy: subject.strategy,
                options: subject.options.clone(),
                health: subject.health.clone(),
                release: subject.release.as_ref().map(|_| vec![RELEASE.to_owned()]),
                ..NewService::new(subject.kind, subject.name.clone(), subject.image(1), port)
            };
            let (service, _) = self.scope.create_service(new).await?;
            self.book.enroll(service.id, n);
            self.book.say(format!("{} is created: {subject:?}", subject.name));
            services.push(service.id);
        }
        if let Some(Ruin::Twice(Op::Commit, nth)) = self.ruin {
            self.store.trouble().arrange(nth, store::Fault::AnswerLost, 1);
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
        let answer = match command(scenario, what) {
            Some((n, wishes)) => self.wish(services[n], wishes).await,
            None => self.ask(services, what).await,
        };
        match answer {
            // A store in trouble says so; nobody knows then what became of the command.
            Err(error) if matches!(error.kind, Kind::Internal) => Err(error),
            Err(error) => {
                self.book.say(format!("  refused: {:?}", error.kind));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// One change after the other, with nothing in between.
    async fn wish(&self, service: ServiceId, wishes: Vec<ServicePatch>) -> domain::Result<()> {
        let mut last = Ok(());
        for wish in wishes {
            last = self.scope.patch_service(service, wish).await.map(drop);
        }
        last
    }

    async fn ask(&self, services: &[ServiceId], what: &What) -> domain::Result<()> {
        match what {
            What::Again(n) => self.scope.deploy_again(services[*n], "").await.map(drop),
            What::Rollback(n, nth) => self.roll_back(services[*n], *nth).await,
            What::Cancel(n) => self.scope.cancel(services[*n]).await.map(drop),
            What::Continue(n) => self.let_go_on(services[*n]).await,
            What::Pause(n) => self.scope.pause(services[*n]).await.map(drop),
            What::Resume(n) => self.scope.resume(services[*n]).await.map(drop),
            What::Delete(n) => self.scope.delete_service(services[*n]).await,
            fault => {
                self.fault(fault);
                Ok(())
            }
        }
    }

    async fn roll_back(&self, service: ServiceId, nth: u64) -> domain::Result<()> {
        let all = self.deployments(service).await?;
        let Some(target) = all.get(nth as usize % all.len().max(1)) else {
            return Ok(());
        };
        self.book.asks_back(service);
        let made = self.scope.rollback(target.id, RollbackRequest::default()).await?;
        if target.stage != domain::Stage::Succeeded || made.spec.digest != target.spec.digest {
            self.book
                .violate(12, "a rollback leads to something else than a success");
        }
        Ok(())
    }

    pub(super) async fn let_go_on(&self, service: ServiceId) -> domain::Result<()> {
        self.book.continues(service);
        self.scope.continue_rollout(service).await.map(drop)
    }

    fn fault(&self, fault: &What) {
        match fault {
            What::Fate(aim, fate) => self.fuses.arm(*aim, *fate),
            What::StoreTrouble(spared, fault, count) => self.store.trouble().arrange(*spared, *fault, *count),
            What::ImageTrouble(count, for_good) => self.images.fail_next(*count, *for_good),
            What::EdgeRestart => {
                self.edge.lose_next_acks(1);
                self.edge.go_down();
                self.edge.come_up();
            }
            What::WakeForNothing(times) => (0..*times).for_each(|_| self.engine.wake_for_nothing()),
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
        self.book.disturb();
        self.fuses.disarm();
        self.wake_all();
        self.engine.set_chaos(Chaos::default());
        self.engine.set_down(false);
        self.engine.lose_next_changes(0);
        self.store.trouble().clear();
        self.images.fail_next(0, false);
        self.edge.lose_next_acks(0);
        self.edge.set_ack_delay(Duration::from_millis(5));
        self.edge.set_load(0, Duration::ZERO);
        self.edge.come_up();
    }
}

/// The changes that a command makes to what its owner wants of a service, where it is that kind of command.
fn command(scenario: &Scenario, what: &What) -> Option<(usize, Vec<ServicePatch>)> {
    let image = |n: usize, version: u64| ServicePatch {
        image: Some(scenario.services[n].image(version)),
        port: (scenario.services[n].kind == ServiceKind::Service).then_some(port(version)),
        ..ServicePatch::default()
    };
    let (n, wishes) = match what {
        What::Image(n, version) => (n, vec![image(*n, *version)]),
        What::ImageTwice(n, first, second) => (n, vec![image(*n, *first), image(*n, *second)]),
        What::Flood(n, first) => {
            let version = |nth| 1 + (first + nth) % VERSIONS;
            (n, (0..FLOOD).map(|nth| image(*n, version(nth))).collect())
        }
        What::Scale(n, instances) => {
            let instances = Some(*instances);
            (
                n,
                vec![ServicePatch {
                    instances,
                    ..ServicePatch::default()
                }],
            )
        }
        What::ImageAndScale(n, version, instances) => {
            let instances = Some(*instances);
            (
                n,
                vec![ServicePatch {
                    instances,
                    ..image(*n, *version)
                }],
            )
        }
        What::Restart(n) => {
            let restart = true;
            (
                n,
                vec![ServicePatch {
                    restart,
                    ..ServicePatch::default()
                }],
            )
        }
        What::Manner(n, strategy, options) => {
            let (strategy, options) = (Some(*strategy), Some(options.clone()));
            (
                n,
                vec![ServicePatch {
                    strategy,
                    options,
                    ..ServicePatch::default()
                }],
            )
        }
        _ => return None,
    };
    Some((*n, wishes))
}
