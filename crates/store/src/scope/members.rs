//! Who else works on a project, and what they may do there.

use domain::{AccountId, Error, ProjectId, Result};

use super::{Scope, ended};
use crate::db::{Row, Tx, args};
use crate::input::{ListQuery, Page};
use crate::ledger::count;
use crate::rows::{Member, Role};
use crate::{check, list, read, sql};

/// Most members of one project.
const MEMBERS_MAX: u64 = 1000;

impl Scope {
    pub async fn list_members(&self, project: ProjectId, query: &ListQuery) -> Result<Page<Member>> {
        let mut tx = self.read().await?;
        self.project_row(&mut tx, project).await?;
        let page = list::MEMBERS
            .page(&mut tx, &project.to_string(), count::MEMBERS, query, read::member)
            .await?;
        ended(tx, page).await
    }

    pub async fn member(&self, project: ProjectId, account: AccountId) -> Result<Member> {
        let mut tx = self.read().await?;
        self.project_row(&mut tx, project).await?;
        let member = member(&mut tx, project, account).await?;
        ended(tx, member).await
    }

    /// Lets the account of that name into a project.
    pub async fn add_member(&self, project: ProjectId, name: &str, role: Role) -> Result<Member> {
        let mut tx = self.write().await?;
        self.project_row(&mut tx, project).await?;
        let Some(row) = tx.first(sql::ACCOUNT_BY_NAME, args![name]).await? else {
            return Err(Error::invalid("name", "There is no account of this name."));
        };
        let account: AccountId = row.parse("id")?;
        if tx.first(sql::MEMBER, args![project, account]).await?.is_some() {
            return Err(check::taken("name", "member"));
        }
        if list::counter(&mut tx, &project.to_string(), count::MEMBERS).await? >= MEMBERS_MAX {
            return Err(Error::refused(format!("Maximum of {MEMBERS_MAX} members reached")));
        }
        insert(&mut tx, project, account, role).await?;
        tx.about(account);
        let member = member(&mut tx, project, account).await?;
        tx.commit().await?;
        Ok(member)
    }

    pub async fn set_member_role(&self, project: ProjectId, account: AccountId, role: Role) -> Result<Member> {
        let mut tx = self.write().await?;
        let row = self.project_row(&mut tx, project).await?;
        let mut member = member(&mut tx, project, account).await?;
        if member.role == role {
            return ended(tx, member).await;
        }
        refuse_founder(&row, account)?;
        tx.run(sql::MEMBER_SET_ROLE, args![account, project, role.as_str()])
            .await?;
        tx.commit().await?;
        member.role = role;
        Ok(member)
    }

    /// Effective with their next request.
    pub async fn remove_member(&self, project: ProjectId, account: AccountId) -> Result<()> {
        let mut tx = self.write().await?;
        let row = self.project_row(&mut tx, project).await?;
        member(&mut tx, project, account).await?;
        refuse_founder(&row, account)?;
        tx.run(sql::MEMBER_DELETE, args![account, project]).await?;
        tx.count(project, count::MEMBERS, -1).await?;
        tx.count(account, count::MEMBERSHIPS, -1).await?;
        tx.commit().await
    }

    pub(super) async fn project_row(&self, tx: &mut Tx, id: ProjectId) -> Result<Row> {
        self.visible(tx, sql::PROJECT, "project", id).await
    }
}

/// Also used for a project's first owner.
pub(super) async fn insert(tx: &mut Tx, project: ProjectId, account: AccountId, role: Role) -> Result<()> {
    let values = args![account, project, role.as_str(), tx.now_us()];
    if list::counter(tx, &account.to_string(), count::MEMBERSHIPS).await? >= list::COUNTED_OFF_MAX {
        return Err(Error::refused(format!(
            "Maximum of {} projects of one account reached",
            list::COUNTED_OFF_MAX
        )));
    }
    tx.run(sql::MEMBER_INSERT, values).await?;
    tx.count(project, count::MEMBERS, 1).await?;
    tx.count(account, count::MEMBERSHIPS, 1).await
}

async fn member(tx: &mut Tx, project: ProjectId, account: AccountId) -> Result<Member> {
    let row = tx.first(sql::MEMBER, args![project, account]).await?;
    read::member(&row.ok_or_else(|| Error::not_found(format!("member {account} of project {project}")))?)
}

/// Names of a project's resources are unique within the account that made it, so that account stays its owner; and so
/// every project has one.
fn refuse_founder(project: &Row, account: AccountId) -> Result<()> {
    if read::owner(project)? == account {
        return Err(Error::refused("The account that made a project stays its owner"));
    }
    Ok(())
}
