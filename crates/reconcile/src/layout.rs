//! From a plan's routes to what the routing table says of a service.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::plan::{Plan, Traffic};
use domain::routing::{Hold, Pool, RouteMatch, Share, Target};
use domain::{InstanceId, Stage, Strategy, Template};
use engine::Phase;
use store::{Deployment, InstanceState, ServiceState};

use crate::observe::{deployment_of, nearest};
use crate::routes::Layout;
use crate::run::Reconciler;

impl Reconciler {
    /// The first look at a service after a start. What was healthy in the last life of the control plane is served by
    /// the edge and stays routed until checks say otherwise; what was retiring, or was kept warm after a switch, may
    /// still be in the edge's old table.
    pub(crate) fn adopt(&mut self, state: &ServiceState) {
        if self.tended.contains_key(&state.service.id) {
            return;
        }
        self.tended.insert(state.service.id, BTreeSet::new());
        let warm = !warm_for(state, (self.parts.clock)()).is_zero();
        let switched_off = |template: &Template| {
            let serving = state.serving.as_ref();
            warm && serving.is_some_and(|serving| serving.template != *template)
        };
        let mut routed = Vec::new();
        for row in &state.instances {
            self.tend(row.id, state.service.id);
            match row.state {
                InstanceState::Retiring => self.routes.leave(row.id, state.service.id),
                _ if row.template.is_release() => {}
                _ if row.healthy_once => match self.target(state, row.id) {
                    Some(target) if !switched_off(&row.template) => routed.push(target),
                    _ => self.routes.leave(row.id, state.service.id),
                },
                _ => {}
            }
        }
        let layout = Layout {
            pools: pools(state, routed),
            ..Layout::default()
        };
        self.routes.set(state.service.id, layout);
    }

    /// Where requests for an instance go, while it runs and listens. An instance of a version that is neither on its way
    /// nor serving any more keeps its target: superseding a rollout takes nothing out of the table by itself.
    fn target(&self, state: &ServiceState, id: InstanceId) -> Option<Target> {
        let row = state.instances.iter().find(|row| row.id == id)?;
        let status = self.snapshot.get(&id).filter(|status| status.phase == Phase::Running)?;
        let known = self.routes.target(state.service.id, id).map(|target| target.port);
        let port = match deployment_of(state, &row.template) {
            Some(deployment) => deployment.spec.port?,
            None => known.or_else(|| nearest(state)?.spec.port)?,
        };
        Some(Target {
            instance: id,
            address: status.address?,
            port,
        })
    }

    /// What the next table is to say of the service.
    pub(crate) fn layout(&self, state: &ServiceState, plan: &Plan) -> Layout {
        let routed = plan.routes.iter().filter_map(|id| self.target(state, *id)).collect();
        let mut pools = pools(state, routed);
        let rollout = state.active.as_ref();
        let new = rollout.and_then(|rollout| pools.iter_mut().find(|pool| pool.deployment == rollout.id));
        if let Some((rollout, pool)) = rollout.zip(new) {
            pool.share = plan.traffic.share.map_or(Share::ByInstances, Share::Percent);
            pool.preview = self.preview(state, rollout, &plan.traffic);
        }
        let hold_ms = nearest(state).map_or(0, |deployment| deployment.spec.options.hold_ms);
        Layout {
            pools,
            sticky: plan.traffic.sticky,
            hold: plan.traffic.hold.then_some(Hold { longest_ms: hold_ms }),
        }
    }

    fn preview(&self, state: &ServiceState, rollout: &Deployment, traffic: &Traffic) -> Vec<RouteMatch> {
        if !traffic.preview {
            return vec![];
        }
        let default = || format!("{}-preview.{}", state.service.name, self.parts.settings.base_domain);
        vec![RouteMatch {
            host: rollout.spec.options.preview_host.clone().unwrap_or_else(default),
            path: "/".to_owned(),
        }]
    }
}

/// Routed instances, one pool for each template.
fn pools(state: &ServiceState, routed: Vec<Target>) -> Vec<Pool> {
    let mut pools: BTreeMap<&Template, Pool> = BTreeMap::new();
    for target in routed {
        let Some(row) = state.instances.iter().find(|row| row.id == target.instance) else {
            continue;
        };
        let pool = pools.entry(&row.template).or_insert_with(|| {
            let own = deployment_of(state, &row.template);
            let deployment = own.map_or(row.deployment, |own| own.id);
            Pool::new(deployment, own.map_or(0, |own| own.version), vec![])
        });
        pool.targets.push(target);
    }
    pools.into_values().collect()
}

/// How long the version before a blue-green switch is still kept. Ages come from the wall clock of the record: a jump
/// can end the time early or late, no more.
pub(crate) fn warm_for(state: &ServiceState, now_us: i64) -> Duration {
    // A deployment that is only queued may be the way back, which is to find everything alive.
    let undisturbed = |serving: &&Deployment| match &state.active {
        Some(active) => active.stage == Stage::Queued,
        None => state.service.last == Some(serving.id),
    };
    let Some(serving) = state.serving.as_ref().filter(undisturbed) else {
        return Duration::ZERO;
    };
    let age_us = now_us - serving.finished_at_us.unwrap_or(now_us);
    let age = Duration::from_micros(age_us.max(0) as u64);
    match serving.spec.strategy {
        Strategy::BlueGreen => serving.spec.options.keep_warm().saturating_sub(age),
        Strategy::Rolling | Strategy::Canary | Strategy::Recreate => Duration::ZERO,
    }
}
