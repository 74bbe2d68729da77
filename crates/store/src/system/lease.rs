//! Leases and their fences (invariant 19).

use domain::{Error, Result, error::Kind};

use super::System;
use crate::db::{Tx, args};
use crate::input::Fence;
use crate::sql;
use crate::trouble::Mutant;

impl System {
    /// Takes a lease that is free or over. Its own holder takes it anew at once, which makes older fences stale: a
    /// control plane that comes back after a crash need not wait for itself.
    pub async fn acquire_lease(&self, name: &str, holder: &str, ttl_us: i64) -> Result<Option<Fence>> {
        let mut tx = self.write().await?;
        let now_us = tx.now_us();
        let row = tx
            .first(
                sql::LEASE_TAKE,
                args![name, holder, now_us.saturating_add(ttl_us), now_us],
            )
            .await?;
        let Some(row) = row else {
            tx.end().await?;
            return Ok(None);
        };
        let fence = Fence {
            name: name.to_owned(),
            number: row.int("number")?,
            holder: holder.to_owned(),
        };
        tx.commit().await?;
        Ok(Some(fence))
    }

    /// Extends a lease. `false`: somebody else has it.
    pub async fn renew_lease(&self, fence: &Fence, ttl_us: i64) -> Result<bool> {
        let mut tx = self.write().await?;
        let until_us = tx.now_us().saturating_add(ttl_us);
        let renewed = tx
            .run(
                sql::LEASE_RENEW,
                args![&fence.name, fence.number, &fence.holder, until_us],
            )
            .await?;
        tx.commit().await?;
        Ok(renewed > 0)
    }
}

/// Fails where the fence is stale. Inside the writing transaction, so that nobody can take the lease in between.
pub(super) async fn check(tx: &mut Tx, fence: &Fence) -> Result<()> {
    let held = tx
        .first(sql::LEASE_HELD, args![&fence.name, fence.number, &fence.holder])
        .await?;
    if held.is_some() || tx.has(Mutant::SkipLease) {
        return Ok(());
    }
    let message = format!(
        "The lease `{}` number {} of {} is lost",
        fence.name, fence.number, fence.holder
    );
    Err(Error::new(Kind::Conflict(message.clone()), message))
}
