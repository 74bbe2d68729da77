//! The audit log, as far as the caller may read it.

use domain::{ProjectId, Result};

use super::{Role, Scope, ended};
use crate::audit::{AuditLine, From};
use crate::sql;

impl Scope {
    /// Lines of a project, which only its owners read; without one the caller's own, and for an administrator all.
    pub async fn audit_lines(&self, project: Option<ProjectId>, from: From, limit: u32) -> Result<Vec<AuditLine>> {
        let mut tx = self.read().await?;
        let (statements, owner) = match project {
            Some(id) => {
                let owner = self.clone().needing(Role::Owner);
                owner.visible(&mut tx, sql::PROJECT, "project", id).await?;
                let statements = [sql::AUDIT_FORWARD_OF_PROJECT, sql::AUDIT_BACKWARD_OF_PROJECT];
                (statements, Some(id.to_string()))
            }
            None if self.who.admin => ([sql::AUDIT_FORWARD, sql::AUDIT_BACKWARD], None),
            None => {
                let statements = [sql::AUDIT_FORWARD_OF_ACCOUNT, sql::AUDIT_BACKWARD_OF_ACCOUNT];
                (statements, Some(self.who.account.to_string()))
            }
        };
        let lines = tx.audit_lines(statements, owner, from, limit).await?;
        ended(tx, lines).await
    }
}
