//! One service: from its record to a decision, and from a decision that is durable to what is done.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::plan::{Action, Desired, Health, Observed, Plan, Process, Verdict};
use domain::{Delivery, InstanceId, ServiceId, Stage, Template};
use engine::{Exit, InstanceSpec, Phase, ValueFiles};
use store::{Deployment, Effect, InstanceState, ServiceState, Store};
use tokio::time::Instant;

use crate::explain;
use crate::health::Subject;
use crate::live::{self, LiveInstance};
use crate::observe::{Books, Eyes, deployment_of, nearest};
use crate::pulls::PullState;
use crate::release;
use crate::routes::Layout;
use crate::run::Reconciler;

/// What is to be written about a service, and what is to be done once it is written.
#[derive(Default)]
pub struct Decision {
    pub effects: Vec<Effect>,
    /// What people are told. Nothing that is done rests on it, so nothing waits for it.
    pub remarks: Vec<Effect>,
    pub deeds: Deeds,
}

/// Effects on the world. None of them may happen before [`Decision::effects`] are durable (invariant 18).
#[derive(Default)]
pub struct Deeds {
    launches: Vec<(InstanceId, Template)>,
    stops: Vec<(InstanceId, Duration, bool)>,
    removals: Vec<InstanceId>,
    /// `None`: leave the routes as they are.
    layout: Option<Layout>,
    wake: Option<Instant>,
    live: Vec<LiveInstance>,
    progress: Option<(domain::DeploymentId, u64)>,
    ended: Option<domain::DeploymentId>,
    purged: bool,
}

impl Deeds {
    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |known| known.min(at)));
    }
}

impl Reconciler {
    /// What to do about a service. Changes nothing but books in memory that a repetition would change alike.
    pub(crate) fn consider(&mut self, state: &ServiceState, now: Instant) -> Decision {
        self.adopt(state);
        self.let_go(state, now);
        let mut decision = Decision::default();
        if state.service.frozen.is_some() {
            let observed = self.observe(state, now).1;
            decision.deeds.live = self.live_view(&observed);
            return decision;
        }
        self.watch_health(state);
        if let Some(queued) = state
            .active
            .as_ref()
            .filter(|d| d.stage == Stage::Queued && !state.service.deleting)
        {
            self.obtain_image(queued, now, &mut decision);
        }
        let (desired, observed) = self.observe(state, now);
        let plan = match (self.parts.planner)(&desired, &observed) {
            Ok(plan) => plan,
            Err(violation) => {
                tracing::error!(service.id = %state.service.id, service.name = state.service.name, %violation, "service frozen");
                decision.effects = vec![Effect::Freeze {
                    reason: violation.to_string(),
                }];
                return decision;
            }
        };
        self.translate(state, &observed, &plan, now, &mut decision);
        decision.deeds.live = self.live_view(&observed);
        decision
    }

    fn observe(&mut self, state: &ServiceState, now: Instant) -> (Desired, Observed) {
        let edge = self.parts.edge.as_ref();
        self.live.evidence.note(state, edge, now);
        let books = Books {
            evidence: &self.live.evidence,
            edge,
            now,
            now_us: (self.parts.clock)(),
        };
        let desired = books.desired(state, &mut self.progress);
        let view = self.edge_view.borrow();
        let eyes = Eyes {
            snapshot: &self.snapshot,
            operations: &self.operations,
            health: &self.health,
            view: &view,
            now,
            now_us: (self.parts.clock)(),
        };
        let observed = eyes.observe(state, &mut self.routes);
        (desired, observed)
    }

    fn watch_health(&mut self, state: &ServiceState) {
        for row in &state.instances {
            let Some(status) = self.snapshot.get(&row.id) else {
                self.health.unwatch(row.id);
                continue;
            };
            if let Some(address) = status.address {
                self.routes.set_caller(address, state.service.project);
            }
            if row.template.is_release() {
                continue;
            }
            let own = deployment_of(state, &row.template);
            let Some(deployment) = own.or_else(|| nearest(state)) else {
                continue;
            };
            if status.phase == Phase::Running && row.state == InstanceState::Wanted {
                if own.is_none() && self.health.is_watched(row.id) {
                    // Of a superseded version: it goes on being judged as it was.
                    continue;
                }
                self.health.watch(Subject {
                    service: state.service.id,
                    instance: row.id,
                    port: deployment.spec.port,
                    check: deployment.spec.health.clone(),
                    healthy_before: row.healthy_once,
                });
            } else {
                self.health.unwatch(row.id);
            }
        }
    }

