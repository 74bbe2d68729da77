//! Items of secrets. Values are sealed; each read of one is logged (G.33).

use domain::error::Problems;
use domain::{Error, Result, SecretId, SecretItemId};
use uuid::Uuid;

use super::{Scope, ended, sets};
use crate::db::{Row, Serial, Tx, args};
use crate::input::{ListQuery, Page};
use crate::ledger::count;
use crate::list;
use crate::rows::{SecretAccess, SecretItem};
use crate::{SecretString, check, read, sql};

/// Characters of the access log's "how".
const HOW_MAX: usize = 64;
/// Most access-log lines of one answer.
const ACCESSES_LIMIT: u32 = 1000;

impl Scope {
    pub async fn create_secret_item(&self, secret: SecretId, key: &str, value: SecretString) -> Result<SecretItem> {
        check_item(key, Some(&value))?;
        let mut tx = self.write().await?;
        let parent = self.set_row(&mut tx, secret).await?;
        let now_us = tx.now_us();
        let mut item = SecretItem {
            id: SecretItemId(Uuid::now_v7()),
            secret,
            key: key.to_owned(),
            value_version: 0,
            last_accessed_at_us: None,
            last_accessed_by: None,
            created_at_us: now_us,
            updated_at_us: now_us,
        };
        self.refuse_taken_secret_key(&mut tx, &item).await?;
        sets::refuse_more(&mut tx, secret).await?;
        let project = parent.parse("project")?;
        item.value_version = self
            .store
            .put_value(&mut tx, project, secret, item.id, key, &value)
            .await?;
        tx.run(
            sql::SECRET_ITEM_INSERT,
            args![item.id, secret, key, item.value_version, now_us],
        )
        .await?;
        tx.about(item.id);
        tx.count(secret, count::SECRET_ITEMS, 1).await?;
        tx.changed().await?;
        tx.commit().await?;
        Ok(item)
    }

    pub async fn secret_item(&self, secret: SecretId, id: SecretItemId) -> Result<SecretItem> {
        let mut tx = self.read().await?;
        let (item, _) = self.item_of_secret(&mut tx, secret, id).await?;
        ended(tx, item).await
    }

    /// Items without their values: no access is logged.
    pub async fn list_secret_items(&self, secret: SecretId, query: &ListQuery) -> Result<Page<SecretItem>> {
        let mut tx = self.read().await?;
        let page = self.items_page(&mut tx, secret, query).await?;
        ended(tx, page).await
    }

    /// Items with their values. Each value shown counts as an access, logged with `how`.
    pub async fn list_secret_values(
        &self,
        secret: SecretId,
        query: &ListQuery,
        how: &str,
    ) -> Result<Page<(SecretItem, SecretString)>> {
        let mut tx = self.write().await?;
        let page = self.items_page(&mut tx, secret, query).await?;
        let mut rows = Vec::with_capacity(page.rows.len());
        for mut item in page.rows {
            let value = self.accessed(&mut tx, &mut item, how).await?;
            rows.push((item, value));
        }
        tx.commit().await?;
        Ok(Page {
            count: page.count,
            number: page.number,
            pages: page.pages,
            rows,
        })
    }

    /// A value, in clear. The access is durable in the log before the value is out; `how` says by what way it was read.
    pub async fn secret_value(&self, item: SecretItemId, how: &str) -> Result<SecretString> {
        let mut tx = self.write().await?;
        let row = self
            .visible(&mut tx, sql::SECRET_ITEM_VISIBLE, "secret item", item)
            .await?;
        let mut item = read::secret_item(&row)?;
        let value = self.accessed(&mut tx, &mut item, how).await?;
        tx.commit().await?;
        Ok(value)
    }

    /// Who has read an item's value, oldest first.
    pub async fn secret_accesses(&self, item: SecretItemId, after_seq: i64, limit: u32) -> Result<Vec<SecretAccess>> {
        let mut tx = self.read().await?;
        self.visible(&mut tx, sql::SECRET_ITEM_VISIBLE, "secret item", item)
            .await?;
        let rows = tx
            .all(sql::SECRET_ACCESSES, args![item, after_seq, limit.min(ACCESSES_LIMIT)])
            .await?;
        let accesses = rows.iter().map(read::secret_access).collect::<Result<_>>()?;
        ended(tx, accesses).await
    }

