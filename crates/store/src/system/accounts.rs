//! Accounts, authentication, the claim link.

use domain::{AccountId, ApiKeyId, ConfigId, Error, ProjectId, Result, SecretId, error::Kind};
use uuid::Uuid;

use super::System;
use crate::db::{Row, Tx, args};
use crate::input::{Principal, Via};
use crate::rows::{Account, ApiKey, Config, Project, Secret};
use crate::scope::{new_api_key, new_project, new_set};
use crate::{SecretString, check, read, sql, token};

/// The account that administers everything, there from the first start.
const OPERATOR: &str = "operator";
/// Names of what every account begins with (G.29).
const DEFAULT_PROJECT: &str = "default";
const DEFAULT_SET: &str = "Default";
/// Between two writes of a key's last use.
const LAST_USED_STEP_US: i64 = 60_000_000;
/// Most accounts of one answer.
const ACCOUNTS_LIMIT: u32 = 1000;

impl System {
    /// The operator's account, made with its project, config and secret where it is missing. Can be called any number
    /// of times.
    pub async fn bootstrap(&self) -> Result<Account> {
        let mut tx = self.write().await?;
        if let Some(row) = tx.first(sql::ACCOUNT_BY_NAME, args![OPERATOR]).await? {
            let account = read::account(&row)?;
            tx.end().await?;
            return Ok(account);
        }
        let account = self.insert_account(&mut tx, OPERATOR, true, None).await?;
        tx.commit().await?;
        Ok(account)
    }

    /// An account with its default project, config and secret. `password_hash` is stored as it is.
    pub async fn create_account(&self, name: &str, admin: bool, password_hash: Option<String>) -> Result<Account> {
        check::one_title("name", name)?;
        let mut tx = self.write().await?;
        if tx.first(sql::ACCOUNT_BY_NAME, args![name]).await?.is_some() {
            return Err(check::taken("name", "account"));
        }
        let account = self.insert_account(&mut tx, name, admin, password_hash).await?;
        tx.commit().await?;
        Ok(account)
    }

    pub async fn account(&self, id: AccountId) -> Result<Account> {
        let mut tx = self.read().await?;
        let row = tx.first(sql::ACCOUNT, args![id]).await?;
        tx.end().await?;
        read::account(&row.ok_or_else(|| Error::not_found(format!("account {id}")))?)
    }

    pub async fn account_by_name(&self, name: &str) -> Result<Account> {
        let mut tx = self.read().await?;
        let row = tx.first(sql::ACCOUNT_BY_NAME, args![name]).await?;
        tx.end().await?;
        read::account(&row.ok_or_else(|| Error::not_found(format!("account {name:?}")))?)
    }

    /// Accounts by age, from after `after` on.
    pub async fn accounts(&self, after: Option<AccountId>, limit: u32) -> Result<Vec<Account>> {
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        let mut tx = self.read().await?;
        let rows = tx
            .all(sql::ACCOUNTS_AFTER, args![after, limit.min(ACCOUNTS_LIMIT)])
            .await?;
        tx.end().await?;
        rows.iter().map(read::account).collect()
    }

    /// What [`System::create_account`] was given, for the login to compare.
    pub async fn password_hash(&self, account: AccountId) -> Result<Option<String>> {
        let mut tx = self.read().await?;
        let row = tx.first(sql::ACCOUNT_SECRETS, args![account]).await?;
        tx.end().await?;
        row.ok_or_else(|| Error::not_found(format!("account {account}")))?
            .text_or_null("password_hash")
    }

    /// As [`crate::Scope::create_api_key`], for the socket in the data directory.
    pub async fn create_api_key_for(
        &self,
        account: AccountId,
        name: &str,
        expires_at_us: Option<i64>,
    ) -> Result<(ApiKey, SecretString)> {
        let mut tx = self.write().await?;
        if tx.first(sql::ACCOUNT, args![account]).await?.is_none() {
            return Err(Error::not_found(format!("account {account}")));
        }
        let made = new_api_key(&mut tx, account, name, expires_at_us).await?;
        tx.commit().await?;
        Ok(made)
    }

