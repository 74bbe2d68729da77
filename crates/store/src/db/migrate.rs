//! The schema's history: one numbered list. A migration has one text for both engines, or one for each where they
//! differ.

use domain::{Error, Result};
use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

#[derive(Clone, Copy)]
pub(super) enum Engine {
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
}

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
];

pub(super) fn migrator(engine: Engine) -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(number, name, sqlite, postgres)| {
        let text: &'static str = match engine {
            Engine::Sqlite => sqlite,
            #[cfg(feature = "postgres")]
            Engine::Postgres => postgres,
        };
        #[cfg(not(feature = "postgres"))]
        let _ = postgres;
        Migration::new(
            *number,
            (*name).into(),
            MigrationType::Simple,
            text.into_sql_str(),
            false,
        )
    });
    Migrator::with_migrations(migrations.collect())
}

/// Brings a failure to migrate into words.
pub(super) fn outcome(result: Result<(), MigrateError>) -> Result<()> {
    let error = match result {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    Err(match error {
        MigrateError::VersionMissing(number) => Error::refused(format!(
            "The database has been used by a newer Hob (its schema has step {number}); start that version or a later one"
        )),
        MigrateError::VersionMismatch(number) => Error::refused(format!(
            "Step {number} of the database's schema is not the one that this Hob knows; was it made by another build?"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            super::errors::translate(error, "migration")
        }
        other => Error::internal(format!("the database's schema cannot be brought up to date: {other}")),
    })
}

/// The schema of SQLite as it is today, in one go.
#[cfg(feature = "simulation")]
pub(super) fn sqlite_steps() -> impl Iterator<Item = &'static str> {
    MIGRATIONS.iter().map(|(_, _, sqlite, _)| *sqlite)
}
