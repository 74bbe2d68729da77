//! What went wrong, and what the user can do about it.

use std::process::ExitCode;

use serde_json::{Value, json};

/// How a command ended; its number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    Done = 0,
    /// The operation failed.
    Failed = 1,
    /// The command makes no sense as it was given.
    Usage = 2,
    /// The server cannot be reached, or does not allow it.
    Refused = 3,
    /// Waiting ended before the operation did.
    TimedOut = 4,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        ExitCode::from(outcome as u8)
    }
}

/// A command that did not do what was asked: what happened, to what, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Trouble {
    pub outcome: Outcome,
    pub message: String,
    /// What to do next; may be empty.
    pub advice: String,
    /// The HTTP status behind it, if there is one.
    pub status: Option<u16>,
    /// Nothing more can be shown: the reader of our output has left. Not worth a word.
    pub silent: bool,
}

pub type Result<T, E = Trouble> = std::result::Result<T, E>;

impl Trouble {
    pub fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        Trouble {
            outcome,
            message: message.into(),
            advice: String::new(),
            status: None,
            silent: false,
        }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Trouble::new(Outcome::Failed, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Trouble::new(Outcome::Usage, message)
    }

    /// The reader of our output has left, as `head` does: no failure of ours.
    pub fn reader_left() -> Self {
        Trouble {
            silent: true,
            ..Trouble::new(Outcome::Done, "")
        }
    }

    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    /// The server is away, or says that it is not ready: it may be back in a moment.
    pub fn is_absence(&self) -> bool {
        self.status == Some(503) || (self.outcome == Outcome::Refused && self.status.is_none())
    }

    /// Puts what was attempted before what happened.
    pub fn within(mut self, attempt: impl std::fmt::Display) -> Self {
        self.message = format!("{attempt}: {}", self.message);
        self
    }

    /// For `--json`.
    pub fn document(&self) -> Value {
        json!({ "error": { "message": self.message, "advice": self.advice, "exit_code": self.outcome as u8 } })
    }
}
