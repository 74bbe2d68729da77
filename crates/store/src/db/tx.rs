//! Transactions: the only way to the data.

use std::sync::Arc;

use domain::{Error, Result};
use sqlx::SqlSafeStr;

use super::errors::translate;
use super::{Db, Pool, Row, Value};
use crate::audit::{Act, Outcome};
use crate::sql;
use crate::trouble::Mutant;

/// Every writer on PostgreSQL takes this advisory lock first ("hob" in ASCII), as `begin immediate` does on SQLite.
#[cfg(feature = "postgres")]
const WRITER_LOCK: i64 = 0x686f62;

/// One transaction. Dropped without [`Tx::commit`], it never happened.
///
/// # Guarantees
/// - Writers run one after another, so what a writer has read stays true until it commits.
/// - Revisions and journal numbers become visible in the order in which they were given, without gaps in the journal.
/// - The wake-up comes after the commit.
pub(crate) struct Tx {
    db: Arc<Db>,
    inner: Inner,
    now_us: i64,
    serials: Serials,
    /// What this transaction is the change of, for the audit log.
    act: Option<Arc<Act>>,
    /// What it makes.
    subject: Option<String>,
}

enum Inner {
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
    Local(super::local::LocalTx),
}

/// Counters of the whole store that a writer reads once, draws from in memory and writes back with its commit.
#[derive(Clone, Copy, Default)]
struct Serials {
    revision: Option<i64>,
    journal: Option<i64>,
    access: Option<i64>,
    audit: Option<i64>,
}

#[derive(Clone, Copy)]
pub(crate) enum Serial {
    Revision,
    Journal,
    Access,
    Audit,
}

impl Serial {
    const ALL: [Serial; 4] = [Serial::Revision, Serial::Journal, Serial::Access, Serial::Audit];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Serial::Revision => "revision",
            Serial::Journal => "journal",
            Serial::Access => "access",
            Serial::Audit => "audit",
        }
    }

    fn of(self, serials: &mut Serials) -> &mut Option<i64> {
        match self {
            Serial::Revision => &mut serials.revision,
            Serial::Journal => &mut serials.journal,
            Serial::Access => &mut serials.access,
            Serial::Audit => &mut serials.audit,
        }
    }
}

/// What to go back to, see [`Tx::savepoint`].
pub(crate) struct Savepoint(Serials);

macro_rules! each_engine {
    ($tx:expr, $sql:expr, $args:expr, |$query:ident, $conn:ident, $wrap:ident| $body:expr, |$local:ident, $text:ident, $values:ident| $here:expr) => {{
        let sql = $sql.into_sql_str();
        debug_assert_eq!(placeholders(sql.as_str()), $args.len(), "arguments of {}", sql.as_str());
        match &mut $tx.inner {
            Inner::Sqlite(inner) => {
                let text = sql.as_str().to_owned();
                let $query = sqlx::query_with(sql, bind_sqlite($args)?);
                let $conn = &mut **inner;
                let $wrap = Row::Sqlite;
                $body.map_err(|error| translate(error, &text))
            }
            #[cfg(feature = "postgres")]
            Inner::Postgres(inner) => {
                let text = sql.as_str().to_owned();
                let $query = sqlx::query_with(sql, bind_postgres($args)?);
                let $conn = &mut **inner;
                let $wrap = Row::Postgres;
                $body.map_err(|error| translate(error, &text))
            }
            Inner::Local($local) => {
                let ($text, $values) = (sql.as_str(), $args);
                $here
            }
        }
    }};
}

