//! `…/plan/`: what a change would do, before anything moves.
//!
//! A plan has a hash over everything that it rests on. The change itself takes it as `apply_hash` and then happens as it
//! was planned or not at all: 409, with the plan of now.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use domain::change::{self, Change, Downtime, Past};
use domain::error::Kind;
use domain::{DeploymentId, Error, Result, ServiceId, Spec};
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use store::{Bound, Foreseen, Intent, ListQuery, Scope, Service, ServiceKind};

use super::caller::Caller;
use super::deployments;
use super::error::Reply;
use super::extract::At;
use super::fields::Fields;
use super::services::find;
use super::workload;
use crate::ApiState;
use crate::body::RawBody;
use crate::runtime::ImageInfo;

/// Longest hash that is looked at, in characters.
const HASH_MAX: usize = 64;
/// Earlier rollouts that the expected time is taken from.
const PAST_ROLLOUTS: u32 = 10;

/// What a change would do.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// `null` for a service that is to be made.
    service: Option<ServiceId>,
    name: String,
    /// Whether there would be a deployment; without one only what is wanted changes.
    deploys: bool,
    /// Its version.
    version: Option<i64>,
    /// What serves now.
    running_version: Option<i64>,
    /// A deployment that is on its way now would be superseded.
    supersedes: Option<DeploymentId>,
    image: PlannedImage,
    changes: Vec<Change>,
    /// Instances would be replaced.
    replaces: bool,
    /// Hosts and paths that lead here; a deployment leaves them as they are.
    routes: Vec<String>,
    downtime: Class,
    memory: Memory,
    /// By the median of this service's own finished rollouts; `null` without any.
    expected_ms: Option<u64>,
    way_back: WayBack,
    hash: String,
}

