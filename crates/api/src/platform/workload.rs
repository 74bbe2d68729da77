//! Services and workers on this face: their shape, and what a body may say of them (G.7 to G.15, faces 3.3).

use domain::names::{self, ENV_VALUE_MAX, IMAGE_MAX, INSTANCES, SERVICE_NAME_MAX};
use domain::rollout::STEPS_MAX;
use domain::spec::CheckKind;
use domain::{
    Advance, ConfigId, Delivery, DeploymentId, Gate, HealthCheck, ProjectId, Resources, Result, RolloutOptions,
    SecretId, ServiceId, Step, Strategy, steps,
};
use serde::Serialize;
use store::{Env, NewService, PendingChange, Scope, Service, ServiceKind, ServicePatch};

use super::error::Failure;
use super::fields::{self, Fields};
use super::page::or_none;
use crate::limits::{COMMAND_WORD_BYTES_MAX, COMMAND_WORDS_MAX, ENV_KEYS_MAX, NOTES_MAX};
use crate::time::Stamp;

/// The twelve fields of G.8 in their order (a worker has no `port`, G.14), then Hob's own.
#[derive(Debug, Serialize)]
pub struct WorkloadView {
    id: ServiceId,
    name: String,
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    replicas_target: u32,
    replicas_running: u32,
    status: &'static str,
    config: Option<ConfigId>,
    secret: Option<SecretId>,
    deploy_successful: bool,
    created_at: Stamp,
    updated_at: Stamp,
    project: ProjectId,
    command: Option<Vec<String>>,
    release: Option<Vec<String>>,
    health_check: HealthCheck,
    strategy: Strategy,
    options: RolloutOptions,
    resources: Resources,
    active_deployment: Option<DeploymentId>,
    serving_deployment: Option<DeploymentId>,
    last_deployment: Option<DeploymentId>,
    /// Why the platform no longer changes it; `null` as long as it does.
    frozen: Option<String>,
    /// Edits of its config and secret that wait for the next deployment.
    pending_changes: Vec<PendingChange>,
    delivery: Delivery,
}

impl WorkloadView {
    pub fn new(service: Service, pending_changes: Vec<PendingChange>) -> Self {
        WorkloadView {
            status: service.status(),
            deploy_successful: service.deploy_successful(),
            id: service.id,
            name: service.name,
            image: service.image,
            port: service.port,
            replicas_target: service.instances,
            replicas_running: service.instances_running,
            config: service.config,
            secret: service.secret,
            created_at: Stamp(service.created_at_us),
            updated_at: Stamp(service.updated_at_us),
            project: service.project,
            command: service.command,
            release: service.release,
            health_check: service.health,
            strategy: service.strategy,
            options: service.options,
            resources: service.resources,
            active_deployment: service.active,
            serving_deployment: service.serving,
            last_deployment: service.last,
            frozen: service.frozen,
            pending_changes,
            delivery: service.delivery,
        }
    }
}

/// Services as they are shown, in their order.
pub async fn views(scope: &Scope, services: Vec<Service>) -> Result<Vec<WorkloadView>> {
    let pending = scope.pending(&services).await?;
    Ok(services
        .into_iter()
        .zip(pending)
        .map(|(it, pending)| WorkloadView::new(it, pending))
        .collect())
}

/// One service as it is shown.
pub async fn view(scope: &Scope, service: Service) -> Result<WorkloadView> {
    let mut pending = scope.pending(std::slice::from_ref(&service)).await?;
    Ok(WorkloadView::new(service, pending.pop().unwrap_or_default()))
}

