//! Opening a database: never a wrong one, never a damaged one, never an empty one in place of one that was lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::{Error, Result};
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::watch;

use super::errors::translate;
use super::local::Local;
use super::migrate::{Engine, migrator, outcome};
use super::{Db, Pool};
use crate::{Clock, sql};

/// Connections that only read, beside SQLite's one writer.
const SQLITE_READERS: usize = 4;
/// Longest wait for another process that writes to the same SQLite file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// Statements kept prepared by each connection; the registry has fewer.
const STATEMENT_CACHE: usize = 512;
/// A file up to this size is checked wholly at start; a larger one only for its length.
const CHECKED_BYTES_MAX: u64 = 32 << 20;
#[cfg(feature = "postgres")]
const POSTGRES_CONNECTIONS: u32 = 8;

impl Db {
    /// Opens, checks and migrates. `create` allows to start with an empty database.
    pub(crate) async fn open(url: &str, create: bool, clock: Clock) -> Result<Arc<Db>> {
        let pool = match url.split_once(':') {
            Some(("sqlite", ":memory:")) => memory().await?,
            #[cfg(feature = "simulation")]
            Some(("sqlite", ":local:")) => Pool::Local(Local::in_memory()?),
            Some(("sqlite", path)) => file(Path::new(path.strip_prefix("//").unwrap_or(path)), create).await?,
            #[cfg(feature = "postgres")]
            Some(("postgres" | "postgresql", _)) => postgres(url, create).await?,
            _ => {
                return Err(Error::refused(format!(
                    "`{}` is no database that Hob knows; use sqlite://PATH or postgres://…",
                    url.split_once(':').map_or(url, |(scheme, _)| scheme)
                )));
            }
        };
        let db = Arc::new(Db {
            pool,
            clock,
            wake: watch::channel(0).0,
            #[cfg(feature = "simulation")]
            trouble: crate::Trouble::default(),
        });
        let mut tx = db.read().await?;
        let revision = tx.one(sql::META, super::args!["revision"]).await?.int("value")?;
        tx.end().await?;
        db.wake.send_replace(revision.unsigned_abs());
        #[cfg(feature = "postgres")]
        super::listen::spawn(&db);
        Ok(db)
    }
}

/// Private to the process and gone with it, for tests and the simulator. It has one connection, since each connection
/// in memory would be a database of its own; no timer ever closes it.
async fn memory() -> Result<Pool> {
    let options = SqliteConnectOptions::new()
        .in_memory(true)
        .filename(":memory:")
        .foreign_keys(true)
        .statement_cache_capacity(STATEMENT_CACHE);
    let pool = SqlitePoolOptions::new()
        .min_connections(1)
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        // A simulated clock runs ahead whenever everybody waits; the limit must not be in its reach.
        .acquire_timeout(Duration::from_secs(365 * 24 * 3600));
    let pool = pool
        .connect_with(options)
        .await
        .map_err(|error| translate(error, "open"))?;
    outcome(migrator(Engine::Sqlite).run(&pool).await)?;
    Ok(Pool::Sqlite {
        writer: pool,
        readers: None,
    })
}

async fn file(path: &Path, create: bool) -> Result<Pool> {
    let found = Found::look(path)?;
    if !create {
        found.refuse_loss(path)?;
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(STATEMENT_CACHE);
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        // A full or failing disk makes SQLite roll back by itself; the driver's rollback then fails and it believes the
        // transaction still open, for good. Such a connection is replaced.
        .before_acquire(|connection, _| Box::pin(std::future::ready(Ok(!connection.is_in_transaction()))))
        .acquire_timeout(ACQUIRE_TIMEOUT);
    let failed = |error| translate(error, "open").within(&format!("database {}", path.display()));
    let writer = pool
        .connect_with(options.create_if_missing(create))
        .await
        .map_err(failed)?;
    if found.bytes > 0 {
        check(&writer, path).await?;
        if !create {
            refuse_foreign(&writer, path).await?;
        }
    }
    outcome(migrator(Engine::Sqlite).run(&writer).await)?;
    let readers = Some(Local::readers(path.to_owned(), SQLITE_READERS, BUSY_TIMEOUT));
    Ok(Pool::Sqlite { writer, readers })
}

/// What lies at a database's path before SQLite touches it.
struct Found {
    bytes: u64,
    log_bytes: u64,
}

impl Found {
    fn look(path: &Path) -> Result<Found> {
        let size = |path: &Path| match std::fs::metadata(path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Error::unavailable(
                format!("The database {} cannot be looked at: {error}", path.display()),
                format!("stat {}: {error}", path.display()),
            )),
        };
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Ok(Found {
            bytes: size(path)?,
            log_bytes: size(&PathBuf::from(log))?,
        })
    }

    /// A file that is absent or empty would silently become a new, empty database.
    fn refuse_loss(&self, path: &Path) -> Result<()> {
        if self.bytes > 0 {
            return Ok(());
        }
        let path = path.display();
        let trace = if self.log_bytes > 0 {
            " (its write-ahead log is still there)"
        } else {
            ""
        };
        Err(Error::refused(format!(
            "The database {path} is missing or empty{trace}, but this installation has been used before. Restore the \
             file from a backup; to begin anew, remove the root key of the installation as well"
        )))
    }
}

