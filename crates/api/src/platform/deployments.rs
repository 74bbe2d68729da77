//! `/api/deployments/…`: the history, and going back in it (S0.1 to S0.39).

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use domain::routing::Receipt;
use domain::{AccountId, DeploymentId, Error, HealthCheck, Resources, RolloutOptions, ServiceId, Stage, Strategy};
use http::StatusCode;
use serde::Serialize;
use store::{Deployment, Intent, JournalEntry, ListQuery, RollbackRequest, Scope, Source};

use super::caller::Caller;
use super::error::Reply;
use super::extract::{At, Params};
use super::fields::Fields;
use super::page::{Envelope, sees_service};
use super::plan;
use crate::ApiState;
use crate::body::RawBody;
use crate::limits::NOTES_MAX;
use crate::time::Stamp;

/// The fourteen fields of S0.8 to S0.21 in their order, and nothing else unless `?detail=full` asks for it.
#[derive(Debug, Serialize)]
pub struct DeploymentView {
    id: DeploymentId,
    service: ServiceId,
    version_number: i64,
    image: String,
    /// `null` for a worker.
    port: Option<u16>,
    replicas: u32,
    config_snapshot: BTreeMap<String, String>,
    secret_keys_snapshot: Vec<String>,
    status: &'static str,
    deployed_at: Stamp,
    deployed_by: AccountId,
    rollback_from: Option<DeploymentId>,
    notes: String,
    error_message: String,
    #[serde(flatten)]
    detail: Option<Detail>,
}

/// Hob's own fields, for those who ask.
#[derive(Debug, Serialize)]
struct Detail {
    stage: Stage,
    digest: Option<String>,
    waiting: String,
    finished_at: Option<Stamp>,
    duration_ms: Option<i64>,
    command: Option<Vec<String>>,
    release: Option<Vec<String>>,
    health_check: HealthCheck,
    strategy: Strategy,
    options: RolloutOptions,
    resources: Resources,
    /// Steps that it has passed, of how many.
    step: u32,
    steps: usize,
    at_step: bool,
    /// The platform went back by itself.
    automatic: bool,
    /// What served until this one succeeded.
    replaced: Option<DeploymentId>,
    receipt: ReceiptView,
}

/// What the edge has counted for one deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ReceiptView {
    deployment: DeploymentId,
    #[serde(flatten)]
    counts: Receipt,
    total: u64,
}

impl ReceiptView {
    pub fn of(deployment: &Deployment) -> Self {
        ReceiptView {
            deployment: deployment.id,
            counts: deployment.receipt,
            total: deployment.receipt.total(),
        }
    }
}

impl DeploymentView {
    pub fn new(deployment: Deployment, detail: bool) -> Self {
        let detail = detail.then(|| Detail::of(&deployment));
        let spec = deployment.spec;
        DeploymentView {
            id: deployment.id,
            service: deployment.service,
            version_number: deployment.version,
            image: spec.image,
            port: spec.port,
            replicas: spec.instances,
            config_snapshot: spec.config,
            secret_keys_snapshot: spec.secrets.into_keys().collect(),
            status: deployment.stage.platform_status(deployment.rolled_back),
            deployed_at: Stamp(deployment.created_at_us),
            deployed_by: deployment.created_by,
            rollback_from: deployment.rollback_from,
            notes: deployment.notes,
            error_message: deployment.error_message,
            detail,
        }
    }
}

impl Detail {
    fn of(deployment: &Deployment) -> Self {
        let spec = &deployment.spec;
        let duration_us = deployment
            .finished_at_us
            .map(|end_us| end_us - deployment.created_at_us);
        Detail {
            stage: deployment.stage,
            digest: spec.digest.clone(),
            waiting: deployment.waiting.clone(),
            finished_at: deployment.finished_at_us.map(Stamp),
            duration_ms: duration_us.map(|us| us / 1_000),
            command: spec.command.clone(),
            release: spec.release.clone(),
            health_check: spec.health.clone(),
            strategy: spec.strategy,
            options: spec.options.clone(),
            resources: spec.resources.clone(),
            step: deployment.step,
            steps: spec.options.steps(spec.strategy).len(),
            at_step: deployment.at_step,
            automatic: deployment.automatic,
            replaced: deployment.replaced,
            receipt: ReceiptView::of(deployment),
        }
    }
}

