//! The schema's history: one numbered list. A migration has one text for both engines, or one for each where they
//! differ.
//!
//! Both engines keep what was applied in the table that sqlx's migrator has, which serves PostgreSQL.

use domain::{Error, Result};
use rusqlite::Connection;
use sha2::{Digest, Sha384};

use super::errors::of_sqlite;
use crate::sql;

/// Number, name, text for SQLite, text for PostgreSQL.
const MIGRATIONS: &[(i64, &str, &str, &str)] = &[
    (
        1,
        "foundation",
        include_str!("../../migrations/0001_foundation.sql"),
        include_str!("../../migrations/0001_foundation.sql"),
    ),
    (
        2,
        "append only",
        include_str!("../../migrations/0002_append_only.sqlite.sql"),
        include_str!("../../migrations/0002_append_only.postgres.sql"),
    ),
    (
        3,
        "rollout steps",
        include_str!("../../migrations/0003_rollout_steps.sql"),
        include_str!("../../migrations/0003_rollout_steps.sql"),
    ),
    (
        4,
        "preview host",
        include_str!("../../migrations/0004_preview_host.sql"),
        include_str!("../../migrations/0004_preview_host.sql"),
    ),
    (
        5,
        "members and audit",
        include_str!("../../migrations/0005_members_and_audit.sql"),
        include_str!("../../migrations/0005_members_and_audit.sql"),
    ),
    (
        6,
        "audit append only",
        include_str!("../../migrations/0006_audit_append_only.sqlite.sql"),
        include_str!("../../migrations/0006_audit_append_only.postgres.sql"),
    ),
    (
        7,
        "position",
        include_str!("../../migrations/0007_position.sql"),
        include_str!("../../migrations/0007_position.sql"),
    ),
    (
        8,
        "sessions",
        include_str!("../../migrations/0008_sessions.sql"),
        include_str!("../../migrations/0008_sessions.sql"),
    ),
    (
        9,
        "project environment",
        include_str!("../../migrations/0009_project_environment.sql"),
        include_str!("../../migrations/0009_project_environment.sql"),
    ),
    (
        10,
        "delivery",
        include_str!("../../migrations/0010_delivery.sql"),
        include_str!("../../migrations/0010_delivery.sql"),
    ),
    (
        11,
        "positions of all lists",
        include_str!("../../migrations/0011_positions_of_all.sql"),
        include_str!("../../migrations/0011_positions_of_all.sql"),
    ),
    (
        12,
        "observed",
        include_str!("../../migrations/0012_observed.sql"),
        include_str!("../../migrations/0012_observed.sql"),
    ),
];

/// Brings a SQLite database up to date, each step wholly or not at all.
pub(super) fn sqlite(connection: &mut Connection) -> Result<()> {
    let failed = |error| of_sqlite(&error, "migration");
    let applied = applied(connection).map_err(failed)?;
    let known = |number: i64| MIGRATIONS.iter().find(|(known, ..)| *known == number);
    for (number, digest) in &applied {
        let (_, _, text, _) = known(*number).ok_or_else(|| newer(*number))?;
        if digest[..] != Sha384::digest(text)[..] {
            return Err(foreign(*number));
        }
    }
    for (number, name, text, _) in MIGRATIONS {
        if !applied.iter().any(|(done, _)| done == number) {
            step(connection, *number, name, text).map_err(failed)?;
        }
    }
    Ok(())
}

/// Numbers of the steps that were applied, and the digests of their texts.
fn applied(connection: &Connection) -> rusqlite::Result<Vec<(i64, Vec<u8>)>> {
    connection.execute_batch(sql::MIGRATIONS_TABLE)?;
    let mut statement = connection.prepare(sql::MIGRATIONS_APPLIED)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn step(connection: &mut Connection, number: i64, name: &str, text: &str) -> rusqlite::Result<()> {
    let tx = connection.transaction()?;
    tx.execute_batch(text)?;
    tx.execute(sql::MIGRATIONS_ADD, (number, name, &Sha384::digest(text)[..]))?;
    tx.commit()
}

/// Brings a PostgreSQL database up to date.
#[cfg(feature = "postgres")]
pub(super) async fn postgres(pool: &sqlx::PgPool) -> Result<()> {
    use sqlx::SqlSafeStr;
    use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
    let migrations = MIGRATIONS.iter().map(|(number, name, _, text)| {
        let text = text.into_sql_str();
        Migration::new(*number, (*name).into(), MigrationType::Simple, text, false)
    });
    let migrator = Migrator::with_migrations(migrations.collect());
    migrator.run(pool).await.map_err(|error| match error {
        MigrateError::VersionMissing(number) => newer(number),
        MigrateError::VersionMismatch(number) => foreign(number),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            super::errors::of_postgres(error, "migration")
        }
        other => Error::internal(format!("the database's schema cannot be brought up to date: {other}")),
    })
}

fn newer(number: i64) -> Error {
    Error::refused(format!(
        "The database has been used by a newer Hob (its schema has step {number}); start that version or a later one"
    ))
}

fn foreign(number: i64) -> Error {
    Error::refused(format!(
        "Step {number} of the database's schema is not the one that this Hob knows; was it made by another build?"
    ))
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use sqlx::migrate::{Migration, MigrationType};

    use super::*;

    #[test]
    fn a_database_that_sqlx_has_brought_up_to_date_is_known() {
        for (number, name, text, _) in MIGRATIONS {
            let theirs = Migration::new(
                *number,
                (*name).into(),
                MigrationType::Simple,
                sqlx::SqlStr::from_static(text),
                false,
            );
            assert_eq!(theirs.checksum[..], Sha384::digest(text)[..], "{name}");
        }
    }
}
