//! The text of a statement.

use std::borrow::Cow;

/// A text that no caller's value has got into: one of the registry, or one put together of such.
#[derive(Clone)]
pub(crate) struct Sql(Cow<'static, str>);

impl Sql {
    /// A text that was put together. Whoever calls this vouches that it holds texts of the registry alone.
    pub(crate) fn composed(text: String) -> Sql {
        Sql(text.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&'static str> for Sql {
    fn from(text: &'static str) -> Sql {
        Sql(text.into())
    }
}

#[cfg(feature = "postgres")]
impl sqlx::SqlSafeStr for Sql {
    fn into_sql_str(self) -> sqlx::SqlStr {
        match self.0 {
            Cow::Borrowed(text) => sqlx::SqlStr::from_static(text),
            Cow::Owned(text) => sqlx::AssertSqlSafe(text).into_sql_str(),
        }
    }
}
