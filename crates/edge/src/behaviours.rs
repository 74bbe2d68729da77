//! How versions behave, summed over the runs of the edge: the control plane's end.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::routing::RoutingTable;
use domain::{Behaviour, DeploymentId};
use uuid::Uuid;

/// Deployments of which something is known before those that are in no table are forgotten.
const MAX_KNOWN: usize = 2_000;

/// Bounded by the deployments of a table and [`MAX_KNOWN`] others.
#[derive(Default)]
pub struct Behaviours {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    boot: Option<Uuid>,
    /// As the run of now reported it last.
    now: HashMap<DeploymentId, Behaviour>,
    /// The sum of all runs before.
    past: HashMap<DeploymentId, Behaviour>,
}

impl Behaviours {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a run of the edge has counted so far.
    pub fn merge(&self, boot: Uuid, reported: Vec<(DeploymentId, Behaviour)>) {
        let mut known = self.known();
        if known.boot.replace(boot) != Some(boot) {
            let ended: Vec<_> = known.now.drain().collect();
            ended
                .into_iter()
                .for_each(|(deployment, behaviour)| known.bury(deployment, &behaviour));
        }
        for (deployment, behaviour) in reported {
            let before = known.now.insert(deployment, behaviour.clone());
            // Counted anew: the edge had forgotten a deployment that was idle for long.
            if let Some(before) = before.filter(|before| before.requests > behaviour.requests) {
                known.bury(deployment, &before);
            }
        }
    }

    pub fn sum(&self, deployment: DeploymentId) -> Behaviour {
        let known = self.known();
        match (known.past.get(&deployment), known.now.get(&deployment)) {
            (Some(past), Some(now)) => past.plus(now),
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => Behaviour::default(),
        }
    }

    /// What one run of the edge, the one of now, has counted.
    pub fn of_run(&self, boot: Uuid, deployment: DeploymentId) -> Option<Behaviour> {
        let known = self.known();
        let now = known.now.get(&deployment);
        now.filter(|_| known.boot == Some(boot)).cloned()
    }

    /// Where too much is known, keeps what `table` names.
    pub fn forget_all_but(&self, table: &RoutingTable) {
        let mut known = self.known();
        if known.now.len() + known.past.len() <= MAX_KNOWN {
            return;
        }
        let pools = table.services.iter().flat_map(|service| &service.pools);
        let named: HashSet<DeploymentId> = pools.map(|pool| pool.deployment).collect();
        known.now.retain(|deployment, _| named.contains(deployment));
        known.past.retain(|deployment, _| named.contains(deployment));
    }
}

impl Known {
    fn bury(&mut self, deployment: DeploymentId, behaviour: &Behaviour) {
        let past = self.past.entry(deployment).or_default();
        *past = past.plus(behaviour);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(count: u64) -> Behaviour {
        Behaviour {
            requests: count,
            ..Behaviour::default()
        }
    }

    #[test]
    fn the_sum_goes_over_all_runs_of_the_edge_and_only_grows() {
        let behaviours = Behaviours::default();
        let id: DeploymentId = Uuid::new_v4().into();
        let [first, second] = [Uuid::new_v4(), Uuid::new_v4()];
        let mut sums = Vec::new();
        for (boot, count) in [(first, 3), (first, 5), (second, 1), (second, 4), (second, 2)] {
            behaviours.merge(boot, vec![(id, requests(count))]);
            sums.push(behaviours.sum(id).requests);
        }
        // The last report was of a deployment that the edge had forgotten in between.
        assert_eq!(sums, [3, 5, 6, 9, 11]);
        assert_eq!(behaviours.of_run(second, id).map(|seen| seen.requests), Some(2));
        assert_eq!(behaviours.of_run(first, id), None);
        behaviours.merge(Uuid::new_v4(), vec![]);
        assert_eq!(behaviours.sum(id).requests, 11);
    }

    #[test]
    fn what_no_table_names_is_forgotten_only_when_it_is_much() {
        let behaviours = Behaviours::default();
        let boot = Uuid::new_v4();
        let ids: Vec<DeploymentId> = (0..=MAX_KNOWN).map(|_| Uuid::new_v4().into()).collect();
        behaviours.merge(boot, vec![(ids[0], requests(1))]);
        behaviours.forget_all_but(&RoutingTable::default());
        assert_eq!(behaviours.sum(ids[0]).requests, 1);
        behaviours.merge(boot, ids.iter().map(|id| (*id, requests(1))).collect());
        behaviours.forget_all_but(&RoutingTable::default());
        assert_eq!(behaviours.sum(ids[0]).requests, 0);
    }
}