/// Reads the body of a POST.
pub async fn read_new(kind: ServiceKind, scope: &Scope, mut fields: Fields) -> Result<NewService, Failure> {
    let sent = Sent::read(kind, &mut fields, None);
    sent.must_exist(scope, &mut fields).await?;
    sent.must_be_free(kind, scope, &mut fields, None).await?;
    fields.require("name");
    fields.require("image");
    if kind == ServiceKind::Service {
        fields.require("port");
    }
    fields.finish()?;

    // `require` has made sure that the required ones are there.
    let name = sent.name.unwrap_or_default();
    let image = sent.image.unwrap_or_default();
    let defaults = NewService::new(kind, name, image, sent.port);
    Ok(NewService {
        project: sent.project,
        instances: sent.instances.unwrap_or(defaults.instances),
        config: sent.config.flatten(),
        env: sent.env.unwrap_or_default(),
        secret: sent.secret.flatten(),
        delivery: sent.delivery.unwrap_or_default(),
        command: sent.command.flatten(),
        release: sent.release.flatten(),
        health: sent.health.unwrap_or(defaults.health),
        resources: sent.resources.unwrap_or_default(),
        strategy: sent.strategy.unwrap_or_default(),
        options: sent.options.unwrap_or_default(),
        notes: sent.notes.unwrap_or_default(),
        ..defaults
    })
}

/// Reads the body of a PATCH. The project of a service never changes.
pub async fn read_patch(current: &Service, scope: &Scope, mut fields: Fields) -> Result<ServicePatch, Failure> {
    let sent = Sent::read(current.kind, &mut fields, Some(current));
    sent.must_exist(scope, &mut fields).await?;
    sent.must_be_free(current.kind, scope, &mut fields, Some(current.id))
        .await?;
    fields.finish()?;
    Ok(ServicePatch {
        name: sent.name,
        image: sent.image,
        port: sent.port,
        instances: sent.instances,
        config: sent.config,
        env: sent.env.unwrap_or_default(),
        secret: sent.secret,
        delivery: sent.delivery,
        command: sent.command,
        release: sent.release,
        health: sent.health,
        resources: sent.resources,
        strategy: sent.strategy,
        options: sent.options,
        restart: false,
        deploy: sent.deploy,
        notes: sent.notes.unwrap_or_default(),
    })
}

/// What a body has said, field by field.
struct Sent {
    project: Option<ProjectId>,
    name: Option<String>,
    image: Option<String>,
    port: Option<u16>,
    instances: Option<u32>,
    config: Option<Option<ConfigId>>,
    env: Option<Env>,
    secret: Option<Option<SecretId>>,
    delivery: Option<Delivery>,
    command: Option<Option<Vec<String>>>,
    release: Option<Option<Vec<String>>>,
    health: Option<HealthCheck>,
    resources: Option<Resources>,
    strategy: Option<Strategy>,
    options: Option<RolloutOptions>,
    notes: Option<String>,
    deploy: bool,
}

impl Sent {
    fn read(kind: ServiceKind, f: &mut Fields, current: Option<&Service>) -> Sent {
        let base_resources = current.map(|s| s.resources.clone()).unwrap_or_default();
        let strategy = f.choice("strategy", &STRATEGIES);
        let base_options = base_options(current, strategy);
        let begins_anew = current.is_some_and(|service| service.options != base_options);
        let port = match kind {
            ServiceKind::Service => f.integer("port", 1..=65535).and_then(|port| u16::try_from(port).ok()),
            ServiceKind::Worker => None,
        };
        Sent {
            project: match current {
                None => f.uuid("project"),
                Some(_) => None,
            },
            name: f.text("name", SERVICE_NAME_MAX, names::service_name),
            image: f.text("image", IMAGE_MAX, fields::image),
            port,
            instances: number(
                f,
                "replicas_target",
                (*INSTANCES.start()).into(),
                (*INSTANCES.end()).into(),
            ),
            config: f.nullable("config", Fields::uuid),
            env: f.pairs("env", ENV_KEYS_MAX, ENV_VALUE_MAX, names::env_key),
            secret: f.nullable("secret", Fields::uuid),
            delivery: f.choice("delivery", &DELIVERIES),
            command: f.nullable("command", command),
            release: f.nullable("release", command),
            health: f.nested("health_check", &HEALTH_FIELDS, |f| health_check(f, kind)),
            resources: f.nested("resources", &RESOURCE_FIELDS, |f| Some(resources(f, base_resources))),
            strategy,
            options: f
                .nested("options", &OPTION_FIELDS, |f| Some(options(f, base_options.clone())))
                .or(begins_anew.then_some(base_options)),
            notes: f.any_text("notes", NOTES_MAX),
            deploy: current.is_some() && f.has("deploy") && f.boolean("deploy") == Some(true),
        }
    }

