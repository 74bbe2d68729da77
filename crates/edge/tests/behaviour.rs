//! How a version behaves, as the edge measures it.

mod rig;

use std::time::Duration;

use domain::routing::{Pool, ServiceEntry, Share};
use domain::{Behaviour, DeploymentId};
use hyper::Response;
use rig::{App, Conn, Rig, get, hasty, pool, service, text};
use tokio::io::AsyncWriteExt;

/// Waits until a deployment's behaviour is as wanted.
async fn behaviour(rig: &Rig, deployment: DeploymentId, wanted: impl Fn(&Behaviour) -> bool) -> Behaviour {
    rig::wait_for("the behaviour", || {
        rig.client.ask_receipts();
        wanted(&rig.client.behaviour(deployment))
    })
    .await;
    rig.client.behaviour(deployment)
}

fn two_versions(old: Pool, new: Pool) -> ServiceEntry {
    ServiceEntry {
        pools: vec![old, new],
        ..service("a.test", &[])
    }
}

async fn ask(conn: &mut Conn, version: i64) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Hob-Version: {version}\r\n\r\n");
    conn.ask(&request).await.status
}

#[tokio::test]
async fn each_version_answers_for_itself() {
    const SLOW: Duration = Duration::from_millis(60);
    let old = App::says("old").await;
    let new = App::http(|_| async {
        tokio::time::sleep(SLOW).await;
        let mut answer = Response::new(text("broken"));
        *answer.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
        answer
    })
    .await;
    let mut rig = Rig::start();
    let entry = two_versions(
        pool(1, Share::ByInstances, &[&old]),
        pool(2, Share::Percent(10), &[&new]),
    );
    rig.publish(vec![entry.clone()]).await;
    let mut conn = rig.connect().await;
    for _ in 0..20 {
        assert_eq!(ask(&mut conn, 1).await, 200);
    }
    for _ in 0..5 {
        assert_eq!(ask(&mut conn, 2).await, 500);
    }
    let good = behaviour(&rig, entry.pools[0].deployment, |seen| seen.requests == 20).await;
    assert_eq!((good.failed, good.latency.iter().sum::<u64>()), (0, 20));
    let bad = behaviour(&rig, entry.pools[1].deployment, |seen| seen.requests == 5).await;
    assert_eq!((bad.failed, bad.latency.iter().sum::<u64>()), (5, 5));
    assert!(bad.quantile(0.01).unwrap() >= SLOW, "{:?}", bad.quantile(0.01));
    // The receipt counts both, under one name.
    let receipt = rig.receipt(entry.receipt, |receipt| receipt.total() == 25).await;
    assert_eq!((receipt.ok, receipt.failed_by_app), (20, 5));
}

/// Time to the first byte, not to the last one.
#[tokio::test]
async fn latency_ends_with_the_head_of_the_answer() {
    let app = App::raw(|mut stream| async move {
        let mut request = [0; 1024];
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
            .await;
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
    })
    .await;
    let mut rig = Rig::start();
    let entry = service("a.test", &[&app]);
    rig.publish(vec![entry.clone()]).await;
    let mut conn = rig.connect().await;
    conn.write(get("a.test", "/")).await;
    // The answer is not complete, and will never be.
    let seen = behaviour(&rig, entry.pools[0].deployment, |seen| seen.requests == 1).await;
    assert_eq!((seen.failed, seen.latency.iter().sum::<u64>()), (0, 1));
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_never_comes_has_failed_once() {
    let halved = App::raw(|mut stream| async move {
        let mut request = [0; 1024];
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
            .await;
    })
    .await;
    let mute = App::raw(|mut stream| async move {
        let mut request = [0; 1024];
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
    })
    .await;
    let absent = App::absent();
    let mut rig = Rig::with(hasty());
    for (app, answered) in [(&halved, 1), (&mute, 0), (&absent, 0)] {
        let entry = service("a.test", &[app]);
        rig.publish(vec![entry.clone()]).await;
        let mut conn = rig.connect().await;
        conn.write(get("a.test", "/")).await;
        conn.answer().await;
        let seen = behaviour(&rig, entry.pools[0].deployment, |seen| seen.failed > 0).await;
        assert_eq!((seen.requests, seen.failed), (1, 1));
        assert_eq!(seen.latency.iter().sum::<u64>(), answered);
    }
}

/// Nothing that a client does may make a version look bad.
#[tokio::test]
async fn a_client_that_leaves_is_no_failure_of_the_version() {
    let app = App::http(|_| async {
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        Response::new(text("late"))
    })
    .await;
    let mut rig = Rig::start();
    let entry = service("a.test", &[&app]);
    rig.publish(vec![entry.clone()]).await;
    let mut conn = rig.connect().await;
    conn.write(get("a.test", "/")).await;
    rig::wait_for("the request to arrive", || app.seen() == 1).await;
    drop(conn);
    rig::wait_for("the app to be let go", || {
        app.open.load(std::sync::atomic::Ordering::SeqCst) == 0
    })
    .await;
    rig.client.ask_receipts();
    assert_eq!(rig.client.behaviour(entry.pools[0].deployment), Behaviour::default());
}

#[tokio::test]
async fn figures_are_there_when_they_are_asked_for() {
    let app = App::says("hello").await;
    let mut rig = Rig::start();
    let entry = service("a.test", &[&app]);
    rig.publish(vec![entry.clone()]).await;
    let mut receipts = rig.client.receipts();
    for count in 1..=20 {
        assert_eq!(rig.get("a.test", "/").await.status, 200);
        rig.client.ask_receipts();
        // One report for one question: nobody waits for the next regular one.
        let counted = receipts.wait_for(|all| all.sum(entry.receipt).ok == count);
        tokio::time::timeout(rig::PATIENCE, counted)
            .await
            .expect("in time")
            .expect("alive");
        assert_eq!(rig.client.behaviour(entry.pools[0].deployment).requests, count);
    }
}
