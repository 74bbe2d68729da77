//! SQLite on the caller's own thread: for what only reads, and for simulations.
//!
//! The driver of the writer gives its connection a thread of its own; each statement then costs two switches between
//! threads, and each row may cost one, which is ten times what SQLite itself takes. Here a statement is over when it
//! answers. The tests of the store run with it as with the others.
//!
//! # Assumptions
//! What is read is bounded and mostly in memory, so that a thread of the runtime is not held up for long. What waits for
//! the disk by its nature, a commit, is not done here.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{Error, Result};
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, Value as Cell, ValueRef};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::errors::translate_local;
use super::{Row, Value};

/// Statements that stay prepared; the registry has fewer.
const STATEMENT_CACHE: usize = 512;

/// Connections, each used by one transaction at a time.
#[derive(Clone)]
pub(crate) struct Local(Arc<Shelf>);

struct Shelf {
    idle: Mutex<Vec<Session>>,
    turns: Arc<Semaphore>,
    count: usize,
    source: Source,
}

/// Where connections come from.
enum Source {
    File {
        path: PathBuf,
        busy_timeout: Duration,
    },
    /// The one that there is.
    #[cfg(feature = "simulation")]
    Memory,
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
pub(crate) struct LocalTx {
    /// Always there; it goes back to the shelf at the end.
    session: Option<Session>,
    shelf: Arc<Shelf>,
    open: bool,
    _turn: OwnedSemaphorePermit,
}

/// One row, with the names of its columns.
pub(crate) struct LocalRow {
    columns: Arc<[String]>,
    cells: Vec<Cell>,
}

impl Local {
    /// At most `count` connections that read the file at `path`, which exists. Each is opened when it is needed first.
    pub(super) fn readers(path: PathBuf, count: usize, busy_timeout: Duration) -> Local {
        Local::new(vec![], count, Source::File { path, busy_timeout })
    }

    #[cfg(feature = "simulation")]
    pub(super) fn in_memory() -> Result<Local> {
        let opened = || {
            let connection = Connection::open_in_memory()?;
            // As the product's driver has it, but for what only a disk needs.
            connection
                .execute_batch("pragma foreign_keys = on; pragma journal_mode = memory; pragma synchronous = off")?;
            super::migrate::sqlite_steps().try_for_each(|step| connection.execute_batch(step))?;
            Session::new(connection)
        };
        let session = opened().map_err(|error: rusqlite::Error| translate_local(&error, "open in memory"))?;
        Ok(Local::new(vec![session], 1, Source::Memory))
    }

    fn new(idle: Vec<Session>, count: usize, source: Source) -> Local {
        Local(Arc::new(Shelf {
            idle: Mutex::new(idle),
            turns: Arc::new(Semaphore::new(count)),
            count,
            source,
        }))
    }

    /// Whether no transaction is open.
    pub(super) fn is_idle(&self) -> bool {
        self.0.turns.available_permits() == self.0.count
    }

    pub(super) async fn begin(&self, how: &str) -> Result<LocalTx> {
        let turn = self.0.turns.clone().acquire_owned().await;
        let turn = turn.map_err(|_| Error::internal("the connections are closed"))?;
        let known = self.0.idle().pop();
        let session = match known {
            Some(session) => session,
            None => self.0.open()?,
        };
        let mut tx = LocalTx {
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

    fn open(&self) -> Result<Session> {
        match &self.source {
            Source::File { path, busy_timeout } => {
                let opened = || {
                    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                    let connection = Connection::open_with_flags(path, flags)?;
                    connection.busy_timeout(*busy_timeout)?;
                    Session::new(connection)
                };
                opened().map_err(|error: rusqlite::Error| translate_local(&error, "open"))
            }
            #[cfg(feature = "simulation")]
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

impl LocalTx {
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
        run().map_err(|error| translate_local(&error, sql))
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
                found.push(Row::Local(LocalRow { columns, cells }));
                if found.len() == limit {
                    break;
                }
            }
            Ok(found)
        };
        read().map_err(|error: rusqlite::Error| translate_local(&error, sql))
    }

    /// Ends the transaction with `how`.
    pub(super) fn end(mut self, how: &str) -> Result<()> {
        self.open = false;
        self.run(how, &[]).map(drop)
    }
}

impl Drop for LocalTx {
    fn drop(&mut self) {
        if std::mem::take(&mut self.open) {
            // A transaction that SQLite has ended by itself cannot be ended again, and need not be.
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

impl LocalRow {
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
