//! Opening a database: never a wrong one, never a damaged one, never an empty one in place of one that was lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::{Error, Result};
use rusqlite::Connection;
use tokio::sync::watch;

use super::errors::of_sqlite;
use super::sqlite::{self, Access, Sqlite};
use super::{Db, Pool, migrate};
use crate::{Clock, sql};

/// A file up to this size is checked wholly at start; a larger one only for its length.
const CHECKED_BYTES_MAX: u64 = 32 << 20;

impl Db {
    /// Opens, checks and migrates. `create` allows to start with an empty database.
    pub(crate) async fn open(url: &str, create: bool, clock: Clock) -> Result<Arc<Db>> {
        let pool = match url.split_once(':') {
            Some(("sqlite", ":memory:")) => memory()?,
            Some(("sqlite", path)) => file(Path::new(path.strip_prefix("//").unwrap_or(path)), create)?,
            #[cfg(feature = "postgres")]
            Some(("postgres" | "postgresql", _)) => Pool::Postgres(super::postgres::open(url, create).await?),
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

/// Private to the process and gone with it, for tests and the simulator.
fn memory() -> Result<Pool> {
    let failed = |error| of_sqlite(&error, "open in memory");
    let mut connection = sqlite::connect_in_memory().map_err(failed)?;
    migrate::sqlite(&mut connection)?;
    Ok(Pool::Sqlite {
        writer: Sqlite::in_memory(connection).map_err(failed)?,
        readers: None,
    })
}

fn file(path: &Path, create: bool) -> Result<Pool> {
    let failed = |error| of_sqlite(&error, "open").within(&format!("database {}", path.display()));
    let found = Found::look(path)?;
    if !create {
        found.refuse_loss(path)?;
    }
    let access = if create { Access::Create } else { Access::Write };
    let mut connection = sqlite::connect(path, access).map_err(failed)?;
    if found.bytes > 0 {
        check(&connection, path)?;
        if !create {
            refuse_foreign(&connection, path)?;
        }
    }
    migrate::sqlite(&mut connection)?;
    Ok(Pool::Sqlite {
        writer: Sqlite::writer(connection, path).map_err(failed)?,
        readers: Some(Sqlite::readers(path)),
    })
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
fn check(connection: &Connection, path: &Path) -> Result<()> {
    let damaged = |found: String| {
        let message = format!(
            "The database {} is damaged ({found}); restore it from a backup",
            path.display()
        );
        Error::unavailable(message.clone(), message)
    };
    let failed = |error| of_sqlite(&error, "check").within(&format!("database {}", path.display()));
    let number = |sql| {
        connection
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .map_err(failed)
    };
    // Another process that reads may keep a part of the log; the length is then judged without it.
    let busy = number(sql::CHECKPOINT)?;
    let wanted = number(sql::PAGE_COUNT)?.unsigned_abs() * number(sql::PAGE_SIZE)?.unsigned_abs();
    let bytes = Found::look(path)?.bytes;
    if busy == 0 && bytes < wanted {
        return Err(damaged(format!("{bytes} of {wanted} bytes are left")));
    }
    if bytes <= CHECKED_BYTES_MAX {
        let verdict = connection.query_row(sql::QUICK_CHECK, [], |row| row.get::<_, String>(0));
        let verdict = verdict.map_err(failed)?;
        if verdict != "ok" {
            return Err(damaged(verdict));
        }
    }
    Ok(())
}

/// A valid SQLite file that never was ours, or lost all of its tables.
fn refuse_foreign(connection: &Connection, path: &Path) -> Result<()> {
    let tables = connection.query_row(sql::IS_OURS, [], |row| row.get::<_, i64>(0));
    if tables.map_err(|error| of_sqlite(&error, "check").within(&format!("database {}", path.display())))? > 0 {
        return Ok(());
    }
    Err(Error::refused(format!(
        "The database {} holds nothing of Hob's, but this installation has been used before. Restore the file from a \
         backup; to begin anew, remove the root key of the installation as well",
        path.display()
    )))
}