    /// Ids in a body must be the caller's own; whose else they are is not told (OPEN-4).
    async fn must_exist(&self, scope: &Scope, fields: &mut Fields) -> Result<(), Failure> {
        if let Some(id) = self.project {
            own(fields, "project", id, scope.project(id).await)?;
        }
        if let Some(Some(id)) = self.config {
            own(fields, "config", id, scope.set(id).await)?;
        }
        if let Some(Some(id)) = self.secret {
            own(fields, "secret", id, scope.set(id).await)?;
        }
        Ok(())
    }

    /// Names a taken name beside the other problems. Alone it is left to the store, which decides anyway.
    async fn must_be_free(
        &self,
        kind: ServiceKind,
        scope: &Scope,
        fields: &mut Fields,
        current: Option<ServiceId>,
    ) -> Result<(), Failure> {
        let Some(name) = self.name.as_deref().filter(|_| fields.has_problems()) else {
            return Ok(());
        };
        let holder = or_none(scope.service_by_name(kind, name, self.project).await)?;
        if holder.is_some_and(|holder| Some(holder.id) != current) {
            fields.problem("name", format!("{} with this name already exists.", kind.as_str()));
        }
        Ok(())
    }
}

/// Notes a problem with the field `name` when what it names was not found.
///
/// # Errors
/// Those that say nothing of the field, such as a store that does not answer.
pub fn own<T>(fields: &mut Fields, name: &str, id: impl std::fmt::Display, found: Result<T>) -> Result<(), Failure> {
    use domain::error::Kind;
    match found {
        Ok(_) => Ok(()),
        Err(e) if e.kind == Kind::NotFound => {
            fields.problem(name, format!("Invalid pk \"{id}\" - object does not exist."));
            Ok(())
        }
        Err(e) => Err(e.into()),
    }
}

const STRATEGIES: [(&str, Strategy); 5] = [
    ("rolling", Strategy::Rolling),
    ("canary", Strategy::Canary),
    ("recreate", Strategy::Recreate),
    ("blue_green", Strategy::BlueGreen),
    ("blue-green", Strategy::BlueGreen),
];

/// Words, run as they are: no shell is asked.
fn command(f: &mut Fields, name: &str) -> Option<Vec<String>> {
    f.texts(name, 1..=COMMAND_WORDS_MAX, COMMAND_WORD_BYTES_MAX)
}

const HEALTH_FIELDS: [&str; 7] = [
    "type",
    "path",
    "status",
    "interval_ms",
    "timeout_ms",
    "healthy_after",
    "unhealthy_after",
];

const HOUR_MS: i64 = 3_600_000;

