//! Rate limits: so many requests of one account in a sliding hour (S2.36 to S2.39, I.14).
//!
//! What was admitted is in the audit log, so that a restart forgets nothing and admission itself writes nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use domain::error::Kind;
use domain::{AccountId, Error, Result};
use sha2::{Digest, Sha256};
use store::{Bucket, Store};
use uuid::Uuid;

use crate::limits;

const HOUR_US: i64 = 3_600_000_000;

/// Requests of one account in any 60 minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    pub resources: u32,
    pub secrets: u32,
}

impl RateLimits {
    fn of(&self, bucket: Bucket) -> u32 {
        match bucket {
            Bucket::Resources => self.resources,
            Bucket::Secrets => self.secrets,
            Bucket::Logins => limits::LOGINS_PER_HOUR,
        }
    }
}

impl Default for RateLimits {
    fn default() -> Self {
        RateLimits {
            resources: limits::RATE_PER_HOUR,
            secrets: limits::RATE_PER_HOUR,
        }
    }
}

/// Counts per **account**, not per key or address, so that a second key buys nothing.
///
/// # Guarantees
/// No 60 minutes ever hold more than the limit of admitted requests. Refused ones do not count. Memory: at most
/// limit × 8 bytes for each account and bucket, and at most [`limits::THROTTLED_ACCOUNTS_MAX`] of these.
///
/// # Assumptions
/// One process per platform. Of what was under way when a process was killed, what changed nothing is not counted.
pub struct Throttle {
    limits: Option<RateLimits>,
    admitted: Mutex<HashMap<(AccountId, Bucket), VecDeque<i64>>>,
}

impl Throttle {
    /// `None`: admits everything.
    pub fn new(limits: Option<RateLimits>) -> Self {
        Throttle {
            limits,
            admitted: Mutex::default(),
        }
    }

    /// Counts one request, or answers when the next one can succeed. Of an account that it knows nothing of, it asks the
    /// audit log first.
    ///
    /// # Errors
    /// `Kind::Throttled` with whole seconds, from 1 to 3600.
    pub async fn admit(&self, store: &Store, account: AccountId, bucket: Bucket, now_us: i64) -> Result<()> {
        let Some(limits) = self.limits else {
            return Ok(());
        };
        if !self.knows(account, bucket) {
            let mut times = store.system().counted(account, bucket, limits.of(bucket)).await?;
            times.reverse();
            self.remember(account, bucket, times);
        }
        self.count(account, bucket, limits.of(bucket) as usize, now_us)
    }

    /// Counts one try to log in as `name`, whether or not there is such an account. In memory only: who guesses has to
    /// begin anew after a restart as well.
    ///
    /// # Errors
    /// As [`Throttle::admit`].
    pub fn admit_login(&self, name: &str, now_us: i64) -> Result<()> {
        if self.limits.is_none() {
            return Ok(());
        }
        let digest = Sha256::digest(name.as_bytes());
        let key = Uuid::from_slice(&digest[..16]).unwrap_or_default();
        self.count(AccountId(key), Bucket::Logins, limits::LOGINS_PER_HOUR as usize, now_us)
    }

    fn knows(&self, account: AccountId, bucket: Bucket) -> bool {
        let admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        admitted.contains_key(&(account, bucket))
    }

    /// `times` are oldest first. Whoever was faster is believed.
    fn remember(&self, account: AccountId, bucket: Bucket, times: Vec<i64>) {
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        admitted.entry((account, bucket)).or_insert_with(|| times.into());
    }

    fn count(&self, account: AccountId, bucket: Bucket, limit: usize, now_us: i64) -> Result<()> {
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        make_room(&mut admitted, now_us);
        let times = admitted.entry((account, bucket)).or_default();
        // A clock that was set back would otherwise keep times of the future for long.
        times.retain(|at| *at > now_us - HOUR_US && *at <= now_us);
        if times.len() < limit {
            times.push_back(now_us);
            return Ok(());
        }
        let free_again_us = times.front().map_or(now_us, |oldest| *oldest) + HOUR_US;
        let wait_us = u64::try_from(free_again_us - now_us).unwrap_or_default();
        let retry_after_s = wait_us.div_ceil(1_000_000).max(1);
        Err(Error::new(
            Kind::Throttled { retry_after_s },
            format!("account {account} is over the limit of {limit} an hour for {bucket:?}"),
        ))
    }
}

fn make_room(admitted: &mut HashMap<(AccountId, Bucket), VecDeque<i64>>, now_us: i64) {
    if admitted.len() < limits::THROTTLED_ACCOUNTS_MAX {
        return;
    }
    admitted.retain(|_, times| times.back().is_some_and(|at| *at > now_us - HOUR_US));
    if admitted.len() < limits::THROTTLED_ACCOUNTS_MAX {
        return;
    }
    let quietest = admitted
        .iter()
        .min_by_key(|(_, times)| times.back().copied())
        .map(|(key, _)| *key);
    if let Some(key) = quietest {
        admitted.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle() -> Throttle {
        Throttle::new(Some(RateLimits::default()))
    }

    fn account(n: u128) -> AccountId {
        AccountId(uuid::Uuid::from_u128(n))
    }

    fn wait_of(result: Result<()>) -> u64 {
        match result.map_err(|e| e.kind) {
            Err(Kind::Throttled { retry_after_s }) => retry_after_s,
            other => panic!("not throttled: {other:?}"),
        }
    }

    #[test]
    fn the_hour_slides_and_the_wait_is_exact() {
        let throttle = throttle();
        let at = |s: i64| throttle.count(account(1), Bucket::Resources, 2, s * 1_000_000);
        assert!(at(0).is_ok());
        assert!(at(10).is_ok());
        assert_eq!(wait_of(at(10)), 3590);
        assert_eq!(wait_of(at(3599)), 1);
        assert!(at(3600).is_ok());
        assert_eq!(wait_of(at(3600)), 10);
    }

    #[test]
    fn refused_requests_do_not_count() {
        let throttle = throttle();
        let at = |s: i64| throttle.count(account(1), Bucket::Secrets, 1, s * 1_000_000);
        assert!(at(0).is_ok());
        for s in 1..3600 {
            assert!(at(s).is_err());
        }
        assert!(at(3600).is_ok());
    }

    #[test]
    fn accounts_and_buckets_are_counted_apart() {
        let throttle = throttle();
        for bucket in [Bucket::Resources, Bucket::Secrets] {
            for n in 0..3 {
                assert!(throttle.count(account(n), bucket, 1, 5).is_ok());
                assert!(throttle.count(account(n), bucket, 1, 5).is_err());
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_back_locks_nobody_out_for_longer_than_an_hour() {
        let throttle = throttle();
        assert!(throttle.count(account(1), Bucket::Resources, 1, 100 * HOUR_US).is_ok());
        assert!(throttle.count(account(1), Bucket::Resources, 1, HOUR_US).is_ok());
    }

    #[test]
    fn a_limit_of_nothing_refuses_with_a_wait() {
        assert_eq!(wait_of(throttle().count(account(1), Bucket::Resources, 0, 7)), 3600);
    }
}
