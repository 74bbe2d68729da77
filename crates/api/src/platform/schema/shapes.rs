//! What is sent and answered, as JSON Schema.

use domain::names::{ENV_KEY_MAX, ENV_VALUE_MAX, IMAGE_MAX, INSTANCES, PATH_MAX, SERVICE_NAME_MAX};
use domain::rollout::STEPS_MAX;
use serde_json::{Map, Value, json};

use super::deployments;
use super::terms::*;
use crate::limits::ENV_KEYS_MAX;

/// S0.26, S2.17.
pub fn page_of(schema: &str) -> Value {
    object(vec![
        ("count", count()),
        ("next", or_null(json!({ "type": "string", "format": "uri" }))),
        ("previous", or_null(json!({ "type": "string", "format": "uri" }))),
        ("results", list_of(named(schema))),
    ])
}

/// All named shapes.
pub fn all() -> Value {
    let shapes: Vec<(&str, Value)> = vec![
        ("Anything", json!({ "type": "object" })),
        (
            "Root",
            json!({ "type": "object", "additionalProperties": { "type": "string", "format": "uri" } }),
        ),
        ("Detail", object(vec![("detail", text())])),
        ("Refused", object(vec![("error", text())])),
        (
            "Invalid",
            json!({ "anyOf": [fields(), named("Refused"), named("Detail")] }),
        ),
        (
            "Account",
            object(vec![
                ("id", uuid()),
                ("name", text()),
                ("admin", flag()),
                ("created_at", time()),
            ]),
        ),
        ("Service", workload(true)),
        (
            "ServiceNew",
            new(workload_fields(true, true), &["name", "image", "port"]),
        ),
        ("ServicePatch", new(workload_fields(true, false), &[])),
        ("Worker", workload(false)),
        ("WorkerNew", new(workload_fields(false, true), &["name", "image"])),
        ("WorkerPatch", new(workload_fields(false, false), &[])),
        ("Notes", new(vec![("notes", notes())], &[])),
        ("Deployment", deployments::deployment()),
        ("Rollback", deployments::rollback()),
        ("Receipt", deployments::receipt()),
        ("Outcomes", deployments::outcomes()),
        ("Plan", deployments::plan()),
        ("Diff", deployments::diff()),
        ("Events", deployments::events()),
        ("Instances", results(json!({ "type": "object" }))),
        ("LogLine", json!({ "type": "object" })),
        ("Rollout", deployments::rollout()),
        ("Route", route()),
        ("RouteNew", new(route_fields(), &["path", "domain", "service"])),
        ("RoutePatch", new(route_fields(), &[])),
        (
            "Domain",
            object(vec![
                ("id", uuid()),
                ("hostname", text()),
                ("created_at", time()),
                ("project", uuid()),
            ]),
        ),
        (
            "DomainNew",
            new(vec![("hostname", hostname()), ("project", uuid())], &["hostname"]),
        ),
        ("DomainPatch", new(vec![("hostname", hostname())], &[])),
        ("Config", set()),
        ("ConfigNew", new(vec![("name", name()), ("project", uuid())], &["name"])),
        ("ConfigPatch", new(vec![("name", name())], &[])),
        ("ConfigItem", config_item()),
        ("ConfigItemNew", new(item_fields(), &["key", "value"])),
        ("ConfigItemPatch", new(item_fields(), &[])),
        ("Secret", set()),
        ("SecretNew", new(vec![("name", name()), ("project", uuid())], &["name"])),
        ("SecretPatch", new(vec![("name", name())], &[])),
        ("SecretItem", secret_item()),
        ("SecretItemNew", new(item_fields(), &["key", "value"])),
        ("SecretItemPatch", new(item_fields(), &[])),
        ("Project", project()),
        (
            "ProjectNew",
            new(vec![("name", name()), ("environment", or_null(name()))], &["name"]),
        ),
        (
            "ProjectPatch",
            new(vec![("name", name()), ("environment", or_null(name()))], &[]),
        ),
        (
            "Login",
            new(vec![("name", name()), ("password", text())], &["name", "password"]),
        ),
        (
            "Session",
            object(vec![
                ("account", named("Account")),
                ("csrf_token", text()),
                ("expires_at", time()),
            ]),
        ),
        ("Member", member()),
        (
            "MemberNew",
            new(vec![("name", name()), ("role", role())], &["name", "role"]),
        ),
        ("MemberPatch", new(vec![("role", role())], &[])),
        ("AuditLines", audit_lines()),
        ("Accesses", accesses()),
        ("ApiKey", object(api_key_fields())),
        ("ApiKeyMade", object([api_key_fields(), vec![("key", text())]].concat())),
        (
            "ApiKeyNew",
            new(vec![("name", name()), ("expires_at", or_null(time()))], &["name"]),
        ),
        ("Image", image()),
        ("Images", results(named("Image"))),
    ];
    shapes
        .into_iter()
        .map(|(name, shape)| (name.to_owned(), shape))
        .collect::<Map<_, _>>()
        .into()
}