/// Brings the write-ahead log home, then looks whether the file is whole.
async fn check(pool: &sqlx::SqlitePool, path: &Path) -> Result<()> {
    let damaged = |found: String| {
        let message = format!(
            "The database {} is damaged ({found}); restore it from a backup",
            path.display()
        );
        Error::unavailable(message.clone(), message)
    };
    let failed = |error| translate(error, "check").within(&format!("database {}", path.display()));
    // Another process that reads may keep a part of the log; the length is then judged without it.
    let (busy, _, _): (i64, i64, i64) = sqlx::query_as(sql::CHECKPOINT).fetch_one(pool).await.map_err(failed)?;
    let (pages,): (i64,) = sqlx::query_as(sql::PAGE_COUNT).fetch_one(pool).await.map_err(failed)?;
    let (page_bytes,): (i64,) = sqlx::query_as(sql::PAGE_SIZE).fetch_one(pool).await.map_err(failed)?;
    let wanted = pages.unsigned_abs() * page_bytes.unsigned_abs();
    let bytes = Found::look(path)?.bytes;
    if busy == 0 && bytes < wanted {
        return Err(damaged(format!("{bytes} of {wanted} bytes are left")));
    }
    if bytes <= CHECKED_BYTES_MAX {
        let (verdict,): (String,) = sqlx::query_as(sql::QUICK_CHECK).fetch_one(pool).await.map_err(failed)?;
        if verdict != "ok" {
            return Err(damaged(verdict));
        }
    }
    Ok(())
}

/// A valid SQLite file that never was ours, or lost all of its tables.
async fn refuse_foreign(pool: &sqlx::SqlitePool, path: &Path) -> Result<()> {
    let failed = |error| translate(error, "check").within(&format!("database {}", path.display()));
    let (tables,): (i64,) = sqlx::query_as(sql::IS_OURS).fetch_one(pool).await.map_err(failed)?;
    if tables > 0 {
        return Ok(());
    }
    Err(Error::refused(format!(
        "The database {} holds nothing of Hob's, but this installation has been used before. Restore the file from a \
         backup; to begin anew, remove the root key of the installation as well",
        path.display()
    )))
}

#[cfg(feature = "postgres")]
async fn postgres(url: &str, create: bool) -> Result<Pool> {
    use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
    // The driver's error would repeat the URL, and with it a password.
    let options: PgConnectOptions = url.parse().map_err(|_| {
        Error::refused("The database's URL cannot be read; it looks like postgres://USER:PASSWORD@HOST/DATABASE")
    })?;
    let options = options
        .application_name("hob")
        .options([
            ("statement_timeout", "30s"),
            ("idle_in_transaction_session_timeout", "60s"),
        ])
        .statement_cache_capacity(STATEMENT_CACHE);
    // A pool would try in vain until its timeout and then only say that it timed out.
    let first = sqlx::PgConnection::connect_with(&options)
        .await
        .map_err(|error| translate(error, "connect"))?;
    first.close().await.map_err(|error| translate(error, "connect"))?;
    let pool = PgPoolOptions::new()
        .max_connections(POSTGRES_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT);
    let pool = pool
        .connect_with(options)
        .await
        .map_err(|error| translate(error, "connect"))?;
    if !create {
        let ours = sqlx::query_as(sql::POSTGRES_IS_OURS).fetch_one(&pool).await;
        let (ours,): (bool,) = ours.map_err(|error| translate(error, sql::POSTGRES_IS_OURS))?;
        if !ours {
            return Err(Error::refused(
                "The PostgreSQL database holds nothing of Hob's, but this installation has been used before. Is it the \
                 right database? To begin anew, remove the root key of the installation",
            ));
        }
    }
    outcome(migrator(Engine::Postgres).run(&pool).await)?;
    Ok(Pool::Postgres(pool))
}

/// Brings a PostgreSQL database up to date and leaves no connection behind, so that it can be a template.
#[cfg(all(test, feature = "postgres"))]
pub(crate) async fn migrate_postgres(url: &str) -> Result<(), String> {
    let pool = sqlx::PgPool::connect(url).await.map_err(|error| error.to_string())?;
    migrator(Engine::Postgres)
        .run(&pool)
        .await
        .map_err(|error| error.to_string())?;
    pool.close().await;
    Ok(())
}
