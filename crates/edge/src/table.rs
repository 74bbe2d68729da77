//! The routing table in the form in which requests use it, and the register that keeps instances from one table to the
//! next.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use domain::routing::{RoutingTable, ServiceEntry, Share};
use domain::{InstanceId, ProjectId};
use tokio::sync::Notify;

use crate::hold::Rooms;
use crate::instance::Instance;
use crate::pool::Pool;
use crate::service::{Member, Service};
use crate::shares::Shares;
use crate::tally::Books;

/// What names inside end with (contract, "Names inside").
pub const INTERNAL_SUFFIX: &str = ".hob.internal";

/// A compiled [`RoutingTable`]. Immutable; replaced as a whole.
#[derive(Default)]
pub struct Table {
    hosts: HashMap<Box<str>, Vec<Route>>,
    inside: HashMap<ProjectId, HashMap<Box<str>, Found>>,
    callers: HashMap<IpAddr, ProjectId>,
}

struct Route {
    /// Without the final slash: `/` is the empty prefix.
    prefix: Box<str>,
    found: Found,
}

/// Where a host and a path lead.
#[derive(Clone)]
pub struct Found {
    pub service: Arc<Service>,
    /// Index of the only pool that is reached by this host; see [`domain::routing::Pool::preview`].
    pub preview: Option<usize>,
}

impl Table {
    /// The service for a normalised host and a raw path: exact host, longest prefix on whole segments.
    pub fn public(&self, host: &str, path: &str) -> Option<&Found> {
        let routes = self.hosts.get(host)?;
        routes
            .iter()
            .find(|route| covers(&route.prefix, path))
            .map(|route| &route.found)
    }

    /// The project of an instance's address.
    pub fn caller(&self, address: IpAddr) -> Option<ProjectId> {
        self.callers.get(&address.to_canonical()).copied()
    }

    /// The service that `host` names for instances of `project`.
    pub fn internal(&self, project: ProjectId, host: &str) -> Option<&Found> {
        let name = host.strip_suffix(INTERNAL_SUFFIX)?;
        self.inside.get(&project)?.get(name)
    }
}

impl Table {
    fn add(&mut self, entry: &ServiceEntry, service: &Arc<Service>) {
        let found = |preview| Found {
            service: Arc::clone(service),
            preview,
        };
        let public = entry.matches.iter().map(|rule| (rule, None));
        let previews = entry.pools.iter().enumerate();
        let previews = previews.flat_map(|(at, pool)| pool.preview.iter().map(move |rule| (rule, Some(at))));
        for (rule, preview) in public.chain(previews) {
            let prefix = rule.path.trim_end_matches('/').into();
            let routes = self.hosts.entry(rule.host.as_str().into()).or_default();
            routes.push(Route {
                prefix,
                found: found(preview),
            });
        }
        self.inside
            .entry(entry.project)
            .or_default()
            .insert(entry.name.as_str().into(), found(None));
    }
}

