//! What handlers read out of a request line: ids and parameters.

use std::collections::HashMap;

use axum::extract::{FromRequestParts, OriginalUri, Path, Query};
use domain::Error;
use http::Uri;
use http::request::Parts;
use store::{Direction, ListQuery, PAGE_SIZE_MAX, PageNumber};
use uuid::Uuid;

use super::error::Failure;
use crate::limits;

/// What a path's `{id}` may be.
pub const UUID_TEXT_LEN: usize = 36;

/// The id in the path. Anything but a UUID with hyphens is a thing that does not exist (I.6).
pub struct At<T>(pub T);

/// The two ids of a nested path: parent, child.
pub struct Within<P, T>(pub P, pub T);

impl<S: Send + Sync, T: From<Uuid>> FromRequestParts<S> for At<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Ok(Path(text)) = Path::<String>::from_request_parts(parts, state).await else {
            return Err(Error::not_found("a path without one readable id").into());
        };
        id(&text).map(At)
    }
}

impl<S: Send + Sync, P: From<Uuid>, T: From<Uuid>> FromRequestParts<S> for Within<P, T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Ok(Path((parent, child))) = Path::<(String, String)>::from_request_parts(parts, state).await else {
            return Err(Error::not_found("a path without two readable ids").into());
        };
        Ok(Within(id(&parent)?, id(&child)?))
    }
}

fn id<T: From<Uuid>>(text: &str) -> Result<T, Failure> {
    match uuid(text) {
        Some(uuid) => Ok(uuid.into()),
        None => Err(Error::not_found("the id in the path is no UUID").into()),
    }
}

/// Reads the one form of a UUID that the face writes.
pub fn uuid(text: &str) -> Option<Uuid> {
    if text.len() == UUID_TEXT_LEN {
        text.parse().ok()
    } else {
        None
    }
}

/// The query. Where a name appears twice the last one counts; unknown names are ignored.
pub struct Params {
    uri: Uri,
    values: HashMap<String, String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Ok(OriginalUri(uri)) = OriginalUri::from_request_parts(parts, state).await;
        let values = match Query::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(Query(pairs)) => pairs.into_iter().collect(),
            Err(_) => HashMap::new(),
        };
        Ok(Params { uri, values })
    }
}

impl Params {
    /// A value that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values
            .get(name)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true" | "yes"))
    }

    /// # Errors
    /// 400 on the parameter's name (I.9).
    pub fn uuid<T: From<Uuid>>(&self, name: &str) -> Result<Option<T>, Failure> {
        match self.get(name).map(uuid) {
            None => Ok(None),
            Some(Some(uuid)) => Ok(Some(uuid.into())),
            Some(None) => Err(Error::invalid(name, "Must be a valid UUID.").into()),
        }
    }

    /// # Errors
    /// 400 on the parameter's name when it is no number from 0 on; larger ones than `max` mean `max`.
    pub fn number(&self, name: &str, default: u64, max: u64) -> Result<u64, Failure> {
        match self.get(name).map(str::parse::<u64>) {
            None => Ok(default),
            Some(Ok(number)) => Ok(number.min(max)),
            Some(Err(_)) => Err(Error::invalid(name, "A valid integer is required.").into()),
        }
    }

    /// How many lines of a log are asked for.
    pub fn lines(&self) -> Result<u32, Failure> {
        let lines = self.number("limit", limits::EVENTS_DEFAULT.into(), limits::EVENTS_MAX.into())?;
        Ok(u32::try_from(lines.max(1)).unwrap_or(limits::EVENTS_MAX))
    }

    /// The part of the query that every list understands (S2.32 to S2.35, I.7 to I.9).
    pub fn list_query(&self) -> Result<ListQuery, Failure> {
        Ok(ListQuery {
            project: self.uuid("project")?,
            service: self.uuid("service")?,
            page: self.page()?,
            page_size: self.page_size(),
            ordering: self.get("ordering").map(ordering).unwrap_or_default(),
        })
    }

    fn page(&self) -> Result<PageNumber, Failure> {
        match self.get("page") {
            None => Ok(PageNumber::Number(1)),
            Some("last") => Ok(PageNumber::Last),
            Some(text) => match text.parse() {
                Ok(number) if number > 0 => Ok(PageNumber::Number(number)),
                _ => Err(Error::not_found(store::INVALID_PAGE).into()),
            },
        }
    }

    fn page_size(&self) -> u32 {
        let asked = self.get("page_size").and_then(|text| text.parse::<u32>().ok());
        match asked {
            Some(0) | None => limits::PAGE_SIZE,
            Some(size) => size.min(PAGE_SIZE_MAX),
        }
    }

    /// The same request for another page: everything else is kept as it was sent, and page 1 needs no name (I.7).
    pub fn url_of_page(&self, public_url: &str, number: u64) -> String {
        let kept = self.uri.query().unwrap_or_default().split('&');
        let mut pairs: Vec<&str> = kept
            .filter(|pair| !pair.is_empty() && *pair != "page" && !pair.starts_with("page="))
            .collect();
        let page = format!("page={number}");
        if number > 1 {
            pairs.push(&page);
        }
        let path = self.uri.path();
        if pairs.is_empty() {
            format!("{public_url}{path}")
        } else {
            format!("{public_url}{path}?{}", pairs.join("&"))
        }
    }
}

/// Most fields of one `ordering`.
const ORDERING_MAX: usize = 8;

fn ordering(text: &str) -> Vec<(String, Direction)> {
    let fields = text.split(',').map(str::trim).filter(|field| !field.is_empty());
    fields
        .take(ORDERING_MAX)
        .map(|field| match field.strip_prefix('-') {
            Some(name) => (name.to_owned(), Direction::Descending),
            None => (field.to_owned(), Direction::Ascending),
        })
        .collect()
}
