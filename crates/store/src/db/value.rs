//! What can be bound to a statement.

use domain::*;

/// A bound value. Absent ones carry their type, since PostgreSQL wants to know it.
#[derive(Clone)]
pub(crate) enum Value {
    Text(Option<String>),
    Int(Option<i64>),
    Bool(bool),
    Bytes(Vec<u8>),
}

/// The arguments of a statement, in the order of its placeholders.
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::db::Value::from($value)),*] };
}
pub(crate) use args;

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(Some(text.to_owned()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(Some(text))
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Value::Text(Some(text.clone()))
    }
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        Value::Text(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Value::Bytes(bytes)
    }
}

macro_rules! ints {
    ($($int:ty)+) => {$(
        impl From<$int> for Value {
            fn from(value: $int) -> Self {
                Value::Int(Some(i64::from(value)))
            }
        }

        impl From<Option<$int>> for Value {
            fn from(value: Option<$int>) -> Self {
                Value::Int(value.map(i64::from))
            }
        }
    )+};
}
ints! { i64 u32 u16 }

macro_rules! ids {
    ($($id:ty)+) => {$(
        impl From<$id> for Value {
            fn from(id: $id) -> Self {
                Value::Text(Some(id.to_string()))
            }
        }

        impl From<Option<$id>> for Value {
            fn from(id: Option<$id>) -> Self {
                Value::Text(id.map(|id| id.to_string()))
            }
        }
    )+};
}
ids! {
    AccountId ProjectId ServiceId DeploymentId InstanceId RouteId DomainId ConfigId ConfigItemId SecretId SecretItemId
    ApiKeyId
}

impl From<Stage> for Value {
    fn from(stage: Stage) -> Self {
        Value::from(stage.as_str())
    }
}

impl From<Option<Stage>> for Value {
    fn from(stage: Option<Stage>) -> Self {
        Value::Text(stage.map(|stage| stage.as_str().to_owned()))
    }
}

impl From<&Template> for Value {
    fn from(template: &Template) -> Self {
        Value::from(&template.0)
    }
}
