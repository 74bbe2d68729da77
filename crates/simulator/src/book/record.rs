//! What the store has committed.

use std::collections::{BTreeMap, BTreeSet};

use domain::{DeploymentId, InstanceId, ServiceId, Stage, Strategy};
use store::{Deployment, InstanceRow, InstanceState, ServiceState};
use tokio::time::Instant;

use super::{Book, Pages};

/// One service, as the record last showed it.
pub struct Known {
    pub(super) subject: usize,
    pub(super) name: String,
    pub state: Option<ServiceState>,
    pub(super) previous_serving: u32,
    pub(super) deployments: BTreeMap<DeploymentId, Recorded>,
    pub(super) max_version: i64,
    pub(super) rows: BTreeSet<InstanceId>,
    pub(super) disturbed: Option<Instant>,
    /// The last moment at which anything about it changed, in the record or in reality.
    pub(super) moved: Instant,
    /// When the last deployment ended, and its floor: what it gave up may leave the table a little later.
    pub(super) ended: Option<(Instant, u32)>,
    /// Somebody has said that it may leave its step.
    pub(super) continued: bool,
    /// Somebody has asked to go back.
    pub(super) asked_back: bool,
}

pub(super) struct Recorded {
    pub(super) version: i64,
    pub(super) spec: domain::Spec,
    pub(super) stage: Option<Stage>,
    pub(super) journal: i64,
    pub(super) since: Instant,
}

impl Book {
    pub fn enroll(&self, service: ServiceId, subject: usize) {
        let mut pages = self.pages();
        let name = pages.scenario.services[subject].name.clone();
        let known = Known {
            subject,
            name,
            state: None,
            previous_serving: 0,
            deployments: BTreeMap::new(),
            max_version: 0,
            rows: BTreeSet::new(),
            disturbed: None,
            moved: Instant::now(),
            ended: None,
            continued: false,
            asked_back: false,
        };
        pages.services.insert(service, known);
    }
}

impl Pages {
    /// The record of a service after a commit: invariants 1, 6, 7, 9, 13, 22, 23.
    pub fn audit(&mut self, id: ServiceId, state: Option<ServiceState>, deployments: Option<&[Deployment]>) {
        let Some(known) = self.services.get(&id) else { return };
        let name = known.name.clone();
        let mut wrong: Vec<(u8, String)> = Vec::new();
        if let Some(why) = state.as_ref().and_then(|state| state.service.frozen.clone()) {
            wrong.push((0, format!("{name} is frozen: {why}")));
        }
        if let Some(state) = &state {
            wrong.extend(self.surge(known, state));
            wrong.extend(incoherence(state, deployments).map(|what| (9, format!("{name}: {what}"))));
            wrong.extend(step_in_a_pause(known, state).map(|what| (22, format!("{name}: {what}"))));
            wrong.extend(beyond_its_step(state).map(|what| (22, format!("{name}: {what}"))));
        }
        if let Some(state) = &state {
            self.note_runs(state);
            self.note_success(id, state);
            wrong.extend(self.passed_gate(id, state).map(|what| (22, format!("{name}: {what}"))));
            wrong.extend(self.taken_back(id, state).map(|what| (12, format!("{name}: {what}"))));
        }
        if let Some(list) = deployments {
            wrong.extend(miscounted(state.as_ref(), list).map(|(number, what)| (number, format!("{name}: {what}"))));
        }
        let lines = self.record(id, deployments.unwrap_or_default(), &mut wrong);
        for line in lines {
            self.say(&line);
        }
        if let Some(known) = self.services.get_mut(&id) {
            let before = known.state.as_ref().and_then(|state| state.serving.as_ref());
            known.previous_serving = before.map_or(0, |serving| serving.spec.instances);
            let rows = state.iter().flat_map(|state| &state.instances).map(|row| row.id);
            known.rows.extend(rows);
            known.moved = Instant::now();
            known.state = state;
        }
        for (number, what) in wrong {
            self.violate(number, what);
        }
    }

    /// What is wrong with a rollback that nobody has asked for.
    fn taken_back(&mut self, id: ServiceId, state: &ServiceState) -> Option<String> {
        let active = state.active.as_ref().filter(|active| active.rollback_from.is_some())?;
        let known = self.services.get_mut(&id)?;
        if known.deployments.contains_key(&active.id) || std::mem::take(&mut known.asked_back) {
            return None;
        }
        self.went_back(id, state.serving.as_ref()?)
    }