fn workload(has_port: bool) -> Value {
    let mut fields = vec![("id", uuid()), ("name", text()), ("image", text())];
    if has_port {
        fields.push(("port", integer(1, 65535)));
    }
    fields.extend([
        ("replicas_target", integer(1, 12)),
        ("replicas_running", count()),
        ("status", words(&["not ready", "pending", "ready", "error", "updating"])),
        ("config", or_null(uuid())),
        ("secret", or_null(uuid())),
        ("deploy_successful", flag()),
        ("created_at", time()),
        ("updated_at", time()),
        ("project", uuid()),
        ("command", or_null(list_of(text()))),
        ("release", or_null(list_of(text()))),
        ("health_check", json!({ "type": "object" })),
        ("strategy", strategy()),
        ("options", json!({ "type": "object" })),
        ("resources", json!({ "type": "object" })),
        ("active_deployment", or_null(uuid())),
        ("serving_deployment", or_null(uuid())),
        ("last_deployment", or_null(uuid())),
        ("frozen", or_null(text())),
        ("pending_changes", list_of(pending_change())),
        ("delivery", words(&["env", "secret_files", "files"])),
    ]);
    object(fields)
}

fn pending_change() -> Value {
    object(vec![
        ("of", words(&["config", "secret"])),
        ("key", text()),
        ("change", words(&["added", "changed", "removed"])),
    ])
}

fn workload_fields(has_port: bool, is_new: bool) -> Vec<(&'static str, Value)> {
    let label = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
    let mut fields = vec![
        (
            "name",
            json!({ "type": "string", "minLength": 1, "maxLength": SERVICE_NAME_MAX, "pattern": label }),
        ),
        (
            "image",
            json!({ "type": "string", "minLength": 1, "maxLength": IMAGE_MAX, "pattern": "^[!-~]+$" }),
        ),
        (
            "replicas_target",
            integer((*INSTANCES.start()).into(), (*INSTANCES.end()).into()),
        ),
        ("config", or_null(uuid())),
        (
            "env",
            json!({ "type": "object", "additionalProperties": text(), "maxProperties": ENV_KEYS_MAX,
                "description": "Values to set in its config with this change, at once or not at all; without a config, \
                in the one of its name" }),
        ),
        ("secret", or_null(uuid())),
        (
            "command",
            or_null(json!({ "type": "array", "items": text(), "minItems": 1 })),
        ),
        (
            "release",
            or_null(json!({ "type": "array", "items": text(), "minItems": 1 })),
        ),
        ("health_check", or_null(health_check(has_port))),
        ("delivery", words(&["env", "secret_files", "files"])),
        ("strategy", strategy()),
        ("options", or_null(options())),
        ("resources", or_null(resources())),
        ("notes", notes()),
        ("apply_hash", hash()),
    ];
    if has_port {
        fields.push(("port", integer(1, 65535)));
    }
    if is_new {
        fields.push(("project", uuid()));
    } else {
        fields.push(("deploy", flag()));
    }
    fields
}

fn health_check(has_port: bool) -> Value {
    let types: &[&str] = if has_port {
        &["tcp", "http", "process"]
    } else {
        &["process"]
    };
    closed(vec![
        ("type", words(types)),
        (
            "path",
            json!({ "type": "string", "maxLength": PATH_MAX, "pattern": "^/[!\"$-~]*$" }),
        ),
        ("status", integer(100, 599)),
        ("interval_ms", integer(100, 3_600_000)),
        ("timeout_ms", integer(100, 3_600_000)),
        ("healthy_after", integer(1, 100)),
        ("unhealthy_after", integer(1, 100)),
    ])
}

fn options() -> Value {
    closed(vec![
        ("max_in_flight", or_null(integer(1, 12))),
        ("max_surge", or_null(integer(0, 12))),
        ("max_unavailable", integer(0, 12)),
        ("min_ready_ms", integer(0, 3_600_000)),
        ("drain_ms", integer(0, 3_600_000)),
        ("stop_grace_ms", integer(0, 3_600_000)),
        ("progress_deadline_ms", integer(1_000, 86_400_000)),
        ("max_failures", integer(1, 1_000)),
        (
            "steps",
            json!({ "type": "array", "items": step(), "maxItems": STEPS_MAX }),
        ),
        ("sticky", flag()),
        ("hold_ms", integer(0, 3_600_000)),
        ("preview_host", or_null(hostname())),
        ("keep_warm_ms", integer(0, 86_400_000)),
        ("watch_ms", integer(0, 86_400_000)),
    ])
}

