//! Configs and their items. A changed item shows in later deployments only.

use domain::error::Problems;
use domain::{AccountId, ConfigId, ConfigItemId, Error, ProjectId, Result};
use uuid::Uuid;

use super::{Scope, ended, routes};
use crate::db::{Row, Tx, args};
use crate::input::{ListQuery, Page};
use crate::ledger::count;
use crate::list::{self, Count};
use crate::rows::{Config, ConfigItem};
use crate::{check, read, sql};

/// Items of one config, and of one secret.
pub(super) const ITEMS_MAX: u64 = 1000;

impl Scope {
    pub async fn create_config(&self, name: &str, project: Option<ProjectId>) -> Result<Config> {
        check::one_title("name", name)?;
        let mut tx = self.write().await?;
        let home = self.home(&mut tx, project).await?;
        let config = Config {
            id: ConfigId(Uuid::now_v7()),
            project: home.project,
            name: name.to_owned(),
            is_default: false,
            created_at_us: tx.now_us(),
        };
        self.refuse_taken_config(&mut tx, config.id, home.account, name).await?;
        insert(&mut tx, &config, home.account).await?;
        tx.commit().await?;
        Ok(config)
    }

    pub async fn config(&self, id: ConfigId) -> Result<Config> {
        let mut tx = self.read().await?;
        let row = self.config_row(&mut tx, id).await?;
        ended(tx, read::config(&row)?).await
    }

    /// By name, the caller's own first.
    pub async fn config_by_name(&self, name: &str, project: Option<ProjectId>) -> Result<Config> {
        let mut tx = self.read().await?;
        let project = project.map(|id| id.to_string()).unwrap_or_default();
        let row = tx.first(sql::CONFIG_BY_NAME, self.bound(args![project, name])).await?;
        let row = row.ok_or_else(|| Error::not_found(format!("config {name:?}")))?;
        ended(tx, read::config(&row)?).await
    }

    pub async fn list_configs(&self, query: &ListQuery) -> Result<Page<Config>> {
        let mut tx = self.read().await?;
        let count = Count::InProjects(count::CONFIGS);
        let page = list::CONFIGS
            .page(&mut tx, &self.who, query, "", count, read::config)
            .await?;
        ended(tx, page).await
    }

    pub async fn patch_config(&self, id: ConfigId, name: Option<String>) -> Result<Config> {
        let mut tx = self.write().await?;
        let row = self.config_row(&mut tx, id).await?;
        let mut config = read::config(&row)?;
        let Some(name) = name.filter(|name| *name != config.name) else {
            return ended(tx, config).await;
        };
        check::one_title("name", &name)?;
        self.refuse_taken_config(&mut tx, id, read::owner(&row)?, &name).await?;
        tx.run(sql::CONFIG_RENAME, args![id, &name]).await?;
        tx.commit().await?;
        config.name = name;
        Ok(config)
    }

    /// Services that it is attached to keep what they run and have no config from then on.
    pub async fn delete_config(&self, id: ConfigId) -> Result<()> {
        let mut tx = self.write().await?;
        let row = self.config_row(&mut tx, id).await?;
        let config = read::config(&row)?;
        if config.is_default {
            return Err(Error::refused("Cannot delete the default config"));
        }
        for service in tx.all(sql::SERVICES_WITH_CONFIG, args![id]).await? {
            routes::touch(&mut tx, service.parse("id")?).await?;
        }
        tx.run(sql::CONFIG_DELETE, args![id]).await?;
        tx.run(sql::COUNTERS_DROP, args![id]).await?;
        tx.count(config.project, count::CONFIGS, -1).await?;
        tx.commit().await
    }

    pub async fn create_config_item(&self, config: ConfigId, key: &str, value: &str) -> Result<ConfigItem> {
        check_item(key, value)?;
        let mut tx = self.write().await?;
        self.config_row(&mut tx, config).await?;
        let now_us = tx.now_us();
        let item = ConfigItem {
            id: ConfigItemId(Uuid::now_v7()),
            config,
            key: key.to_owned(),
            value: value.to_owned(),
            created_at_us: now_us,
            updated_at_us: now_us,
        };
        self.refuse_taken_key(&mut tx, &item).await?;
        refuse_more(&mut tx, &config.to_string(), count::CONFIG_ITEMS).await?;
        tx.run(sql::CONFIG_ITEM_INSERT, args![item.id, config, key, value, now_us])
            .await?;
        tx.about(item.id);
        tx.count(config, count::CONFIG_ITEMS, 1).await?;
        tx.changed().await?;
        tx.commit().await?;
        Ok(item)
    }

