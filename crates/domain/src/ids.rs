//! One type per kind of identifier, so that an id of one thing can never be passed as an id of another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map($name)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                $name(id)
            }
        }
    )+};
}

id! {
    /// A person or a robot that owns things and signs its changes.
    AccountId
    /// A set of resources that see each other; every resource belongs to exactly one.
    ProjectId
    /// A service or a worker: something that should be running.
    ServiceId
    /// One attempt to make a service run one specification.
    DeploymentId
    /// One container. Never reused: a restarted instance is a new one.
    InstanceId
    /// A domain and a path that lead to a service.
    RouteId
    /// A host name that an account has registered.
    DomainId
    /// A named set of plain settings.
    ConfigId
    /// One key and value of a config.
    ConfigItemId
    /// A named set of encrypted settings.
    SecretId
    /// One key and encrypted value of a secret.
    SecretItemId
    /// An API key's record; the key itself is never stored.
    ApiKeyId
}
