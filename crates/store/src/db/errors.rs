//! What a database's error means for a caller.

use domain::{Error, error::Kind};

/// SQLite's primary result codes; the extended ones hold them in their low byte.
mod sqlite {
    pub(super) const BUSY: i64 = 5;
    pub(super) const LOCKED: i64 = 6;
    pub(super) const READONLY: i64 = 8;
    pub(super) const IOERR: i64 = 10;
    pub(super) const CORRUPT: i64 = 11;
    pub(super) const FULL: i64 = 13;
    pub(super) const CANTOPEN: i64 = 14;
    pub(super) const NOTADB: i64 = 26;
}

const BUSY: &str = "The database is busy; try again";
const FULL: &str = "The disk of the database is full; free some space and try again";
const AWAY: &str = "The database cannot be reached; try again";

/// Full disk, busy and unreachable are [`Kind::Unavailable`] with a text that says what to do; a broken uniqueness rule
/// is [`Kind::Conflict`]; everything else is [`Kind::Internal`]. Bound values never show.
pub(super) fn translate(error: sqlx::Error, statement: &str) -> Error {
    let context = format!("{error} (in `{}`)", abridged(statement));
    let kind = match &error {
        sqlx::Error::Database(database) if database.is_unique_violation() => {
            Kind::Conflict("Somebody else made the same thing first".to_owned())
        }
        sqlx::Error::Database(database) => of_code(&database.code().unwrap_or_default()),
        sqlx::Error::PoolTimedOut => Kind::Unavailable(BUSY.to_owned()),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            Kind::Unavailable(AWAY.to_owned())
        }
        _ => Kind::Internal,
    };
    Error::new(kind, context)
}

/// The same for SQLite on the caller's own thread.
pub(super) fn translate_local(error: &rusqlite::Error, statement: &str) -> Error {
    const UNIQUE: [i32; 2] = [
        rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE,
        rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY,
    ];
    let context = format!("{error} (in `{}`)", abridged(statement));
    let kind = match error.sqlite_error().map(|error| error.extended_code) {
        Some(code) if UNIQUE.contains(&code) => Kind::Conflict("Somebody else made the same thing first".to_owned()),
        Some(code) => of_code(&code.to_string()),
        None => Kind::Internal,
    };
    Error::new(kind, context)
}

/// SQLite's codes are decimal numbers, PostgreSQL's have five characters; none has both forms.
fn of_code(code: &str) -> Kind {
    if code.len() == 5 {
        return of_sqlstate(code);
    }
    let unavailable = |text: &str| Kind::Unavailable(text.to_owned());
    match code.parse::<i64>().unwrap_or_default() & 0xff {
        sqlite::BUSY | sqlite::LOCKED => unavailable(BUSY),
        sqlite::FULL => unavailable(FULL),
        sqlite::IOERR => unavailable("The disk of the database does not answer properly; look at the system's log"),
        sqlite::READONLY => unavailable("The database is read-only; look at the permissions of its file and disk"),
        sqlite::CANTOPEN => unavailable("The database cannot be opened; look at the permissions of its directory"),
        sqlite::CORRUPT | sqlite::NOTADB => unavailable("The database is damaged; restore it from a backup"),
        _ => Kind::Internal,
    }
}

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
            ("13", "full"),
            ("5", "busy"),
            ("517", "busy"),
            ("6", "busy"),
            ("778", "disk"),
            ("11", "damaged"),
        ] {
            assert!(
                matches!(of_code(code), Kind::Unavailable(text) if text.contains(word)),
                "{code}"
            );
        }
        for (code, word) in [
            ("53100", "full"),
            ("40P01", "busy"),
            ("57P01", "reached"),
            ("53300", "busy"),
        ] {
            assert!(
                matches!(of_code(code), Kind::Unavailable(text) if text.contains(word)),
                "{code}"
            );
        }
        assert_eq!(of_code("1"), Kind::Internal);
        assert_eq!(of_code("42601"), Kind::Internal);
    }
}
