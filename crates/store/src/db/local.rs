//! SQLite in memory on the caller's own thread, for simulation.
//!
//! The driver that the product uses gives every connection a thread of its own; each statement then costs two switches
//! between threads, which is ten times what SQLite itself takes. Here the same statements run on the same SQLite with
//! the same schema, and are over when they answer. The tests of the store run with it as with the others.

use std::collections::HashMap;
use std::sync::Arc;

use domain::Result;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, Value as Cell, ValueRef};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::errors::translate_local;
use super::migrate::sqlite_steps;
use super::{Row, Value};

/// Statements that stay prepared; the registry has fewer.
const STATEMENT_CACHE: usize = 512;

/// A handle of the one connection.
#[derive(Clone)]
pub(crate) struct Local(Arc<Mutex<Session>>);

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
    session: OwnedMutexGuard<Session>,
    open: bool,
}

/// One row, with the names of its columns.
pub(crate) struct LocalRow {
    columns: Arc<[String]>,
    cells: Vec<Cell>,
}

impl Local {
    pub(crate) fn open() -> Result<Local> {
        let opened = || {
            let connection = Connection::open_in_memory()?;
            connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
            // Else a statement is compiled anew whenever another limit is bound to it.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
            // As the product's driver has it, but for what only a disk needs.
            connection
                .execute_batch("pragma foreign_keys = on; pragma journal_mode = memory; pragma synchronous = off")?;
            sqlite_steps().try_for_each(|step| connection.execute_batch(step))?;
            Ok(connection)
        };
        let connection = opened().map_err(|error: rusqlite::Error| translate_local(&error, "open in memory"))?;
        let shapes = HashMap::new();
        Ok(Local(Arc::new(Mutex::new(Session { connection, shapes }))))
    }

    pub(super) async fn begin(&self, how: &str) -> Result<LocalTx> {
        let mut tx = LocalTx {
            session: self.0.clone().lock_owned().await,
            open: false,
        };
        tx.run(how, &[])?;
        tx.open = true;
        Ok(tx)
    }
}

impl LocalTx {
    pub(super) fn run(&mut self, sql: &str, values: &[Value]) -> Result<u64> {
        let Session { connection, shapes } = &mut *self.session;
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
        let Session { connection, shapes } = &mut *self.session;
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
