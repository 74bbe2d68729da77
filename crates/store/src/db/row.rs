//! One row of an answer, read by column name.

use std::fmt::Display;
use std::str::FromStr;

use domain::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
#[cfg(feature = "postgres")]
use sqlx::Row as _;

/// A row of either engine. A column that cannot be read as asked for is damage, and an internal error.
pub(crate) enum Row {
    Sqlite(super::sqlite::SqliteRow),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::postgres::PgRow),
}

macro_rules! getter {
    ($name:ident, $type:ty) => {
        pub(crate) fn $name(&self, column: &str) -> Result<$type> {
            match self {
                Row::Sqlite(row) => row.get(column).map_err(|error| damaged(column, error)),
                #[cfg(feature = "postgres")]
                Row::Postgres(row) => row.try_get(column).map_err(|error| damaged(column, error)),
            }
        }
    };
}

impl Row {
    getter!(text, String);
    getter!(text_or_null, Option<String>);
    getter!(int, i64);
    getter!(int_or_null, Option<i64>);
    getter!(bool, bool);
    getter!(bytes, Vec<u8>);

    /// Anything with a text form: ids, stages.
    pub(crate) fn parse<T: FromStr<Err: Display>>(&self, column: &str) -> Result<T> {
        self.text(column)?.parse().map_err(|error| damaged(column, error))
    }

    pub(crate) fn parse_or_null<T: FromStr<Err: Display>>(&self, column: &str) -> Result<Option<T>> {
        let text = self.text_or_null(column)?;
        text.map(|text| text.parse().map_err(|error| damaged(column, error)))
            .transpose()
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T> {
        serde_json::from_str(&self.text(column)?).map_err(|error| damaged(column, error))
    }

    pub(crate) fn json_or_null<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>> {
        let text = self.text_or_null(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| damaged(column, error)))
            .transpose()
    }

    /// A count or a small number.
    pub(crate) fn number<T: TryFrom<i64, Error: Display>>(&self, column: &str) -> Result<T> {
        T::try_from(self.int(column)?).map_err(|error| damaged(column, error))
    }

    pub(crate) fn number_or_null<T: TryFrom<i64, Error: Display>>(&self, column: &str) -> Result<Option<T>> {
        let value = self.int_or_null(column)?;
        value
            .map(|value| T::try_from(value).map_err(|error| damaged(column, error)))
            .transpose()
    }
}

fn damaged(column: &str, error: impl Display) -> Error {
    Error::internal(format!("column `{column}` does not read as expected: {error}"))
}

/// The stored form of a value. Fails only on a map whose keys are no strings, which no stored type has.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::internal(format!("cannot be written as JSON: {error}")))
}
