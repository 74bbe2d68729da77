//! The route book: which instances belong in the table, and where the edge stands with each.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use domain::plan::RouteState;
use domain::routing::EdgeView;
use domain::routing::{Hold, Pool, RouteMatch, RoutingTable, ServiceEntry, Target};
use domain::{InstanceId, ProjectId, ServiceId};
use store::{EdgeEntry, ServiceKind};
use tokio::time::Instant;

/// Epochs are promised to the store in blocks, so that not every table costs a write.
pub const EPOCH_BLOCK: u64 = 1_000;

#[derive(Default)]
pub struct RouteBook {
    /// The newest published epoch.
    epoch: u64,
    wanted: HashMap<ServiceId, Layout>,
    callers: BTreeMap<std::net::IpAddr, ProjectId>,
    entered: HashMap<InstanceId, Entered>,
    /// Those of `entered` whose epoch the edge was not heard to have yet.
    entering: HashSet<InstanceId>,
    /// The newest epoch that the edge was heard to have.
    heard: u64,
    left: HashMap<InstanceId, Left>,
    changed: bool,
}

/// How one service stands in the table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layout {
    pub pools: Vec<Pool>,
    pub sticky: bool,
    pub hold: Option<Hold>,
}

impl Layout {
    fn targets(&self) -> impl Iterator<Item = &Target> {
        self.pools.iter().flat_map(|pool| &pool.targets)
    }

    fn instances(&self) -> BTreeSet<InstanceId> {
        self.targets().map(|target| target.instance).collect()
    }
}

struct Entered {
    /// The first epoch with it.
    epoch: u64,
    service: ServiceId,
}

struct Left {
    /// The first epoch without it.
    epoch: u64,
    /// When that epoch was first seen to be acknowledged.
    acknowledged: Option<Instant>,
    service: ServiceId,
}

impl RouteBook {
    pub fn starting_at(epoch: u64) -> Self {
        RouteBook {
            epoch,
            changed: true,
            ..RouteBook::default()
        }
    }

    /// The epoch that the next table will have.
    fn next(&self) -> u64 {
        self.epoch + 1
    }

    /// Makes `layout` what the next table says of a service.
    pub fn set(&mut self, service: ServiceId, layout: Layout) {
        let next = self.next();
        let wanted = self.wanted.get(&service);
        if wanted.map_or(layout == Layout::default(), |wanted| *wanted == layout) {
            return;
        }
        let before = wanted.map(Layout::instances).unwrap_or_default();
        let after = layout.instances();
        for id in after.difference(&before) {
            self.entering.insert(*id);
            self.entered.insert(*id, Entered { epoch: next, service });
            self.left.remove(id);
        }
        for id in before.difference(&after) {
            self.leave(*id, service);
        }
        if layout == Layout::default() {
            self.wanted.remove(&service);
        } else {
            self.wanted.insert(service, layout);
        }
        self.changed = true;
    }

    /// Where requests for a routed instance go.
    pub fn target(&self, service: ServiceId, id: InstanceId) -> Option<&Target> {
        self.wanted
            .get(&service)?
            .targets()
            .find(|target| target.instance == id)
    }

    /// The next table is the first that is known not to have this instance. Also for what an earlier control plane
    /// may have routed.
    pub fn leave(&mut self, id: InstanceId, service: ServiceId) {
        self.entered.remove(&id);
        self.entering.remove(&id);
        let epoch = self.next();
        self.left.entry(id).or_insert(Left {
            epoch,
            acknowledged: None,
            service,
        });
        self.changed = true;
    }

    pub fn forget(&mut self, id: InstanceId) {
        self.entered.remove(&id);
        self.entering.remove(&id);
        self.left.remove(&id);
    }

    /// Addresses of all live instances, for names inside.
    pub fn set_caller(&mut self, address: std::net::IpAddr, project: ProjectId) {
        if self.callers.insert(address, project) != Some(project) {
            self.changed = true;
        }
    }

    pub fn remove_caller(&mut self, address: std::net::IpAddr) {
        if self.callers.remove(&address).is_some() {
            self.changed = true;
        }
    }

    pub fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// Where the edge stands with an instance (invariant 4 rests on this).
    pub fn state(&mut self, id: InstanceId, view: &EdgeView, now: Instant) -> RouteState {
        if let Some(entered) = self.entered.get(&id) {
            return if view.acked_epoch >= entered.epoch {
                RouteState::In
            } else {
                RouteState::Entering
            };
        }
        let Some(left) = self.left.get_mut(&id) else {
            return RouteState::Out;
        };
        if view.acked_epoch < left.epoch {
            return RouteState::Leaving { drained_for: None };
        }
        let since = *left.acknowledged.get_or_insert(now);
        if view.busy.contains_key(&id) {
            RouteState::Leaving {
                drained_for: Some(now.saturating_duration_since(since)),
            }
        } else {
            RouteState::Out
        }
    }

