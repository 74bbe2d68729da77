//! Where in a list a moment is: what turns a page number into a span of time, so that a deep page costs what the first
//! one does (B9).
//!
//! # Expected flow
//! Whatever adds a row to a list, or takes it away, calls [`Tx::place`] in the same transaction. It counts the row in
//! one bucket of each of three widths: about 4 seconds, 36 minutes and 13 days. [`window`] walks down from the widest to
//! the narrowest buckets, adding up what lies before the page, and ends with a span of time that holds the page.
//!
//! # Guarantees
//! A walk reads at most 512 buckets per level and project below the widest, whatever the length of the list, and gets
//! one row of each level. The
//! span holds the page and at most the rest of two of the narrowest buckets. `skip` is exact: it is the sum of counters
//! that belong to the snapshot in which the page is read.
//!
//! # Assumptions
//! The list is ordered by time first, and the time of a row never changes.

use domain::Result;

use crate::db::{Tx, args};
use crate::input::{Direction, Principal};
use crate::sql;

/// A bucket of a level is `2^level` microseconds wide.
const LEVELS: [u32; 3] = [40, 31, 22];
/// Shorter lists are counted off: that is quicker than a walk.
pub(crate) const WALKED_FROM: u64 = 500;

/// A span of time that holds a page, and how many rows of it come before the page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Window {
    pub(crate) from_us: i64,
    pub(crate) before_us: i64,
    pub(crate) skip: i64,
}

/// Whose rows are counted.
pub(crate) struct Rows<'a> {
    pub(crate) who: &'a Principal,
    /// Empty: all that the caller sees.
    pub(crate) project: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) direction: Direction,
}

/// A bucket, how many rows it holds, and how many come before it.
struct Found {
    bucket: i64,
    n: i64,
    before: i64,
}

impl Tx {
    /// Adds `n` (1 or -1) rows of that time to a list of a project: to its length and to its positions.
    pub(crate) async fn place(&mut self, project: domain::ProjectId, kind: &str, at_us: i64, n: i64) -> Result<()> {
        self.count(project, kind, n).await?;
        self.position(project, kind, at_us, n).await
    }

    /// Likewise, for what is counted elsewhere.
    pub(crate) async fn position(&mut self, project: domain::ProjectId, kind: &str, at_us: i64, n: i64) -> Result<()> {
        let [wide, middle, narrow] = LEVELS.map(|level| at_us >> level);
        self.run(sql::POSITION_ADD, args![project, kind, n, wide, middle, narrow])
            .await?;
        if n < 0 {
            self.run(sql::POSITION_CLEAR, args![project, kind, wide, middle, narrow])
                .await?;
        }
        Ok(())
    }
}

/// The span of time that holds the rows from `offset` on, `limit` of them; `None` where the list ends before.
pub(crate) async fn window(tx: &mut Tx, rows: &Rows<'_>, offset: i64, limit: i64) -> Result<Option<Window>> {
    let Some(first) = find(tx, rows, offset).await? else {
        return Ok(None);
    };
    let end = offset + limit - 1;
    let last = match first.before + first.n > end {
        true => first.bucket,
        false => match find(tx, rows, end).await? {
            Some(last) => last.bucket,
            None => return Ok(None),
        },
    };
    let narrow = LEVELS[LEVELS.len() - 1];
    Ok(Some(Window {
        from_us: first.bucket.min(last) << narrow,
        before_us: (first.bucket.max(last) + 1) << narrow,
        skip: offset - first.before,
    }))
}

/// The bucket that holds the row at `position`, counted from the beginning of the list.
async fn find(tx: &mut Tx, rows: &Rows<'_>, position: i64) -> Result<Option<Found>> {
    let statement = match (rows.who.admin, rows.project.is_empty()) {
        (true, true) => sql::POSITION_OF_ALL,
        (true, false) => sql::POSITION_OF_PROJECT,
        (false, _) => sql::POSITION_OF_MEMBER,
    };
    let (account, admin) = (rows.who.account, rows.who.admin);
    let towards: i64 = match rows.direction {
        Direction::Ascending => 1,
        Direction::Descending => -1,
    };
    let mut found: Option<Found> = None;
    let mut width = 0;
    for level in LEVELS {
        let (from, to, before) = match &found {
            None => (0, i64::MAX, 0),
            Some(wider) => {
                let finer = width - level;
                (wider.bucket << finer, ((wider.bucket + 1) << finer) - 1, wider.before)
            }
        };
        let left = position - before;
        let values = args![
            account,
            admin,
            rows.project,
            rows.kind,
            i64::from(level),
            from,
            to,
            towards,
            left
        ];
        let Some(row) = tx.first(statement, values).await? else {
            return Ok(None);
        };
        found = Some(Found {
            bucket: row.int("bucket")?,
            n: row.int("n")?,
            before: before + row.int("before")?,
        });
        width = level;
    }
    Ok(found)
}
