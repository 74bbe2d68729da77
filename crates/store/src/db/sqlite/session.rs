//! One connection, and the statements that it has compiled.

use std::collections::HashMap;
use std::sync::Arc;

use domain::Result;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::super::errors::of_sqlite;
use super::super::{Row, Value};
use super::row::SqliteRow;
use super::shelf::Member;

/// Statements that stay prepared; the registry has fewer.
const STATEMENT_CACHE: usize = 512;

pub(super) struct Session {
    connection: Connection,
    /// By the text of the statement.
    shapes: HashMap<String, Arc<Shape>>,
    /// Changes that are made and wait for a commit, in the transaction that is open.
    pub(super) batch: Vec<Member>,
}

/// What is the same each time a statement runs.
struct Shape {
    columns: Arc<[String]>,
    /// For each of SQLite's places the value that it takes, counted from 1.
    places: Vec<usize>,
}

impl Session {
    pub(super) fn new(connection: Connection) -> rusqlite::Result<Session> {
        connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
        // Else a statement is compiled anew whenever another limit is bound to it.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        Ok(Session {
            connection,
            shapes: HashMap::new(),
            batch: Vec::new(),
        })
    }

    /// Ends the batch: its members hear what came of them.
    pub(super) fn tell(&mut self, outcome: &Result<()>) {
        self.batch.drain(..).for_each(|member| member.tell(outcome));
    }

    /// Whether a transaction is open. On a full or failing disk SQLite ends it by itself.
    pub(super) fn is_in_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    pub(super) fn run(&mut self, sql: &str, values: &[Value]) -> Result<u64> {
        let Session { connection, shapes, .. } = self;
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
        let Session { connection, shapes, .. } = self;
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
        let statement = self.connection.prepare(sql);
        let statement = statement.map_err(|error| of_sqlite(&error, sql))?;
        let columns = statement.column_names().into_iter().map(str::to_owned).collect();
        Ok((statement.parameter_count(), columns))
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
