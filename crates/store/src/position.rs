//! Where in a list a moment is: what turns a page number into a span of time, so that a deep page costs what the first
//! one does (B9).
//!
//! # Expected flow
//! Whatever adds a row to a list, or takes it away, calls [`Tx::place`] in the same transaction. It counts the row in
//! one bucket of each of three widths: about 4 seconds, 36 minutes and 13 days. [`window`] walks down from the widest to
//! the narrowest buckets, adding up what lies before the page, and ends with a span of time that holds the page.
//!
//! # Guarantees
//! A walk reads at most 512 buckets per level and project below the widest, whatever the length of the list. The
//! span holds the page and at most the rest of two of the narrowest buckets. `skip` is exact: it is the sum of counters
//! that belong to the snapshot in which the page is read.
//!
//! # Assumptions
//! The list is ordered by time first, and the time of a row never changes.

use domain::Result;

use crate::db::{Row, Tx, args};
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

/// One of the narrowest buckets, and how many rows come before it.
struct Found {
    bucket: i64,
    before: i64,
}

impl Tx {
    /// Adds `n` (1 or -1) rows of that time to a list of a project: to its length and to its positions.
    pub(crate) async fn place(&mut self, project: domain::ProjectId, kind: &str, at_us: i64, n: i64) -> Result<()> {
        self.count(project, kind, n).await?;
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
    let Some(last) = find(tx, rows, offset + limit - 1).await? else {
        return Ok(None);
    };
    let narrow = LEVELS[LEVELS.len() - 1];
    Ok(Some(Window {
        from_us: first.bucket.min(last.bucket) << narrow,
        before_us: (first.bucket.max(last.bucket) + 1) << narrow,
        skip: offset - first.before,
    }))
}

/// The bucket that holds the row at `position`, counted from the beginning of the list.
async fn find(tx: &mut Tx, rows: &Rows<'_>, position: i64) -> Result<Option<Found>> {
    let mut before = 0;
    let mut bucket = None;
    let mut parent = (i64::MIN, i64::MAX);
    for (depth, level) in LEVELS.into_iter().enumerate() {
        let statement = match (rows.who.admin, rows.project.is_empty()) {
            (true, true) => sql::POSITIONS_OF_ALL,
            (true, false) => sql::POSITIONS_OF_PROJECT,
            (false, _) => sql::POSITIONS_OF_MEMBER,
        };
        let (account, admin) = (rows.who.account, rows.who.admin);
        let values = args![
            account,
            admin,
            rows.project,
            rows.kind,
            i64::from(level),
            parent.0,
            parent.1
        ];
        let mut buckets = tx.all(statement, values).await?;
        if rows.direction == Direction::Descending {
            buckets.reverse();
        }
        let Some(found) = walk(&buckets, &mut before, position)? else {
            return Ok(None);
        };
        bucket = Some(found);
        if let Some(next) = LEVELS.get(depth + 1) {
            let finer = level - next;
            parent = (found << finer, ((found + 1) << finer) - 1);
        }
    }
    Ok(bucket.map(|bucket| Found { bucket, before }))
}

/// The bucket in which the sum passes `position`; the sum of those that come earlier is added to `before`.
fn walk(buckets: &[Row], before: &mut i64, position: i64) -> Result<Option<i64>> {
    for row in buckets {
        let n = row.int("n")?;
        if *before + n > position {
            return row.int("bucket").map(Some);
        }
        *before += n;
    }
    Ok(None)
}
