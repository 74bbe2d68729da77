//! What reconcilers, authentication and the operator's socket do. Nothing here is bound to a tenant: no face hands it to
//! a caller.

mod accounts;
mod audit;
mod edge;
mod effects;
mod lease;
mod load;
mod sessions;

pub use sessions::Session;

pub(crate) use load::padded;

use domain::Result;

use crate::Store;
use crate::db::Tx;

/// The store without the eyes of a tenant.
#[derive(Clone)]
pub struct System {
    store: Store,
}

impl System {
    pub(crate) fn new(store: Store) -> System {
        System { store }
    }

    async fn read(&self) -> Result<Tx> {
        self.store.db.read().await
    }

    async fn write(&self) -> Result<Tx> {
        self.store.db.write().await
    }
}
