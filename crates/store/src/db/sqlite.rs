//! SQLite on the caller's own thread.
//!
//! A thread that owned the connection would cost each statement two switches between threads, ten times what SQLite
//! itself takes. Here a statement is over when it answers. Only a commit to a file waits for the disk by its nature; it
//! is made on a thread that may wait.
//!
//! # Assumptions
//! What is read is bounded and mostly in memory, so that a thread of the runtime is not held up for long. No other
//! process writes to the file, so that a transaction that writes begins at once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{Error, Result};
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, Value as Cell, ValueRef};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::errors::{of_sqlite, timed_out};
use super::{Row, Value};

/// Connections that only read a file, beside its one writer.
const READERS: usize = 4;
/// Statements that stay prepared; the registry has fewer.
const STATEMENT_CACHE: usize = 512;
/// Longest wait for another process that uses the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a free connection to a file. In memory, where a simulated clock may run ahead, there is no limit.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections to one database, each used by one transaction at a time. Clones are the same.
#[derive(Clone)]
pub(super) struct Sqlite(Arc<Shelf>);

struct Shelf {
    idle: Mutex<Vec<Session>>,
    turns: Arc<Semaphore>,
    source: Source,
}

/// Where further connections come from.
enum Source {
    File(PathBuf, Access),
    /// From nowhere: another one would see another database.
    Memory,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Also makes the file.
    Create,
    Write,
    Read,
}

struct Session {
    connection: Connection,
    /// By the text of the statement.
    shapes: HashMap<String, Arc<Shape>>,
}

/// What is the same each time a statement runs.
struct Shape {
    columns: Arc<[String]>,
    /// For each of SQLite's places the value that it takes, counted from 1.
    places: Vec<usize>,
}

/// One transaction. Dropped, it never happened.
pub(super) struct SqliteTx {
    /// Always there; it goes back to the shelf at the end.
    session: Option<Session>,
    shelf: Arc<Shelf>,
    open: bool,
    _turn: OwnedSemaphorePermit,
}

/// One row, with the names of its columns.
pub(crate) struct SqliteRow {
    columns: Arc<[String]>,
    cells: Vec<Cell>,
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
        Ok(Sqlite::new(vec![Session::new(first)?], 1, source))
    }

    /// Connections that only read the file at `path`, which exists. Each is opened when it is needed first.
    pub(super) fn readers(path: &Path) -> Sqlite {
        Sqlite::new(vec![], READERS, Source::File(path.to_owned(), Access::Read))
    }

    pub(super) fn in_memory(only: Connection) -> rusqlite::Result<Sqlite> {
        Ok(Sqlite::new(vec![Session::new(only)?], 1, Source::Memory))
    }

    fn new(idle: Vec<Session>, count: usize, source: Source) -> Sqlite {
        Sqlite(Arc::new(Shelf {
            idle: Mutex::new(idle),
            turns: Arc::new(Semaphore::new(count)),
            source,
        }))
    }

    pub(super) async fn begin(&self, how: &str) -> Result<SqliteTx> {
        let turn = self.0.turn().await?;
        let known = self.0.idle().pop();
        let session = match known {
            Some(session) => session,
            None => self.0.open()?,
        };
        let mut tx = SqliteTx {
            session: Some(session),
            shelf: self.0.clone(),
            open: false,
            _turn: turn,
        };
        tx.run(how, &[])?;
        tx.open = true;
        Ok(tx)
    }
}

impl Shelf {
    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        let turn = self.turns.clone().acquire_owned();
        let turn = match &self.source {
            Source::File(..) => tokio::time::timeout(ACQUIRE_TIMEOUT, turn)
                .await
                .map_err(|_| timed_out("wait for a connection"))?,
            Source::Memory => turn.await,
        };
        turn.map_err(|_| Error::internal("the connections are closed"))
    }

    fn open(&self) -> Result<Session> {
        match &self.source {
            Source::File(path, access) => connect(path, *access)
                .and_then(Session::new)
                .map_err(|error| of_sqlite(&error, "open")),
            Source::Memory => Err(Error::internal("the only connection is away")),
        }
    }
}

impl Session {
    fn new(connection: Connection) -> rusqlite::Result<Session> {
        connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
        // Else a statement is compiled anew whenever another limit is bound to it.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        let shapes = HashMap::new();
        Ok(Session { connection, shapes })
    }
}

impl SqliteTx {
    fn session(&mut self) -> Result<&mut Session> {
        let away = || Error::internal("a transaction lost its connection");
        self.session.as_mut().ok_or_else(away)
    }

    pub(super) fn run(&mut self, sql: &str, values: &[Value]) -> Result<u64> {
        let Session { connection, shapes } = self.session()?;
        let mut run = || {
            let mut statement = connection.prepare_cached(sql)?;
            let shape = shape(shapes, sql, &statement);
            bind(&mut statement, &shape, values)?;
            statement.raw_execute().map(|rows| rows as u64)
        };
        run().map_err(|error| of_sqlite(&error, sql))
    }

