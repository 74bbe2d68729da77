//! Configs and secrets where they are alike: named sets of keys that services are told. Their items differ: see
//! `configs.rs` and `secrets.rs`.

use std::fmt::Display;
use std::str::FromStr;

use domain::{AccountId, ConfigId, Error, ProjectId, Result, SecretId};
use uuid::Uuid;

use super::{Scope, ended, routes};
use crate::db::{Row, Tx, args};
use crate::input::{ListQuery, Page};
use crate::ledger::count;
use crate::list::{self, Count, List};
use crate::rows::{Attached, Service, Set};
use crate::sql::{self, Sets};
use crate::{check, read};

/// Items of one set.
pub(super) const ITEMS_MAX: u64 = 1000;

/// The id of a config or of a secret.
pub trait SetId: Copy + Display + FromStr<Err: Display> + From<Uuid> + Send + Sync {
    const OF: Attached;
}

impl SetId for ConfigId {
    const OF: Attached = Attached::Config;
}

impl SetId for SecretId {
    const OF: Attached = Attached::Secret;
}

/// What tells one kind from the other.
struct Kind {
    noun: &'static str,
    sql: Sets,
    list: &'static List,
    count: &'static str,
    /// Counts items of one set.
    items: &'static str,
}

const fn kind(of: Attached) -> Kind {
    match of {
        Attached::Config => Kind {
            noun: "config",
            sql: sql::CONFIG_SETS,
            list: &list::CONFIGS,
            count: count::CONFIGS,
            items: count::CONFIG_ITEMS,
        },
        Attached::Secret => Kind {
            noun: "secret",
            sql: sql::SECRET_SETS,
            list: &list::SECRETS,
            count: count::SECRETS,
            items: count::SECRET_ITEMS,
        },
    }
}

impl Scope {
    pub async fn create_set<I: SetId>(&self, name: &str, project: Option<ProjectId>) -> Result<Set<I>> {
        check::one_title("name", name)?;
        let mut tx = self.write().await?;
        let home = self.home(&mut tx, project).await?;
        let set = Set {
            id: I::from(Uuid::now_v7()),
            project: home.project,
            name: name.to_owned(),
            is_default: false,
            created_at_us: tx.now_us(),
        };
        self.refuse_taken_set(&mut tx, set.id, home.account, name).await?;
        insert(&mut tx, &set, home.account).await?;
        tx.commit().await?;
        Ok(set)
    }

    pub async fn set<I: SetId>(&self, id: I) -> Result<Set<I>> {
        let mut tx = self.read().await?;
        let row = self.set_row(&mut tx, id).await?;
        ended(tx, read::set(&row)?).await
    }

    /// By name, the caller's own first.
    pub async fn set_by_name<I: SetId>(&self, name: &str, project: Option<ProjectId>) -> Result<Set<I>> {
        check::findable(name)?;
        let kind = kind(I::OF);
        let mut tx = self.read().await?;
        let project = project.map(|id| id.to_string()).unwrap_or_default();
        let row = tx.first(kind.sql.by_name, self.bound(args![project, name])).await?;
        let row = row.ok_or_else(|| Error::not_found(format!("{} {name:?}", kind.noun)))?;
        ended(tx, read::set(&row)?).await
    }

    pub async fn list_sets<I: SetId>(&self, query: &ListQuery) -> Result<Page<Set<I>>> {
        let kind = kind(I::OF);
        let mut tx = self.read().await?;
        let count = Count::InProjects(kind.count);
        let page = kind.list.page(&mut tx, &self.who, query, "", count, read::set).await?;
        ended(tx, page).await
    }

