//! `/api/audit/` and `/api/secrets/{id}/items/{item}/accesses/`: who did what, and who has read which value.
//!
//! Both are read from a number on, so that a page costs the same wherever it is.

use axum::Json;
use domain::{AccountId, ProjectId, SecretId, SecretItemId};
use serde::Serialize;
use store::{AuditLine, From as Place, Outcome, SecretAccess};

use super::caller::Caller;
use super::error::Reply;
use super::extract::{Params, Within};
use crate::time;

/// A part of the log.
#[derive(Debug, Serialize)]
pub struct Lines {
    results: Vec<LineView>,
    /// Ask with this as `before` (or `after`, where that was asked for) for the next ones; `null` when there were none.
    next: Option<i64>,
}

#[derive(Debug, Serialize)]
pub struct LineView {
    seq: i64,
    at: String,
    account: AccountId,
    /// `key:<id>`, `session` or `local`.
    via: String,
    project: Option<ProjectId>,
    /// Method and pattern of the path.
    action: String,
    object: String,
    /// What was made.
    subject: Option<String>,
    outcome: Outcome,
    request: String,
    /// Of this line and the one before: keep the newest one elsewhere, and nobody can rewrite what came before it.
    hash: String,
}

impl From<AuditLine> for LineView {
    fn from(line: AuditLine) -> Self {
        LineView {
            seq: line.seq,
            at: time::micros(line.at_us),
            account: line.account,
            via: line.via,
            project: line.project,
            action: line.action,
            object: line.object,
            subject: line.subject,
            outcome: line.outcome,
            request: line.request,
            hash: line.hash,
        }
    }
}

/// Newest first, or from `?after=` on, oldest first. `?project=` for its owners; else the caller's own acts, and for
/// administrators all.
pub async fn list(caller: Caller, params: Params) -> Reply<Json<Lines>> {
    let newest = i64::MAX as u64;
    let place = match params.get("after") {
        Some(_) => Place::After(params.number("after", 0, newest)?.cast_signed()),
        None => Place::Before(params.number("before", newest, newest)?.cast_signed()),
    };
    let project: Option<ProjectId> = params.uuid("project")?;
    let lines = caller.scope.audit_lines(project, place, params.lines()?).await?;
    Ok(Json(Lines {
        next: lines.last().map(|line| line.seq),
        results: lines.into_iter().map(LineView::from).collect(),
    }))
}

/// Who has read a value, oldest first.
#[derive(Debug, Serialize)]
pub struct Accesses {
    results: Vec<AccessView>,
    next_after: Option<i64>,
}

#[derive(Debug, Serialize)]
pub struct AccessView {
    seq: i64,
    at: String,
    account: AccountId,
    /// By what way.
    how: String,
}

impl From<SecretAccess> for AccessView {
    fn from(access: SecretAccess) -> Self {
        AccessView {
            seq: access.seq,
            at: time::micros(access.at_us),
            account: access.account,
            how: access.how,
        }
    }
}

pub async fn accesses(
    caller: Caller,
    Within(secret, item): Within<SecretId, SecretItemId>,
    params: Params,
) -> Reply<Json<Accesses>> {
    let after = params.number("after", 0, i64::MAX as u64)?.cast_signed();
    caller.scope.secret_item(secret, item).await?;
    let accesses = caller.scope.secret_accesses(item, after, params.lines()?).await?;
    Ok(Json(Accesses {
        next_after: accesses.last().map(|access| access.seq),
        results: accesses.into_iter().map(AccessView::from).collect(),
    }))
}
