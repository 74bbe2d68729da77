//! The audit log: who asked for what, when, and what became of it.
//!
//! Expected flow: a face makes an [`Act`] of each request and gives it to the [`crate::Scope`] that carries it out
//! ([`crate::Scope::recorded_as`]). The transaction that makes the change appends the line. What changed nothing (it was
//! refused, denied, or it failed) is appended afterwards with [`crate::System::audit`].
//!
//! # Guarantees
//! - A change and its line become durable together: an act that cannot be recorded does not happen (C6.24).
//! - Lines are never changed or deleted, by no statement of ours and against the will of both engines' triggers.
//! - Numbers have no gaps, and each line's hash covers the line and the hash before it: what was edited, removed, put
//!   in, or cut off at the end is found by [`crate::System::check_audit`].
//!
//! # Assumptions
//! Whoever can rewrite the whole log can rewrite its hashes. Against them the newest hash is shown with every page, so
//! that it can be kept elsewhere.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use domain::{AccountId, Error, ProjectId, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::db::{Row, Serial, Tx, args};
use crate::input::{Principal, Via};
use crate::{sql, token};

/// What the first line's hash covers in place of an earlier one.
pub(crate) const GENESIS: &str = "";
/// Lines of one answer, at most.
pub(crate) const LINES_MAX: u32 = 1000;
/// Longest object of a line, in characters: a path, whose segments are ids.
const OBJECT_MAX: usize = 256;

/// What became of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A privileged act outside the store is about to happen; another line says how it ended.
    Begun,
    Done,
    /// Bad input, or the present state forbids it.
    Refused,
    /// The caller may not.
    Denied,
    /// We could not.
    Failed,
}

impl Outcome {
    const ALL: [Outcome; 5] = [
        Outcome::Begun,
        Outcome::Done,
        Outcome::Refused,
        Outcome::Denied,
        Outcome::Failed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Begun => "begun",
            Outcome::Done => "done",
            Outcome::Refused => "refused",
            Outcome::Denied => "denied",
            Outcome::Failed => "failed",
        }
    }
}

/// What counts against which rate limit (I.14). The log is the throttle's memory over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bucket {
    /// Every POST, PATCH and DELETE.
    Resources,
    /// Every request that reads the value of a secret's item.
    Secrets,
    /// Tries to log in.
    Logins,
}

impl Bucket {
    pub fn as_str(self) -> &'static str {
        match self {
            Bucket::Resources => "resources",
            Bucket::Secrets => "secrets",
            Bucket::Logins => "logins",
        }
    }
}

/// One request, on its way to one line.
#[derive(Debug)]
pub struct Act {
    who: Principal,
    /// Method and path pattern, e.g. `PATCH /api/services/{id}/`.
    action: String,
    /// The path.
    object: String,
    /// Of the request, as in its answer's `X-Request-Id`.
    request: String,
    /// What becomes known on the way.
    known: Mutex<Known>,
    recorded: AtomicBool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    bucket: Option<Bucket>,
    /// Of what it is about.
    project: Option<ProjectId>,
}

impl Act {
    pub fn new(who: Principal, action: String, object: &str, request: String) -> Act {
        Act {
            who,
            action,
            object: object.chars().take(OBJECT_MAX).collect(),
            request,
            known: Mutex::default(),
            recorded: AtomicBool::new(false),
        }
    }

    /// Whether its change has been made, and so recorded.
    pub fn is_recorded(&self) -> bool {
        self.recorded.load(Ordering::Acquire)
    }

    pub(crate) fn set_recorded(&self) {
        self.recorded.store(true, Ordering::Release);
    }

    /// It counts against a rate limit.
    pub fn count(&self, bucket: Bucket) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).bucket = Some(bucket);
    }

    /// What it is about belongs to this project.
    pub(crate) fn saw(&self, project: ProjectId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).project = Some(project);
    }

    fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLine {
    pub seq: i64,
    pub at_us: i64,
    pub account: AccountId,
    /// `key:<id>`, `session` or `local`.
    pub via: String,
    pub project: Option<ProjectId>,
    /// Method and path pattern.
    pub action: String,
    /// The path.
    pub object: String,
    /// What was made, where something was.
    pub subject: Option<String>,
    pub outcome: Outcome,
    bucket: Option<String>,
    pub request: String,
    /// Of this line and the one before, in hex.
    pub hash: String,
}