    /// Services to which it matters what the edge says: it has everything up to epoch `acknowledged`, and something may
    /// have changed about those instances that have left.
    pub fn hear(&mut self, acknowledged: u64) -> HashSet<ServiceId> {
        let mut services: HashSet<ServiceId> = self.left.values().map(|left| left.service).collect();
        if acknowledged < self.heard {
            // The edge has lost tables: what had entered with them enters once more.
            for (id, entered) in self.entered.iter().filter(|(_, entered)| entered.epoch > acknowledged) {
                self.entering.insert(*id);
                services.insert(entered.service);
            }
        }
        self.heard = acknowledged;
        self.entering.retain(|id| match self.entered.get(id) {
            Some(entered) if entered.epoch > acknowledged => true,
            entered => {
                services.extend(entered.map(|entered| entered.service));
                false
            }
        });
        services
    }

    /// The next table, if anything changed since the last one.
    pub fn table<'e>(
        &mut self,
        entries: impl Iterator<Item = &'e EdgeEntry>,
        base_domain: &str,
    ) -> Option<RoutingTable> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.epoch += 1;
        let entries: Vec<&EdgeEntry> = entries.collect();
        let services = services(&entries, base_domain, |service| {
            self.wanted.get(&service).cloned().unwrap_or_default()
        });
        Some(RoutingTable {
            epoch: self.epoch,
            services,
            callers: self.callers.clone(),
        })
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// Entries of all services that have a port. A service without an enabled route answers at its default host; where
/// two tenants use one name, the older service has it (a host leads to at most one service, invariant 24).
fn services(entries: &[&EdgeEntry], base_domain: &str, layout: impl Fn(ServiceId) -> Layout) -> Vec<ServiceEntry> {
    let mut taken: HashSet<String> = entries
        .iter()
        .flat_map(|e| &e.matches)
        .map(|m| m.host.clone())
        .collect();
    let mut routed: Vec<&EdgeEntry> = entries
        .iter()
        .copied()
        .filter(|e| e.kind == ServiceKind::Service)
        .collect();
    routed.sort_by_key(|e| e.service);
    let entry = |e: &EdgeEntry| {
        let mut matches = e.matches.clone();
        let host = format!("{}.{base_domain}", e.name);
        if matches.is_empty() && taken.insert(host.clone()) {
            matches.push(RouteMatch {
                host,
                path: "/".to_owned(),
            });
        }
        let mut layout = layout(e.service);
        for pool in &mut layout.pools {
            pool.preview.retain(|preview| taken.insert(preview.host.clone()));
        }
        ServiceEntry {
            service: e.service,
            project: e.project,
            name: e.name.clone(),
            receipt: e.receipt,
            matches,
            pools: layout.pools,
            sticky: layout.sticky,
            hold: layout.hold,
        }
    };
    routed.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use domain::DeploymentId;
    use uuid::Uuid;

    use super::*;

    fn service(n: u128) -> ServiceId {
        ServiceId(Uuid::from_u128(n))
    }

    fn routed(instances: &[u128]) -> Layout {
        let target = |n: &u128| Target {
            instance: InstanceId(Uuid::from_u128(*n)),
            address: Ipv4Addr::LOCALHOST.into(),
            port: 80,
        };
        let targets = instances.iter().map(target).collect();
        Layout {
            pools: vec![Pool::new(DeploymentId(Uuid::nil()), 1, targets)],
            ..Layout::default()
        }
    }

    fn publish(book: &mut RouteBook) -> u64 {
        let none = std::iter::empty();
        book.table(none, "localhost").map_or(0, |table| table.epoch)
    }

    #[test]
    fn only_those_hear_of_an_acknowledgement_whom_it_tells_something() {
        let mut book = RouteBook::default();
        book.set(service(1), routed(&[1]));
        let first = publish(&mut book);
        book.set(service(2), routed(&[2]));
        let second = publish(&mut book);
        assert_eq!(book.hear(first - 1), HashSet::new());
        assert_eq!(book.hear(first), HashSet::from([service(1)]));
        assert_eq!(book.hear(second), HashSet::from([service(2)]));
        assert_eq!(book.hear(second), HashSet::new());
    }

    #[test]
    fn those_whose_instances_have_left_hear_all_that_the_edge_says_until_they_are_forgotten() {
        let mut book = RouteBook::default();
        book.set(service(1), routed(&[1]));
        let first = publish(&mut book);
        book.hear(first);
        book.set(service(1), Layout::default());
        assert_eq!(book.hear(first), HashSet::from([service(1)]));
        book.forget(InstanceId(Uuid::from_u128(1)));
        assert_eq!(book.hear(first), HashSet::new());
    }

    #[test]
    fn an_edge_that_has_lost_a_table_is_waited_for_once_more() {
        let mut book = RouteBook::default();
        book.set(service(1), routed(&[1]));
        let first = publish(&mut book);
        book.hear(first);
        assert_eq!(book.hear(0), HashSet::from([service(1)]));
        assert_eq!(book.hear(0), HashSet::new());
        assert_eq!(book.hear(first), HashSet::from([service(1)]));
    }
}