    /// At most `limit` rows.
    pub(super) fn all(&mut self, sql: &str, values: &[Value], limit: usize) -> Result<Vec<Row>> {
        let Session { connection, shapes } = self.session()?;
        let mut read = || {
            let mut statement = connection.prepare_cached(sql)?;
            let shape = shape(shapes, sql, &statement);
            bind(&mut statement, &shape, values)?;
            let columns = &shape.columns;
            let mut found = Vec::new();
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next()? {
                let cells = (0..columns.len()).map(|n| row.get(n)).collect::<Result<_, _>>()?;
                let columns = columns.clone();
                found.push(Row::Sqlite(SqliteRow { columns, cells }));
                if found.len() == limit {
                    break;
                }
            }
            Ok(found)
        };
        read().map_err(|error: rusqlite::Error| of_sqlite(&error, sql))
    }

    /// What SQLite makes of a statement: how many places it has, and the names of its columns.
    #[cfg(test)]
    pub(super) fn prepare(&mut self, sql: &str) -> Result<(usize, Vec<String>)> {
        let statement = self.session()?.connection.prepare(sql);
        let statement = statement.map_err(|error| of_sqlite(&error, sql))?;
        let columns = statement.column_names().into_iter().map(str::to_owned).collect();
        Ok((statement.parameter_count(), columns))
    }

    /// Makes everything durable and tells `then` what came of it. Once begun, both happen even if nobody waits for the
    /// answer any more.
    pub(super) async fn commit(self, then: impl FnOnce(&Result<()>) + Send + 'static) -> Result<()> {
        let waits = matches!(self.shelf.source, Source::File(..));
        let commit = || {
            let outcome = self.end("commit");
            then(&outcome);
            outcome
        };
        if !waits {
            return commit();
        }
        let done = tokio::task::spawn_blocking(commit).await;
        done.unwrap_or_else(|error| Err(Error::internal(format!("a commit ended badly: {error}"))))
    }

    pub(super) fn roll_back(self) -> Result<()> {
        self.end("rollback")
    }

    fn end(mut self, how: &str) -> Result<()> {
        self.run(how, &[])?;
        self.open = false;
        Ok(())
    }
}

impl Drop for SqliteTx {
    fn drop(&mut self) {
        if std::mem::take(&mut self.open) {
            // A transaction that SQLite has ended by itself, as on a full disk, cannot be ended again and need not be.
            let _ = self.run("rollback", &[]);
        }
        // One that is still in a transaction is of no use to the next.
        self.shelf
            .idle()
            .extend(self.session.take().filter(|session| session.connection.is_autocommit()));
    }
}

fn shape(shapes: &mut HashMap<String, Arc<Shape>>, sql: &str, statement: &rusqlite::Statement<'_>) -> Arc<Shape> {
    if let Some(known) = shapes.get(sql) {
        return known.clone();
    }
    let columns = statement.column_names().into_iter().map(str::to_owned).collect();
    let places = places(sql);
    let shape = Arc::new(Shape { columns, places });
    shapes.insert(sql.to_owned(), shape.clone());
    shape
}

/// `$3` means the third value, wherever it stands. SQLite numbers its places by first mention.
fn places(sql: &str) -> Vec<usize> {
    let mut places = Vec::new();
    for rest in sql.split('$').skip(1) {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = rest[..digits].parse().unwrap_or(0);
        if !places.contains(&number) {
            places.push(number);
        }
    }
    places
}

fn bind(statement: &mut rusqlite::Statement<'_>, shape: &Shape, values: &[Value]) -> rusqlite::Result<()> {
    for (place, number) in (1..).zip(&shape.places) {
        let missing = rusqlite::Error::InvalidParameterCount(values.len(), *number);
        let value = number.checked_sub(1).and_then(|n| values.get(n)).ok_or(missing)?;
        statement.raw_bind_parameter(place, value)?;
    }
    Ok(())
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = match self {
            Value::Text(Some(text)) => ValueRef::Text(text.as_bytes()),
            Value::Int(Some(int)) => ValueRef::Integer(*int),
            Value::Text(None) | Value::Int(None) => ValueRef::Null,
            Value::Bool(bool) => ValueRef::Integer(i64::from(*bool)),
            Value::Bytes(bytes) => ValueRef::Blob(bytes),
        };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

impl SqliteRow {
    pub(super) fn get<T: FromCell>(&self, column: &str) -> Result<T, String> {
        let place = self.columns.iter().position(|name| name == column);
        let cell = place
            .and_then(|place| self.cells.get(place))
            .ok_or("there is no such column")?;
        T::from_cell(cell).ok_or_else(|| format!("it holds {:?}", cell.data_type()))
    }
}

/// What a cell can be read as.
pub(super) trait FromCell: Sized {
    fn from_cell(cell: &Cell) -> Option<Self>;
}

impl FromCell for String {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl FromCell for i64 {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Integer(int) => Some(*int),
            _ => None,
        }
    }
}

impl FromCell for bool {
    fn from_cell(cell: &Cell) -> Option<Self> {
        i64::from_cell(cell).map(|int| int != 0)
    }
}

impl FromCell for Vec<u8> {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Blob(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }
}

impl<T: FromCell> FromCell for Option<T> {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Null => Some(None),
            cell => T::from_cell(cell).map(Some),
        }
    }
}