impl AuditLine {
    /// SHA-256 over the hash before and every field, each in JSON so that no two lines read alike.
    pub(crate) fn hash_after(&self, before: &str) -> Result<String> {
        let fields = (
            (before, self.seq, self.at_us, self.account, &self.via, self.project),
            (&self.action, &self.object, &self.subject, self.outcome.as_str()),
            (&self.bucket, &self.request),
        );
        Ok(token::hex(&Sha256::digest(crate::db::json(&fields)?.as_bytes())))
    }

    fn read(row: &Row) -> Result<AuditLine> {
        let outcome = row.text("outcome")?;
        Ok(AuditLine {
            seq: row.int("seq")?,
            at_us: row.int("at_us")?,
            account: row.parse("account")?,
            via: row.text("via")?,
            project: row.parse_or_null("project")?,
            action: row.text("action")?,
            object: row.text("object")?,
            subject: row.text_or_null("subject")?,
            outcome: Outcome::ALL
                .into_iter()
                .find(|known| known.as_str() == outcome)
                .ok_or_else(|| Error::internal(format!("`{outcome}` is no outcome of an act")))?,
            bucket: row.text_or_null("bucket")?,
            request: row.text("request")?,
            hash: row.text("hash")?,
        })
    }
}

/// Which lines, and from where on.
#[derive(Debug, Clone, Copy)]
pub enum From {
    /// Newest first, older than this number.
    Before(i64),
    /// Oldest first, newer than this number.
    After(i64),
}

/// Where the log was broken into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tampering {
    /// The first line that is not what was written, or is missing.
    pub seq: i64,
    pub what: &'static str,
}

impl Tx {
    /// Appends the line of an act. `subject` is what the act has made.
    pub(crate) async fn record(&mut self, act: &Act, subject: Option<String>, outcome: Outcome) -> Result<()> {
        let seq = self.next(Serial::Audit).await?;
        let before = match self.first(sql::AUDIT_HASH, args![seq - 1]).await? {
            Some(row) => row.text("hash")?,
            None if seq == 1 => GENESIS.to_owned(),
            None => return Err(Error::internal(format!("line {} of the audit log is missing", seq - 1))),
        };
        let known = act.known();
        // What is begun has its end counted.
        let bucket = known.bucket.filter(|_| outcome != Outcome::Begun);
        let mut line = AuditLine {
            seq,
            at_us: self.now_us(),
            account: act.who.account,
            via: match act.who.via {
                Via::Key(id) => format!("key:{id}"),
                Via::Session => "session".to_owned(),
                Via::LocalOperator => "local".to_owned(),
            },
            project: known.project,
            action: act.action.clone(),
            object: act.object.clone(),
            subject,
            outcome,
            bucket: bucket.map(|bucket| bucket.as_str().to_owned()),
            request: act.request.clone(),
            hash: String::new(),
        };
        line.hash = line.hash_after(&before)?;
        let values = args![
            line.seq,
            line.at_us,
            line.account,
            line.via,
            line.project,
            line.action,
            line.object,
            line.subject,
            line.outcome.as_str(),
            line.bucket,
            line.request,
            line.hash,
        ];
        self.run(sql::AUDIT_APPEND, values).await.map(drop)
    }

    /// A page of the log: the statement's own condition is `$3`, if it has one.
    pub(crate) async fn audit_lines(
        &mut self,
        [forward, backward]: [&'static str; 2],
        owner: Option<String>,
        from: From,
        limit: u32,
    ) -> Result<Vec<AuditLine>> {
        let (statement, seq) = match from {
            From::After(seq) => (forward, seq),
            From::Before(seq) => (backward, seq),
        };
        let mut values = args![seq, limit.min(LINES_MAX)];
        values.extend(owner.map(Into::into));
        self.all(statement, values).await?.iter().map(AuditLine::read).collect()
    }
}