    pub async fn patch_set<I: SetId>(&self, id: I, name: Option<String>) -> Result<Set<I>> {
        let mut tx = self.write().await?;
        let row = self.set_row(&mut tx, id).await?;
        let mut set = read::set::<I>(&row)?;
        let Some(name) = name.filter(|name| *name != set.name) else {
            return ended(tx, set).await;
        };
        check::one_title("name", &name)?;
        self.refuse_taken_set(&mut tx, id, read::owner(&row)?, &name).await?;
        tx.run(kind(I::OF).sql.rename, args![id.to_string(), &name]).await?;
        tx.commit().await?;
        set.name = name;
        Ok(set)
    }

    /// Services that it is attached to keep what they run and have none from then on. Values of a secret that a kept
    /// deployment needs stay sealed in the store until that deployment is pruned.
    pub async fn delete_set<I: SetId>(&self, id: I) -> Result<()> {
        let kind = kind(I::OF);
        let mut tx = self.write().await?;
        let row = self.set_row(&mut tx, id).await?;
        let set = read::set::<I>(&row)?;
        if set.is_default {
            return Err(Error::refused(format!("Cannot delete the default {}", kind.noun)));
        }
        let id = id.to_string();
        for service in tx.all(kind.sql.attached, args![&id]).await? {
            routes::touch(&mut tx, service.parse("id")?).await?;
        }
        tx.run(kind.sql.delete, args![&id]).await?;
        if I::OF == Attached::Secret {
            tx.run(sql::SECRET_VALUES_DROP_UNUSED, args![&id]).await?;
        }
        tx.run(sql::COUNTERS_DROP, args![&id]).await?;
        tx.place(set.project, kind.count, set.created_at_us, -1).await?;
        tx.commit().await
    }

    /// The config with a service's name in its project, made where there is none.
    pub(super) async fn config_of_name(&self, tx: &mut Tx, service: &Service, owner: AccountId) -> Result<ConfigId> {
        let kind = kind(Attached::Config);
        let values = self.bound(args![service.project, &service.name]);
        if let Some(row) = tx.first(kind.sql.by_name, values).await? {
            return read::set(&row).map(|set| set.id);
        }
        let set = Set {
            id: ConfigId(Uuid::now_v7()),
            project: service.project,
            name: service.name.clone(),
            is_default: false,
            created_at_us: tx.now_us(),
        };
        let elsewhere = "The config of this service's name is another project's; attach a config first";
        let taken = args![owner, &set.name, set.id];
        self.refuse_taken(tx, kind.sql.name_taken, taken, Error::invalid("env", elsewhere))
            .await?;
        insert(tx, &set, owner).await?;
        Ok(set.id)
    }

    pub(super) async fn set_row<I: SetId>(&self, tx: &mut Tx, id: I) -> Result<Row> {
        let kind = kind(I::OF);
        self.visible(tx, kind.sql.row, kind.noun, id).await
    }

    async fn refuse_taken_set<I: SetId>(&self, tx: &mut Tx, id: I, owner: AccountId, name: &str) -> Result<()> {
        let kind = kind(I::OF);
        let error = check::taken("name", kind.noun);
        let taken = args![owner, name, id.to_string()];
        self.refuse_taken(tx, kind.sql.name_taken, taken, error).await
    }
}

/// Also used for the Default sets of a new account.
pub(crate) async fn insert<I: SetId>(tx: &mut Tx, set: &Set<I>, owner: AccountId) -> Result<()> {
    let kind = kind(I::OF);
    let values = args![
        set.id.to_string(),
        set.project,
        owner,
        &set.name,
        set.is_default,
        set.created_at_us
    ];
    tx.run(kind.sql.insert, values).await?;
    tx.about(set.id);
    tx.place(set.project, kind.count, set.created_at_us, 1).await
}

/// Refuses an item beyond [`ITEMS_MAX`].
pub(super) async fn refuse_more<I: SetId>(tx: &mut Tx, set: I) -> Result<()> {
    if list::counter(tx, &set.to_string(), kind(I::OF).items).await? >= ITEMS_MAX {
        return Err(Error::refused(format!("Maximum of {ITEMS_MAX} items reached")));
    }
    Ok(())
}
