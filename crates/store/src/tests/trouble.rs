//! What is arranged to go wrong goes wrong, and nobody is left waiting for it.

use domain::error::Kind;

use crate::tests::bed::{image, web};
use crate::tests::{Engine, World};
use crate::{Fault, ListQuery};

async fn world() -> World {
    World::new(Engine::Sqlite).await.unwrap()
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_durable_and_wakes_all_the_same() {
    let world = world().await;
    let scope = world.operator().await;
    let (service, _) = scope.create_service(web("web")).await.unwrap();
    let mut wake = world.store.wake();
    wake.borrow_and_update();
    world.store.trouble().arrange(0, Fault::AnswerLost, 1);
    let answer = scope.patch_service(service.id, image("app:v2")).await;
    assert!(matches!(answer.unwrap_err().kind, Kind::Unavailable(_)));
    assert!(wake.has_changed().unwrap(), "those who wait look for themselves");
    assert_eq!(scope.service(service.id).await.unwrap().image, "app:v2");
}

#[tokio::test]
async fn a_commit_that_fails_leaves_nothing_and_the_next_one_is_heard_of() {
    let world = world().await;
    let scope = world.operator().await;
    let (service, _) = scope.create_service(web("web")).await.unwrap();
    let trouble = world.store.trouble();
    trouble.arrange(0, Fault::CommitFails, 1);
    trouble.arrange(0, Fault::Busy, 1);
    for _ in 0..2 {
        let answer = scope.patch_service(service.id, image("app:v2")).await;
        assert!(matches!(answer.unwrap_err().kind, Kind::Unavailable(_)));
    }
    assert_eq!(scope.service(service.id).await.unwrap().image, "app:v1");
    let mut wake = world.store.wake();
    wake.borrow_and_update();
    scope.patch_service(service.id, image("app:v3")).await.unwrap();
    assert!(wake.has_changed().unwrap());
    let rows = scope.list_deployments(&ListQuery::default()).await.unwrap().rows;
    assert_eq!(rows.iter().map(|d| d.version).collect::<Vec<_>>(), [2, 1]);
}
