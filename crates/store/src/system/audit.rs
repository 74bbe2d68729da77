//! The audit log, as those who keep it see it.

use domain::{AccountId, Result};

use super::System;
use crate::audit::{Act, Bucket, From, GENESIS, LINES_MAX, Outcome, Tampering};
use crate::db::{Serial, args};
use crate::sql;

impl System {
    /// Appends the line of an act that no transaction of its own has recorded. Where that is done before the act, the act
    /// must not happen when this fails.
    pub async fn audit(&self, act: &Act, outcome: Outcome) -> Result<()> {
        let mut tx = self.write().await?;
        tx.record(act, None, outcome).await?;
        tx.commit().await?;
        if outcome != Outcome::Begun {
            act.set_recorded();
        }
        Ok(())
    }

    /// When the newest `limit` counted acts of an account were, newest first.
    pub async fn counted(&self, account: AccountId, bucket: Bucket, limit: u32) -> Result<Vec<i64>> {
        let mut tx = self.read().await?;
        let rows = tx
            .all(sql::AUDIT_COUNTED, args![account, bucket.as_str(), limit])
            .await?;
        tx.end().await?;
        rows.iter().map(|row| row.int("at_us")).collect()
    }

    /// Walks the whole log. `Ok(None)`: it is as it was written.
    pub async fn check_audit(&self) -> Result<Option<Tampering>> {
        let (mut seq, mut hash) = (0, GENESIS.to_owned());
        loop {
            let mut tx = self.read().await?;
            let all = [sql::AUDIT_FORWARD, sql::AUDIT_BACKWARD];
            let lines = tx.audit_lines(all, None, From::After(seq), LINES_MAX).await?;
            let written = tx.one(sql::META, args![Serial::Audit.name()]).await?.int("value")?;
            tx.end().await?;
            for line in &lines {
                seq += 1;
                if line.seq != seq {
                    return Ok(Some(Tampering {
                        seq,
                        what: "a line is missing",
                    }));
                }
                if line.hash != line.hash_after(&hash)? {
                    return Ok(Some(Tampering {
                        seq,
                        what: "a line is not what was written",
                    }));
                }
                hash.clone_from(&line.hash);
            }
            if lines.is_empty() {
                let cut = seq < written;
                return Ok(cut.then_some(Tampering {
                    seq: seq + 1,
                    what: "the end is cut off",
                }));
            }
        }
    }
}