    /// Invariant 1, at the moment of an intent.
    fn surge(&self, known: &Known, state: &ServiceState) -> Option<(u8, String)> {
        // The run of a release command serves nobody.
        let serve = || state.instances.iter().filter(|row| !row.template.is_release());
        let added = serve().rfind(|row| !known.rows.contains(&row.id))?;
        let mut known_to_us = [&state.active, &state.serving].into_iter().flatten();
        known_to_us.find(|d| d.id == added.deployment)?;
        let goal = goal(state)?;
        let serving = state.serving.as_ref().map_or(0, |d| d.spec.instances);
        let before = serving.max(known.previous_serving);
        let wanted = goal.spec.instances;
        let options = &goal.spec.options;
        // They are told to stop right after this commit; whether they may be is checked then (invariant 4).
        let may_stop = |row: &&InstanceRow| {
            let served = self.instances.get(&row.id).is_some_and(|truth| truth.left.is_none());
            row.state == InstanceState::Retiring && !served
        };
        let stopping = state.instances.iter().filter(may_stop).count() as u32;
        let uncounted = stopping.min(options.uncounted_stopping(wanted));
        let ceiling = wanted.max(before) + surge(&goal.spec) + uncounted;
        let live = serve().count() as u32;
        (live > ceiling).then(|| {
            let text = format!("{}: {live} instances are intended, {ceiling} are allowed", known.name);
            (1, text)
        })
    }

    fn record(&mut self, id: ServiceId, list: &[Deployment], wrong: &mut Vec<(u8, String)>) -> Vec<String> {
        let Some(known) = self.services.get_mut(&id) else {
            return vec![];
        };
        let mut list: Vec<&Deployment> = list.iter().collect();
        list.sort_by_key(|d| d.version);
        let mut lines = Vec::new();
        for deployment in list {
            let recorded = domain::Spec {
                digest: None,
                ..deployment.spec.clone()
            };
            let Some(before) = known.deployments.get_mut(&deployment.id) else {
                if deployment.version <= known.max_version {
                    let text = format!("{}: version {} is given again", known.name, deployment.version);
                    wrong.push((6, text));
                }
                known.max_version = known.max_version.max(deployment.version);
                lines.push(format!(
                    "{}.v{} wants {} x {}",
                    known.name, deployment.version, deployment.spec.instances, deployment.spec.image
                ));
                let new = Recorded {
                    version: deployment.version,
                    spec: deployment.spec.clone(),
                    stage: None,
                    journal: 0,
                    since: Instant::now(),
                };
                known.deployments.insert(deployment.id, new);
                continue;
            };
            let digest_kept = before.spec.digest.is_none() || before.spec.digest == deployment.spec.digest;
            let same = domain::Spec {
                digest: None,
                ..before.spec.clone()
            } == recorded;
            if !same || !digest_kept || before.version != deployment.version {
                let text = format!("{}.v{}: the record has changed", known.name, before.version);
                wrong.push((13, text));
            }
            before.spec.digest = deployment.spec.digest.clone();
        }
        lines
    }
    /// Services whose records are not what was seen last; `kept`: the revisions of those that are not purged.
    pub fn moved(&self, kept: &BTreeMap<ServiceId, i64>) -> Vec<ServiceId> {
        let seen = |known: &Known| known.state.as_ref().map(|state| state.service.revision);
        let moved = self
            .services
            .iter()
            .filter(|(id, known)| kept.get(id).copied() != seen(known));
        moved.map(|(id, _)| *id).collect()
    }
}

/// Invariants 7 and 23: at most one is active, and none is missing that is needed.
fn miscounted(state: Option<&ServiceState>, list: &[Deployment]) -> Option<(u8, String)> {
    let active = list.iter().filter(|d| d.stage.is_active()).count();
    if active > 1 {
        return Some((7, format!("{active} deployments are active")));
    }
    let service = &state?.service;
    let mut needed = [service.active, service.serving, service.last].into_iter().flatten();
    let missing = needed.any(|id| !list.iter().any(|d| d.id == id));
    missing.then(|| (23, "a deployment that is needed was pruned".to_owned()))
}

