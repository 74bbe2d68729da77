//! What schemas are made of: texts, numbers, lists, and objects that do or do not tell all of their fields.

use domain::names::HOST_MAX;
use serde_json::{Map, Value, json};

use crate::limits::{NAME_MAX, NOTES_MAX};

/// A named shape.
pub fn named(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

pub fn uuid() -> Value {
    json!({ "type": "string", "format": "uuid" })
}

/// A parameter that may stand without a value.
pub fn uuid_or_nothing() -> Value {
    json!({ "anyOf": [uuid(), { "const": "" }] })
}

/// A number that is brought into range, or nothing.
pub fn number_or_nothing() -> Value {
    json!({ "anyOf": [count(), { "const": "" }] })
}

/// A parameter whose unknown values mean what its absence means.
pub fn anything() -> Value {
    json!({ "type": "string" })
}

/// S2.35, I.8: unknown fields are ignored.
pub fn ordering(fields: &[&str]) -> Value {
    let fields = fields.join(", ");
    let text = format!("One or more of {fields}, with commas between them and `-` before those that descend.");
    json!({ "type": "string", "description": text })
}

/// Bad fields: name to messages.
pub fn fields() -> Value {
    json!({ "type": "object", "additionalProperties": list_of(text()) })
}

/// An answer: every field is always there, and there may be more one day.
pub fn object(fields: Vec<(&str, Value)>) -> Value {
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    json!({ "type": "object", "required": names, "properties": properties(fields) })
}

/// A body: fields beyond these are ignored (I.10).
pub fn new(fields: Vec<(&str, Value)>, required: &[&str]) -> Value {
    json!({ "type": "object", "required": required, "properties": properties(fields) })
}

/// A nested object of a body: fields beyond these are refused.
pub fn closed(fields: Vec<(&str, Value)>) -> Value {
    json!({ "type": "object", "properties": properties(fields), "additionalProperties": false })
}

fn properties(fields: Vec<(&str, Value)>) -> Map<String, Value> {
    fields
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

pub fn or_null(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

pub fn list_of(schema: Value) -> Value {
    json!({ "type": "array", "items": schema })
}

pub fn words(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

pub fn strategy() -> Value {
    words(&["rolling", "canary", "recreate", "blue_green"])
}

/// Of a plan.
pub fn hash() -> Value {
    json!({ "type": "string", "maxLength": 64 })
}

pub fn number() -> Value {
    json!({ "type": "number" })
}

pub fn text() -> Value {
    json!({ "type": "string" })
}

pub fn flag() -> Value {
    json!({ "type": "boolean" })
}

pub fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

pub fn integer(low: i64, high: i64) -> Value {
    json!({ "type": "integer", "minimum": low, "maximum": high })
}

pub fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

pub fn name() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": NAME_MAX })
}

pub fn hostname() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": HOST_MAX })
}

pub fn notes() -> Value {
    json!({ "type": "string", "maxLength": NOTES_MAX })
}
