//! Opening: never a wrong database, never a damaged one, never an empty one in place of one that was lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::error::Kind;

use super::World;
use super::bed::{ROOT_KEY, message, web};
use crate::db::{Sql, args};
use crate::*;

/// A directory with a database in it that two services and one secret were written to. Closed without a goodbye, so
/// that a part of it is still in the write-ahead log.
struct Used {
    directory: tempfile::TempDir,
    services: Vec<domain::ServiceId>,
}

impl Used {
    async fn new() -> Used {
        let directory = tempfile::tempdir().unwrap();
        let original = tempfile::tempdir().unwrap();
        let world = World::at(&url(original.path()), true).await.unwrap();
        let me = world.tenant("me").await;
        let first = me.create_service(web("first")).await.unwrap().0.id;
        drop(world);
        let world = World::at(&url(original.path()), false).await.unwrap();
        let account = world.system().account_by_name("me").await.unwrap();
        let me = world.store.scope(Principal {
            account: account.id,
            admin: false,
            via: Via::Session,
        });
        let second = me.create_service(web("second")).await.unwrap().0.id;
        for name in ["hob.db", "hob.db-wal"] {
            fs::copy(original.path().join(name), directory.path().join(name)).unwrap();
        }
        Used {
            directory,
            services: vec![first, second],
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn open(&self, create: bool) -> domain::Result<World> {
        World::at(&url(self.directory.path()), create).await
    }
}

fn url(directory: &Path) -> String {
    format!("sqlite://{}/hob.db", directory.display())
}

async fn services(world: &World) -> usize {
    world.system().services_changed_since(0, 100).await.unwrap().len()
}

#[tokio::test]
async fn a_copy_taken_at_any_moment_opens_with_everything() {
    let used = Used::new().await;
    let world = used.open(false).await.unwrap();
    assert_eq!(services(&world).await, 2);
    assert_eq!(world.system().load(&used.services).await.unwrap().len(), 2);
    world.store.ready().await.unwrap();
}

#[tokio::test]
async fn a_used_installation_without_its_database_refuses_to_start_empty() {
    let used = Used::new().await;
    fs::write(used.file("hob.db"), b"").unwrap();
    assert!(message(used.open(false).await, "").contains("missing or empty (its write-ahead log is still there)"));
    fs::remove_file(used.file("hob.db")).unwrap();
    fs::remove_file(used.file("hob.db-wal")).unwrap();
    assert!(message(used.open(false).await, "").contains("missing or empty"));
    assert!(!used.file("hob.db").exists(), "nothing was made");
    let stranger = rusqlite::Connection::open(used.file("hob.db")).unwrap();
    stranger.execute_batch("create table theirs (id text)").unwrap();
    drop(stranger);
    assert!(message(used.open(false).await, "").contains("holds nothing of Hob's"));
}

#[tokio::test]
async fn a_database_cut_anywhere_is_refused_and_never_opens_empty() {
    let used = Used::new().await;
    // Everything brought home: the file stands alone.
    let world = used.open(false).await.unwrap();
    let mut tx = world.store.db.write().await.unwrap();
    tx.changed().await.unwrap();
    tx.commit().await.unwrap();
    drop(world);
    let world = used.open(false).await.unwrap();
    drop(world);
    let whole = fs::read(used.file("hob.db")).unwrap();
    fs::remove_file(used.file("hob.db-wal")).ok();
    fs::remove_file(used.file("hob.db-shm")).ok();
    for cut in (0..whole.len())
        .step_by(whole.len() / 40)
        .chain([1, 99, 100, 4095, 4096, whole.len() - 1])
    {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("hob.db"), &whole[..cut]).unwrap();
        let opened = World::at(&url(place.path()), false).await;
        let text = message(opened, "");
        let clear = ["missing or empty", "damaged", "holds nothing of Hob's"]
            .iter()
            .any(|it| text.contains(it));
        assert!(clear, "{cut} of {}: {text}", whole.len());
    }
}

#[tokio::test]
async fn a_log_cut_anywhere_loses_its_tail_at_most_and_never_what_came_home_before() {
    let used = Used::new().await;
    let log = fs::read(used.file("hob.db-wal")).unwrap();
    let database = fs::read(used.file("hob.db")).unwrap();
    assert!(log.len() > 10_000, "the second service is in the log");
    let mut seen = Vec::new();
    for cut in (0..=log.len())
        .step_by(log.len() / 40)
        .chain([1, 31, 32, 33, log.len() - 1, log.len()])
    {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("hob.db"), &database).unwrap();
        fs::write(place.path().join("hob.db-wal"), &log[..cut]).unwrap();
        let world = World::at(&url(place.path()), false).await.unwrap();
        let found = services(&world).await;
        assert!((1..=2).contains(&found), "{cut}: {found}");
        let me = world.operator().await;
        assert_eq!(
            me.list_services(ServiceKind::Service, &ListQuery::default())
                .await
                .unwrap()
                .count,
            found as u64
        );
        seen.push(found);
    }
    assert!(seen.contains(&1) && seen.ends_with(&[2]), "{seen:?}");
}

