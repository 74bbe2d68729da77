//! Changes that are made durable by one commit: each by itself all or nothing, and none forgotten.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use tokio::task::JoinSet;

use super::World;
use super::bed::web;
use crate::db::{Tx, args};
use crate::*;

/// A database in a file: in memory nothing is committed together.
struct File {
    world: World,
    _place: tempfile::TempDir,
}

impl File {
    async fn new() -> File {
        let place = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/hob.db", place.path().display());
        let world = World::at(&url, true).await.unwrap();
        File { world, _place: place }
    }

    /// Begins to write as soon as it is its turn.
    fn writes(&self) -> Writing<'_> {
        Box::pin(self.world.store.db.write())
    }

    /// What everybody can see.
    async fn revision(&self) -> i64 {
        let mut tx = self.world.store.db.read().await.unwrap();
        tx.one(sql::META, args!["revision"])
            .await
            .unwrap()
            .int("value")
            .unwrap()
    }
}

type Writing<'a> = Pin<Box<dyn Future<Output = domain::Result<Tx>> + 'a>>;

/// Makes one change in `first`, whose commit waits because `next` is in line behind it.
async fn commit_before(mut first: Tx, next: &mut Writing<'_>) -> Pin<Box<dyn Future<Output = domain::Result<()>>>> {
    assert!(begin(next).await.is_none(), "one writes at a time");
    first.changed().await.unwrap();
    let mut committed = Box::pin(first.commit());
    assert!(begin(&mut committed).await.is_none(), "it waits for those in line");
    committed
}

/// Lets `work` go as far as it can without waiting.
async fn begin<T>(work: &mut Pin<Box<impl Future<Output = T> + ?Sized>>) -> Option<T> {
    std::future::poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn a_change_waits_for_those_in_line_and_is_seen_when_it_is_durable() {
    let file = File::new().await;
    let before = file.revision().await;
    let first = file.writes().await.unwrap();
    let mut next = file.writes();
    let committed = commit_before(first, &mut next).await;
    let mut second = next.await.unwrap();
    assert_eq!(file.revision().await, before, "nothing is durable yet");
    assert_eq!(
        second.next(db::Serial::Revision).await.unwrap(),
        before + 2,
        "those in line see it"
    );
    second.commit().await.unwrap();
    committed.await.unwrap();
    assert_eq!(file.revision().await, before + 2);
}

#[tokio::test]
async fn one_that_is_rolled_back_takes_nothing_with_it() {
    let file = File::new().await;
    let before = file.revision().await;
    let first = file.writes().await.unwrap();
    let mut next = file.writes();
    let committed = commit_before(first, &mut next).await;
    let mut second = next.await.unwrap();
    second.run(sql::META_SET, args!["revision", 4_711_i64]).await.unwrap();
    drop(second);
    committed.await.unwrap();
    assert_eq!(file.revision().await, before + 1);
}

#[tokio::test]
async fn a_change_is_made_though_those_in_line_go_away() {
    let file = File::new().await;
    let before = file.revision().await;
    let first = file.writes().await.unwrap();
    let mut in_line = file.writes();
    assert!(begin(&mut in_line).await.is_none());
    let mut its_turn = file.writes();
    assert!(begin(&mut its_turn).await.is_none());
    drop(in_line);
    let committed = commit_before(first, &mut its_turn).await;
    // It was handed the connection and has not looked.
    drop(its_turn);
    committed.await.unwrap();
    assert_eq!(file.revision().await, before + 1);
}

#[tokio::test]
async fn what_is_open_when_sqlite_gives_up_the_transaction_is_refused_with_it() {
    let file = File::new().await;
    let before = file.revision().await;
    let first = file.writes().await.unwrap();
    let mut next = file.writes();
    let committed = commit_before(first, &mut next).await;
    let mut second = next.await.unwrap();
    // As SQLite does by itself where a disk fails.
    second.run("rollback", args![]).await.unwrap();
    drop(second);
    let error = committed.await.unwrap_err();
    assert!(matches!(&error.kind, domain::error::Kind::Unavailable(text) if text.contains("try again")));
    assert_eq!(file.revision().await, before);
    let mut third = file.writes().await.unwrap();
    third.changed().await.unwrap();
    third.commit().await.unwrap();
    assert_eq!(file.revision().await, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_many_write_at_once_is_all_there_and_counted() {
    const WRITERS: usize = 40;
    let file = File::new().await;
    let me = file.world.tenant("me").await;
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        let me = me.clone();
        // Every fourth one is refused, and every fifth one goes away.
        let name = if n % 4 == 0 {
            "taken".to_owned()
        } else {
            format!("web-{n}")
        };
        let writer = writers.spawn(async move { me.create_service(web(&name)).await.map(|_| name) });
        if n % 5 == 0 {
            writer.abort();
        }
    }
    let mut acknowledged = Vec::new();
    while let Some(done) = writers.join_next().await {
        if let Ok(Ok(name)) = done {
            acknowledged.push(name);
        }
    }
    let mut tx = file.world.store.db.write().await.unwrap();
    tx.changed().await.unwrap();
    tx.commit().await.unwrap();
    let query = ListQuery {
        page_size: 100,
        ..ListQuery::default()
    };
    let page = me.list_services(ServiceKind::Service, &query).await.unwrap();
    let found: Vec<_> = page.rows.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(page.count as usize, found.len());
    assert!(
        acknowledged.iter().all(|name| found.contains(&name.as_str())),
        "{acknowledged:?} {found:?}"
    );
    assert!(acknowledged.len() >= WRITERS / 2, "{}", acknowledged.len());
}
