//! `/api/services/{id}/rollout/`: how far a rollout is, once or until its end.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use domain::plan::Trial;
use domain::{Advance, DeploymentId, Error, Footing, Outcome, Result, ServiceId, Spec, Stage, Step, Strategy};
use serde::Serialize;
use store::{InstanceState, Scope, Service, ServiceKind};
use tokio::time::{Instant, sleep, timeout};

use super::behaviour::BehaviourView;
use super::caller::Caller;
use super::deployments::ReceiptView;
use super::error::Reply;
use super::extract::{At, Params};
use super::instances::{Stand, live_by_id, state_of};
use super::services::find;
use crate::ApiState;
use crate::limits::{STREAM_HEARTBEAT, TRIAL_PACE, WATCH_PACE};
use crate::ndjson::{self, Gone, Lines};
use crate::time::Stamp;

/// Everything that a progress display needs, in one document.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rollout {
    deployment: DeploymentId,
    service: ServiceId,
    name: String,
    version: i64,
    image: String,
    digest: Option<String>,
    stage: Stage,
    status: &'static str,
    /// Nothing more will happen to this deployment; `stage` says how it ended.
    done: bool,
    /// Why it waits now; empty when it does not.
    waiting: String,
    strategy: Strategy,
    /// Steps that it has passed.
    step: u32,
    steps: Vec<StepView>,
    /// It waits at its next step, and not because a user has paused it.
    at_step: bool,
    /// What ends that step.
    ends: Option<String>,
    /// `null` where it does not stand at a step and is not watched after its success.
    trial: Option<TrialView>,
    /// Percent of the requests that the step gives the new version; `null` where instances share them equally.
    share: Option<u32>,
    preview_host: Option<String>,
    /// `done`, `reverted` or `needs_you`; `null` while it moves by itself.
    outcome: Option<Outcome>,
    /// What to type, where the outcome is `needs_you`.
    next_command: Option<String>,
    error_message: String,
    frozen: Option<String>,
    /// Wanted instances.
    replicas: u32,
    instances: Sides,
    /// Instances of this deployment that ended by themselves, of the few that are remembered.
    crashed: usize,
    created_at: Stamp,
    finished_at: Option<Stamp>,
    elapsed_ms: i64,
    receipt: ReceiptView,
}

/// A step of the strategy, and in the words in which it is written on a command line.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct StepView {
    #[serde(flatten)]
    step: Step,
    text: String,
}

/// What the edge has seen of this version beside the one before it, since the step was reached or since it succeeded.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct TrialView {
    lasts_ms: u64,
    /// Requests of the new version without which the step's gate decides nothing; `null` where there is none.
    min_requests: Option<u64>,
    new: BehaviourView,
    old: BehaviourView,
}

impl TrialView {
    fn new(trial: &Trial, next: Option<&Step>) -> Self {
        TrialView {
            lasts_ms: u64::try_from(trial.lasts.as_millis()).unwrap_or(u64::MAX),
            min_requests: match next.map(|step| &step.then) {
                Some(Advance::Gate(gate)) => Some(gate.min_requests),
                _ => None,
            },
            new: BehaviourView::from(&trial.evidence.new),
            old: BehaviourView::from(&trial.evidence.old),
        }
    }
}

/// Live instances by state: those that already are what this deployment wants, and the others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
struct Sides {
    new: BTreeMap<Stand, u32>,
    old: BTreeMap<Stand, u32>,
}

/// `?deployment=` chooses one; else the one on its way, else the newest. With `?watch=1` a line of NDJSON for every
/// change, the last one with `done`.
pub async fn get(
    State(api): State<ApiState>,
    Extension(kind): Extension<ServiceKind>,
    caller: Caller,
    At(id): At<ServiceId>,
    params: Params,
) -> Reply<Response> {
    let service = find(&caller.scope, kind, id).await?;
    let deployment = choose(&service, params.uuid("deployment")?)?;
    // Before the first document, so that no change falls between it and the first wait.
    let changes = Changes::subscribe(&api);
    let first = look(&api, &caller.scope, id, deployment).await?;
    if !params.flag("watch") {
        return Ok(Json(first).into_response());
    }
    let scope = caller.scope.clone();
    let watch = Watch {
        api: api.clone(),
        scope: caller.scope,
        service: id,
        deployment,
        changes,
    };
    Ok(ndjson::answer(&api, &scope, |lines| watch.run(first, lines))?)
}

fn choose(service: &Service, asked: Option<DeploymentId>) -> Result<DeploymentId> {
    asked
        .or(service.active)
        .or(service.last)
        .ok_or_else(|| Error::not_found(format!("{} has no deployment", service.id)))
}

