//! Two engines behind one door: connections, transactions, values and rows.
//!
//! **Architecture invariant:** nothing outside this module names SQLite or PostgreSQL; nothing outside [`crate::sql`]
//! holds SQL.

mod errors;
#[cfg(feature = "postgres")]
mod listen;
mod migrate;
mod open;
#[cfg(feature = "postgres")]
mod postgres;
mod row;
mod sqlite;
mod statement;
mod tx;
mod value;

use std::sync::Arc;

use tokio::sync::watch;

pub(crate) use row::{Row, json};
pub(crate) use statement::Sql;
pub(crate) use tx::{Serial, Tx};
pub(crate) use value::{Value, args};

use crate::Clock;
use sqlite::Sqlite;

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
    Sqlite {
        writer: Sqlite,
        /// Beside the writer. A database in memory has one connection, which is both.
        readers: Option<Sqlite>,
    },
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgPool),
}

impl Db {
    pub(crate) fn now_us(&self) -> i64 {
        (self.clock)()
    }

    pub(crate) fn wake(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
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
pub(crate) use postgres::migrate_and_leave;
#[cfg(test)]
pub(crate) use tx::{Prepared, placeholders};
