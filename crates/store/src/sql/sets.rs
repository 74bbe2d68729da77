//! Configs and secrets where they are alike: named sets of keys that services are told.

use super::{of_admin, of_member, role};

macro_rules! set {
    () => {
        "x.id, x.project, x.name, x.is_default, x.created_at_us, x.account"
    };
}

/// The statements of one kind.
pub(crate) struct Sets {
    pub(crate) row: &'static str,
    pub(crate) by_name: &'static str,
    pub(crate) of_member: &'static str,
    pub(crate) of_admin: &'static str,
    pub(crate) name_taken: &'static str,
    pub(crate) insert: &'static str,
    pub(crate) rename: &'static str,
    pub(crate) delete: &'static str,
    /// Services that have it.
    pub(crate) attached: &'static str,
}

/// Statements over `$table`, with further columns at its insertion.
macro_rules! sets {
    ($name:ident, $table:literal, $columns:literal, $values:literal) => {
        pub(crate) const $name: Sets = Sets {
            row: concat!(
                "select ",
                set!(),
                ", ",
                role!("x.project"),
                " from ",
                $table,
                " x where x.id = $3"
            ),
            by_name: concat!(
                "select ",
                set!(),
                " from ",
                $table,
                " x where x.name = $4 and ($3 = '' or x.project = $3)
                    and ($2 or exists (select 1 from member m where m.account = $1 and m.project = x.project))
                order by case when x.account = $1 then 0 else 1 end, x.created_at_us limit 1"
            ),
            of_member: concat!(
                "select ",
                set!(),
                " from ",
                $table,
                " x where ",
                of_member!("x.project"),
                " and $4 = ''"
            ),
            of_admin: concat!(
                "select ",
                set!(),
                " from ",
                $table,
                " x where ",
                of_admin!("x.project"),
                " and $4 = ''"
            ),
            name_taken: concat!(
                "select 1 as taken from ",
                $table,
                " where account = $1 and name = $2 and id <> $3"
            ),
            insert: concat!(
                "insert into ",
                $table,
                " (id, project, account, name, is_default, created_at_us",
                $columns,
                ")
                values ($1, $2, $3, $4, $5, $6",
                $values,
                ")"
            ),
            rename: concat!("update ", $table, " set name = $2 where id = $1"),
            delete: concat!("delete from ", $table, " where id = $1"),
            attached: concat!("select id from service where ", $table, " = $1"),
        };
    };
}

sets!(CONFIG_SETS, "config", "", "");
sets!(SECRET_SETS, "secret", ", version_counter", ", 0");

/// All of them with their names, for the test that prepares everything.
#[cfg(test)]
pub(super) fn all() -> Vec<(&'static str, &'static str)> {
    macro_rules! named {
        ($sets:ident, $name:literal) => {
            vec![
                (concat!($name, "_ROW"), $sets.row),
                (concat!($name, "_BY_NAME"), $sets.by_name),
                (concat!($name, "S_OF_MEMBER"), $sets.of_member),
                (concat!($name, "S_OF_ADMIN"), $sets.of_admin),
                (concat!($name, "_NAME_TAKEN"), $sets.name_taken),
                (concat!($name, "_INSERT"), $sets.insert),
                (concat!($name, "_RENAME"), $sets.rename),
                (concat!($name, "_DELETE"), $sets.delete),
                (concat!($name, "_ATTACHED"), $sets.attached),
            ]
        };
    }
    [named!(CONFIG_SETS, "CONFIG"), named!(SECRET_SETS, "SECRET")].concat()
}
