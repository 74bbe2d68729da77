//! The one error that crosses crate boundaries, independent of HTTP.
//!
//! A message for the client and a context for the log are different fields and the type has no `Display`, so that the
//! wrong one cannot be printed by accident. Each face encodes [`Kind`] into its own words in one place.

use std::collections::BTreeMap;

/// What went wrong, in terms that each face can translate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// No or bad credentials. The text is safe to show.
    Unauthenticated(String),
    /// Known caller, not allowed.
    Forbidden,
    /// No such thing, or nothing that the caller may know of.
    NotFound,
    /// Field name to messages; the name `non_field_errors` stands for the whole input.
    Invalid(BTreeMap<String, Vec<String>>),
    /// The request is well-formed and the present state forbids it. The text is safe to show.
    Refused(String),
    /// Somebody else changed the same thing first; trying again may work.
    Conflict(String),
    /// Over a rate limit; seconds until the next try can succeed.
    Throttled { retry_after_s: u64 },
    /// A part that the answer needs is not there now; trying again may work.
    Unavailable(String),
    /// Anything else. Nothing of it is shown to the client.
    Internal,
}

/// An error with a client side ([`Kind`]) and a log side (`context`).
#[derive(Debug, Clone)]
pub struct Error {
    pub kind: Kind,
    /// For the log only: operation, object, cause. Never a secret's value.
    pub context: String,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Error {
            kind,
            context: context.into(),
        }
    }

    pub fn not_found(context: impl Into<String>) -> Self {
        Error::new(Kind::NotFound, context)
    }

    pub fn forbidden(context: impl Into<String>) -> Self {
        Error::new(Kind::Forbidden, context)
    }

    /// `message` goes to the client.
    pub fn refused(message: impl Into<String>) -> Self {
        let message = message.into();
        Error::new(Kind::Refused(message.clone()), message)
    }

    /// `message` goes to the client.
    pub fn unavailable(message: impl Into<String>, context: impl Into<String>) -> Self {
        Error::new(Kind::Unavailable(message.into()), context)
    }

    /// One bad field.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        let mut problems = Problems::default();
        problems.add(field, message);
        problems.into_error()
    }

    pub fn internal(context: impl Into<String>) -> Self {
        Error::new(Kind::Internal, context)
    }

    /// Puts the operation in front of the log context; the client side stays as it is.
    pub fn within(mut self, operation: &str) -> Self {
        self.context = format!("{operation}: {}", self.context);
        self
    }
}

/// Collects what is wrong with an input, so that one answer names every bad field.
#[derive(Debug, Default, Clone)]
pub struct Problems(BTreeMap<String, Vec<String>>);

impl Problems {
    pub fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.entry(field.to_owned()).or_default().push(message.into());
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_error(self) -> Error {
        let context = format!("invalid: {:?}", self.0);
        Error::new(Kind::Invalid(self.0), context)
    }

    /// `Ok` when nothing was added.
    pub fn check(self) -> Result<()> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.into_error())
        }
    }
}
