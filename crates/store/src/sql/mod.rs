//! Every statement of the product.
//!
//! One text for both engines, always a `&'static str`, each in a registry that a test prepares on both engines and
//! compares (parameters, columns). `$1` means the first argument on both; SQLite takes a missing argument for NULL, so
//! the number of arguments is asserted when a statement runs.
//!
//! Statements that run often say `limit cast($n as bigint)`: SQLite looks at the value of a bare `limit $n` when it
//! plans, and then compiles the statement anew at each use.
//!
//! Statements of tenants begin with `$1` the caller's account and `$2` whether it is an administrator. Where a single
//! row is asked for, `role` says what the caller may do with it, and null that it is another's. Lists take `$3` a project ('' for all), `$4` a kind or parent ('' for all), and end in an ordering made
//! of fragments that are `'static` as well, see [`crate::list`].

mod audit;
mod deployment;
mod platform;
mod secret;
mod service;
mod sets;
mod tenant;

/// Declares statements and lists them for the test.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $sql:expr;)+) => {
        $($(#[$doc])* pub(crate) const $name: &str = $sql;)+

        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),+];
    };
}

/// What the caller may do in the project in column `$project`, as `role` (null for nothing), and that project.
macro_rules! role {
    ($project:literal) => {
        concat!(
            "case when $2 then 'owner' else (select m.role from member m where m.account = $1 and m.project = ",
            $project,
            ") end as role, ",
            $project,
            " as seen_in"
        )
    };
}

/// Restricts a list to projects of the caller.
macro_rules! of_member {
    ($project:literal) => {
        concat!(
            $project,
            " in (select m.project from member m where m.account = $1 and not $2) and ($3 = '' or ",
            $project,
            " = $3)"
        )
    };
}

/// The same arguments, for an administrator: no restriction.
macro_rules! of_admin {
    ($project:literal) => {
        concat!(
            "cast($1 as text) is not null and $2 and ($3 = '' or ",
            $project,
            " = $3)"
        )
    };
}

/// As many placeholders as [`CHUNK`]. A shorter list repeats its last value.
macro_rules! chunk {
    () => {
        "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, \
         $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38, $39, $40, $41, $42, $43, $44, $45, \
         $46, $47, $48, $49, $50, $51, $52, $53, $54, $55, $56, $57, $58, $59, $60, $61, $62, $63, $64)"
    };
}

/// A batch of one, which most are: SQLite takes longer to bind sixty-four ids than to find one row.
macro_rules! alone {
    () => {
        "($1)"
    };
}

use {alone, chunk, of_admin, of_member, role, statements};

/// Ids that one batch statement takes.
pub(crate) const CHUNK: usize = 64;

/// The channel of [`NOTIFY`].
#[cfg(feature = "postgres")]
pub(crate) const CHANNEL: &str = "hob";

pub(crate) use audit::*;
pub(crate) use deployment::*;
pub(crate) use platform::*;
pub(crate) use secret::*;
pub(crate) use service::*;
pub(crate) use sets::*;
pub(crate) use tenant::*;

/// All portable statements, with their names.
#[cfg(test)]
pub(crate) fn all() -> Vec<(&'static str, &'static str)> {
    [
        audit::ALL,
        deployment::ALL,
        platform::ALL,
        secret::ALL,
        service::ALL,
        &sets::all(),
        tenant::ALL,
    ]
    .concat()
}

/// Statements that only SQLite has.
pub(crate) const CHECKPOINT: &str = "pragma wal_checkpoint(truncate)";
pub(crate) const PAGE_COUNT: &str = "pragma page_count";
pub(crate) const PAGE_SIZE: &str = "pragma page_size";
pub(crate) const QUICK_CHECK: &str = "pragma quick_check(1)";
pub(crate) const IS_OURS: &str = "select count(*) from sqlite_master where type = 'table' and name = 'journal'";
/// As sqlx's migrator makes it.
pub(crate) const MIGRATIONS_TABLE: &str = "create table if not exists _sqlx_migrations (version bigint primary key, \
    description text not null, installed_on timestamp not null default current_timestamp, success boolean not null, \
    checksum blob not null, execution_time bigint not null)";
pub(crate) const MIGRATIONS_APPLIED: &str = "select version, checksum from _sqlx_migrations order by version";
pub(crate) const MIGRATIONS_ADD: &str = "insert into _sqlx_migrations (version, description, success, checksum, \
    execution_time) values ($1, $2, true, $3, -1)";

/// Statements that only PostgreSQL has.
#[cfg(feature = "postgres")]
pub(crate) const WRITER_LOCK: &str = "select pg_advisory_xact_lock($1)";
#[cfg(feature = "postgres")]
pub(crate) const NOTIFY: &str = "select pg_notify('hob', $1)";
#[cfg(feature = "postgres")]
pub(crate) const POSTGRES_IS_OURS: &str = "select to_regclass('journal') is not null";

/// Savepoints are spelled alike, but not every engine prepares them.
pub(crate) const SAVEPOINT: &str = "savepoint step";
pub(crate) const SAVEPOINT_KEEP: &str = "release savepoint step";
pub(crate) const SAVEPOINT_UNDO: &str = "rollback to savepoint step";
