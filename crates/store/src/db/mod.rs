//! Two engines behind one door: connections, transactions, values and rows.
//!
//! **Architecture invariant:** nothing outside this module names SQLite or PostgreSQL; nothing outside [`crate::sql`]
//! holds SQL.

mod errors;
#[cfg(feature = "postgres")]
mod listen;
mod local;
mod migrate;
mod open;
mod row;
mod tx;
mod value;

use std::sync::Arc;

use tokio::sync::watch;

pub(crate) use row::{Row, json};
pub(crate) use tx::{Serial, Tx};
pub(crate) use value::{Value, args};

use crate::Clock;

/// Open connections to one database.
pub(crate) struct Db {
    pool: Pool,
    clock: Clock,
    /// The newest revision that was committed.
    wake: watch::Sender<u64>,
    #[cfg(feature = "simulation")]
    pub(crate) trouble: crate::Trouble,
}

enum Pool {
    /// One writer, several readers beside it. A database in memory has one connection, which is both.
    Sqlite {
        writer: sqlx::SqlitePool,
        readers: Option<local::Local>,
    },
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgPool),
    #[cfg(feature = "simulation")]
    Local(local::Local),
}

impl Db {
    pub(crate) fn now_us(&self) -> i64 {
        (self.clock)()
    }

    pub(crate) fn wake(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    /// Whether every open connection is back in its pool.
    pub(crate) fn is_idle(&self) -> bool {
        match &self.pool {
            Pool::Sqlite { writer, readers } => {
                writer.num_idle() == writer.size() as usize && readers.as_ref().is_none_or(local::Local::is_idle)
            }
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => pool.num_idle() == pool.size() as usize,
            // Its statements are over when they answer: there is no other thread.
            #[cfg(feature = "simulation")]
            Pool::Local(_) => true,
        }
    }

    /// A transaction that may write. Writers queue up: there is one at a time, on both engines, so that a check and
    /// the write that relies on it cannot be torn apart.
    pub(crate) async fn write(self: &Arc<Self>) -> domain::Result<Tx> {
        Tx::write(self).await
    }

    /// A transaction that sees one instant and cannot write.
    pub(crate) async fn read(self: &Arc<Self>) -> domain::Result<Tx> {
        Tx::read(self).await
    }
}

#[cfg(all(test, feature = "postgres"))]
pub(crate) use open::migrate_postgres;
#[cfg(test)]
pub(crate) use tx::{Prepared, placeholders};
