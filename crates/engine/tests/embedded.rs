//! The embedded engine with real containers.

mod common;

use std::time::Duration;

use common::{World, can_run};
use engine::Engine;

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_and_its_output_and_exit_are_kept_until_removal() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let id = world.run("echo hello; echo oops >&2; exit 3").await;
    let exit = world.exited(id).await;
    assert_eq!((exit.code, exit.signal, &exit.start_error), (Some(3), None, &None));
    assert!(!exit.asked && !exit.out_of_memory);
    assert_eq!(exit.tail.len(), 2);
    assert_eq!(world.lines(id).await.len(), 2);
    world.engine.remove(id).await.expect("removed");
    assert!(world.engine.list().await.expect("a list").is_empty());
    assert!(!world.home(id).exists());
    world
        .engine
        .stop(id, Duration::ZERO)
        .await
        .expect("stopping what is gone succeeds");
    world.engine.remove(id).await.expect("removing what is gone succeeds");
    world.close().await;
}