/// Weights never shrink from step to step.
fn step() -> Value {
    let after = closed(vec![("after_ms", integer(0, 86_400_000))]);
    let limits = closed(vec![
        ("min_requests", integer(1, 1_000_000_000)),
        ("observe_ms", integer(0, 86_400_000)),
        ("max_error_points", integer(0, 100)),
        ("max_p95_percent", integer(1, 10_000)),
    ]);
    let gate = closed(vec![("gate", limits)]);
    let mut step = closed(vec![
        ("weight", integer(1, 100)),
        ("traffic", or_null(integer(0, 100))),
        ("then", json!({ "anyOf": [{ "const": "continue" }, after, gate] })),
    ]);
    step["required"] = json!(["weight"]);
    step
}

fn resources() -> Value {
    closed(vec![
        ("memory_mb", or_null(integer(4, 1 << 20))),
        ("cpu_millis", or_null(integer(10, 1_000_000))),
        ("pids", or_null(integer(1, 1 << 20))),
        ("read_only_root", flag()),
    ])
}

fn role() -> Value {
    words(&["viewer", "developer", "owner"])
}

fn member() -> Value {
    object(vec![
        ("id", uuid()),
        ("name", text()),
        ("project", uuid()),
        ("role", role()),
        ("created_at", time()),
    ])
}

fn audit_lines() -> Value {
    let line = object(vec![
        ("seq", count()),
        ("at", time()),
        ("account", uuid()),
        ("via", text()),
        ("project", or_null(uuid())),
        ("action", text()),
        ("object", text()),
        ("subject", or_null(text())),
        ("outcome", words(&["begun", "done", "refused", "denied", "failed"])),
        ("request", text()),
        ("hash", text()),
    ]);
    object(vec![("results", list_of(line)), ("next", or_null(count()))])
}

fn accesses() -> Value {
    let access = object(vec![
        ("seq", count()),
        ("at", time()),
        ("account", uuid()),
        ("how", text()),
    ]);
    object(vec![("results", list_of(access)), ("next_after", or_null(count()))])
}

fn route() -> Value {
    object(vec![
        ("id", uuid()),
        ("path", text()),
        ("enabled", flag()),
        ("domain", uuid()),
        ("service", uuid()),
        ("status", words(&["pending", "ready", "error", "updating"])),
        ("deploy_successful", flag()),
        ("created_at", time()),
        ("updated_at", time()),
        ("hostname", text()),
        ("project", uuid()),
    ])
}

fn route_fields() -> Vec<(&'static str, Value)> {
    vec![
        (
            "path",
            json!({ "type": "string", "maxLength": PATH_MAX, "pattern": "^\\s*/" }),
        ),
        ("domain", uuid()),
        ("service", uuid()),
        ("enabled", flag()),
    ]
}

/// A config or a secret.
fn set() -> Value {
    object(vec![
        ("id", uuid()),
        ("name", text()),
        ("is_default", flag()),
        ("status", words(&["ready"])),
        ("deploy_successful", flag()),
        ("created_at", time()),
        ("project", uuid()),
    ])
}

fn item_fields() -> Vec<(&'static str, Value)> {
    let key = "^[A-Za-z_][A-Za-z0-9_]*$";
    vec![
        (
            "key",
            json!({ "type": "string", "minLength": 1, "maxLength": ENV_KEY_MAX, "pattern": key }),
        ),
        ("value", json!({ "type": "string", "maxLength": ENV_VALUE_MAX })),
    ]
}

fn config_item() -> Value {
    object(vec![
        ("id", uuid()),
        ("config", uuid()),
        ("key", text()),
        ("value", text()),
        ("created_at", time()),
        ("updated_at", time()),
    ])
}

/// The value is missing where only keys were asked for.
fn secret_item() -> Value {
    object(vec![
        ("id", uuid()),
        ("secret", uuid()),
        ("key", text()),
        ("value", text()),
        ("last_accessed_at", or_null(time())),
        ("last_accessed_by", or_null(uuid())),
        ("created_at", time()),
        ("updated_at", time()),
    ])
}

fn project() -> Value {
    object(vec![
        ("id", uuid()),
        ("name", text()),
        ("is_default", flag()),
        ("created_at", time()),
        ("updated_at", time()),
        ("environment", or_null(text())),
    ])
}

fn api_key_fields() -> Vec<(&'static str, Value)> {
    vec![
        ("id", uuid()),
        ("name", text()),
        ("prefix", text()),
        ("created_at", time()),
        ("last_used_at", or_null(time())),
        ("expires_at", or_null(time())),
        ("revoked_at", or_null(time())),
    ]
}

fn image() -> Value {
    object(vec![
        ("reference", text()),
        ("digest", text()),
        ("size_bytes", count()),
        ("created_at", time()),
        ("in_use", flag()),
    ])
}

fn results(of: Value) -> Value {
    object(vec![("results", list_of(of))])
}