impl Tx {
    pub(super) async fn write(db: &Arc<Db>) -> Result<Tx> {
        const BEGIN: &str = "begin immediate";
        #[cfg(feature = "simulation")]
        db.trouble.at_begin()?;
        let inner = match &db.pool {
            Pool::Sqlite { writer, .. } => Inner::Sqlite(
                writer
                    .begin_with(BEGIN)
                    .await
                    .map_err(|error| translate(error, BEGIN))?,
            ),
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => Inner::Postgres(pool.begin().await.map_err(|error| translate(error, BEGIN))?),
            #[cfg(feature = "simulation")]
            Pool::Local(local) => Inner::Local(local.begin(BEGIN).await?),
        };
        #[cfg_attr(
            not(feature = "postgres"),
            expect(unused_mut, reason = "only PostgreSQL says more at the start")
        )]
        let mut tx = Tx {
            db: db.clone(),
            inner,
            now_us: db.now_us(),
            serials: Serials::default(),
            act: None,
            subject: None,
        };
        #[cfg(feature = "postgres")]
        if matches!(tx.inner, Inner::Postgres(_)) {
            tx.run(sql::WRITER_LOCK, super::args![WRITER_LOCK]).await?;
        }
        Ok(tx)
    }

    pub(super) async fn read(db: &Arc<Db>) -> Result<Tx> {
        let inner = match &db.pool {
            Pool::Sqlite {
                readers: Some(readers), ..
            } => Inner::Local(readers.begin("begin").await?),
            Pool::Sqlite { writer, .. } => {
                Inner::Sqlite(writer.begin().await.map_err(|error| translate(error, "begin"))?)
            }
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => {
                const BEGIN: &str = "begin isolation level repeatable read read only";
                Inner::Postgres(pool.begin_with(BEGIN).await.map_err(|error| translate(error, BEGIN))?)
            }
            #[cfg(feature = "simulation")]
            Pool::Local(local) => Inner::Local(local.begin("begin").await?),
        };
        Ok(Tx {
            db: db.clone(),
            inner,
            now_us: db.now_us(),
            serials: Serials::default(),
            act: None,
            subject: None,
        })
    }

    /// Makes the commit append the line of `act`, once for all transactions of one act.
    pub(crate) fn recorded_as(&mut self, act: Option<Arc<Act>>) {
        self.act = act.filter(|act| !act.is_recorded());
    }

    /// Names what the act makes.
    pub(crate) fn about(&mut self, subject: impl std::fmt::Display) {
        self.subject = Some(subject.to_string());
    }

    /// The time of this transaction.
    pub(crate) fn now_us(&self) -> i64 {
        self.now_us
    }

    /// Runs a statement and answers how many rows it touched.
    pub(crate) async fn run(&mut self, sql: impl SqlSafeStr, args: Vec<Value>) -> Result<u64> {
        each_engine!(
            self,
            sql,
            args,
            |query, conn, _wrap| query.execute(conn).await.map(|done| done.rows_affected()),
            |local, text, values| local.run(text, &values)
        )
    }

    pub(crate) async fn all(&mut self, sql: impl SqlSafeStr, args: Vec<Value>) -> Result<Vec<Row>> {
        each_engine!(
            self,
            sql,
            args,
            |query, conn, wrap| query
                .fetch_all(conn)
                .await
                .map(|rows| rows.into_iter().map(wrap).collect()),
            |local, text, values| local.all(text, &values, usize::MAX)
        )
    }

    pub(crate) async fn first(&mut self, sql: impl SqlSafeStr, args: Vec<Value>) -> Result<Option<Row>> {
        each_engine!(
            self,
            sql,
            args,
            |query, conn, wrap| query.fetch_optional(conn).await.map(|row| row.map(wrap)),
            |local, text, values| Ok(local.all(text, &values, 1)?.pop())
        )
    }

    /// The one row that a statement always has.
    pub(crate) async fn one(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Row> {
        let row = self.first(sql, args).await?;
        row.ok_or_else(|| Error::internal(format!("`{sql}` has no row")))
    }

    /// The next number of a serial. Two transactions never draw the same, and numbers of one that is rolled back are
    /// given again.
    pub(crate) async fn next(&mut self, serial: Serial) -> Result<i64> {
        let last = match *serial.of(&mut self.serials) {
            Some(last) => last,
            None => self.one(sql::META, super::args![serial.name()]).await?.int("value")?,
        };
        *serial.of(&mut self.serials) = Some(last + 1);
        Ok(last + 1)
    }

    /// Marks that something changed that reconcilers or the edge's table depend on.
    pub(crate) async fn changed(&mut self) -> Result<()> {
        self.next(Serial::Revision).await.map(drop)
    }

    /// A point inside the transaction to which [`Tx::undo`] goes back. One at a time.
    pub(crate) async fn savepoint(&mut self) -> Result<Savepoint> {
        self.run(sql::SAVEPOINT, vec![]).await?;
        Ok(Savepoint(self.serials))
    }

    pub(crate) async fn keep(&mut self, _savepoint: Savepoint) -> Result<()> {
        self.run(sql::SAVEPOINT_KEEP, vec![]).await.map(drop)
    }

    pub(crate) async fn undo(&mut self, savepoint: Savepoint) -> Result<()> {
        self.run(sql::SAVEPOINT_UNDO, vec![]).await?;
        self.run(sql::SAVEPOINT_KEEP, vec![]).await?;
        self.serials = savepoint.0;
        Ok(())
    }

    /// Makes everything durable, then wakes whoever waits for changes.
    pub(crate) async fn commit(mut self) -> Result<()> {
        let act = self.act.take();
        if let Some(act) = &act {
            let subject = self.subject.take();
            self.record(act, subject, Outcome::Done).await?;
        }
        for serial in Serial::ALL {
            if let Some(value) = *serial.of(&mut self.serials) {
                self.run(sql::META_SET, super::args![serial.name(), value]).await?;
            }
        }
        let (db, revision) = (self.db.clone(), self.serials.revision);
        let revision = revision.map(|revision| revision.unsigned_abs());
        let outcome = self.make_durable(revision).await;
        if let (Some(act), Ok(())) = (act, &outcome) {
            act.set_recorded();
        }
        let Some(revision) = revision else { return outcome };
        match outcome {
            Ok(()) => {
                let advance = |newest: &mut u64| std::mem::replace(newest, revision.max(*newest)) < revision;
                db.wake.send_if_modified(advance);
            }
            // It may have become durable all the same (the answer was lost): whoever waits looks for itself.
            Err(_) => db.wake.send_modify(|_| ()),
        }
        #[cfg(feature = "simulation")]
        db.trouble.commits(true);
        outcome
    }

    async fn make_durable(self, revision: Option<u64>) -> Result<()> {
        #[cfg(feature = "simulation")]
        let trouble = self.db.trouble.clone();
        #[cfg(feature = "simulation")]
        trouble.commits(false);
        #[cfg(feature = "simulation")]
        let fault = trouble.at_commit();
        #[cfg(feature = "simulation")]
        if fault == Some(crate::trouble::Fault::CommitFails) {
            self.end().await?;
            return Err(crate::trouble::trouble("commit"));
        }
        #[cfg(not(feature = "postgres"))]
        let _ = revision;
        match self.inner {
            Inner::Sqlite(inner) => inner.commit().await.map_err(|error| translate(error, "commit"))?,
            #[cfg(feature = "postgres")]
            Inner::Postgres(mut inner) => {
                if let Some(revision) = revision {
                    let notify = sqlx::query(sql::NOTIFY).bind(revision.to_string());
                    notify
                        .execute(&mut *inner)
                        .await
                        .map_err(|error| translate(error, sql::NOTIFY))?;
                }
                inner.commit().await.map_err(|error| translate(error, "commit"))?;
            }
            Inner::Local(inner) => inner.end("commit")?,
        }
        #[cfg(feature = "simulation")]
        if fault == Some(crate::trouble::Fault::AnswerLost) {
            return Err(crate::trouble::trouble("the answer to a commit"));
        }
        Ok(())
    }

    /// Whether a known bug was put in on purpose. Never, outside simulations.
    pub(crate) fn has(&self, mutant: Mutant) -> bool {
        #[cfg(feature = "simulation")]
        return self.db.trouble.is(mutant);
        #[cfg(not(feature = "simulation"))]
        {
            let _ = mutant;
            false
        }
    }

    /// Ends a transaction that has only read. Without it the connection would go back a little later.
    pub(crate) async fn end(self) -> Result<()> {
        match self.inner {
            Inner::Sqlite(inner) => inner.rollback().await,
            #[cfg(feature = "postgres")]
            Inner::Postgres(inner) => inner.rollback().await,
            Inner::Local(inner) => return inner.end("rollback"),
        }
        .map_err(|error| translate(error, "rollback"))
    }
}