/// S0.2; `?service=` narrows it to one service.
pub async fn list(
    State(api): State<ApiState>,
    caller: Caller,
    params: Params,
) -> Reply<Json<Envelope<DeploymentView>>> {
    let query = params.list_query()?;
    if !sees_service(&caller.scope, &query).await? {
        return Ok(Json(Envelope::of_one(&query, None)?));
    }
    page(&api, &caller.scope, &params, &query).await
}

/// S0.3, S0.30.
pub async fn get(caller: Caller, At(id): At<DeploymentId>, params: Params) -> Reply<Json<DeploymentView>> {
    let deployment = caller.scope.deployment(id).await?;
    Ok(Json(DeploymentView::new(deployment, wants_detail(&params))))
}

/// S0.32 to S0.39: a new deployment with what the target had. Config values are those of then and secrets those of
/// now, unless `"config": "current"` or `"secrets": "snapshot"` say otherwise.
pub async fn rollback(
    State(api): State<ApiState>,
    caller: Caller,
    At(target): At<DeploymentId>,
    body: RawBody,
) -> Reply {
    caller.scope.deployment(target).await?;
    let mut fields = Fields::partial(body.object()?);
    let hash = plan::read_hash(&mut fields);
    let intent = Intent::Rollback(target, read_rollback(fields)?);
    let done = match plan::carry_out(&api, &caller.scope, intent, hash).await? {
        Ok(done) => done,
        Err(refused) => return Ok(refused),
    };
    let made = done
        .deployment
        .ok_or_else(|| Error::internal(format!("a rollback to {target} made no deployment")))?;
    Ok((StatusCode::CREATED, Json(DeploymentView::new(made, false))).into_response())
}

/// The body of a rollback.
pub fn read_rollback(mut fields: Fields) -> Reply<RollbackRequest> {
    const SOURCES: [(&str, Source); 2] = [("snapshot", Source::Snapshot), ("current", Source::Current)];
    let defaults = RollbackRequest::default();
    let request = RollbackRequest {
        notes: fields.any_text("notes", NOTES_MAX).unwrap_or_default(),
        secrets: fields.choice("secrets", &SOURCES).unwrap_or(defaults.secrets),
        config: fields.choice("config", &SOURCES).unwrap_or(defaults.config),
    };
    fields.finish()?;
    Ok(request)
}

/// One entry of the journal.
#[derive(Debug, Serialize)]
pub struct Event {
    seq: i64,
    at: Stamp,
    actor: String,
    from: Option<Stage>,
    to: Option<Stage>,
    reason: String,
    details: serde_json::Value,
}

/// Entries after a sequence number, oldest first.
#[derive(Debug, Serialize)]
pub struct Events {
    results: Vec<Event>,
    /// Pass it as `after` to go on; `null` when there was nothing.
    next_after: Option<i64>,
}

impl From<JournalEntry> for Event {
    fn from(entry: JournalEntry) -> Self {
        Event {
            seq: entry.seq,
            at: Stamp(entry.at_us),
            actor: entry.actor,
            from: entry.from,
            to: entry.to,
            reason: entry.reason,
            details: entry.details,
        }
    }
}

pub async fn events(caller: Caller, At(id): At<DeploymentId>, params: Params) -> Reply<Json<Events>> {
    let after = params.number("after", 0, i64::MAX as u64)?.cast_signed();
    let entries = caller.scope.journal(id, after, params.lines()?).await?;
    Ok(Json(Events {
        next_after: entries.last().map(|entry| entry.seq),
        results: entries.into_iter().map(Event::from).collect(),
    }))
}

pub async fn receipt(caller: Caller, At(id): At<DeploymentId>) -> Reply<Json<ReceiptView>> {
    Ok(Json(ReceiptView::of(&caller.scope.deployment(id).await?)))
}

/// A page in this face's shape.
pub async fn page(
    api: &ApiState,
    scope: &Scope,
    params: &Params,
    query: &ListQuery,
) -> Reply<Json<Envelope<DeploymentView>>> {
    let detail = wants_detail(params);
    let mut page = scope.list_deployments(query).await?;
    let rows = std::mem::take(&mut page.rows);
    let views = rows.into_iter().map(|d| DeploymentView::new(d, detail)).collect();
    Ok(Json(Envelope::new(api, params, &page, views)))
}

pub fn wants_detail(params: &Params) -> bool {
    params.get("detail") == Some("full")
}

/// The optional `notes` of a body.
pub fn read_notes(mut fields: Fields) -> Reply<String> {
    let notes = fields.any_text("notes", NOTES_MAX);
    fields.finish()?;
    Ok(notes.unwrap_or_default())
}