/// Invariant 9: what every face is a function of says one thing, whichever way it is asked.
fn incoherence(state: &ServiceState, list: Option<&[Deployment]>) -> Option<String> {
    let service = &state.service;
    let active = state.active.as_ref();
    if active.map(|d| d.id) != service.active || active.is_some_and(|d| !d.stage.is_active()) {
        return Some(format!("its active deployment is {:?}", active.map(|d| d.stage)));
    }
    if let Some(serving) = state.serving.as_ref().filter(|d| d.stage != Stage::Succeeded) {
        return Some(format!(
            "it serves version {}, which is {}",
            serving.version, serving.stage
        ));
    }
    if service.instances_running as usize > state.instances.len() {
        let rows = state.instances.len();
        return Some(format!("{} of {rows} instances are running", service.instances_running));
    }
    let last = list?.iter().max_by_key(|d| d.version)?;
    let same = service.last == Some(last.id) && service.last_stage == Some(last.stage);
    (!same).then(|| {
        format!(
            "its last version is {}, and it says {:?}",
            last.stage, service.last_stage
        )
    })
}

/// Invariant 22: nothing of it is added and nothing is taken away while a rollout is paused; what dies is made up for by
/// the version that serves.
fn step_in_a_pause(known: &Known, state: &ServiceState) -> Option<String> {
    let before = known.state.as_ref()?;
    // At a step what dies is replaced.
    let paused = |state: &ServiceState| {
        let paused = state.active.as_ref().filter(|d| d.stage == Stage::Paused && !d.at_step);
        paused.map(|d| d.id)
    };
    if paused(state).is_none() || paused(before) != paused(state) || state.service.deleting {
        return None;
    }
    let wanted = |state: &ServiceState| -> BTreeSet<InstanceId> {
        let rows = state.instances.iter().filter(|row| row.state == InstanceState::Wanted);
        rows.map(|row| row.id).collect()
    };
    let serving = state.serving.as_ref().map(|serving| serving.id);
    let known_before: BTreeSet<InstanceId> = before.instances.iter().map(|row| row.id).collect();
    let retired = state
        .instances
        .iter()
        .filter(|row| row.state == InstanceState::Retiring);
    let added = state.instances.iter();
    let added = added.filter(|row| !known_before.contains(&row.id) && Some(row.deployment) != serving);
    let added = added.count();
    let retired = retired.filter(|row| wanted(before).contains(&row.id)).count();
    (added + retired > 0).then(|| format!("{added} instances are added and {retired} retired in a pause"))
}

/// Instances above the wanted number that a rollout may have.
fn surge(spec: &domain::Spec) -> u32 {
    let wanted = spec.instances;
    let own = match spec.strategy {
        Strategy::Rolling | Strategy::Recreate => 0,
        Strategy::BlueGreen => wanted,
        Strategy::Canary => {
            let steps = &spec.options.steps;
            let above = steps.iter().enumerate().map(|(n, step)| {
                let sizes = step.sizes(wanted);
                // Weighed requests, here or until this step is reached, keep the old version large enough for its part; until
                // the first weighed step is reached that is all of them.
                let until = n
                    .checked_sub(1)
                    .map_or(step.traffic.map(|_| 0), |before| steps[before].traffic);
                let weights = [until, step.traffic].into_iter().flatten();
                let to_original = weights.min().map_or(0, |least| 100 - least.min(100));
                let original = sizes.original.max((wanted * to_original).div_ceil(100));
                (sizes.canary + original).saturating_sub(wanted)
            });
            above.max().unwrap_or(0).max(1)
        }
    };
    own.max(spec.options.surge(wanted))
}

/// Invariant 22: a canary has no more instances than its step says.
fn beyond_its_step(state: &ServiceState) -> Option<String> {
    let active = state.active.as_ref().filter(|d| d.spec.strategy == Strategy::Canary)?;
    let step = active.spec.options.steps.get(active.step as usize)?;
    if active.rollback_from.is_some() || state.serving.as_ref().is_none_or(|d| d.template == active.template) {
        return None;
    }
    let allowed = step.sizes(active.spec.instances).canary;
    let fresh = state.instances.iter();
    let fresh = fresh
        .filter(|row| row.deployment == active.id && row.state == InstanceState::Wanted && !row.template.is_release())
        .count();
    (fresh as u32 > allowed).then(|| {
        format!(
            "version {} has {fresh} instances at a step that allows {allowed}",
            active.version
        )
    })
}

/// Wanted instances that must serve whatever is done voluntarily.
pub(super) fn floor(spec: &domain::Spec) -> u32 {
    spec.instances.saturating_sub(spec.options.max_unavailable)
}

/// Whose options rule over an intent: those of the rollout, else those of what serves. An instance of the version before
/// is added under them too.
pub(super) fn goal(state: &ServiceState) -> Option<&Deployment> {
    let drives = |d: &&Deployment| matches!(d.stage, Stage::Deploying | Stage::Paused | Stage::Finalizing);
    state.active.as_ref().filter(drives).or(state.serving.as_ref())
}
