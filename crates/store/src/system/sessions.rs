//! Browsers that are logged in.

use domain::{AccountId, Result};
use sha2::{Digest, Sha256};

use super::System;
use crate::db::args;
use crate::input::{Principal, Via};
use crate::{SecretString, sql, token};

/// Between two writes of when a session was last seen.
const SEEN_STEP_US: i64 = 60_000_000;

/// A session that was found to be good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub who: Principal,
    /// Over then at the latest.
    pub expires_at_us: i64,
}

impl System {
    /// A new session under a new token, which is answered here and never again. Nothing that a browser brought along is
    /// ever made a session's name (C6.6).
    pub async fn open_session(&self, account: AccountId, expires_at_us: i64) -> Result<SecretString> {
        let token = token::generate(token::SESSION_MARK)?;
        let mut tx = self.write().await?;
        let now_us = tx.now_us();
        tx.run(sql::SESSIONS_EXPIRE, args![now_us]).await?;
        let values = args![hash(token.expose()), account, now_us, expires_at_us];
        tx.run(sql::SESSION_INSERT, values).await?;
        tx.commit().await?;
        Ok(token)
    }

    /// Whose session this is; `None` where there is none, or it is over: by its age, or because it was not used for
    /// longer than `idle_us`.
    pub async fn session(&self, token: &str, idle_us: i64) -> Result<Option<Session>> {
        let hash = hash(token);
        let mut tx = self.read().await?;
        let now_us = tx.now_us();
        let row = tx.first(sql::SESSION, args![&hash]).await?;
        tx.end().await?;
        let Some(row) = row else { return Ok(None) };
        let (seen_at_us, expires_at_us) = (row.int("seen_at_us")?, row.int("expires_at_us")?);
        let idle = now_us.saturating_sub(seen_at_us);
        if expires_at_us <= now_us || idle > idle_us {
            return Ok(None);
        }
        if idle >= SEEN_STEP_US {
            let mut tx = self.write().await?;
            tx.run(sql::SESSION_SEEN, args![&hash, now_us]).await?;
            tx.commit().await?;
        }
        Ok(Some(Session {
            who: Principal {
                account: row.parse("account")?,
                admin: row.bool("admin")?,
                via: Via::Session,
            },
            expires_at_us,
        }))
    }

    /// Ends a session at once. Ending one that is over is fine.
    pub async fn close_session(&self, token: &str) -> Result<()> {
        let mut tx = self.write().await?;
        tx.run(sql::SESSION_DELETE, args![hash(token)]).await?;
        tx.commit().await
    }
}

/// A token has 256 random bits, so its hash can be looked up as it is.
fn hash(token: &str) -> String {
    token::hex(&Sha256::digest(token.as_bytes()))
}
