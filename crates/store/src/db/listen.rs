//! Wake-ups from other processes that use the same PostgreSQL database.

use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::postgres::PgListener;

use super::{Db, Pool};
use crate::sql;

/// Between two tries to listen again. A wake-up is a hint: reconcilers look by themselves from time to time.
const RETRY: Duration = Duration::from_secs(5);

pub(super) fn spawn(db: &Arc<Db>) {
    if let Pool::Postgres(pool) = &db.pool {
        tokio::spawn(listen(pool.clone(), Arc::downgrade(db)));
    }
}

/// Runs until the last handle of the database is gone.
async fn listen(pool: sqlx::PgPool, db: Weak<Db>) {
    while db.strong_count() > 0 {
        if let Err(error) = follow(&pool, &db).await
            && db.strong_count() > 0
        {
            tracing::warn!(error = %error, "the database's wake-ups are lost; listening again soon");
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn follow(pool: &sqlx::PgPool, db: &Weak<Db>) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(sql::CHANNEL).await?;
    loop {
        // A lost connection answers `None` once it is back; something may have been missed then.
        let revision = tokio::time::timeout(RETRY, listener.try_recv()).await;
        let Some(db) = db.upgrade() else { return Ok(()) };
        let revision: u64 = match revision {
            Ok(Ok(Some(notification))) => notification.payload().parse().unwrap_or_default(),
            Ok(Ok(None)) => {
                db.wake.send_modify(|_| ());
                continue;
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => continue,
        };
        db.wake
            .send_if_modified(|newest| std::mem::replace(newest, revision.max(*newest)) < revision);
    }
}
