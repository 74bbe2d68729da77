//! Items of configs. A changed item shows in later deployments only, unless the change of the service brings it along
//! ([`Scope::tell`]).

use domain::error::Problems;
use domain::{AccountId, ConfigId, ConfigItemId, Error, Result};
use uuid::Uuid;

use super::{Scope, ended, sets};
use crate::db::{Tx, args};
use crate::input::{Env, ListQuery, Page};
use crate::ledger::count;
use crate::list;
use crate::rows::{ConfigItem, Service};
use crate::{check, read, sql};

impl Scope {
    pub async fn create_config_item(&self, config: ConfigId, key: &str, value: &str) -> Result<ConfigItem> {
        let mut tx = self.write().await?;
        self.set_row(&mut tx, config).await?;
        let item = self.create_config_item_in(&mut tx, config, key, value).await?;
        tx.changed().await?;
        tx.commit().await?;
        Ok(item)
    }

    async fn create_config_item_in(&self, tx: &mut Tx, config: ConfigId, key: &str, value: &str) -> Result<ConfigItem> {
        check_item(key, value)?;
        let now_us = tx.now_us();
        let item = ConfigItem {
            id: ConfigItemId(Uuid::now_v7()),
            config,
            key: key.to_owned(),
            value: value.to_owned(),
            created_at_us: now_us,
            updated_at_us: now_us,
        };
        self.refuse_taken_key(tx, &item).await?;
        sets::refuse_more(tx, config).await?;
        tx.run(sql::CONFIG_ITEM_INSERT, args![item.id, config, key, value, now_us])
            .await?;
        tx.about(item.id);
        tx.count(config, count::CONFIG_ITEMS, 1).await?;
        Ok(item)
    }

    pub async fn config_item(&self, config: ConfigId, id: ConfigItemId) -> Result<ConfigItem> {
        let mut tx = self.read().await?;
        let item = self.item_of_config(&mut tx, config, id).await?;
        ended(tx, item).await
    }

    pub async fn list_config_items(&self, config: ConfigId, query: &ListQuery) -> Result<Page<ConfigItem>> {
        let mut tx = self.read().await?;
        self.set_row(&mut tx, config).await?;
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
        let after = self.patch_config_item_in(&mut tx, after).await?;
        tx.changed().await?;
        tx.commit().await?;
        Ok(after)
    }

    /// Writes a changed item.
    async fn patch_config_item_in(&self, tx: &mut Tx, mut after: ConfigItem) -> Result<ConfigItem> {
        check_item(&after.key, &after.value)?;
        self.refuse_taken_key(tx, &after).await?;
        after.updated_at_us = tx.now_us();
        tx.run(
            sql::CONFIG_ITEM_UPDATE,
            args![after.id, &after.key, &after.value, after.updated_at_us],
        )
        .await?;
        Ok(after)
    }

    /// Sets values in the config that a service reads, and answers whether anything differs now. Without a config it
    /// gets the one of its name in its project, which is made where there is none.
    ///
    /// Assumptions: the service has been checked, its config being one that it may have; its row is written after this.
    pub(super) async fn tell(&self, tx: &mut Tx, service: &mut Service, owner: AccountId, env: &Env) -> Result<bool> {
        if env.is_empty() {
            return Ok(false);
        }
        let config = match service.config {
            Some(config) => config,
            None => self.config_of_name(tx, service, owner).await?,
        };
        let mut differs = service.config.replace(config) != Some(config);
        self.set_row(tx, config).await?;
        let rows = tx.all(sql::CONFIG_ITEMS, args![config]).await?;
        let items = rows.iter().map(read::config_item).collect::<Result<Vec<_>>>()?;
        for (key, value) in env {
            match items.iter().find(|item| item.key == *key) {
                Some(item) if item.value == *value => continue,
                Some(item) => {
                    let value = value.clone();
                    self.patch_config_item_in(tx, ConfigItem { value, ..item.clone() })
                        .await?;
                }
                None => {
                    self.create_config_item_in(tx, config, key, value).await?;
                }
            }
            differs = true;
        }
        Ok(differs)
    }

    pub async fn delete_config_item(&self, config: ConfigId, id: ConfigItemId) -> Result<()> {
        let mut tx = self.write().await?;
        self.item_of_config(&mut tx, config, id).await?;
        tx.run(sql::CONFIG_ITEM_DELETE, args![id]).await?;
        tx.count(config, count::CONFIG_ITEMS, -1).await?;
        tx.changed().await?;
        tx.commit().await
    }

    async fn item_of_config(&self, tx: &mut Tx, config: ConfigId, id: ConfigItemId) -> Result<ConfigItem> {
        self.set_row(tx, config).await?;
        let row = tx.first(sql::CONFIG_ITEM, args![config, id]).await?;
        read::config_item(&row.ok_or_else(|| Error::not_found(format!("item {id} of config {config}")))?)
    }

    async fn refuse_taken_key(&self, tx: &mut Tx, item: &ConfigItem) -> Result<()> {
        let error = check::taken("key", "config item");
        self.refuse_taken(tx, sql::CONFIG_KEY_TAKEN, args![item.config, &item.key, item.id], error)
            .await
    }
}

fn check_item(key: &str, value: &str) -> Result<()> {
    let mut problems = Problems::default();
    check::env_key(&mut problems, key);
    check::env_value(&mut problems, value);
    problems.check()
}