#[tokio::test]
async fn garbage_and_bad_urls_are_refused_with_words() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("hob.db"), vec![7; 20_000]).unwrap();
    assert!(message(World::at(&url(place.path()), false).await, "").contains("damaged"));
    for (bad, word) in [
        ("mysql://x", "mysql"),
        ("", "sqlite://PATH"),
        ("sqlite:///no/such/place/hob.db", "opened"),
    ] {
        let text = message(World::at(bad, true).await, "");
        assert!(text.contains(word), "{bad}: {text}");
    }
    #[cfg(feature = "postgres")]
    {
        let text = message(World::at("postgres://u:s3cret@127.0.0.1:1/x", true).await, "");
        assert!(text.contains("cannot be reached") && !text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn another_root_key_does_not_open_the_database() {
    let used = Used::new().await;
    let open = |key| {
        let clock: Clock = Arc::new(|| 0);
        Store::open(OpenOptions {
            url: url(used.directory.path()),
            root_key: RootKey::new(key),
            clock,
            create: false,
        })
    };
    assert!(message(open([0; 32]).await, "").contains("root key is not the one"));
    open(ROOT_KEY).await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let used = Used::new().await;
    let world = used.open(false).await.unwrap();
    let mut tx = world.store.db.write().await.unwrap();
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        select 999, 'from the future', true, checksum, 0 from _sqlx_migrations where version = 1";
    tx.run(newer, args![]).await.unwrap();
    tx.commit().await.unwrap();
    drop(world);
    assert!(message(used.open(false).await, "").contains("newer Hob"));
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_is_over_when_there_is_room() {
    let place = tempfile::tempdir().unwrap();
    let world = World::at(&url(place.path()), true).await.unwrap();
    let me = world.tenant("me").await;
    let limit = async |pages: i64| {
        // As a disk does: no page beyond a limit.
        let mut tx = world.store.db.write().await.unwrap();
        tx.all(Sql::composed(format!("pragma max_page_count = {pages}")), args![])
            .await
            .unwrap();
        tx.commit().await.unwrap();
    };
    let mut tx = world.store.db.read().await.unwrap();
    let pages = tx
        .one(sql::PAGE_COUNT, args![])
        .await
        .unwrap()
        .int("page_count")
        .unwrap();
    tx.end().await.unwrap();
    limit(pages + 5).await;
    let mut acknowledged = 0;
    let error = loop {
        match me.create_service(web(&format!("web-{acknowledged}"))).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1000);
    };
    assert!(
        matches!(&error.kind, Kind::Unavailable(text) if text.contains("full")),
        "{error:?}"
    );
    assert_eq!(services(&world).await, acknowledged);
    limit(1 << 30).await;
    me.create_service(web("one-more")).await.unwrap();
    assert_eq!(services(&world).await, acknowledged + 1);
}

#[tokio::test]
async fn a_commit_that_has_begun_is_made_and_heard_of_though_its_caller_goes_away() {
    let place = tempfile::tempdir().unwrap();
    let world = World::at(&url(place.path()), true).await.unwrap();
    let mut wake = world.store.wake();
    let before = *wake.borrow_and_update();
    let mut tx = world.store.db.write().await.unwrap();
    tx.changed().await.unwrap();
    let mut commit = Box::pin(tx.commit());
    std::future::poll_fn(|context| {
        let _ = commit.as_mut().poll(context);
        std::task::Poll::Ready(())
    })
    .await;
    drop(commit);
    wake.changed().await.unwrap();
    assert_eq!(*wake.borrow(), before + 1);
    let mut tx = world.store.db.read().await.unwrap();
    let revision = tx.one(sql::META, args!["revision"]).await.unwrap().int("value");
    assert_eq!(revision.unwrap().unsigned_abs(), before + 1);
}
