//! What the journal says of a deployment.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::{DeploymentId, InstanceId, ServiceId, Stage};
use store::{JournalEntry, ServiceKind};
use tokio::time::Instant;

/// How much later than its deadline a rollout may be given up: the control plane may be waiting for something else.
const TICK: Duration = Duration::from_secs(60);

use super::Pages;
use super::record::floor;

impl Pages {
    /// Where the journal of a deployment was last read to; `None` when nothing more can come.
    pub fn journal_from(&self, service: ServiceId, deployment: DeploymentId) -> Option<i64> {
        let recorded = self.services.get(&service)?.deployments.get(&deployment)?;
        let over = recorded.stage.is_some_and(|stage| !stage.is_active());
        (!over).then_some(recorded.journal)
    }

    /// New journal lines of a deployment: invariants 8, 10 and 14.
    pub fn journal(&mut self, service: ServiceId, deployment: DeploymentId, entries: &[JournalEntry]) {
        for entry in entries {
            let Some(known) = self.services.get_mut(&service) else {
                return;
            };
            let Some(recorded) = known.deployments.get_mut(&deployment) else {
                return;
            };
            recorded.journal = recorded.journal.max(entry.seq);
            let Some(to) = entry.to else { continue };
            let (name, version, since) = (known.name.clone(), recorded.version, recorded.since);
            let legal = match (recorded.stage, entry.from) {
                (None, None) => to == Stage::Queued,
                (known, from) if known == from => from.is_some_and(|from| from.may_become(to)),
                _ => false,
            };
            let before = recorded.stage.replace(to);
            if !to.is_active() {
                known.ended = Some((Instant::now(), floor(&recorded.spec)));
            }
            let deadline = recorded.spec.options.progress_deadline();
            self.say(&format!("{name}.v{version} is {to}: {}", entry.reason));
            if !legal {
                self.violate(8, format!("{name}.v{version} went from {before:?} to {to}"));
            }
            match to {
                Stage::Succeeded => self.settled(service, deployment, 10),
                Stage::Canceled => self.settled(service, deployment, 11),
                _ => {}
            }
            if entry.reason.contains("no progress") && since.elapsed() < deadline {
                let text = format!("{name}.v{version} was given up after {:?}", since.elapsed());
                self.violate(14, text);
            }
        }
    }

    /// Invariants 10 and 11, at the moment of success or cancellation: exactly the wanted instances of the version that
    /// serves from now on can be chosen. One that died while the table without it is on its way does not count.
    fn settled(&mut self, service: ServiceId, deployment: DeploymentId, number: u8) {
        let Some(known) = self.services.get(&service) else {
            return;
        };
        let (Some(state), Some(recorded)) = (&known.state, known.deployments.get(&deployment)) else {
            return;
        };
        // A later command of the same instant has changed the goal already.
        let Some(done) = state.serving.as_ref().filter(|d| d.id == deployment || number == 11) else {
            return;
        };
        if state.service.kind != ServiceKind::Service {
            return;
        }
        let fresh: BTreeSet<InstanceId> = state
            .instances
            .iter()
            .filter(|row| row.template == done.template)
            .map(|row| row.id)
            .collect();
        let routed = self.routed(service);
        let lives = |id: &&InstanceId| self.instances.get(id).is_some_and(|truth| truth.alive);
        let foreign = routed.difference(&fresh).filter(lives).count();
        let own = routed.intersection(&fresh).count();
        if foreign > 0 || own != done.spec.instances as usize {
            let text = format!(
                "{}.v{} has ended well with {} of {} instances of v{} routed and {foreign} others",
                known.name, recorded.version, own, done.spec.instances, done.version
            );
            self.violate(number, text);
        }
    }

    /// Invariant 14, the other way round: a rollout about which nothing moves is given up after its deadline.
    pub(super) fn overdue(&mut self) {
        let now = Instant::now();
        let since = self.reigns_since.max(self.disturbed);
        let late = self.services.values().find_map(|known| {
            let active = known.state.as_ref()?.active.as_ref()?;
            let measured = matches!(active.stage, Stage::Deploying | Stage::Finalizing | Stage::Canceling);
            let quiet = now - since.map_or(known.moved, |since| since.max(known.moved));
            let late = measured && quiet > active.spec.options.progress_deadline() + TICK;
            late.then(|| {
                format!(
                    "{}.v{} is {} and nothing has moved for {quiet:?}",
                    known.name, active.version, active.stage
                )
            })
        });
        if let Some(late) = late {
            self.violate(14, late);
        }
    }
}
