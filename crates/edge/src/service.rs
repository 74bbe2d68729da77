//! One service as a request finds it: its versions, their instances, and the choice among them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use domain::{InstanceId, ServiceId};
use http::HeaderMap;
use http::header::COOKIE;

use crate::hold::Room;
use crate::instance::{Instance, Lease};
use crate::pool::{self, Pool};
use crate::shares::Shares;
use crate::tally::Tally;
use crate::wish::Wish;

/// A compiled [`domain::routing::ServiceEntry`].
pub struct Service {
    pub id: ServiceId,
    /// Counts the requests that were routed by this entry.
    pub tally: Arc<Tally>,
    pub pools: Box<[Pool]>,
    /// The instances of all pools, pool by pool.
    pub members: Box<[Member]>,
    pub shares: Shares,
    /// Clients stay with the version that they have met: there are several, and the entry says so.
    pub sticky: bool,
    /// How long requests may wait while no target is ready. `None`: they are refused.
    pub hold: Option<Duration>,
    /// Where they wait. Outlives `hold` while somebody is in it.
    pub room: Option<Arc<Room>>,
}

/// One ready instance and the version that it is of.
pub struct Member {
    pub instance: Arc<Instance>,
    /// Index into [`Service::pools`].
    pub pool: usize,
}

/// The part of a request that decides which instances of its service it may go to.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The only pool that it may reach: it came by that one's preview host.
    pub preview: Option<usize>,
    pub wish: Option<Wish>,
    /// For the cookie.
    pub headers: &'a HeaderMap,
    /// Instances that could not be reached.
    pub tried: &'a [InstanceId],
}

/// A claim on an instance.
pub struct Choice {
    pub lease: Lease,
    /// Index into [`Service::pools`].
    pub pool: usize,
    /// The client is to stay with this version, and does not know it yet.
    pub introduces: bool,
}

/// Who chooses: every worker takes turns of its own.
#[derive(Clone, Copy)]
pub struct Turn {
    pub worker: usize,
    /// Any number that grows.
    pub count: usize,
}

impl Service {
    /// The least loaded instance that the request may go to, is not leaving and was not tried: within the version that
    /// the preview host, the wish, the cookie or else the shares say. A version of the shares or of the cookie without
    /// such an instance yields to the others; a preview host and a wish do not.
    pub fn choose(&self, asked: &Asked<'_>, turn: Turn) -> Option<Choice> {
        let sticks = self.sticky && asked.wish.is_none() && asked.preview.is_none();
        let kept = if sticks { self.kept(asked.headers) } else { None };
        let (lease, pool) = match (asked.wish, asked.preview.or(kept)) {
            (Some(wish), _) => self.wished(wish, asked, turn),
            (None, Some(pool)) => self.least_loaded(self.pools[pool].members.clone(), asked.tried, turn.count),
            (None, None) => None,
        }
        .or_else(|| self.drawn(asked, turn))?;
        Some(Choice {
            lease,
            pool,
            introduces: sticks && kept != Some(pool),
        })
    }

    /// What the shares say, for a request that may go anywhere.
    fn drawn(&self, asked: &Asked<'_>, turn: Turn) -> Option<(Lease, usize)> {
        if asked.wish.is_some() || asked.preview.is_some() {
            return None;
        }
        self.shares
            .draw(turn.worker)
            .find_map(|members| self.least_loaded(members, asked.tried, turn.count))
    }

    /// The least loaded of these members; equals are taken in turn.
    fn least_loaded(&self, members: Range<usize>, tried: &[InstanceId], turn: usize) -> Option<(Lease, usize)> {
        let members = &self.members[members];
        let count = members.len();
        // A target can begin to leave between the look and the claim; each round then has one candidate less.
        for _ in 0..=count {
            let candidates = (0..count).map(|i| &members[(turn + i) % count]);
            let best = candidates
                .filter(|member| !member.instance.is_leaving() && !tried.contains(&member.instance.id))
                .min_by_key(|member| member.instance.in_flight())?;
            if let Some(lease) = best.instance.enter() {
                return Some((lease, best.pool));
            }
        }
        None
    }

    /// The members that a request may reach at all.
    fn reached(&self, preview: Option<usize>) -> impl Iterator<Item = &Member> {
        let may = move |member: &&Member| match preview {
            Some(preview) => member.pool == preview,
            None => self.pools[member.pool].is_open,
        };
        self.members.iter().filter(may)
    }

    /// What fits the wish best.
    fn wished(&self, wish: Wish, asked: &Asked<'_>, turn: Turn) -> Option<(Lease, usize)> {
        let reached = self.reached(asked.preview);
        let fitting: Vec<&Member> = match wish {
            Wish::Version(version) => reached
                .filter(|member| self.pools[member.pool].version == version)
                .collect(),
            Wish::Instance(id) => reached.filter(|member| member.instance.id == id).collect(),
            Wish::Place(service, _) if service != self.id => return None,
            Wish::Place(_, None) => reached.collect(),
            Wish::Place(_, Some(index)) => {
                let mut by_id: Vec<&Member> = reached.collect();
                by_id.sort_unstable_by_key(|member| member.instance.id);
                by_id.get(index).copied().into_iter().collect()
            }
        };
        let count = fitting.len();
        let untried = (0..count)
            .map(|i| fitting[(turn.count + i) % count])
            .filter(|member| !asked.tried.contains(&member.instance.id));
        let best = untried.min_by_key(|member| (member.instance.is_leaving(), member.instance.in_flight()))?;
        Some((best.instance.enter()?, best.pool))
    }

    /// The pool that the client's cookie names, as long as it takes part in the shares.
    fn kept(&self, headers: &HeaderMap) -> Option<usize> {
        let cookies = headers.get_all(COOKIE).iter();
        let pairs = cookies.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        let mut tokens = pairs.filter_map(|pair| {
            let rest = pair.trim_ascii().strip_prefix(pool::COOKIE.as_bytes())?;
            rest.strip_prefix(b"=")
        });
        let pool_of = |token: &[u8]| {
            let named = |pool: &Pool| pool.takes_part && pool.token.as_bytes() == token;
            self.pools.iter().position(named)
        };
        tokens.find_map(pool_of)
    }

    /// Whether there is an instance that a request may be sent to which did not come by a preview host.
    pub fn is_ready(&self) -> bool {
        self.reached(None).any(|member| !member.instance.is_leaving())
    }

    /// A target of this entry has left since the entry was looked up: a newer table exists already.
    pub fn is_stale(&self) -> bool {
        self.members.iter().any(|member| member.instance.is_leaving())
    }
}
