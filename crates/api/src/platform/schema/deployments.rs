//! What is told of a deployment, before, while and after it runs.

use serde_json::{Value, json};

use super::terms::*;

/// S0.8 to S0.21. With `?detail=full` there is more.
pub fn deployment() -> Value {
    object(vec![
        ("id", uuid()),
        ("service", uuid()),
        ("version_number", integer(1, i64::MAX)),
        ("image", text()),
        ("port", or_null(integer(1, 65535))),
        ("replicas", integer(1, 12)),
        (
            "config_snapshot",
            json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        ),
        ("secret_keys_snapshot", list_of(text())),
        ("status", words(&["pending", "success", "failed", "rolled_back"])),
        ("deployed_at", time()),
        ("deployed_by", uuid()),
        ("rollback_from", or_null(uuid())),
        ("notes", text()),
        ("error_message", text()),
    ])
}

pub fn rollback() -> Value {
    let source = || words(&["current", "snapshot"]);
    new(
        vec![
            ("notes", notes()),
            ("secrets", source()),
            ("config", source()),
            ("apply_hash", hash()),
        ],
        &[],
    )
}

pub fn plan() -> Value {
    object(vec![
        ("service", or_null(uuid())),
        ("name", text()),
        ("deploys", flag()),
        ("version", or_null(count())),
        ("running_version", or_null(count())),
        ("supersedes", or_null(uuid())),
        (
            "image",
            object(vec![
                ("reference", text()),
                ("digest", or_null(text())),
                ("local", flag()),
                ("size_bytes", or_null(count())),
            ]),
        ),
        ("changes", list_of(change())),
        ("replaces", flag()),
        ("routes", list_of(text())),
        (
            "downtime",
            object(vec![("class", words(&["none", "hold", "restart"])), ("why", text())]),
        ),
        (
            "memory",
            object(vec![
                ("needed_mb", count()),
                ("running_mb", count()),
                ("free_mb", or_null(count())),
                ("fits", or_null(flag())),
            ]),
        ),
        ("expected_ms", or_null(count())),
        (
            "way_back",
            object(vec![("exists", flag()), ("version", or_null(count())), ("why", text())]),
        ),
        ("hash", hash()),
    ])
}

/// Before and after are null, or as they are written in requests.
fn change() -> Value {
    object(vec![
        ("what", text()),
        ("before", json!({})),
        ("after", json!({})),
        ("replaces", flag()),
    ])
}

pub fn diff() -> Value {
    let side = || {
        object(vec![
            ("deployment", uuid()),
            ("version", count()),
            ("image", text()),
            ("digest", or_null(text())),
            ("size_bytes", or_null(count())),
            ("stage", text()),
            ("deployed_at", time()),
            ("receipt", named("Receipt")),
            ("behaviour", or_null(behaviour())),
            ("memory_peak_bytes", or_null(count())),
            ("routes", or_null(list_of(text()))),
        ])
    };
    object(vec![
        ("service", uuid()),
        ("before", side()),
        ("after", side()),
        ("changes", list_of(change())),
    ])
}

/// What the edge has measured of one version.
fn behaviour() -> Value {
    object(vec![
        ("requests", count()),
        ("failed", count()),
        ("error_rate", number()),
        ("p50_ms", or_null(number())),
        ("p95_ms", or_null(number())),
    ])
}

/// How far it is. There is more in it than is told here.
pub fn rollout() -> Value {
    let trial = object(vec![
        ("lasts_ms", count()),
        ("min_requests", or_null(count())),
        ("new", behaviour()),
        ("old", behaviour()),
    ]);
    json!({
        "type": "object",
        "required": ["deployment", "stage", "done", "trial", "instances", "receipt"],
        "properties": { "trial": or_null(trial) },
    })
}

pub fn receipt() -> Value {
    object(vec![
        ("deployment", uuid()),
        ("ok", count()),
        ("failed_by_hob", count()),
        ("failed_by_app", count()),
        ("retried", count()),
        ("drained", count()),
        ("total", count()),
    ])
}

pub fn outcomes() -> Value {
    let ends = ["succeeded", "failed", "canceled", "superseded", "rolled_back"];
    object(ends.map(|end| (end, count())).to_vec())
}

pub fn events() -> Value {
    let event = object(vec![
        ("seq", count()),
        ("at", time()),
        ("actor", text()),
        ("from", or_null(text())),
        ("to", or_null(text())),
        ("reason", text()),
        ("details", json!({})),
    ]);
    object(vec![("results", list_of(event)), ("next_after", or_null(count()))])
}
