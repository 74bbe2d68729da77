//! Opening PostgreSQL.

use std::time::Duration;

use domain::{Error, Result};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgPool};

use super::errors::of_postgres;
use super::migrate;
use crate::sql;

const CONNECTIONS: u32 = 8;
/// Longest wait for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// Statements kept prepared by each connection; the registry has fewer.
const STATEMENT_CACHE: usize = 512;

pub(super) async fn open(url: &str, create: bool) -> Result<PgPool> {
    // The driver's error would repeat the URL, and with it a password.
    let options: PgConnectOptions = url.parse().map_err(|_| {
        Error::refused("The database's URL cannot be read; it looks like postgres://USER:PASSWORD@HOST/DATABASE")
    })?;
    let options = options
        .application_name("hob")
        .options([
            ("statement_timeout", "30s"),
            ("idle_in_transaction_session_timeout", "60s"),
        ])
        .statement_cache_capacity(STATEMENT_CACHE);
    // A pool would try in vain until its timeout and then only say that it timed out.
    let first = sqlx::PgConnection::connect_with(&options)
        .await
        .map_err(|error| of_postgres(error, "connect"))?;
    first.close().await.map_err(|error| of_postgres(error, "connect"))?;
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT);
    let pool = pool
        .connect_with(options)
        .await
        .map_err(|error| of_postgres(error, "connect"))?;
    if !create {
        let ours = sqlx::query_as(sql::POSTGRES_IS_OURS).fetch_one(&pool).await;
        let (ours,): (bool,) = ours.map_err(|error| of_postgres(error, sql::POSTGRES_IS_OURS))?;
        if !ours {
            return Err(Error::refused(
                "The PostgreSQL database holds nothing of Hob's, but this installation has been used before. Is it the \
                 right database? To begin anew, remove the root key of the installation",
            ));
        }
    }
    migrate::postgres(&pool).await?;
    Ok(pool)
}

/// Brings a PostgreSQL database up to date and leaves no connection behind, so that it can be a template.
#[cfg(test)]
pub(crate) async fn migrate_and_leave(url: &str) -> Result<()> {
    let pool = PgPool::connect(url)
        .await
        .map_err(|error| of_postgres(error, "connect"))?;
    migrate::postgres(&pool).await?;
    pool.close().await;
    Ok(())
}
