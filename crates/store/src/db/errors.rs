//! What a database's error means for a caller.

use domain::{Error, error::Kind};
use rusqlite::ffi as sqlite;

const BUSY: &str = "The database is busy; try again";
const FULL: &str = "The disk of the database is full; free some space and try again";
#[cfg(feature = "postgres")]
const AWAY: &str = "The database cannot be reached; try again";

/// Nothing was done, and trying again may help. `why` is for the log.
pub(super) fn busy(why: &str) -> Error {
    Error::unavailable(BUSY, why)
}

/// Full disk, busy and unreachable are [`Kind::Unavailable`] with a text that says what to do; a broken uniqueness rule
/// is [`Kind::Conflict`]; everything else is [`Kind::Internal`]. Bound values never show.
pub(super) fn of_sqlite(error: &rusqlite::Error, statement: &str) -> Error {
    let kind = match error.sqlite_error().map(|error| error.extended_code) {
        Some(sqlite::SQLITE_CONSTRAINT_UNIQUE | sqlite::SQLITE_CONSTRAINT_PRIMARYKEY) => conflict(),
        Some(code) => of_code(code),
        None => Kind::Internal,
    };
    Error::new(kind, context(error, statement))
}

/// The same for PostgreSQL.
#[cfg(feature = "postgres")]
pub(super) fn of_postgres(error: sqlx::Error, statement: &str) -> Error {
    let kind = match &error {
        sqlx::Error::Database(database) if database.is_unique_violation() => conflict(),
        sqlx::Error::Database(database) => of_sqlstate(&database.code().unwrap_or_default()),
        sqlx::Error::PoolTimedOut => Kind::Unavailable(BUSY.to_owned()),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolClosed => Kind::Unavailable(AWAY.to_owned()),
        _ => Kind::Internal,
    };
    Error::new(kind, context(&error, statement))
}

fn conflict() -> Kind {
    Kind::Conflict("Somebody else made the same thing first".to_owned())
}

fn context(error: &dyn std::fmt::Display, statement: &str) -> String {
    format!("{error} (in `{}`)", abridged(statement))
}

fn of_code(code: i32) -> Kind {
    /// Extended result codes hold the primary one in their low byte.
    const PRIMARY: i32 = 0xff;
    let unavailable = |text: &str| Kind::Unavailable(text.to_owned());
    match code & PRIMARY {
        sqlite::SQLITE_BUSY | sqlite::SQLITE_LOCKED => unavailable(BUSY),
        sqlite::SQLITE_FULL => unavailable(FULL),
        sqlite::SQLITE_IOERR => {
            unavailable("The disk of the database does not answer properly; look at the system's log")
        }
        sqlite::SQLITE_READONLY => {
            unavailable("The database is read-only; look at the permissions of its file and disk")
        }
        sqlite::SQLITE_CANTOPEN => {
            unavailable("The database cannot be opened; look at the permissions of its directory")
        }
        sqlite::SQLITE_CORRUPT | sqlite::SQLITE_NOTADB => {
            unavailable("The database is damaged; restore it from a backup")
        }
        _ => Kind::Internal,
    }
}

#[cfg(feature = "postgres")]
fn of_sqlstate(code: &str) -> Kind {
    let unavailable = |text: &str| Kind::Unavailable(text.to_owned());
    match code {
        "53100" => unavailable(FULL),
        "25006" => unavailable("The database is read-only; is it a standby?"),
        // Serialization failure, deadlock, lock not available, statement timeout.
        "40001" | "40P01" | "55P03" | "57014" => unavailable(BUSY),
        _ if code.starts_with("53") => unavailable(BUSY),
        _ if code.starts_with("57P") || code.starts_with("08") => unavailable(AWAY),
        _ => Kind::Internal,
    }
}

/// The start of a statement, for the log.
fn abridged(statement: &str) -> String {
    const SHOWN: usize = 80;
    let one_line = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    match one_line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &one_line[..end]),
        None => one_line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_busy_database_say_what_to_do() {
        for (code, word) in [
            (13, "full"),
            (5, "busy"),
            (517, "busy"),
            (6, "busy"),
            (778, "disk"),
            (11, "damaged"),
        ] {
            assert!(
                matches!(of_code(code), Kind::Unavailable(text) if text.contains(word)),
                "{code}"
            );
        }
        assert_eq!(of_code(1), Kind::Internal);
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_full_or_busy_postgres_says_what_to_do() {
        for (code, word) in [
            ("53100", "full"),
            ("40P01", "busy"),
            ("57P01", "reached"),
            ("53300", "busy"),
        ] {
            assert!(
                matches!(of_sqlstate(code), Kind::Unavailable(text) if text.contains(word)),
                "{code}"
            );
        }
        assert_eq!(of_sqlstate("42601"), Kind::Internal);
    }
}
