//! What SQLite answers.

use std::sync::Arc;

use domain::Result;
use rusqlite::types::Value as Cell;

/// One row, with the names of its columns.
pub(crate) struct SqliteRow {
    pub(super) columns: Arc<[String]>,
    pub(super) cells: Vec<Cell>,
}

impl SqliteRow {
    pub(in crate::db) fn get<T: FromCell>(&self, column: &str) -> Result<T, String> {
        let place = self.columns.iter().position(|name| name == column);
        let cell = place
            .and_then(|place| self.cells.get(place))
            .ok_or("there is no such column")?;
        T::from_cell(cell).ok_or_else(|| format!("it holds {:?}", cell.data_type()))
    }
}

/// What a cell can be read as.
pub(in crate::db) trait FromCell: Sized {
    fn from_cell(cell: &Cell) -> Option<Self>;
}

impl FromCell for String {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl FromCell for i64 {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Integer(int) => Some(*int),
            _ => None,
        }
    }
}

impl FromCell for bool {
    fn from_cell(cell: &Cell) -> Option<Self> {
        i64::from_cell(cell).map(|int| int != 0)
    }
}

impl FromCell for Vec<u8> {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Blob(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }
}

impl<T: FromCell> FromCell for Option<T> {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Null => Some(None),
            cell => T::from_cell(cell).map(Some),
        }
    }
}
