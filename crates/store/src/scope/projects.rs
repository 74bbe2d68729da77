//! Projects.

use domain::error::Problems;
use domain::{AccountId, Error, ProjectId, Result};
use uuid::Uuid;

use super::{Scope, ended, members};
use crate::Store;
use crate::db::{Tx, args};
use crate::input::{ListQuery, NewProject, Page, ProjectPatch};
use crate::ledger::count;
use crate::list::{self, Count};
use crate::rows::{Project, Role};
use crate::{check, read, sql};

impl Scope {
    pub async fn create_project(&self, new: impl Into<NewProject>) -> Result<Project> {
        let new: NewProject = new.into();
        check_project(&new.name, new.environment.as_deref())?;
        let mut tx = self.write().await?;
        let now_us = tx.now_us();
        let project = Project {
            id: ProjectId(Uuid::now_v7()),
            name: new.name,
            is_default: false,
            environment: new.environment,
            created_at_us: now_us,
            updated_at_us: now_us,
        };
        self.refuse_taken_project(&mut tx, project.id, self.who.account, &project.name)
            .await?;
        insert(&self.store, &mut tx, &project, self.who.account).await?;
        tx.commit().await?;
        Ok(project)
    }

    pub async fn project(&self, id: ProjectId) -> Result<Project> {
        let mut tx = self.read().await?;
        let row = self.project_row(&mut tx, id).await?;
        ended(tx, read::project(&row)?).await
    }

    /// By name, the caller's own first.
    pub async fn project_by_name(&self, name: &str) -> Result<Project> {
        check::findable(name)?;
        let mut tx = self.read().await?;
        let row = tx.first(sql::PROJECT_BY_NAME, self.bound(args![name])).await?;
        let row = row.ok_or_else(|| Error::not_found(format!("project {name:?}")))?;
        ended(tx, read::project(&row)?).await
    }

    pub async fn list_projects(&self, query: &ListQuery) -> Result<Page<Project>> {
        let mut tx = self.read().await?;
        let own = self.who.account.to_string();
        let count = match (query.project, self.who.admin) {
            (Some(only), _) => Count::Exactly(u64::from(self.project_row(&mut tx, only).await.is_ok())),
            (None, true) => Count::InProjects(count::PROJECTS),
            (None, false) => Count::Of(&own, count::MEMBERSHIPS),
        };
        let page = list::PROJECTS
            .page(&mut tx, &self.who, query, "", count, read::project)
            .await?;
        ended(tx, page).await
    }

    pub async fn patch_project(&self, id: ProjectId, patch: ProjectPatch) -> Result<Project> {
        let mut tx = self.write().await?;
        let row = self.project_row(&mut tx, id).await?;
        let before = read::project(&row)?;
        let mut after = before.clone();
        after.name = patch.name.unwrap_or(after.name);
        after.environment = patch.environment.unwrap_or(after.environment);
        if after == before {
            return ended(tx, before).await;
        }
        check_project(&after.name, after.environment.as_deref())?;
        self.refuse_taken_project(&mut tx, id, read::owner(&row)?, &after.name)
            .await?;
        after.updated_at_us = tx.now_us();
        let values = args![id, &after.name, after.environment.clone(), after.updated_at_us];
        tx.run(sql::PROJECT_CHANGE, values).await?;
        tx.commit().await?;
        Ok(after)
    }

    /// Only an empty project can go, and never the default one.
    pub async fn delete_project(&self, id: ProjectId) -> Result<()> {
        let mut tx = self.write().await?;
        let row = self.project_row(&mut tx, id).await?;
        let project = read::project(&row)?;
        if project.is_default {
            return Err(Error::refused("Cannot delete the default project"));
        }
        if tx.one(sql::PROJECT_USED, args![id]).await?.bool("used")? {
            return Err(Error::refused("Project is not empty"));
        }
        for member in tx.all(sql::MEMBERS_OF, args![id]).await? {
            tx.count(member.parse::<AccountId>("account")?, count::MEMBERSHIPS, -1)
                .await?;
        }
        tx.position(id, count::PROJECTS, project.created_at_us, -1).await?;
        tx.count(read::owner(&row)?, count::PROJECTS, -1).await?;
        tx.run(sql::PROJECT_DELETE, args![id]).await?;
        tx.run(sql::COUNTERS_DROP, args![id]).await?;
        tx.commit().await
    }

    async fn refuse_taken_project(&self, tx: &mut Tx, id: ProjectId, owner: AccountId, name: &str) -> Result<()> {
        let error = check::taken("name", "project");
        self.refuse_taken(tx, sql::PROJECT_NAME_TAKEN, args![owner, name, id], error)
            .await
    }
}

/// Also used for the default project of a new account. The owner becomes its first member.
pub(crate) async fn insert(store: &Store, tx: &mut Tx, project: &Project, owner: AccountId) -> Result<()> {
    let (_, wrapped) = store.root_key.new_data_key(project.id)?;
    let values = args![
        project.id,
        owner,
        &project.name,
        project.is_default,
        wrapped,
        project.created_at_us,
        project.environment.clone(),
    ];
    tx.run(sql::PROJECT_INSERT, values).await?;
    tx.about(project.id);
    members::insert(tx, project.id, owner, Role::Owner).await?;
    tx.position(project.id, count::PROJECTS, project.created_at_us, 1)
        .await?;
    tx.count(owner, count::PROJECTS, 1).await
}

fn check_project(name: &str, environment: Option<&str>) -> Result<()> {
    let mut problems = Problems::default();
    check::title(&mut problems, "name", name);
    if let Some(environment) = environment {
        check::title(&mut problems, "environment", environment);
    }
    problems.check()
}