/// Whether `prefix` (no final slash) is `path` or ends where one of its segments ends.
fn covers(prefix: &str, path: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => prefix.is_empty() || rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// Gives every instance its one [`Instance`], for as long as a table names it or a request holds it.
pub struct Register {
    routed: HashMap<InstanceId, Arc<Instance>>,
    departed: Vec<Arc<Instance>>,
    idle: Arc<Notify>,
}

impl Register {
    /// `idle` is rung when the last request of an instance that left has ended.
    pub fn new(idle: Arc<Notify>) -> Self {
        Register {
            routed: HashMap::new(),
            departed: Vec::new(),
            idle,
        }
    }

    /// Compiles `source`, and answers with the instances that leave by it. The caller first lets requests find the new
    /// table, then marks those as leaving (see [`Register::retire`]), so that whoever meets the mark finds the new
    /// table.
    pub fn compile(&mut self, source: &RoutingTable, books: &Books, rooms: &Rooms) -> (Table, Vec<Arc<Instance>>) {
        let before = std::mem::take(&mut self.routed);
        let mut table = Table::default();
        books.turn_page();
        for entry in &source.services {
            let service = Arc::new(self.service(entry, &before, books, rooms));
            table.add(entry, &service);
        }
        for routes in table.hosts.values_mut() {
            routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        }
        table.callers = source
            .callers
            .iter()
            .map(|(ip, project)| (ip.to_canonical(), *project))
            .collect();
        let stays = |instance: &Arc<Instance>| {
            self.routed
                .get(&instance.id)
                .is_some_and(|current| Arc::ptr_eq(current, instance))
        };
        let leaving = before.into_values().filter(|instance| !stays(instance)).collect();
        (table, leaving)
    }

    fn service(
        &mut self,
        entry: &ServiceEntry,
        before: &HashMap<InstanceId, Arc<Instance>>,
        books: &Books,
        rooms: &Rooms,
    ) -> Service {
        let mut members = Vec::new();
        let mut ranges = vec![0..0; entry.pools.len()];
        // Pools that go by instances come first, so that they are one stretch.
        let mut order: Vec<usize> = (0..entry.pools.len()).collect();
        order.sort_by_key(|pool| entry.pools[*pool].share != Share::ByInstances);
        for pool in order {
            let begin = members.len();
            members.extend(entry.pools[pool].targets.iter().map(|target| {
                let address = SocketAddr::new(target.address, target.port);
                let instance = self.instance(target.instance, address, before);
                Member { instance, pool }
            }));
            ranges[pool] = begin..members.len();
        }
        let shares = Shares::new(entry.pools.iter().zip(ranges.iter().cloned()), books.workers());
        let pool = |(source, members): (&domain::routing::Pool, Range<usize>)| Pool {
            tally: books.tally(source.deployment),
            version: source.version,
            is_open: source.share != Share::Percent(0),
            takes_part: shares.give_to(&members),
            members,
            token: Pool::token(entry.service, source.version),
        };
        let pools: Box<[Pool]> = entry.pools.iter().zip(ranges).map(pool).collect();
        let is_divided = pools.iter().filter(|pool| pool.takes_part).count() > 1;
        Service {
            id: entry.service,
            tally: books.tally(entry.receipt),
            sticky: entry.sticky && is_divided,
            hold: entry.hold.map(|hold| Duration::from_millis(hold.longest_ms)),
            room: rooms.of(entry.service, entry.hold.is_some()),
            members: members.into(),
            pools,
            shares,
        }
    }

    /// The instance of this id, be it routed already, on its way out, or new. One whose address changed is another.
    fn instance(
        &mut self,
        id: InstanceId,
        address: SocketAddr,
        before: &HashMap<InstanceId, Arc<Instance>>,
    ) -> Arc<Instance> {
        let departed = self.departed.iter();
        let known = self.routed.get(&id).into_iter().chain(before.get(&id)).chain(departed);
        let found = known
            .filter(|known| known.id == id)
            .find(|known| known.address == address)
            .cloned();
        let instance = found.unwrap_or_else(|| Arc::new(Instance::new(id, address, Arc::clone(&self.idle))));
        self.departed.retain(|departed| !Arc::ptr_eq(departed, &instance));
        // Before the table that names it can be seen, so that nobody meets a routed instance that is marked.
        instance.set_leaving(false);
        self.routed.insert(id, Arc::clone(&instance));
        instance
    }

    /// Marks instances as gone from the table; from now on they count as busy until their requests have ended.
    pub fn retire(&mut self, leaving: Vec<Arc<Instance>>) {
        leaving.iter().for_each(|instance| instance.set_leaving(true));
        self.departed.extend(leaving);
    }

    /// Requests in flight per instance that is in no table, those at zero left out (and forgotten).
    pub fn busy(&mut self) -> BTreeMap<InstanceId, u64> {
        self.departed.retain(|instance| instance.in_flight() > 0);
        let mut busy = BTreeMap::new();
        for instance in &self.departed {
            if !self.routed.contains_key(&instance.id) {
                *busy.entry(instance.id).or_default() += instance.in_flight();
            }
        }
        busy
    }

    /// How many instances the table names.
    pub fn routed(&self) -> HashSet<InstanceId> {
        self.routed.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use domain::routing::{Pool, RouteMatch, Target};
    use http::HeaderMap;
    use uuid::Uuid;

    use super::*;
    use crate::instance::Lease;
    use crate::limits::Limits;
    use crate::service::{Asked, Turn};

    fn entry(name: &str, project: ProjectId, matches: &[(&str, &str)], targets: &[InstanceId]) -> ServiceEntry {
        let matches = matches.iter();
        let targets = targets.iter().map(|id| Target {
            instance: *id,
            address: Ipv4Addr::LOCALHOST.into(),
            port: 1,
        });
        ServiceEntry {
            service: Uuid::new_v4().into(),
            project,
            name: name.into(),
            receipt: Uuid::new_v4().into(),
            matches: matches
                .map(|(host, path)| RouteMatch {
                    host: (*host).into(),
                    path: (*path).into(),
                })
                .collect(),
            pools: vec![Pool::new(Uuid::new_v4().into(), 1, targets.collect())],
            sticky: false,
            hold: None,
        }
    }

    fn compile(register: &mut Register, epoch: u64, services: Vec<ServiceEntry>) -> Table {
        let source = RoutingTable {
            epoch,
            services,
            callers: BTreeMap::new(),
        };
        let (table, leaving) = register.compile(&source, &Books::new(1), &Rooms::new(&Limits::default()));
        register.retire(leaving);
        table
    }

    /// What a plain request for `a.test` is given.
    fn choose(table: &Table, count: usize, tried: &[InstanceId]) -> Option<Lease> {
        let found = table.public("a.test", "/").unwrap();
        let asked = Asked {
            preview: found.preview,
            wish: None,
            headers: &HeaderMap::new(),
            tried,
        };
        let choice = found.service.choose(&asked, Turn { worker: 0, count });
        choice.map(|choice| choice.lease)
    }

    #[test]
    fn the_longest_prefix_on_whole_segments_wins() {
        let project = Uuid::new_v4().into();
        let rules: [(&str, &[(&str, &str)]); 4] = [
            ("root", &[("a.test", "/")]),
            ("api", &[("a.test", "/api")]),
            ("deep", &[("a.test", "/api/v1/")]),
            ("other", &[("b.test", "/only")]),
        ];
        let services: Vec<_> = rules
            .iter()
            .map(|(name, rules)| entry(name, project, rules, &[]))
            .collect();
        let table = compile(&mut Register::new(Arc::default()), 1, services);
        let named = |found: &Found| {
            let names = table.inside[&project].iter();
            names
                .filter(|(_, named)| Arc::ptr_eq(&named.service, &found.service))
                .map(|(name, _)| name.to_string())
                .next()
        };
        for (host, path, expected) in [
            ("a.test", "/", Some("root")),
            ("a.test", "/apix", Some("root")),
            ("a.test", "/api", Some("api")),
            ("a.test", "/api/", Some("api")),
            ("a.test", "/api/v1", Some("deep")),
            ("a.test", "/api/v1/x", Some("deep")),
            ("a.test", "/api/v10", Some("api")),
            ("a.test", "*", Some("root")),
            ("b.test", "/", None),
            ("b.test", "/only/x", Some("other")),
            ("c.test", "/", None),
        ] {
            let found = table.public(host, path).and_then(named);
            assert_eq!(found.as_deref(), expected, "{host}{path}");
        }
    }

    #[test]
    fn equally_loaded_targets_take_turns_and_a_busy_one_waits() {
        let ids: Vec<InstanceId> = (0..3).map(|_| Uuid::new_v4().into()).collect();
        let service = entry("web", Uuid::new_v4().into(), &[("a.test", "/")], &ids);
        let table = compile(&mut Register::new(Arc::default()), 1, vec![service]);
        let taken: Vec<_> = (0..3)
            .map(|turn| choose(&table, turn, &[]).unwrap().instance().id)
            .collect();
        assert_eq!(taken, ids);
        let held = choose(&table, 0, &[]).unwrap();
        assert_ne!(choose(&table, 0, &[]).unwrap().instance().id, held.instance().id);
        assert!(choose(&table, 0, &ids).is_none());
    }

    #[test]
    fn an_instance_keeps_its_counters_from_table_to_table() {
        let id = Uuid::new_v4().into();
        let service = entry("web", Uuid::new_v4().into(), &[("a.test", "/")], &[id]);
        let mut register = Register::new(Arc::default());
        let first = compile(&mut register, 1, vec![service.clone()]);
        let lease = choose(&first, 0, &[]).unwrap();
        compile(&mut register, 2, vec![]);
        assert_eq!(register.busy(), BTreeMap::from([(id, 1)]));
        assert!(choose(&first, 0, &[]).is_none());
        let third = compile(&mut register, 3, vec![service]);
        assert_eq!(register.busy(), BTreeMap::new());
        let in_flight = || {
            third.public("a.test", "/").unwrap().service.members[0]
                .instance
                .in_flight()
        };
        assert_eq!(in_flight(), 1);
        drop(lease);
        assert_eq!(in_flight(), 0);
    }
}
