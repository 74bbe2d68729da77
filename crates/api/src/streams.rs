//! Open log and rollout streams: how many there may be, and for how long a caller stays welcome.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use domain::error::Kind;
use domain::{AccountId, Error, Result};
use store::{Clock, Scope, Via};
use tokio::time::sleep;

use crate::limits::{STREAM_REVIEW, STREAMS_MAX, STREAMS_PER_ACCOUNT_MAX};

/// Counts open streams, all together and by account, so that no account can take them all.
#[derive(Default)]
pub struct Streams {
    open: Mutex<HashMap<AccountId, usize>>,
}

/// The right to keep a stream open, given back when dropped.
pub struct OpenStream {
    streams: Arc<Streams>,
    account: AccountId,
}

impl Streams {
    /// # Errors
    /// `Kind::Unavailable` when there are too many already.
    pub fn open(self: &Arc<Self>, account: AccountId) -> Result<OpenStream> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = open.values().sum();
        let own = open.entry(account).or_default();
        if total >= STREAMS_MAX || *own >= STREAMS_PER_ACCOUNT_MAX {
            return Err(Error::unavailable(
                "Too many open streams; close some and try again",
                format!("{total} streams are open, {own} of them of account {account}"),
            ));
        }
        *own += 1;
        Ok(OpenStream {
            streams: self.clone(),
            account,
        })
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.account) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.account);
            }
        }
    }
}

/// Resolves when the caller's key has been revoked or has expired: a stream must not outlive the right to read it
/// (G.4). Looks every [`STREAM_REVIEW`]; a store that does not answer changes nothing.
pub async fn unwelcome(scope: Scope, clock: Clock) {
    let Via::Key(id) = scope.principal().via else {
        return std::future::pending().await;
    };
    loop {
        sleep(STREAM_REVIEW).await;
        let welcome = match scope.api_key(id).await {
            Ok(key) => key.revoked_at_us.is_none() && key.expires_at_us.is_none_or(|end_us| end_us > clock()),
            Err(error) => error.kind != Kind::NotFound,
        };
        if !welcome {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(n: u128) -> AccountId {
        AccountId(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn no_account_can_take_all_streams() {
        let streams = Arc::new(Streams::default());
        let held: Vec<_> = (0..STREAMS_PER_ACCOUNT_MAX)
            .map(|_| streams.open(account(1)).ok())
            .collect();
        assert!(held.iter().all(Option::is_some));
        assert!(streams.open(account(1)).is_err());
        assert!(streams.open(account(2)).is_ok());
        drop(held);
        assert!(streams.open(account(1)).is_ok());
        let left: usize = streams.open.lock().expect("no test panics with the lock").len();
        assert_eq!(left, 0, "accounts without streams are forgotten");
    }

    #[test]
    fn all_accounts_together_have_a_limit() {
        let streams = Arc::new(Streams::default());
        let held: Vec<_> = (0..STREAMS_MAX)
            .map(|n| streams.open(account(n as u128)).ok())
            .collect();
        assert!(held.iter().all(Option::is_some));
        assert!(streams.open(account(9999)).is_err());
    }
}