    /// A new value, a new key, or both. Either makes a new version; deployments keep the version that they recorded.
    pub async fn patch_secret_item(
        &self,
        secret: SecretId,
        id: SecretItemId,
        key: Option<String>,
        value: Option<SecretString>,
    ) -> Result<SecretItem> {
        let mut tx = self.write().await?;
        let (mut item, parent) = self.item_of_secret(&mut tx, secret, id).await?;
        let key = key.filter(|key| *key != item.key);
        if key.is_none() && value.is_none() {
            return ended(tx, item).await;
        }
        check_item(key.as_deref().unwrap_or(&item.key), value.as_ref())?;
        let value = match value {
            Some(value) => value,
            // A value is sealed with its key's name, so a new name needs it sealed anew.
            None => self.store.value(&mut tx, secret, &item.key, item.value_version).await?,
        };
        item.key = key.unwrap_or(item.key);
        self.refuse_taken_secret_key(&mut tx, &item).await?;
        let project = parent.parse("project")?;
        item.value_version = self
            .store
            .put_value(&mut tx, project, secret, id, &item.key, &value)
            .await?;
        item.updated_at_us = tx.now_us();
        tx.run(
            sql::SECRET_ITEM_UPDATE,
            args![id, &item.key, item.value_version, item.updated_at_us],
        )
        .await?;
        tx.run(sql::SECRET_VALUES_DROP_UNUSED, args![secret]).await?;
        tx.changed().await?;
        tx.commit().await?;
        Ok(item)
    }

    pub async fn delete_secret_item(&self, secret: SecretId, id: SecretItemId) -> Result<()> {
        let mut tx = self.write().await?;
        self.item_of_secret(&mut tx, secret, id).await?;
        tx.run(sql::SECRET_ITEM_DELETE, args![id]).await?;
        tx.run(sql::SECRET_VALUES_DROP_UNUSED, args![secret]).await?;
        tx.count(secret, count::SECRET_ITEMS, -1).await?;
        tx.changed().await?;
        tx.commit().await
    }

    /// Opens a value and logs that it was read.
    async fn accessed(&self, tx: &mut Tx, item: &mut SecretItem, how: &str) -> Result<SecretString> {
        let value = self.store.value(tx, item.secret, &item.key, item.value_version).await?;
        let (seq, now_us, who) = (tx.next(Serial::Access).await?, tx.now_us(), self.who.account);
        let how: String = how.chars().take(HOW_MAX).collect();
        tx.run(sql::SECRET_ACCESS_APPEND, args![seq, item.id, who, now_us, how])
            .await?;
        tx.run(sql::SECRET_ITEM_ACCESSED, args![item.id, now_us, who]).await?;
        item.last_accessed_at_us = Some(now_us);
        item.last_accessed_by = Some(who);
        Ok(value)
    }

    async fn items_page(&self, tx: &mut Tx, secret: SecretId, query: &ListQuery) -> Result<Page<SecretItem>> {
        self.set_row(tx, secret).await?;
        list::SECRET_ITEMS
            .page(tx, &secret.to_string(), count::SECRET_ITEMS, query, read::secret_item)
            .await
    }

    async fn item_of_secret(&self, tx: &mut Tx, secret: SecretId, id: SecretItemId) -> Result<(SecretItem, Row)> {
        let parent = self.set_row(tx, secret).await?;
        let row = tx.first(sql::SECRET_ITEM, args![secret, id]).await?;
        let row = row.ok_or_else(|| Error::not_found(format!("item {id} of secret {secret}")))?;
        Ok((read::secret_item(&row)?, parent))
    }

    async fn refuse_taken_secret_key(&self, tx: &mut Tx, item: &SecretItem) -> Result<()> {
        let error = check::taken("key", "secret item");
        self.refuse_taken(tx, sql::SECRET_KEY_TAKEN, args![item.secret, &item.key, item.id], error)
            .await
    }
}

fn check_item(key: &str, value: Option<&SecretString>) -> Result<()> {
    let mut problems = Problems::default();
    check::env_key(&mut problems, key);
    if let Some(value) = value {
        check::env_value(&mut problems, value.expose());
    }
    problems.check()
}
