//! `/api/schema/`: the face as an OpenAPI 3.1 document.
//!
//! [`operations`] says what can be asked, [`shapes`] what is sent and answered. Tests hold both against the router and
//! against real answers, so that neither can drift.

mod deployments;
mod operations;
mod shapes;
mod terms;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use self::operations::{Operation, operations};
use super::caller::Caller;
use crate::ApiState;

pub async fn get(State(api): State<ApiState>, _: Caller) -> Json<Value> {
    Json(document(&api.settings.public_url, &api.settings.version))
}

/// The whole document.
pub fn document(public_url: &str, version: &str) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hob Platform Documentation",
            "version": version,
            "description": "Deploys containers with zero failed requests. Paths end with a slash; lists come in pages; \
                            one 400 names every bad field.",
        },
        "servers": [{ "url": public_url }],
        "security": [{ "bearer": [] }, { "apiKey": [] }],
        "tags": tags(),
        "paths": paths(),
        "components": {
            "schemas": shapes::all(),
            "responses": problems(),
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "Authorization: Bearer gob_…" },
                "session": { "type": "apiKey", "in": "cookie", "name": "hob_session" },
                "apiKey": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
            },
        },
    })
}

/// What the operations are about, in the order in which a reader wants to know it.
const TAGS: [(&str, &str); 16] = [
    ("services", "Deploy and manage applications in containers"),
    ("workers", "Background jobs: services without a port"),
    ("routes", "Which host and path lead to which service"),
    ("domains", "Names that routes begin with"),
    ("configs", "Configuration of applications"),
    ("secrets", "Encrypted values for applications"),
    ("deployments", "History, rollback, and control of what is on its way"),
    ("projects", "What every resource belongs to, and who works on it"),
    ("account", "Whose key this is"),
    ("api-keys", "Keys for scripts"),
    ("audit", "Who did what"),
    ("login", "People with a browser"),
    ("session", "A browser's session"),
    ("images", "Images that the machine keeps, for administrators"),
    ("api", "All resources by name"),
    ("schema", "This document"),
];

fn tags() -> Value {
    TAGS.iter()
        .map(|(name, description)| json!({ "name": name, "description": description }))
        .collect()
}

fn paths() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations() {
        let path = paths.entry(operation.path.clone()).or_insert_with(|| json!({}));
        path[operation.method.to_ascii_lowercase()] = describe(&operation);
    }
    Value::Object(paths)
}

fn describe(operation: &Operation) -> Value {
    let mut parameters: Vec<Value> = operation
        .path
        .split(['{', '}'])
        .skip(1)
        .step_by(2)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": terms::uuid() }))
        .collect();
    parameters.extend(
        operation
            .query
            .iter()
            .map(|(name, schema)| json!({ "name": name, "in": "query", "required": false, "schema": schema })),
    );

    let mut responses = Map::new();
    responses.insert(operation.status.to_string(), answer(operation));
    for (status, name) in PROBLEMS {
        responses.insert(
            status.to_owned(),
            json!({ "$ref": format!("#/components/responses/{name}") }),
        );
    }
    let mut described = json!({
        "operationId": operation.id(),
        "tags": [operation.tag()],
        "summary": operation.summary,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(body) = &operation.body {
        described["requestBody"] = json!({ "required": body.required, "content": content(body.media, &body.schema) });
    }
    described
}

fn answer(operation: &Operation) -> Value {
    match &operation.answer {
        None => json!({ "description": "Done" }),
        Some((media, schema)) => json!({ "description": operation.summary, "content": content(media, schema) }),
    }
}

fn content(media: &str, schema: &Value) -> Value {
    json!({ media: { "schema": schema } })
}

/// What can go wrong with any operation.
const PROBLEMS: [(&str, &str); 10] = [
    ("400", "Invalid"),
    ("401", "Unauthenticated"),
    ("403", "Forbidden"),
    ("404", "NotFound"),
    ("405", "MethodNotAllowed"),
    ("409", "Conflict"),
    ("413", "TooLarge"),
    ("415", "UnsupportedMediaType"),
    ("429", "Throttled"),
    ("503", "Unavailable"),
];

fn problems() -> Value {
    let problem = |text: &str, schema: &str| json!({ "description": text, "content": content("application/json", &terms::named(schema)) });
    json!({
        "Invalid": problem("Bad fields, or refused in the present state", "Invalid"),
        "Unauthenticated": problem("No key, or a bad one", "Detail"),
        "Forbidden": problem("Another account's, or for administrators", "Detail"),
        "NotFound": problem("No such thing, or no such page", "Detail"),
        "MethodNotAllowed": problem("See the header Allow", "Detail"),
        "Conflict": problem("Somebody else was first; try again", "Refused"),
        "TooLarge": problem("The body is too large", "Detail"),
        "UnsupportedMediaType": problem("Not JSON", "Detail"),
        "Throttled": problem("Over the rate limit; see the header Retry-After", "Detail"),
        "Unavailable": problem("A part does not answer; see the header Retry-After", "Detail"),
    })
}
