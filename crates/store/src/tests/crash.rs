//! Durable before visible (invariant 18): a writer that is killed at any instruction has lost nothing that it
//! acknowledged, and has left nothing half done.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use domain::{DeploymentId, ServiceId, Stage};

use super::World;
use super::bed::{stage, web};
use super::counters::check;

/// Says to the child where to write.
const DIRECTORY: &str = "HOB_STORE_TEST_WRITER";
const ROUNDS: usize = 12;
const ACKNOWLEDGED_MAX: usize = 40;

fn url(directory: &Path) -> String {
    format!("sqlite://{}/hob.db", directory.display())
}

/// Writes without end and says on standard output what has been acknowledged. Only its parent starts it with a place
/// to write to.
#[tokio::test]
async fn writer_that_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let world = World::at(&url(Path::new(&directory)), false).await.unwrap();
    let me = world.operator().await;
    let fence = world.fence().await;
    for n in 0.. {
        let (service, first) = me.create_service(web(&format!("w{}-{n}", fence.number))).await.unwrap();
        println!("acknowledged {} {} queued", service.id, first.id);
        let deploying = stage(first.id, Stage::Queued, Stage::Deploying);
        world.system().apply(&fence, service.id, &[deploying]).await.unwrap();
        println!("acknowledged {} {} deploying", service.id, first.id);
        let batch = [world
            .decided(service.id, vec![stage(first.id, Stage::Deploying, Stage::Succeeded)])
            .await];
        world.system().apply_many(&fence, &batch).await.remove(0).unwrap();
        println!("acknowledged {} {} succeeded", service.id, first.id);
    }
}

/// One life of the writer: what it acknowledged before it was killed after `lines` lines.
fn live_and_die(directory: &Path, lines: usize) -> Vec<(ServiceId, DeploymentId, Stage)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "tests::crash::writer_that_is_killed",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = Vec::new();
    for line in output.lines() {
        let line = line.unwrap();
        // The harness may have begun the line.
        let Some((_, words)) = line.split_once("acknowledged ") else {
            continue;
        };
        let mut words = words.split(' ');
        let mut next = || words.next().unwrap_or_default();
        acknowledged.push((
            next().parse().unwrap(),
            next().parse().unwrap(),
            next().parse().unwrap(),
        ));
        if acknowledged.len() == lines {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert_eq!(
        status.signal(),
        Some(libc::SIGKILL),
        "the writer failed by itself: {status:?}"
    );
    acknowledged
}

#[tokio::test]
async fn a_writer_killed_at_any_point_has_lost_nothing_that_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    drop(World::at(&url(directory.path()), true).await.unwrap());
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        let lines = 1 + (round * 17) % ACKNOWLEDGED_MAX;
        all.extend(live_and_die(directory.path(), lines));
        let world = World::at(&url(directory.path()), false).await.unwrap();
        for (service, deployment, stage) in &all {
            let state = world.state(*service).await;
            let me = world.operator().await;
            let found = me.deployment(*deployment).await.unwrap();
            let order = |stage| Stage::ALL.iter().position(|it| *it == stage);
            assert!(
                order(found.stage) >= order(*stage),
                "{deployment} was {stage} and is {}",
                found.stage
            );
            assert_eq!(state.service.last, Some(*deployment));
        }
        check(&world).await;
    }
    assert!(all.len() >= ROUNDS);
}