/// A whole new health check: what is left out takes its default. `type` itself defaults to `http` where a path is
/// given, else to what suits the kind.
fn health_check(f: &mut Fields, kind: ServiceKind) -> Option<HealthCheck> {
    #[derive(Clone, Copy, PartialEq)]
    enum Type {
        Tcp,
        Http,
        Process,
    }
    const TYPES: [(&str, Type); 3] = [("tcp", Type::Tcp), ("http", Type::Http), ("process", Type::Process)];

    let default_type = match kind {
        ServiceKind::Worker => Type::Process,
        ServiceKind::Service if f.has("path") => Type::Http,
        ServiceKind::Service => Type::Tcp,
    };
    let chosen = f.choice("type", &TYPES).unwrap_or(default_type);
    if kind == ServiceKind::Worker && chosen != Type::Process {
        f.problem("type", "A worker has no port to check; use process");
    }
    let path = f.text("path", names::PATH_MAX, check_path);
    let status = number(f, "status", 100, 599).and_then(|status| u16::try_from(status).ok());
    let check = match chosen {
        Type::Tcp => CheckKind::Tcp,
        Type::Process => CheckKind::Process,
        Type::Http => CheckKind::Http {
            path: path.unwrap_or_else(|| "/".to_owned()),
            status,
        },
    };
    let defaults = HealthCheck::default();
    Some(HealthCheck {
        kind: check,
        interval_ms: number(f, "interval_ms", 100, HOUR_MS).map_or(defaults.interval_ms, u64::from),
        timeout_ms: number(f, "timeout_ms", 100, HOUR_MS).map_or(defaults.timeout_ms, u64::from),
        healthy_after: number(f, "healthy_after", 1, 100).unwrap_or(defaults.healthy_after),
        unhealthy_after: number(f, "unhealthy_after", 1, 100).unwrap_or(defaults.unhealthy_after),
    })
}

/// Unlike a route's path it may have a query.
fn check_path(path: &str) -> Result<(), String> {
    if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        Ok(())
    } else {
        Err("A path starts with / and has no spaces".to_owned())
    }
}

const DELIVERIES: [(&str, Delivery); 3] = [
    ("env", Delivery::Env),
    ("secret_files", Delivery::SecretFiles),
    ("files", Delivery::Files),
];

const RESOURCE_FIELDS: [&str; 4] = ["memory_mb", "cpu_millis", "pids", "read_only_root"];

/// Changes `base` key by key; `null` means the operator's default.
fn resources(f: &mut Fields, base: Resources) -> Resources {
    let mut limit = |name: &str, base: Option<u64>, low: i64, high: i64| {
        f.nullable(name, |f, name| number(f, name, low, high).map(u64::from))
            .unwrap_or(base)
    };
    Resources {
        memory_mb: limit("memory_mb", base.memory_mb, 4, 1 << 20),
        cpu_millis: limit("cpu_millis", base.cpu_millis, 10, 1_000_000),
        pids: limit("pids", base.pids, 1, 1 << 20),
        read_only_root: f.boolean("read_only_root").unwrap_or(base.read_only_root),
    }
}

const OPTION_FIELDS: [&str; 14] = [
    "max_in_flight",
    "max_surge",
    "max_unavailable",
    "min_ready_ms",
    "drain_ms",
    "stop_grace_ms",
    "progress_deadline_ms",
    "max_failures",
    "steps",
    "sticky",
    "hold_ms",
    "preview_host",
    "keep_warm_ms",
    "watch_ms",
];

/// What a change of options starts from. Steps are those of a strategy: another one begins without any.
fn base_options(current: Option<&Service>, strategy: Option<Strategy>) -> RolloutOptions {
    let Some(current) = current else {
        return RolloutOptions::default();
    };
    let mut options = current.options.clone();
    if strategy.is_some_and(|strategy| strategy != current.strategy) {
        options.steps.clear();
    }
    options
}

