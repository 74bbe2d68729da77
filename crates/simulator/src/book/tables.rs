//! What the edge is told and what it serves.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::routing::{RoutingTable, ServiceEntry};
use domain::{InstanceId, ServiceId, Strategy};
use store::{Deployment, InstanceState};
use tokio::time::Instant;

use super::record::{floor, goal};
use super::{Book, Pages, Truth, label};

/// Longest way of a table to the edge, with slow acknowledgements.
const TABLE_TRAVELS: Duration = Duration::from_secs(5);

impl Book {
    pub(super) fn read_edge(&self) {
        let serving = self.edge.serving();
        let mut pages = self.pages();
        if serving.epoch == pages.served.epoch {
            return;
        }
        let author = |epoch| pages.authors.get(&epoch).copied();
        let (was, is) = (author(pages.served.epoch), author(serving.epoch));
        if was.is_some() && is < was {
            pages.violate(
                19,
                format!("a table of overtaken life {is:?} is served after one of {was:?}"),
            );
        }
        let before = std::mem::replace(&mut pages.served, serving.clone());
        let line = format!("edge serves {}", pages.table_text(&serving));
        pages.say(&line);
        pages.table_swapped(&before, &serving, |id| self.engine.is_healthy(id));
    }
    /// A life of the control plane tells the edge a table: invariants 3, 19 and 24.
    pub fn published(&self, life: u32, table: &RoutingTable) {
        self.read_engine();
        let mut pages = self.pages();
        let line = format!("[{life}] publishes {}", pages.table_text(table));
        pages.say(&line);
        // One that was overtaken may go on with its own epochs: the edge refuses them.
        let newest = pages.authors.iter().rfind(|(_, author)| **author <= life);
        if let Some((newest, author)) = newest.map(|(epoch, author)| (*epoch, *author))
            && table.epoch <= newest
        {
            let what = format!("epoch {} is published after {newest} was, by {author}", table.epoch);
            pages.violate(19, what);
        }
        pages.authors.insert(table.epoch, life);
        let mut hosts = BTreeSet::new();
        for found in table.services.iter().flat_map(|service| &service.matches) {
            if !hosts.insert((&found.host, &found.path)) {
                pages.violate(24, format!("{}{} leads to two services", found.host, found.path));
            }
        }
        for target in table.services.iter().flat_map(ServiceEntry::targets) {
            let truth = pages.instances.get(&target.instance);
            let trouble = match truth {
                None => Some("was never started"),
                Some(truth) if !truth.proven => Some("never passed its health threshold"),
                Some(truth) if truth.address != Some(target.address) => Some("has another address"),
                Some(truth) if pages.port_of(truth) != Some(target.port) => Some("listens at another port"),
                Some(_) => None,
            };
            if let Some(trouble) = trouble {
                pages.violate(3, format!("{} is routed and {trouble}", label(target.instance)));
            }
        }
    }

    /// What is in flight on unrouted instances is cut: invariant 4.
    pub fn cut(&self, ids: &[InstanceId]) {
        let routed = self.edge.routed();
        let mut pages = self.pages();
        for id in ids {
            let line = format!("cuts the requests of {}", label(*id));
            pages.say(&line);
            let Some((drain, left)) = pages.drain_of(*id) else {
                continue;
            };
            let waited = left.map(|left| left.elapsed());
            if routed.contains(id) || waited.is_none_or(|waited| waited < drain) {
                let text = format!(
                    "requests of {} are cut {waited:?} after it left the table, {drain:?} are allowed",
                    label(*id)
                );
                pages.violate(4, text);
            }
        }
    }
}

impl Pages {
    /// Where an instance listens, if that is known.
    fn port_of(&self, truth: &Truth) -> Option<u16> {
        let known = self.services.get(&truth.service)?;
        let recorded = known
            .deployments
            .values()
            .find(|recorded| recorded.version == truth.version)?;
        recorded.spec.port
    }

