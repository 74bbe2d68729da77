//! API keys, as their owner sees them.

use domain::{AccountId, ApiKeyId, Error, Result};
use uuid::Uuid;

use super::{Scope, ended};
use crate::db::{Tx, args};
use crate::input::{ListQuery, Page};
use crate::ledger::count;
use crate::rows::ApiKey;
use crate::{API_KEYS_MAX, SecretString, check, list, read, sql, token};

/// Keys of one account that are shown, revoked and expired ones among them.
const API_KEYS_KEPT_MAX: u64 = 1000;

impl Scope {
    /// A new key of the caller's account. The key itself is answered here and never again (G.1).
    pub async fn create_api_key(&self, name: &str, expires_at_us: Option<i64>) -> Result<(ApiKey, SecretString)> {
        let mut tx = self.write().await?;
        let made = create(&mut tx, self.who.account, name, expires_at_us).await?;
        tx.commit().await?;
        Ok(made)
    }

    /// The caller's own keys, revoked and expired ones too.
    pub async fn list_api_keys(&self, query: &ListQuery) -> Result<Page<ApiKey>> {
        let mut tx = self.read().await?;
        let account = self.who.account.to_string();
        let page = list::API_KEYS
            .page(&mut tx, &account, count::API_KEYS, query, read::api_key)
            .await?;
        ended(tx, page).await
    }

    pub async fn api_key(&self, id: ApiKeyId) -> Result<ApiKey> {
        let mut tx = self.read().await?;
        let key = self.own_key(&mut tx, id).await?;
        ended(tx, key).await
    }

    /// Takes effect at once (G.4). Revoking twice is fine.
    pub async fn revoke_api_key(&self, id: ApiKeyId) -> Result<()> {
        let mut tx = self.write().await?;
        self.own_key(&mut tx, id).await?;
        let now_us = tx.now_us();
        tx.run(sql::API_KEY_REVOKE, args![id, now_us]).await?;
        tx.commit().await
    }

    async fn own_key(&self, tx: &mut Tx, id: ApiKeyId) -> Result<ApiKey> {
        let row = tx.first(sql::API_KEY_OF_ACCOUNT, args![id, self.who.account]).await?;
        read::api_key(&row.ok_or_else(|| Error::not_found(format!("API key {id}")))?)
    }
}

/// Makes a key for an account that has less than [`API_KEYS_MAX`] active ones.
pub(crate) async fn create(
    tx: &mut Tx,
    account: AccountId,
    name: &str,
    expires_at_us: Option<i64>,
) -> Result<(ApiKey, SecretString)> {
    check::one_title("name", name)?;
    let now_us = tx.now_us();
    if expires_at_us.is_some_and(|expires| expires <= now_us) {
        return Err(Error::invalid("expires_at", "Use a time in the future"));
    }
    let active: u64 = tx
        .one(sql::API_KEYS_ACTIVE, args![account, now_us])
        .await?
        .number("n")?;
    if active >= API_KEYS_MAX {
        return Err(Error::refused(format!(
            "Maximum of {API_KEYS_MAX} active API keys reached"
        )));
    }
    let key = token::generate(token::MARK)?;
    let fingerprint =
        token::fingerprint(key.expose()).ok_or_else(|| Error::internal("a new API key does not look like one"))?;
    let record = ApiKey {
        id: ApiKeyId(Uuid::now_v7()),
        account,
        name: name.to_owned(),
        prefix: token::prefix(&key),
        created_at_us: now_us,
        last_used_at_us: None,
        expires_at_us,
        revoked_at_us: None,
    };
    let values = args![
        record.id,
        account,
        name,
        &record.prefix,
        fingerprint.lookup,
        fingerprint.hash,
        now_us,
        expires_at_us,
    ];
    tx.run(sql::API_KEY_INSERT, values).await?;
    tx.about(record.id);
    tx.count(account, count::API_KEYS, 1).await?;
    forget_oldest(tx, account).await?;
    Ok((record, key))
}

/// Keeps the list of an account's keys short: one beyond [`API_KEYS_KEPT_MAX`] makes the oldest that is of no use go.
async fn forget_oldest(tx: &mut Tx, account: AccountId) -> Result<()> {
    if list::counter(tx, &account.to_string(), count::API_KEYS).await? <= API_KEYS_KEPT_MAX {
        return Ok(());
    }
    let now_us = tx.now_us();
    let gone = tx.run(sql::API_KEY_FORGET, args![account, now_us]).await?;
    tx.count(account, count::API_KEYS, -i64::try_from(gone).unwrap_or_default())
        .await
}