    /// Queued → deploying once the image is here under a fixed digest.
    fn obtain_image(&mut self, queued: &Deployment, now: Instant, decision: &mut Decision) {
        let set_stage = |to, reason: &str, error_message| Effect::SetStage {
            deployment: queued.id,
            from: Stage::Queued,
            to,
            reason: reason.to_owned(),
            error_message,
        };
        match self.pulls.drive(queued, now) {
            PullState::Ready(digest) => {
                let fixed = queued.spec.digest.is_none().then_some(Effect::SetDigest {
                    deployment: queued.id,
                    digest,
                });
                decision.effects.extend(fixed);
                decision
                    .effects
                    .push(set_stage(Stage::Deploying, "the image is here", None));
                decision.deeds.ended = Some(queued.id);
            }
            PullState::Failed(why) => {
                let message = format!("Version {} was given up: {why}", queued.version);
                decision
                    .effects
                    .push(set_stage(Stage::Failed, "no image", Some(message)));
                decision.deeds.ended = Some(queued.id);
            }
            PullState::Waiting(text) => self.say_waiting(queued, text, decision),
            PullState::RetryAt(at, why) => {
                self.say_waiting(queued, format!("{why}; trying again"), decision);
                decision.deeds.wake_at(at);
            }
        }
    }

    fn say_waiting(&self, deployment: &Deployment, text: String, decision: &mut Decision) {
        if deployment.waiting != text {
            decision.remarks.push(Effect::SetWaiting {
                deployment: deployment.id,
                text,
            });
        }
    }

    /// The plan in the store's and the engine's terms.
    fn translate(
        &mut self,
        state: &ServiceState,
        observed: &Observed,
        plan: &Plan,
        now: Instant,
        decision: &mut Decision,
    ) {
        self.record_health(state, observed, decision);
        for action in &plan.actions {
            self.translate_action(state, action, decision);
        }
        if let Some(deployment) = &state.active {
            decision.deeds.progress = Some((deployment.id, plan.progress));
            match &plan.verdict {
                Some(verdict) => self.translate_verdict(state, deployment, verdict, decision),
                None if deployment.stage != Stage::Queued => {
                    self.say_waiting(deployment, self.with_trouble(&plan.waiting, observed), decision);
                }
                None => {}
            }
        }
        decision.deeds.layout = Some(self.layout(state, plan));
        if let (Some(why), Some(serving)) = (&plan.roll_back, &state.serving)
            && let Some(before) = serving.replaced
        {
            decision.effects.push(Effect::RollBack {
                failed: serving.id,
                to: before,
                reason: why.clone(),
            });
        }
        if let Some(delay) = plan.next_wake {
            decision.deeds.wake_at(now + delay);
        }
        if state.service.deleting && state.instances.is_empty() {
            decision.effects.push(Effect::Purge);
            decision.deeds.purged = true;
        }
    }

    fn record_health(&self, state: &ServiceState, observed: &Observed, decision: &mut Decision) {
        let routable = state.service.port.is_some();
        let serving = observed
            .instances
            .iter()
            .filter(|seen| live::serves(seen, routable))
            .count() as u32;
        if serving != state.service.instances_running {
            decision.remarks.push(Effect::SetRunning { count: serving });
        }
        for (row, seen) in state.instances.iter().zip(&observed.instances) {
            // A release command is not checked; that it was begun must outlive this control plane.
            let proven = row.template.is_release() || matches!(seen.health, Health::Passing { .. });
            if !row.healthy_once && proven && seen.process == Process::Running {
                decision.effects.push(Effect::Healthy { id: row.id });
            }
        }
    }

    fn translate_action(&self, state: &ServiceState, action: &Action, decision: &mut Decision) {
        match action {
            Action::Add { deployment, template } => {
                let id = InstanceId((self.parts.new_id)());
                let (deployment, template) = (*deployment, template.clone());
                decision.deeds.launches.push((id, template.clone()));
                decision.effects.push(Effect::AddInstance {
                    id,
                    deployment,
                    template,
                });
            }
            Action::Launch { id } => {
                let row = state.instances.iter().find(|row| row.id == *id);
                decision
                    .deeds
                    .launches
                    .extend(row.map(|row| (*id, row.template.clone())));
            }
            Action::Retire { id, reason } => {
                decision.effects.push(Effect::Retire {
                    id: *id,
                    reason: reason.as_str().to_owned(),
                });
            }
            Action::Stop { id, grace, cut } => decision.deeds.stops.push((*id, *grace, *cut)),
            Action::Collect { id } => self.collect(state, *id, decision),
        }
    }