#[derive(Debug, Serialize)]
struct PlannedImage {
    reference: String,
    /// `null` where only the registry knows it.
    digest: Option<String>,
    /// It is in the local store.
    local: bool,
    size_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Class {
    class: Downtime,
    why: String,
}

/// In MiB, each instance at its limit.
#[derive(Debug, Serialize)]
struct Memory {
    /// Of this service at the worst instant, instances above the wanted number included.
    needed_mb: u64,
    /// Of what runs of it now.
    running_mb: u64,
    /// That programs can still get on this machine; `null` where it does not say.
    free_mb: Option<u64>,
    fits: Option<bool>,
}

/// Whether `hob rollback` would work after the change.
#[derive(Debug, Serialize)]
struct WayBack {
    exists: bool,
    version: Option<i64>,
    why: String,
}

/// Plans a service that does not exist yet; the body is that of its creation.
pub async fn of_new(
    State(api): State<ApiState>,
    Extension(kind): Extension<ServiceKind>,
    caller: Caller,
    body: RawBody,
) -> Reply<Json<Plan>> {
    let new = workload::read_new(kind, &caller.scope, Fields::full(body.object()?)).await?;
    Ok(Json(make(&api, &caller.scope, Intent::Create(new)).await?))
}

/// Plans a change; the body is that of the PATCH. With `"deploy": true` the plan is of a deployment in any case.
pub async fn of_patch(
    State(api): State<ApiState>,
    Extension(kind): Extension<ServiceKind>,
    caller: Caller,
    At(id): At<ServiceId>,
    body: RawBody,
) -> Reply<Json<Plan>> {
    let current = find(&caller.scope, kind, id).await?;
    let patch = workload::read_patch(&current, &caller.scope, Fields::partial(body.object()?)).await?;
    Ok(Json(make(&api, &caller.scope, Intent::Patch(id, patch)).await?))
}

/// Plans going back to a deployment; the body is that of the rollback.
pub async fn of_rollback(
    State(api): State<ApiState>,
    caller: Caller,
    At(target): At<DeploymentId>,
    body: RawBody,
) -> Reply<Json<Plan>> {
    let request = deployments::read_rollback(Fields::partial(body.object()?))?;
    Ok(Json(
        make(&api, &caller.scope, Intent::Rollback(target, request)).await?,
    ))
}

/// The hash that a change is bound to, if it is.
pub fn read_hash(fields: &mut Fields) -> Option<String> {
    fields
        .has("apply_hash")
        .then(|| fields.any_text("apply_hash", HASH_MAX))
        .flatten()
}

/// Makes a change. Bound to a hash that no longer fits, it is not made: the answer is then 409 with the plan of now.
pub async fn carry_out(
    api: &ApiState,
    scope: &Scope,
    intent: Intent,
    hash: Option<String>,
) -> Reply<Result<Foreseen, Response>> {
    let Some(hash) = hash else {
        return Ok(Ok(scope.carry_out(intent, None).await?));
    };
    let image = local_image(api, scope, &intent).await?;
    let bound = Bound {
        fingerprint: hash,
        image: image.map(|image| image.digest),
    };
    match scope.carry_out(intent.clone(), Some(&bound)).await {
        Ok(done) => Ok(Ok(done)),
        Err(Error {
            kind: Kind::Conflict(text),
            ..
        }) => {
            let plan = make(api, scope, intent).await?;
            let body = Json(json!({ "error": text, "plan": plan }));
            Ok(Err((StatusCode::CONFLICT, body).into_response()))
        }
        Err(error) => Err(error.into()),
    }
}

async fn make(api: &ApiState, scope: &Scope, intent: Intent) -> Reply<Plan> {
    let image = local_image(api, scope, &intent).await?;
    let digest = image.as_ref().map(|image| image.digest.as_str());
    let seen = scope.foresee(intent, digest).await?;
    let before = seen.serving.as_ref().map(|serving| &serving.spec);
    let wanted = wanted(&seen, digest);
    let changes = match (&seen.deployment, &seen.before) {
        (None, Some(service)) => change::changes(Some(&without_deployment(service, &wanted)), &wanted),
        _ => change::changes(before, &wanted),
    };
    // Without a digest it shows only later whether the image is another one.
    let unknown = seen.deployment.is_some() && wanted.digest.is_none();
    let replaces = seen.deployment.is_some() && (unknown || changes.iter().any(|change| change.replaces));
    let (class, why) = change::downtime(before, &wanted, replaces);
    let past = past(scope, seen.before.as_ref()).await?;
    Ok(Plan {
        service: seen.before.as_ref().map(|service| service.id),
        deploys: seen.deployment.is_some(),
        version: seen.deployment.as_ref().map(|deployment| deployment.version),
        running_version: seen.serving.as_ref().map(|serving| serving.version),
        supersedes: seen.before.as_ref().and_then(|service| service.active),
        image: PlannedImage {
            reference: wanted.image.clone(),
            digest: wanted.digest.clone(),
            local: image.is_some(),
            size_bytes: image.map(|image| image.size_bytes),
        },
        routes: routes(scope, seen.before.as_ref()).await?,
        downtime: Class { class, why },
        memory: memory(api, before, &wanted, replaces),
        expected_ms: change::expected_ms(&past, wanted.instances),
        way_back: way_back(api, &seen).await?,
        hash: seen.fingerprint,
        name: seen.after.name,
        changes,
        replaces,
    })
}

/// What would run, with the image as it is known here.
fn wanted(seen: &Foreseen, digest: Option<&str>) -> Spec {
    let made = seen.deployment.as_ref().or(seen.serving.as_ref());
    let mut spec = made.map_or_else(|| spec_of(&seen.after), |deployment| deployment.spec.clone());
    if seen.deployment.is_none() {
        spec = Spec {
            strategy: seen.after.strategy,
            options: seen.after.options.clone(),
            release: seen.after.release.clone(),
            ..spec
        };
    }
    spec.digest = spec.digest.or(digest.map(str::to_owned));
    spec
}

/// What a change without a deployment starts from: the wishes that only the next deployment takes up.
fn without_deployment(before: &Service, wanted: &Spec) -> Spec {
    Spec {
        strategy: before.strategy,
        options: before.options.clone(),
        release: before.release.clone(),
        ..wanted.clone()
    }
}

/// Of a service that has never run.
fn spec_of(service: &Service) -> Spec {
    Spec {
        image: service.image.clone(),
        digest: None,
        port: service.port,
        instances: service.instances,
        config: Default::default(),
        secrets: Default::default(),
        delivery: service.delivery,
        command: service.command.clone(),
        release: service.release.clone(),
        health: service.health.clone(),
        resources: service.resources.clone(),
        strategy: service.strategy,
        options: service.options.clone(),
        restart: service.restart,
    }
}

/// What the change's image is in the local store, where it is looked for first.
async fn local_image(api: &ApiState, scope: &Scope, intent: &Intent) -> Reply<Option<ImageInfo>> {
    let reference = match intent {
        Intent::Create(new) => new.image.clone(),
        Intent::Patch(id, patch) => match &patch.image {
            Some(image) => image.clone(),
            None => scope.service(*id).await?.image,
        },
        Intent::Rollback(target, _) => {
            let spec = scope.deployment(*target).await?.spec;
            spec.digest.unwrap_or(spec.image)
        }
    };
    Ok(api.runtime.image(&reference).await?)
}

async fn routes(scope: &Scope, service: Option<&Service>) -> Reply<Vec<String>> {
    let Some(service) = service.filter(|service| service.kind == ServiceKind::Service) else {
        return Ok(vec![]);
    };
    let query = ListQuery {
        service: Some(service.id),
        page_size: store::PAGE_SIZE_MAX,
        ..ListQuery::default()
    };
    let rows = scope.list_routes(&query).await?.rows;
    let enabled = rows.into_iter().filter(|route| route.enabled);
    Ok(enabled
        .map(|route| format!("{}{}", route.hostname, route.path))
        .collect())
}

fn memory(api: &ApiState, before: Option<&Spec>, wanted: &Spec, replaces: bool) -> Memory {
    let default_mb = engine::DEFAULT_MEMORY_MB;
    let needed_mb = change::peak_memory_mb(before, wanted, replaces, default_mb);
    let running_mb = before.map_or(0, |before| change::peak_memory_mb(None, before, false, default_mb));
    let free_mb = api.runtime.free_memory_mb();
    Memory {
        needed_mb,
        running_mb,
        free_mb,
        fits: free_mb.map(|free_mb| needed_mb.saturating_sub(running_mb) <= free_mb),
    }
}

async fn past(scope: &Scope, service: Option<&Service>) -> Reply<Vec<Past>> {
    let Some(service) = service else { return Ok(vec![]) };
    let query = ListQuery {
        service: Some(service.id),
        page_size: PAST_ROLLOUTS,
        ..ListQuery::default()
    };
    let rows = scope.list_deployments(&query).await?.rows;
    let finished = rows.into_iter().filter(|row| row.stage == domain::Stage::Succeeded);
    Ok(finished
        .filter_map(|row| {
            let duration_us = row.finished_at_us? - row.created_at_us;
            Some(Past {
                duration_ms: u64::try_from(duration_us / 1_000).ok()?,
                instances: row.spec.instances,
            })
        })
        .collect())
}

/// What serves now is what one would go back to.
async fn way_back(api: &ApiState, seen: &Foreseen) -> Reply<WayBack> {
    let none = |why: &str| WayBack {
        exists: false,
        version: None,
        why: why.to_owned(),
    };
    let Some(serving) = &seen.serving else {
        return Ok(none("no version has succeeded yet"));
    };
    if serving.rolled_back {
        return Ok(none("the version that serves was rolled back from"));
    }
    let Some(digest) = &serving.spec.digest else {
        return Ok(none("the image of the version that serves is not known"));
    };
    let local = api.runtime.image(digest).await?.is_some();
    Ok(WayBack {
        exists: local,
        version: Some(serving.version),
        why: if local {
            "its image is in the local store".to_owned()
        } else {
            "its image is not in the local store; its registry would be asked for it".to_owned()
        },
    })
}