    pub async fn config_item(&self, config: ConfigId, id: ConfigItemId) -> Result<ConfigItem> {
        let mut tx = self.read().await?;
        let item = self.item_of_config(&mut tx, config, id).await?;
        ended(tx, item).await
    }

    pub async fn list_config_items(&self, config: ConfigId, query: &ListQuery) -> Result<Page<ConfigItem>> {
        let mut tx = self.read().await?;
        self.config_row(&mut tx, config).await?;
        let (parent, kind) = (config.to_string(), count::CONFIG_ITEMS);
        let page = list::CONFIG_ITEMS
            .page(&mut tx, &parent, kind, query, read::config_item)
            .await?;
        ended(tx, page).await
    }

    pub async fn patch_config_item(
        &self,
        config: ConfigId,
        id: ConfigItemId,
        key: Option<String>,
        value: Option<String>,
    ) -> Result<ConfigItem> {
        let mut tx = self.write().await?;
        let before = self.item_of_config(&mut tx, config, id).await?;
        let mut after = before.clone();
        after.key = key.unwrap_or(after.key);
        after.value = value.unwrap_or(after.value);
        if after == before {
            return ended(tx, before).await;
        }
        check_item(&after.key, &after.value)?;
        self.refuse_taken_key(&mut tx, &after).await?;
        after.updated_at_us = tx.now_us();
        tx.run(
            sql::CONFIG_ITEM_UPDATE,
            args![id, &after.key, &after.value, after.updated_at_us],
        )
        .await?;
        tx.changed().await?;
        tx.commit().await?;
        Ok(after)
    }

    pub async fn delete_config_item(&self, config: ConfigId, id: ConfigItemId) -> Result<()> {
        let mut tx = self.write().await?;
        self.item_of_config(&mut tx, config, id).await?;
        tx.run(sql::CONFIG_ITEM_DELETE, args![id]).await?;
        tx.count(config, count::CONFIG_ITEMS, -1).await?;
        tx.changed().await?;
        tx.commit().await
    }

    async fn config_row(&self, tx: &mut Tx, id: ConfigId) -> Result<Row> {
        self.visible(tx, sql::CONFIG, "config", id).await
    }

    async fn item_of_config(&self, tx: &mut Tx, config: ConfigId, id: ConfigItemId) -> Result<ConfigItem> {
        self.config_row(tx, config).await?;
        let row = tx.first(sql::CONFIG_ITEM, args![config, id]).await?;
        read::config_item(&row.ok_or_else(|| Error::not_found(format!("item {id} of config {config}")))?)
    }

    async fn refuse_taken_config(&self, tx: &mut Tx, id: ConfigId, owner: AccountId, name: &str) -> Result<()> {
        let error = check::taken("name", "config");
        self.refuse_taken(tx, sql::CONFIG_NAME_TAKEN, args![owner, name, id], error)
            .await
    }

    async fn refuse_taken_key(&self, tx: &mut Tx, item: &ConfigItem) -> Result<()> {
        let error = check::taken("key", "config item");
        self.refuse_taken(tx, sql::CONFIG_KEY_TAKEN, args![item.config, &item.key, item.id], error)
            .await
    }
}

/// Also used for the Default config of a new account.
pub(crate) async fn insert(tx: &mut Tx, config: &Config, owner: AccountId) -> Result<()> {
    let values = args![
        config.id,
        config.project,
        owner,
        &config.name,
        config.is_default,
        config.created_at_us
    ];
    tx.run(sql::CONFIG_INSERT, values).await?;
    tx.about(config.id);
    tx.count(config.project, count::CONFIGS, 1).await
}

pub(super) async fn refuse_more(tx: &mut Tx, parent: &str, kind: &str) -> Result<()> {
    if list::counter(tx, parent, kind).await? >= ITEMS_MAX {
        return Err(Error::refused(format!("Maximum of {ITEMS_MAX} items reached")));
    }
    Ok(())
}

fn check_item(key: &str, value: &str) -> Result<()> {
    let mut problems = Problems::default();
    check::env_key(&mut problems, key);
    check::env_value(&mut problems, value);
    problems.check()
}