/// Reads everything anew.
async fn look(api: &ApiState, scope: &Scope, service: ServiceId, deployment: DeploymentId) -> Result<Rollout> {
    let service = scope.service(service).await?;
    let deployment = scope.deployment(deployment).await?;
    if deployment.service != service.id {
        return Err(Error::not_found(format!("{} is not of {}", deployment.id, service.id)));
    }
    let rows = scope.instances(service.id).await?;
    let live = live_by_id(api, service.id).await?;

    let mut instances = Sides::default();
    for row in rows.iter().filter(|row| row.state != InstanceState::Gone) {
        let is_new = row.deployment == deployment.id || row.template == deployment.template;
        let side = if is_new { &mut instances.new } else { &mut instances.old };
        *side.entry(state_of(row, live.get(&row.id))).or_default() += 1;
    }
    let crashed = rows.iter().filter(|row| row.crashed && row.deployment == deployment.id);
    let spec = &deployment.spec;
    let steps = spec.options.steps(spec.strategy);
    let next = steps
        .get(deployment.step as usize)
        .filter(|_| deployment.stage.is_active());
    let footing = Footing {
        name: &service.name,
        stage: deployment.stage,
        rolled_back: deployment.rolled_back,
        at_step: deployment.at_step,
        needs_continue: next.is_some_and(|step| step.then == Advance::Continue),
        serves: service.serving.is_some(),
        frozen: service.frozen.is_some(),
    };
    let (outcome, next_command) = (footing.outcome(), footing.next_command());
    let end_us = deployment.finished_at_us.unwrap_or_else(|| api.now_us());

    Ok(Rollout {
        deployment: deployment.id,
        service: service.id,
        version: deployment.version,
        stage: deployment.stage,
        status: deployment.stage.platform_status(deployment.rolled_back),
        done: !deployment.stage.is_active(),
        replicas: deployment.spec.instances,
        instances,
        crashed: crashed.count(),
        created_at: Stamp(deployment.created_at_us),
        finished_at: deployment.finished_at_us.map(Stamp),
        elapsed_ms: (end_us - deployment.created_at_us).max(0) / 1_000,
        receipt: ReceiptView::of(&deployment),
        strategy: spec.strategy,
        step: deployment.step,
        at_step: deployment.at_step,
        ends: next.filter(|_| deployment.at_step).map(|step| step.then.waits_for()),
        trial: api.runtime.trial(&deployment).map(|trial| TrialView::new(&trial, next)),
        share: next.and_then(|step| step.traffic),
        preview_host: preview_host(api, &service.name, spec),
        outcome,
        next_command,
        steps: steps.into_iter().map(StepView::from).collect(),
        name: service.name,
        frozen: service.frozen,
        waiting: deployment.waiting,
        error_message: deployment.error_message,
        image: deployment.spec.image,
        digest: deployment.spec.digest,
    })
}

/// Where the new version of a blue-green rollout is reached before the switch.
fn preview_host(api: &ApiState, name: &str, spec: &Spec) -> Option<String> {
    if spec.strategy != Strategy::BlueGreen || spec.port.is_none() {
        return None;
    }
    let edge = api.settings.edge.as_ref();
    let default = || edge.map(|edge| format!("{name}-preview.{}", edge.base_domain));
    spec.options.preview_host.clone().or_else(default)
}

impl From<Step> for StepView {
    fn from(step: Step) -> Self {
        StepView {
            text: step.to_string(),
            step,
        }
    }
}

impl Rollout {
    /// Whether a reader would learn anything. Time alone is no news: readers have clocks.
    fn says_more_than(&self, before: &Rollout) -> bool {
        let mut timeless = Rollout {
            elapsed_ms: before.elapsed_ms,
            ..self.clone()
        };
        if let (Some(trial), Some(before)) = (&mut timeless.trial, &before.trial) {
            trial.lasts_ms = before.lasts_ms;
        }
        timeless != *before
    }
}

/// Wake-ups from both sides of the truth. Their values mean nothing.
struct Changes {
    store: tokio::sync::watch::Receiver<u64>,
    runtime: tokio::sync::watch::Receiver<u64>,
}

impl Changes {
    fn subscribe(api: &ApiState) -> Self {
        Changes {
            store: api.store.wake(),
            runtime: api.runtime.changes(),
        }
    }

    /// Resolves after a change, or for good when there is nobody left who could tell.
    async fn next(&mut self) {
        let ended = tokio::select! {
            changed = self.store.changed() => changed.is_err(),
            changed = self.runtime.changed() => changed.is_err(),
        };
        if ended {
            std::future::pending::<()>().await;
        }
    }
}

struct Watch {
    api: ApiState,
    scope: Scope,
    service: ServiceId,
    deployment: DeploymentId,
    changes: Changes,
}

impl Watch {
    /// Level-triggered: a wake-up only means to look again, and looking happens at [`STREAM_HEARTBEAT`] anyway.
    async fn run(mut self, first: Rollout, lines: Lines) -> Result<(), Gone> {
        let mut shown = first;
        lines.send(&shown).await?;
        let mut told = Instant::now();
        while !shown.done {
            let rest = if shown.trial.is_some() {
                TRIAL_PACE
            } else {
                STREAM_HEARTBEAT
            };
            let _ = timeout(rest, self.changes.next()).await;
            sleep(WATCH_PACE).await;
            match look(&self.api, &self.scope, self.service, self.deployment).await {
                Ok(now) if told.elapsed() >= STREAM_HEARTBEAT || now.says_more_than(&shown) => {
                    lines.send(&now).await?;
                    shown = now;
                    told = Instant::now();
                }
                Ok(_) => {}
                Err(error) => {
                    // The service was deleted or the store is away: the reader asks again and gets the error itself.
                    tracing::debug!(error.context = %error.context, "a watched rollout ended early");
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