    /// Whose key this is.
    ///
    /// # Errors
    /// `Unauthenticated` with one text for an unknown, revoked or expired key (I.2).
    pub async fn authenticate_key(&self, plaintext: &str) -> Result<Principal> {
        let refused = || Error::new(Kind::Unauthenticated("Invalid API key.".to_owned()), "invalid API key");
        let fingerprint = token::fingerprint(plaintext).ok_or_else(refused)?;
        let mut tx = self.read().await?;
        let now_us = tx.now_us();
        let candidates = tx.all(sql::API_KEY_CANDIDATES, args![&fingerprint.lookup]).await?;
        tx.end().await?;
        let mut found: Option<&Row> = None;
        for row in &candidates {
            if token::same(&row.bytes("hash")?, &fingerprint.hash) {
                found = Some(row);
            }
        }
        let row = found.ok_or_else(refused)?;
        let key = read::api_key(row)?;
        if key.revoked_at_us.is_some() || key.expires_at_us.is_some_and(|expires| expires <= now_us) {
            return Err(refused());
        }
        let step = key
            .last_used_at_us
            .is_none_or(|last| now_us.saturating_sub(last) >= LAST_USED_STEP_US);
        if step && let Err(error) = self.mark_used(key.id).await {
            tracing::warn!(api_key.id = %key.id, error = error.context, "the last use of an API key is not recorded");
        }
        Ok(Principal {
            account: key.account,
            admin: row.bool("admin")?,
            via: Via::Key(key.id),
        })
    }

    /// Remembers a one-time link by the hash of its token.
    pub async fn put_claim(&self, hash: &str, expires_at_us: i64) -> Result<()> {
        let mut tx = self.write().await?;
        let now_us = tx.now_us();
        tx.run(sql::CLAIM_EXPIRE, args![now_us]).await?;
        tx.run(sql::CLAIM_PUT, args![hash, expires_at_us]).await?;
        tx.commit().await
    }

    /// Uses a one-time link up. `false`: there is none, it is over, or it was used before.
    pub async fn take_claim(&self, hash: &str) -> Result<bool> {
        let mut tx = self.write().await?;
        let now_us = tx.now_us();
        let taken = tx.run(sql::CLAIM_TAKE, args![hash, now_us]).await?;
        tx.commit().await?;
        Ok(taken > 0)
    }

    async fn mark_used(&self, id: ApiKeyId) -> Result<()> {
        let mut tx = self.write().await?;
        let now_us = tx.now_us();
        tx.run(sql::API_KEY_USED, args![id, now_us]).await?;
        tx.commit().await
    }

    async fn insert_account(
        &self,
        tx: &mut Tx,
        name: &str,
        admin: bool,
        password_hash: Option<String>,
    ) -> Result<Account> {
        let now_us = tx.now_us();
        let account = Account {
            id: AccountId(Uuid::now_v7()),
            name: name.to_owned(),
            admin,
            created_at_us: now_us,
        };
        tx.run(
            sql::ACCOUNT_INSERT,
            args![account.id, name, admin, password_hash, now_us],
        )
        .await?;
        let project = Project {
            id: ProjectId(Uuid::now_v7()),
            name: DEFAULT_PROJECT.to_owned(),
            is_default: true,
            environment: None,
            created_at_us: now_us,
            updated_at_us: now_us,
        };
        new_project(&self.store, tx, &project, account.id).await?;
        tx.run(sql::ACCOUNT_SET_DEFAULT_PROJECT, args![account.id, project.id])
            .await?;
        let (project, name, is_default, created_at_us) = (project.id, DEFAULT_SET.to_owned(), true, now_us);
        let config = Config {
            id: ConfigId(Uuid::now_v7()),
            project,
            name: name.clone(),
            is_default,
            created_at_us,
        };
        new_set(tx, &config, account.id).await?;
        let secret = Secret {
            id: SecretId(Uuid::now_v7()),
            project,
            name,
            is_default,
            created_at_us,
        };
        new_set(tx, &secret, account.id).await?;
        Ok(account)
    }
}