/// Changes `base` key by key.
fn options(f: &mut Fields, base: RolloutOptions) -> RolloutOptions {
    let instances_max = (*INSTANCES.end()).into();
    let ms =
        |f: &mut Fields, name: &str, base: u64, low: i64, high: i64| number(f, name, low, high).map_or(base, u64::from);
    RolloutOptions {
        max_in_flight: f
            .nullable("max_in_flight", |f, name| number(f, name, 1, instances_max))
            .unwrap_or(base.max_in_flight),
        max_surge: f
            .nullable("max_surge", |f, name| number(f, name, 0, instances_max))
            .unwrap_or(base.max_surge),
        max_unavailable: number(f, "max_unavailable", 0, instances_max).unwrap_or(base.max_unavailable),
        min_ready_ms: ms(f, "min_ready_ms", base.min_ready_ms, 0, HOUR_MS),
        drain_ms: ms(f, "drain_ms", base.drain_ms, 0, HOUR_MS),
        stop_grace_ms: ms(f, "stop_grace_ms", base.stop_grace_ms, 0, HOUR_MS),
        progress_deadline_ms: ms(
            f,
            "progress_deadline_ms",
            base.progress_deadline_ms,
            1_000,
            24 * HOUR_MS,
        ),
        max_failures: number(f, "max_failures", 1, 1_000).unwrap_or(base.max_failures),
        steps: read_steps(f).unwrap_or(base.steps),
        sticky: f.boolean("sticky").unwrap_or(base.sticky),
        hold_ms: ms(f, "hold_ms", base.hold_ms, 0, HOUR_MS),
        preview_host: f
            .nullable("preview_host", |f, name| f.text(name, names::HOST_MAX, names::hostname))
            .unwrap_or(base.preview_host),
        keep_warm_ms: ms(f, "keep_warm_ms", base.keep_warm_ms, 0, 24 * HOUR_MS),
        watch_ms: ms(f, "watch_ms", base.watch_ms, 0, 24 * HOUR_MS),
    }
}

const STEP_FIELDS: [&str; 3] = ["weight", "traffic", "then"];
const GATE_FIELDS: [&str; 4] = ["min_requests", "observe_ms", "max_error_points", "max_p95_percent"];

/// All steps at once: they are not merged one by one.
fn read_steps(f: &mut Fields) -> Option<Vec<Step>> {
    let read = f.each("steps", STEPS_MAX, &STEP_FIELDS, |f| {
        f.require_always("weight");
        Some(Step {
            weight: number(f, "weight", 1, 100)?,
            traffic: f.nullable("traffic", |f, name| number(f, name, 0, 100)).flatten(),
            then: read_then(f),
        })
    })?;
    if let Err(problem) = domain::steps::check(&read) {
        f.problem("steps", problem);
    }
    Some(read)
}

/// `"continue"`, `{"after_ms": n}` or `{"gate": {…}}`.
fn read_then(f: &mut Fields) -> Advance {
    if !f.is_object("then") {
        // Anything but that word is a problem; without the field it is meant.
        f.choice("then", &[("continue", ())]);
        return Advance::Continue;
    }
    let step_ms_max = steps::STEP_MS_MAX.cast_signed();
    let read = f.nested("then", &["after_ms", "gate"], |f| {
        match (f.has("after_ms"), f.has("gate")) {
            (true, false) => f
                .integer("after_ms", 0..=step_ms_max)
                .map(|ms| Advance::AfterMs(ms.cast_unsigned())),
            (false, true) => f.nested("gate", &GATE_FIELDS, |f| Some(Advance::Gate(gate(f)))),
            _ => {
                f.problem("after_ms", "Give either after_ms or gate");
                None
            }
        }
    });
    read.unwrap_or_default()
}

fn gate(f: &mut Fields) -> Gate {
    let defaults = Gate::default();
    let requests_max = steps::GATE_REQUESTS_MAX.cast_signed();
    let whole = |n: i64| n.cast_unsigned();
    let requests = f.integer("min_requests", 1..=requests_max).map(whole);
    let observe = f.integer("observe_ms", 0..=steps::STEP_MS_MAX.cast_signed()).map(whole);
    Gate {
        min_requests: requests.unwrap_or(defaults.min_requests),
        observe_ms: observe.unwrap_or(defaults.observe_ms),
        max_error_points: number(f, "max_error_points", 0, 100).unwrap_or(defaults.max_error_points),
        max_p95_percent: number(f, "max_p95_percent", 1, steps::GATE_P95_PERCENT_MAX.into())
            .unwrap_or(defaults.max_p95_percent),
    }
}

fn number(f: &mut Fields, name: &str, low: i64, high: i64) -> Option<u32> {
    f.integer(name, low..=high).and_then(|n| u32::try_from(n).ok())
}
