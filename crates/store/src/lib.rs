//! The only SQL: SQLite and PostgreSQL from one code base.

mod input;
mod rows;
mod scope;
mod seal;
mod system;

use std::sync::Arc;

use domain::{Error, Result};
use tokio::sync::watch;

pub use input::*;
pub use rows::*;
pub use scope::Scope;
pub use seal::{RootKey, SecretString};
pub use system::System;

/// Newest crashed instances that [`System::load`] answers for each service.
pub const CRASHES_LOADED: usize = 20;

/// Log context of the error for a page number beyond the end; the platform face answers 404 with this text (I.7).
pub const INVALID_PAGE: &str = "Invalid page.";

/// Whether a list was asked for a page that it does not have.
pub fn is_invalid_page(error: &Error) -> bool {
    error.kind == domain::error::Kind::NotFound && error.context.ends_with(INVALID_PAGE)
}

/// Microseconds since the epoch.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Where the store is and how its secrets are sealed.
#[derive(Clone)]
pub struct OpenOptions {
    /// `sqlite://PATH`, `sqlite::memory:` or `postgres://…`.
    pub url: String,
    pub root_key: RootKey,
    pub clock: Clock,
    /// Make the database when there is none. Off where the root key is older than this start: a missing database is
    /// then a loss to report, never an empty platform to start with (invariant 20).
    pub create: bool,
}

#[derive(Clone)]
pub struct Store {}

impl Store {
    pub async fn open(_options: OpenOptions) -> Result<Store> {
        Err(unwritten())
    }

    /// Everything that a tenant may do.
    pub fn scope(&self, _who: Principal) -> Scope {
        Scope {}
    }

    /// Everything that reconcilers, authentication and the operator's socket do.
    pub fn system(&self) -> System {
        System {}
    }

    /// Wakes after each commit that changed something that reconcilers act on. The value is the newest revision.
    pub fn wake(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    /// Whether the store answers, for `/readyz`.
    pub async fn ready(&self) -> Result<()> {
        Err(unwritten())
    }
}

pub(crate) fn unwritten() -> Error {
    Error::internal("not written yet")
}
