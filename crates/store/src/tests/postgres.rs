//! A real PostgreSQL for the tests, one database per test.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use testkit::postgres::Server;

const TEMPLATE: &str = "hob_template";

/// The URL of a fresh, migrated database, or `None` (and a line that says why) where there is no PostgreSQL.
pub(crate) async fn database() -> Option<String> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    static MIGRATED: OnceLock<Result<(), String>> = OnceLock::new();
    let made = tokio::task::spawn_blocking(|| {
        let server = Server::of_this_process()?;
        MIGRATED
            .get_or_init(|| make_template(server))
            .as_ref()
            .expect("the migrations run");
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        Ok(server.create(&name, Some(TEMPLATE)).expect("a database is made"))
    });
    match made.await.expect("the thread ends well") {
        Ok(url) => Some(url),
        Err::<_, &str>(reason) => {
            println!("SKIPPED: {reason}");
            None
        }
    }
}

fn make_template(server: &Server) -> Result<(), String> {
    let url = server.create(TEMPLATE, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let migrated = runtime.block_on(crate::db::migrate_and_leave(&url));
    migrated.map_err(|error| error.context)
}