    fn collect(&self, state: &ServiceState, id: InstanceId, decision: &mut Decision) {
        let row = state.instances.iter().find(|row| row.id == id);
        let exit = self.exit(id);
        let released = release::done(state, id, exit.as_ref());
        let unasked = match &exit {
            Some(exit) => !exit.asked,
            // Nobody knows how a release command ended that the engine has lost: it did not succeed.
            None => row.is_some_and(|row| row.template.is_release()),
        };
        let wanted = row.is_some_and(|row| row.state == InstanceState::Wanted);
        let crashed = wanted && released.is_none() && unasked;
        decision.effects.push(Effect::Gone {
            id,
            crashed,
            memory_peak: exit.as_ref().and_then(|exit| exit.memory_peak),
            exit: exit.and_then(|exit| serde_json::to_value(exit).ok()),
        });
        decision
            .effects
            .extend(released.map(|deployment| Effect::Released { deployment }));
        decision.deeds.removals.push(id);
    }

    fn exit(&self, id: InstanceId) -> Option<Exit> {
        if let Some(exit) = self.operations.start_failure(id) {
            return Some(exit.clone());
        }
        match &self.snapshot.get(&id)?.phase {
            Phase::Exited(exit) => Some(Exit::clone(exit)),
            _ => None,
        }
    }

    fn translate_verdict(
        &self,
        state: &ServiceState,
        deployment: &Deployment,
        verdict: &Verdict,
        decision: &mut Decision,
    ) {
        let instances = deployment.spec.instances;
        let (to, reason, error_message) = match verdict {
            Verdict::StepReached => {
                decision.effects.push(Effect::ReachStep {
                    deployment: deployment.id,
                });
                decision.deeds.ended = Some(deployment.id);
                return;
            }
            Verdict::StepPassed => {
                decision.effects.push(Effect::Advance {
                    deployment: deployment.id,
                    step: deployment.step + 1,
                });
                decision.deeds.ended = Some(deployment.id);
                return;
            }
            Verdict::Succeeded => (Stage::Succeeded, format!("all {instances} instances serve"), None),
            Verdict::Canceled => (Stage::Canceled, "the version before serves".to_owned(), None),
            Verdict::Failed(why) => {
                let message = explain::failure(deployment, why, &state.crashes);
                (
                    Stage::Failed,
                    message.lines().next().unwrap_or_default().to_owned(),
                    Some(message),
                )
            }
        };
        decision.effects.push(Effect::SetStage {
            deployment: deployment.id,
            from: deployment.stage,
            to,
            reason,
            error_message,
        });
        decision.deeds.ended = Some(deployment.id);
    }

    /// Engine trouble is what a rollout really waits for, where there is any.
    fn with_trouble(&self, waiting: &str, observed: &Observed) -> String {
        let trouble = observed
            .instances
            .iter()
            .find_map(|seen| self.operations.trouble(seen.id));
        match trouble {
            Some(trouble) => format!("{waiting}; trying again after: {trouble}"),
            None => waiting.to_owned(),
        }
    }

    fn live_view(&self, observed: &Observed) -> Vec<LiveInstance> {
        let known = observed
            .instances
            .iter()
            .filter_map(|seen| Some((seen, self.snapshot.get(&seen.id)?)));
        known.map(|(seen, status)| LiveInstance::new(seen, status)).collect()
    }

    /// Acts on a decision that is durable.
    pub(crate) fn act(&mut self, state: &ServiceState, deeds: Deeds, now: Instant) {
        let service = state.service.id;
        if let Some((deployment, progress)) = deeds.progress {
            self.progress.note(deployment, progress, now);
        }
        if let Some(ended) = deeds.ended {
            self.progress.forget(ended);
            self.pulls.forget(ended);
            self.due.insert(service);
        }
        if let Some(layout) = deeds.layout {
            self.routes.set(service, layout);
        }
        let mut wake = deeds.wake;
        for (id, template) in deeds.launches {
            self.tend(id, service);
            wake = earlier(wake, self.launch(state, id, &template, now));
        }
        for (id, grace, cut) in deeds.stops {
            if cut {
                self.parts.edge.close_busy(&[id]);
            }
            wake = earlier(wake, self.operations.stop(service, id, grace, now));
        }
        for id in deeds.removals {
            self.forget_instance(service, id, now);
        }
        if deeds.purged {
            return self.leave(service, now);
        }
        self.live.set(service, deeds.live);
        self.timers.set(service, wake);
    }

