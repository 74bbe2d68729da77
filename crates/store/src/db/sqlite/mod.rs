//! SQLite on the caller's own thread.
//!
//! A thread that owned the connection would cost each statement two switches between threads, ten times what SQLite
//! itself takes. Here a statement is over when it answers. Only a commit to a file waits for the disk by its nature; it
//! is made on a thread that may wait, for several changes at once where several wait: see [`shelf`].
//!
//! # Assumptions
//! What is read is bounded and mostly in memory, so that a thread of the runtime is not held up for long. No other
//! process writes to the file, so that a transaction that writes begins at once.

mod row;
mod session;
mod shelf;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::Result;
use rusqlite::{Connection, OpenFlags};

use super::{Row, Value};
pub(crate) use row::SqliteRow;
use session::Session;
use shelf::{Lent, Member, Shelf, Source};

/// Connections that only read a file, beside its one writer.
const READERS: usize = 4;
/// Longest wait for another process that uses the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to one database, each used by one transaction at a time.
pub(super) struct Sqlite(Arc<Shelf>);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Also makes the file.
    Create,
    Write,
    Read,
}

/// One transaction. Dropped, it never happened.
pub(super) struct SqliteTx {
    lent: Lent,
    open: bool,
    /// It is a part of a transaction that holds changes of others already.
    joined: bool,
}

/// Opens the file at `path`. A write is durable when its commit answers, and held up by no reader.
pub(super) fn connect(path: &Path, access: Access) -> rusqlite::Result<Connection> {
    let flags = match access {
        Access::Create => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if access != Access::Read {
        connection.execute_batch("pragma journal_mode = wal; pragma synchronous = full; pragma foreign_keys = on")?;
    }
    Ok(connection)
}

/// Private to the process and gone with it.
pub(super) fn connect_in_memory() -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    connection.execute_batch("pragma foreign_keys = on; pragma journal_mode = memory; pragma synchronous = off")?;
    Ok(connection)
}

impl Sqlite {
    /// The one writer of the file at `path`.
    pub(super) fn writer(first: Connection, path: &Path) -> rusqlite::Result<Sqlite> {
        let source = Source::File(path.to_owned(), Access::Write);
        Ok(Sqlite(Shelf::new(vec![Session::new(first)?], 0, source)))
    }

    /// Connections that only read the file at `path`, which exists. Each is opened when it is needed first.
    pub(super) fn readers(path: &Path) -> Sqlite {
        Sqlite(Shelf::new(vec![], READERS, Source::File(path.to_owned(), Access::Read)))
    }

    pub(super) fn in_memory(only: Connection) -> rusqlite::Result<Sqlite> {
        Ok(Sqlite(Shelf::new(vec![Session::new(only)?], 0, Source::Memory)))
    }

    pub(super) async fn begin(&self, how: &str) -> Result<SqliteTx> {
        let mut lent = self.0.borrow().await?;
        let session = lent.session()?;
        let joined = !session.batch.is_empty();
        session.run(if joined { "savepoint member" } else { how }, &[])?;
        Ok(SqliteTx {
            lent,
            open: true,
            joined,
        })
    }
}

impl SqliteTx {
    pub(super) fn run(&mut self, sql: &str, values: &[Value]) -> Result<u64> {
        self.lent.session()?.run(sql, values)
    }

    /// At most `limit` rows.
    pub(super) fn all(&mut self, sql: &str, values: &[Value], limit: usize) -> Result<Vec<Row>> {
        self.lent.session()?.all(sql, values, limit)
    }

    #[cfg(test)]
    pub(super) fn prepare(&mut self, sql: &str) -> Result<(usize, Vec<String>)> {
        self.lent.session()?.prepare(sql)
    }

    /// Makes everything durable and tells `then` what came of it. Once begun, both happen even if nobody waits for the
    /// answer any more.
    pub(super) async fn commit(mut self, then: impl FnOnce(&Result<()>) + Send + 'static) -> Result<()> {
        if !self.lent.waits_for_disk() {
            // Nothing waits for a disk, and simulations want one commit for each change.
            let done = self.run("commit", &[]).map(drop);
            self.open = done.is_err();
            then(&done);
            return done;
        }
        if self.joined
            && let Err(error) = self.run("release savepoint member", &[])
        {
            let failed = Err(error);
            then(&failed);
            return failed;
        }
        let (member, answered) = Member::new(then);
        self.lent.session()?.batch.push(member);
        self.open = false;
        drop(self);
        answered.await
    }

    pub(super) fn roll_back(mut self) -> Result<()> {
        self.undo()
    }

    fn undo(&mut self) -> Result<()> {
        self.open = false;
        if !self.joined {
            return self.run("rollback", &[]).map(drop);
        }
        let undone = self.run("rollback to savepoint member", &[]);
        let undone = undone.and_then(|_| self.run("release savepoint member", &[]));
        if undone.is_err() {
            // Nothing of this may be committed with the others.
            self.lent.spoil();
        }
        undone.map(drop)
    }
}

impl Drop for SqliteTx {
    fn drop(&mut self) {
        if self.open {
            // A transaction that SQLite has ended by itself, as on a full disk, cannot be ended again and need not be.
            let _ = self.undo();
        }
    }
}
