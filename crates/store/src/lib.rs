//! The only SQL: SQLite and PostgreSQL from one code base.
//!
//! [`Store::scope`] is what a tenant may do: every statement that it runs is bound to its principal, so that a query
//! over other people's rows cannot be written through it (invariant 24). [`Store::system`] is for reconcilers,
//! authentication and the operator's own socket. Behind both stand the same transactions: one writer at a time, whose
//! changes, counters and journal lines become durable together or not at all (invariants 7, 8, 18).
//!
//! **Architecture invariant:** SQL stands in `sql/` and nowhere else; the engines' names stand in `db/` and nowhere
//! else; no clock is read but the one given to [`Store::open`].
//!
//! A reading order: [`rows`](Service), `deploy.rs` (the life of a deployment), `system/effects.rs` (what reconcilers
//! write), `scope/services.rs` (what owners write).

mod audit;
mod check;
mod db;
mod deploy;
mod input;
mod ledger;
mod list;
mod position;
mod read;
mod rollback;
mod rows;
mod scope;
mod seal;
mod sql;
mod system;
#[cfg(test)]
mod tests;
mod token;
mod trouble;
mod vault;

use std::sync::Arc;

use domain::{Error, Result};
use tokio::sync::watch;

pub use audit::{Act, AuditLine, Bucket, From, Outcome, Tampering};
pub use input::*;
pub use list::{COUNTED_OFF_MAX, INVALID_PAGE, Ordered, is_invalid_page, orderings};
pub use rows::*;
pub use scope::{Bound, Foreseen, Intent, Scope, SetId, Which};
pub use seal::{RootKey, SecretString};
pub use system::{Session, System};
#[cfg(feature = "simulation")]
pub use trouble::{Fault, Mutant, Trouble, Watcher};

use db::{Db, args};

/// Newest crashed instances that [`System::load`] answers for each service.
pub const CRASHES_LOADED: usize = 20;

/// Newest deployments that are kept, whatever became of them (S0.43).
pub const DEPLOYMENTS_KEPT: u32 = 10;

/// Active API keys of one account (G.4).
pub const API_KEYS_MAX: u64 = 10;

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
    /// then a loss to report, never an empty platform to start with (invariant 20). At a first start, put the root key
    /// in its final place after [`Store::open`] has succeeded, so that an interrupted first start can be repeated.
    pub create: bool,
}

/// A handle; clones share one set of connections.
#[derive(Clone)]
pub struct Store {
    db: Arc<Db>,
    root_key: RootKey,
}

impl Store {
    /// Opens a database, brings its schema up to date, and makes sure that its secrets belong to the root key.
    ///
    /// # Errors
    /// `Refused` where opening would lose or mix up data: a database that is missing, empty, of a newer version or of
    /// another root key. `Unavailable` where it is damaged or cannot be reached.
    pub async fn open(options: OpenOptions) -> Result<Store> {
        let db = Db::open(&options.url, options.create, options.clock)
            .await
            .map_err(|e| e.within("open the store"))?;
        let store = Store {
            db,
            root_key: options.root_key,
        };
        store.prove_root_key().await?;
        Ok(store)
    }

    /// Everything that a tenant may do.
    pub fn scope(&self, who: Principal) -> Scope {
        Scope::new(self.clone(), who)
    }

    /// Everything that reconcilers, authentication and the operator's socket do.
    pub fn system(&self) -> System {
        System::new(self.clone())
    }

    /// Wakes after each commit that changed something that reconcilers or the edge's table depend on. The value is the
    /// newest revision; on PostgreSQL other processes' commits count too.
    pub fn wake(&self) -> watch::Receiver<u64> {
        self.db.wake()
    }

    /// Whether the store answers, for `/readyz`.
    pub async fn ready(&self) -> Result<()> {
        let mut tx = self.db.read().await?;
        tx.one(sql::META, args!["revision"]).await?;
        tx.end().await
    }

    /// What can be made to go wrong.
    #[cfg(feature = "simulation")]
    pub fn trouble(&self) -> &Trouble {
        &self.db.trouble
    }

    async fn prove_root_key(&self) -> Result<()> {
        let mut tx = self.db.read().await?;
        let proof = tx.first(sql::SEAL_CHECK, args![]).await?;
        tx.end().await?;
        let Some(proof) = proof else {
            let mut tx = self.db.write().await?;
            tx.run(sql::SEAL_CHECK_SET, args![self.root_key.proof()?]).await?;
            return tx.commit().await;
        };
        if self.root_key.is_proven_by(&proof.bytes("sealed")?) {
            return Ok(());
        }
        Err(Error::refused(
            "The root key is not the one that this database's secrets were sealed with. Start with the root key file \
             that belongs to the database",
        ))
    }
}
