//! Lists in pages (S0.26, S2.17, S2.32, S2.33, I.7).

use domain::error::Kind;
use domain::{Error, Result};
use serde::Serialize;
use store::{INVALID_PAGE, ListQuery, Page, PageNumber, Scope};

use super::extract::Params;
use crate::ApiState;

/// One page of a list. Links are absolute and begin with the configured public URL.
#[derive(Debug, Serialize)]
pub struct Envelope<T> {
    count: u64,
    next: Option<String>,
    previous: Option<String>,
    results: Vec<T>,
}

impl<T> Envelope<T> {
    /// The page as the face shows it; `results` are its rows in the face's shape.
    pub fn new<R>(api: &ApiState, params: &Params, page: &Page<R>, results: Vec<T>) -> Self {
        let link = |number| params.url_of_page(&api.settings.public_url, number);
        Envelope {
            count: page.count,
            next: (page.number < page.pages).then(|| link(page.number + 1)),
            previous: (page.number > 1).then(|| link(page.number - 1)),
            results,
        }
    }

    /// The only page there is, for exact filters. Any other is beyond the end (I.7).
    pub fn of_one(query: &ListQuery, result: Option<T>) -> Result<Self> {
        if let PageNumber::Number(2..) = query.page {
            return Err(Error::not_found(INVALID_PAGE));
        }
        Ok(Envelope {
            count: u64::from(result.is_some()),
            next: None,
            previous: None,
            results: result.into_iter().collect(),
        })
    }
}

/// Whether the service that a list is narrowed to is the caller's. Of any other the list is empty, as it is for a
/// project that one cannot see (I.9).
pub async fn sees_service(scope: &Scope, query: &ListQuery) -> Result<bool> {
    match query.service {
        None => Ok(true),
        Some(id) => Ok(or_none(scope.service(id).await)?.is_some()),
    }
}

/// For exact filters: what is not there, or not the caller's, is an empty list.
pub fn or_none<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind, Kind::NotFound | Kind::Forbidden) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A list that cannot grow and is shown whole.
#[derive(Debug, Serialize)]
pub struct Whole<T> {
    pub results: Vec<T>,
}