fn bind_sqlite(values: Vec<Value>) -> Result<sqlx::sqlite::SqliteArguments> {
    use sqlx::Arguments;
    let mut bound = sqlx::sqlite::SqliteArguments::default();
    for value in values {
        match value {
            Value::Text(text) => bound.add(text),
            Value::Int(int) => bound.add(int),
            Value::Bool(bool) => bound.add(bool),
            Value::Bytes(bytes) => bound.add(bytes),
        }
        .map_err(|error| Error::internal(format!("cannot bind: {error}")))?;
    }
    Ok(bound)
}

#[cfg(feature = "postgres")]
fn bind_postgres(values: Vec<Value>) -> Result<sqlx::postgres::PgArguments> {
    use sqlx::Arguments;
    let mut bound = sqlx::postgres::PgArguments::default();
    for value in values {
        match value {
            Value::Text(text) => bound.add(text),
            Value::Int(int) => bound.add(int),
            Value::Bool(bool) => bound.add(bool),
            Value::Bytes(bytes) => bound.add(bytes),
        }
        .map_err(|error| Error::internal(format!("cannot bind: {error}")))?;
    }
    Ok(bound)
}

/// How many arguments a statement takes: its highest `$n`. SQLite would take a missing one for NULL.
pub(crate) fn placeholders(sql: &str) -> usize {
    let numbers = sql.split('$').skip(1).filter_map(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        rest[..digits].parse().ok()
    });
    numbers.max().unwrap_or_default()
}