    fn table_text(&self, table: &RoutingTable) -> String {
        let service = |entry: &domain::routing::ServiceEntry| {
            let targets: Vec<String> = entry.targets().map(|t| label(t.instance)).collect();
            format!("{}[{}]", entry.name, targets.join(" "))
        };
        let services: Vec<String> = table.services.iter().map(service).collect();
        format!("{}: {}", table.epoch, services.join(" "))
    }

    /// Invariants 2 and 21: what is wanted and well stays in the table, and what is given up voluntarily leaves enough.
    fn table_swapped(&mut self, before: &RoutingTable, after: &RoutingTable, healthy: impl Fn(InstanceId) -> bool) {
        let now = Instant::now();
        for id in targets(after) {
            if let Some(truth) = self.instances.get_mut(&id) {
                truth.left = None;
            }
        }
        let lost: Vec<InstanceId> = targets(before).difference(&targets(after)).copied().collect();
        for id in &lost {
            if let Some(truth) = self.instances.get_mut(id) {
                truth.left = Some(now);
            }
        }
        self.services.values_mut().for_each(|known| known.moved = now);
        let services: Vec<ServiceId> = self.services.keys().copied().collect();
        for service in services {
            let here = |id: &InstanceId| {
                self.instances
                    .get(id)
                    .is_some_and(|truth| truth.service == service && truth.alive && healthy(*id))
            };
            let lost: Vec<InstanceId> = lost.iter().copied().filter(|id| here(id)).collect();
            let left = targets(after).iter().filter(|id| here(id)).count() as u32;
            if !lost.is_empty() && self.is_calm(service) {
                self.check_loss(service, &lost, left);
            }
        }
    }

    fn check_loss(&mut self, service: ServiceId, lost: &[InstanceId], left: u32) {
        let Some(known) = self.services.get(&service) else {
            return;
        };
        let Some(state) = &known.state else { return };
        let name = known.name.clone();
        let wanted = lost.iter().find(|id| {
            state
                .instances
                .iter()
                .any(|row| row.id == **id && row.state == InstanceState::Wanted)
        });
        // One switch takes all instances of the old version out of the table, and they live on for a while.
        let blue_green = |d: &Option<Deployment>| d.as_ref().is_some_and(|d| d.spec.strategy == Strategy::BlueGreen);
        let switches = blue_green(&state.active) || blue_green(&state.serving);
        if let Some(id) = wanted.copied().filter(|_| !switches) {
            let what = format!("{name}: {} is wanted and healthy and left the table", label(id));
            return self.violate(21, what);
        }
        let Some(serving) = &state.serving else { return };
        // Of the version that is gone to, whatever its service wants of later ones.
        let recreates = goal(state).is_some_and(|goal| goal.spec.strategy == Strategy::Recreate);
        if state.service.deleting || recreates {
            return;
        }
        let goals = [Some(serving), state.active.as_ref()];
        let just_ended = known.ended.filter(|(at, _)| at.elapsed() < TABLE_TRAVELS);
        let floors = goals.into_iter().flatten().map(|deployment| floor(&deployment.spec));
        let floors = floors.chain(just_ended.map(|(_, floor)| floor));
        let floor = floors.min().unwrap_or(0);
        if left < floor {
            let what = format!("{name}: {left} healthy instances are left in the table, {floor} must stay");
            self.violate(2, what);
        }
    }
    pub fn routed(&self, service: ServiceId) -> BTreeSet<InstanceId> {
        let entry = self.served.services.iter().find(|entry| entry.service == service);
        entry
            .map(|entry| entry.targets().map(|target| target.instance).collect())
            .unwrap_or_default()
    }
}

fn targets(table: &RoutingTable) -> BTreeSet<InstanceId> {
    let targets = table.services.iter().flat_map(ServiceEntry::targets);
    targets.map(|target| target.instance).collect()
}
