//! Transactions: the only way to the data.

use std::sync::Arc;

use domain::{Error, Result};

#[cfg(feature = "postgres")]
use super::errors::of_postgres;
use super::sqlite::SqliteTx;
use super::{Db, Pool, Row, Sql, Value};
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
    Sqlite(SqliteTx),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
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

/// Who hears of a commit.
struct Told {
    db: Arc<Db>,
    /// The new revision, if something changed that others wait for.
    revision: Option<u64>,
    act: Option<Arc<Act>>,
}

impl Told {
    fn of(self, outcome: &Result<()>) {
        if let (Some(act), Ok(())) = (self.act, outcome) {
            act.set_recorded();
        }
        let Some(revision) = self.revision else { return };
        match outcome {
            Ok(()) => {
                let advance = |newest: &mut u64| std::mem::replace(newest, revision.max(*newest)) < revision;
                self.db.wake.send_if_modified(advance);
            }
            // It may have become durable all the same (the answer was lost): whoever waits looks for itself.
            Err(_) => self.db.wake.send_modify(|_| ()),
        }
    }
}

/// What to go back to, see [`Tx::savepoint`].
pub(crate) struct Savepoint(Serials);

macro_rules! each_engine {
    ($tx:expr, $sql:expr, $values:expr, |$sqlite:ident, $text:ident, $bound:ident| $here:expr, |$query:ident, $conn:ident| $there:expr) => {{
        let (sql, values): (Sql, Vec<Value>) = ($sql.into(), $values);
        debug_assert_eq!(
            placeholders(sql.as_str()),
            values.len(),
            "arguments of {}",
            sql.as_str()
        );
        match &mut $tx.inner {
            Inner::Sqlite($sqlite) => {
                let ($text, $bound) = (sql.as_str(), &values);
                $here
            }
            #[cfg(feature = "postgres")]
            Inner::Postgres(inner) => {
                let $query = sqlx::query_with(sql.clone(), bind_postgres(values)?);
                let $conn = &mut **inner;
                $there.map_err(|error| of_postgres(error, sql.as_str()))
            }
        }
    }};
}

impl Tx {
    pub(super) async fn write(db: &Arc<Db>) -> Result<Tx> {
        #[cfg(feature = "simulation")]
        db.trouble.at_begin()?;
        let inner = match &db.pool {
            Pool::Sqlite { writer, .. } => Inner::Sqlite(writer.begin("begin immediate").await?),
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => Inner::Postgres(pool.begin().await.map_err(|error| of_postgres(error, "begin"))?),
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
            Pool::Sqlite { writer, readers } => Inner::Sqlite(readers.as_ref().unwrap_or(writer).begin("begin").await?),
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => {
                const BEGIN: &str = "begin isolation level repeatable read read only";
                Inner::Postgres(
                    pool.begin_with(BEGIN)
                        .await
                        .map_err(|error| of_postgres(error, BEGIN))?,
                )
            }
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
    pub(crate) async fn run(&mut self, sql: impl Into<Sql>, args: Vec<Value>) -> Result<u64> {
        each_engine!(
            self,
            sql,
            args,
            |sqlite, text, values| sqlite.run(text, values),
            |query, conn| query.execute(conn).await.map(|done| done.rows_affected())
        )
    }

    pub(crate) async fn all(&mut self, sql: impl Into<Sql>, args: Vec<Value>) -> Result<Vec<Row>> {
        each_engine!(
            self,
            sql,
            args,
            |sqlite, text, values| sqlite.all(text, values, usize::MAX),
            |query, conn| query
                .fetch_all(conn)
                .await
                .map(|rows| rows.into_iter().map(Row::Postgres).collect())
        )
    }

    pub(crate) async fn first(&mut self, sql: impl Into<Sql>, args: Vec<Value>) -> Result<Option<Row>> {
        each_engine!(
            self,
            sql,
            args,
            |sqlite, text, values| Ok(sqlite.all(text, values, 1)?.pop()),
            |query, conn| query.fetch_optional(conn).await.map(|row| row.map(Row::Postgres))
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

    /// Makes everything durable, then wakes whoever waits for changes. On SQLite both happen once this has begun, even
    /// if the caller goes away meanwhile.
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
        let told = Told {
            db: self.db.clone(),
            revision: self.serials.revision.map(i64::unsigned_abs),
            act,
        };
        #[cfg(feature = "simulation")]
        return self.commit_in_trouble(told).await;
        #[cfg(not(feature = "simulation"))]
        self.make_durable(told).await
    }

    async fn make_durable(self, told: Told) -> Result<()> {
        match self.inner {
            Inner::Sqlite(inner) => inner.commit(move |outcome| told.of(outcome)).await,
            #[cfg(feature = "postgres")]
            Inner::Postgres(inner) => {
                let outcome = commit_postgres(inner, told.revision).await;
                told.of(&outcome);
                outcome
            }
        }
    }

    /// With what a simulation has arranged for.
    #[cfg(feature = "simulation")]
    async fn commit_in_trouble(self, told: Told) -> Result<()> {
        use crate::trouble::{Fault, trouble};
        let (arranged, watched) = (self.db.trouble.clone(), told.revision.is_some());
        arranged.commits(false);
        let outcome = match arranged.at_commit() {
            Some(Fault::CommitFails) => {
                self.end().await?;
                let outcome = Err(trouble("commit"));
                told.of(&outcome);
                outcome
            }
            Some(Fault::AnswerLost) => {
                self.make_durable(told).await?;
                Err(trouble("the answer to a commit"))
            }
            Some(Fault::Busy) | None => self.make_durable(told).await,
        };
        if watched {
            arranged.commits(true);
        }
        outcome
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
            Inner::Sqlite(inner) => inner.roll_back(),
            #[cfg(feature = "postgres")]
            Inner::Postgres(inner) => inner.rollback().await.map_err(|error| of_postgres(error, "rollback")),
        }
    }
}

#[cfg(feature = "postgres")]
async fn commit_postgres(mut inner: sqlx::Transaction<'static, sqlx::Postgres>, revision: Option<u64>) -> Result<()> {
    if let Some(revision) = revision {
        let notify = sqlx::query(sql::NOTIFY).bind(revision.to_string());
        let notified = notify.execute(&mut *inner).await;
        notified.map_err(|error| of_postgres(error, sql::NOTIFY))?;
    }
    inner.commit().await.map_err(|error| of_postgres(error, "commit"))
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
    pub(crate) async fn prepare(&mut self, sql: Sql) -> Result<Prepared> {
        match &mut self.inner {
            Inner::Sqlite(inner) => {
                let (parameters, columns) = inner.prepare(sql.as_str())?;
                Ok(Prepared { parameters, columns })
            }
            #[cfg(feature = "postgres")]
            Inner::Postgres(inner) => {
                use sqlx::{Column, Either, Executor, SqlSafeStr, Statement};
                let prepared = inner.prepare(sql.clone().into_sql_str()).await;
                let statement = prepared.map_err(|error| of_postgres(error, sql.as_str()))?;
                let count = |either: Either<&[_], usize>| either.either(<[_]>::len, |n| n);
                let names = statement.columns().iter().map(|column| column.name().to_owned());
                Ok(Prepared {
                    parameters: statement.parameters().map(count).unwrap_or_default(),
                    columns: names.collect(),
                })
            }
        }
    }
}