/// What an engine makes of a statement, for the test that compares both.
#[cfg(test)]
#[derive(Debug, PartialEq)]
pub(crate) struct Prepared {
    pub(crate) parameters: usize,
    pub(crate) columns: Vec<String>,
}

#[cfg(test)]
impl Tx {
    pub(crate) async fn prepare(&mut self, sql: String) -> Result<Prepared, sqlx::Error> {
        use sqlx::{AssertSqlSafe, Column, Executor, Statement};
        let parameters = |parameters: Option<usize>| parameters.unwrap_or_default();
        let sql = AssertSqlSafe(sql).into_sql_str();
        match &mut self.inner {
            Inner::Sqlite(inner) => {
                let statement = inner.prepare(sql).await?;
                let count = statement
                    .parameters()
                    .map(|either| either.either(<[_]>::len, |count| count));
                let columns = statement
                    .columns()
                    .iter()
                    .map(|column| column.name().to_owned())
                    .collect();
                Ok(Prepared {
                    parameters: parameters(count),
                    columns,
                })
            }
            #[cfg(feature = "postgres")]
            Inner::Postgres(inner) => {
                let statement = inner.prepare(sql).await?;
                let count = statement
                    .parameters()
                    .map(|either: sqlx::Either<&[_], usize>| either.either(<[_]>::len, |n| n));
                let columns = statement
                    .columns()
                    .iter()
                    .map(|column| column.name().to_owned())
                    .collect();
                Ok(Prepared {
                    parameters: parameters(count),
                    columns,
                })
            }
            Inner::Local(_) => Err(sqlx::Error::WorkerCrashed),
        }
    }
}
