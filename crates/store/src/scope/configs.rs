//! Items of configs. A changed item shows in later deployments only.

use domain::error::Problems;
use domain::{ConfigId, ConfigItemId, Error, Result};
use uuid::Uuid;

use super::{Scope, ended, sets};
use crate::db::{Tx, args};
use crate::input::{ListQuery, Page};
use crate::ledger::count;
use crate::list;
use crate::rows::ConfigItem;
use crate::{check, read, sql};

impl Scope {
    pub async fn create_config_item(&self, config: ConfigId, key: &str, value: &str) -> Result<ConfigItem> {
        check_item(key, value)?;
        let mut tx = self.write().await?;
        self.set_row(&mut tx, config).await?;
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
        sets::refuse_more(&mut tx, config).await?;
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