    fn launch(&mut self, state: &ServiceState, id: InstanceId, template: &Template, now: Instant) -> Option<Instant> {
        let releasing = release::of(state, template);
        let mut deployment = releasing.or_else(|| deployment_of(state, template))?.clone();
        if releasing.is_some() {
            deployment.spec.command = deployment.spec.release.take();
        }
        let spec = instance_spec(self.parts.store.clone(), state, deployment, id);
        self.operations.launch(state.service.id, id, now, spec)
    }

    pub(crate) fn tend(&mut self, id: InstanceId, service: ServiceId) {
        self.owners.insert(id, service);
        self.strangers.remove(&id);
        self.tended.entry(service).or_default().insert(id);
    }

    /// What the record says is gone is let go of. Mostly the decision that recorded it did so already; but a commit can
    /// be durable and its answer lost.
    fn let_go(&mut self, state: &ServiceState, now: Instant) {
        let service = state.service.id;
        let tended = self.tended.get(&service).into_iter().flatten();
        let gone = tended.filter(|id| !state.instances.iter().any(|row| row.id == **id));
        for id in gone.copied().collect::<Vec<_>>() {
            self.forget_instance(service, id, now);
        }
    }

    /// A purged service: nothing is known of it any more.
    pub(crate) fn leave(&mut self, service: ServiceId, now: Instant) {
        for id in self.tended.remove(&service).unwrap_or_default() {
            self.forget_instance(service, id, now);
        }
        self.routes.set(service, Layout::default());
        self.live.set(service, Vec::new());
        self.timers.set(service, None);
    }

    fn forget_instance(&mut self, service: ServiceId, id: InstanceId, now: Instant) {
        if let Some(address) = self.snapshot.remove(&id).and_then(|status| status.address) {
            self.routes.remove_caller(address);
        }
        self.health.unwatch(id);
        self.routes.forget(id);
        self.owners.remove(&id);
        if let Some(tended) = self.tended.get_mut(&service) {
            tended.remove(&id);
        }
        self.operations.forget(id);
        // Where this cannot begin now, or fails, the next listing shows what is left.
        self.operations.remove(service, id, now);
        self.due.insert(service);
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Reads the values that an instance starts with; secrets are read here and nowhere earlier.
fn instance_spec(
    store: Store,
    state: &ServiceState,
    deployment: Deployment,
    id: InstanceId,
) -> impl Future<Output = domain::Result<InstanceSpec>> + Send + use<> {
    let (service, service_name, project) = (state.service.id, state.service.name.clone(), state.service.project);
    async move {
        // Most have no secret, and what is recorded of them is at hand.
        let secrets = match deployment.spec.secrets.is_empty() {
            true => BTreeMap::new(),
            false => store.system().instance_secrets(deployment.id).await?,
        };
        let (env, files) = deliver(deployment.spec.delivery, deployment.spec.config, secrets);
        let image_digest = deployment
            .spec
            .digest
            .ok_or_else(|| domain::Error::internal("image digest is not known"))?;
        Ok(InstanceSpec {
            id,
            service,
            service_name,
            project,
            deployment: deployment.id,
            version: deployment.version,
            image_digest,
            port: deployment.spec.port,
            env,
            files,
            command: deployment.spec.command,
            resources: deployment.spec.resources,
        })
    }
}

/// Parts values into environment variables and files. Of a key that is in both, the secret is the one that counts.
fn deliver(
    delivery: Delivery,
    configs: BTreeMap<String, String>,
    secrets: BTreeMap<String, String>,
) -> (BTreeMap<String, String>, ValueFiles) {
    match delivery {
        Delivery::Env => (configs.into_iter().chain(secrets).collect(), ValueFiles::default()),
        Delivery::SecretFiles => {
            let files = ValueFiles {
                secrets,
                ..ValueFiles::default()
            };
            (configs, files)
        }
        Delivery::Files => (BTreeMap::new(), ValueFiles { configs, secrets }),
    }
}
