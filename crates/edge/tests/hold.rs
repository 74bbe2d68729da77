//! Requests that wait for a target instead of being refused (hold-and-swap).

mod rig;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domain::routing::{Hold, Pool, RoutingTable, ServiceEntry};
use edge::{EdgeArgs, EdgeClient, EdgeCommand, Limits, Supervision, supervise};
use hyper::Response;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rig::{App, Conn, EndWithTest, Rig, get, hasty, service, text};

const LONG: u64 = 60_000;

/// A service that holds, with these apps behind it.
fn holding(entry: &ServiceEntry, longest_ms: u64, apps: &[&App]) -> Vec<ServiceEntry> {
    let targets = apps.iter().map(|app| app.target()).collect();
    vec![ServiceEntry {
        pools: vec![Pool::new(entry.receipt, 1, targets)],
        hold: Some(Hold { longest_ms }),
        ..entry.clone()
    }]
}

async fn held(client: &EdgeClient, count: usize) {
    let deadline = Instant::now() + rig::PATIENCE;
    loop {
        let now = client.status().await.expect("the edge answers").held;
        if now == count {
            return;
        }
        assert!(Instant::now() < deadline, "{now} requests are held, not {count}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// One client that has asked and waits.
async fn asking(address: SocketAddr, path: &str) -> Conn {
    let mut conn = Conn::to(address).await;
    conn.write(get("a.test", path)).await;
    conn
}

#[tokio::test]
async fn requests_wait_for_the_next_instance_over_many_tables() {
    let (old, new) = (App::says("old").await, App::says("new").await);
    let mut rig = Rig::start();
    let entry = service("a.test", &[]);
    rig.publish(holding(&entry, LONG, &[&old])).await;
    let mut kept = rig.connect().await;
    assert_eq!(kept.ask(&get("a.test", "/")).await.body, "old");
    for _ in 0..3 {
        rig.publish(holding(&entry, LONG, &[])).await;
    }
    kept.write(get("a.test", "/")).await;
    let mut fresh = asking(rig.address, "/").await;
    held(&rig.client, 2).await;
    for _ in 0..3 {
        rig.publish(holding(&entry, LONG, &[])).await;
    }
    assert_eq!(rig.client.status().await.unwrap().held, 2);
    rig.publish(holding(&entry, LONG, &[&new])).await;
    assert_eq!(kept.answer().await.expect("an answer").body, "new");
    assert_eq!(fresh.answer().await.expect("an answer").body, "new");
    let receipt = rig.receipt(entry.receipt, |receipt| receipt.ok == 3).await;
    assert_eq!(receipt.total(), 3);
}

/// Their instance leaves while the connections to it are being made: nothing of them was sent, so they wait like any
/// other, and the instance does not wait for them.
#[tokio::test]
async fn requests_whose_instance_leaves_before_it_was_reached_are_held() {
    let (old, new) = (App::silent(), App::says("new").await);
    let mut rig = Rig::with(Limits {
        connect_ms: 600_000,
        ..Limits::default()
    });
    let entry = service("a.test", &[]);
    rig.publish(holding(&entry, LONG, &[&old])).await;
    let mut conns = [asking(rig.address, "/1").await, asking(rig.address, "/2").await];
    rig::wait_for("both wait for a connection", || old.callers() > App::SILENT_FILL + 1).await;
    rig.publish(holding(&entry, LONG, &[])).await;
    held(&rig.client, 2).await;
    rig.view(|view| view.busy.is_empty()).await;
    rig.publish(holding(&entry, LONG, &[&new])).await;
    for conn in &mut conns {
        assert_eq!(conn.answer().await.expect("an answer").body, "new");
    }
    let receipt = rig.receipt(entry.receipt, |receipt| receipt.ok == 2).await;
    assert_eq!(receipt.total(), 2);
}

/// Over all workers. Requests that are sent one right after the other, on connections of their own, may change places on
/// their way through the kernel and the app; those further apart may not.
#[tokio::test]
async fn requests_are_released_in_the_order_in_which_they_came() {
    const COUNT: usize = 200;
    let order: Arc<Mutex<Vec<usize>>> = Arc::default();
    let seen = Arc::clone(&order);
    let app = App::http(move |request| {
        let number = request.uri().path()[1..].parse().unwrap_or(usize::MAX);
        seen.lock().unwrap().push(number);
        async { Response::new(text("hello")) }
    })
    .await;
    let mut rig = Rig::start();
    let entry = service("a.test", &[]);
    rig.publish(holding(&entry, LONG, &[])).await;
    let mut clients = Vec::new();
    for number in 0..COUNT {
        clients.push(asking(rig.address, &format!("/{number}")).await);
        held(&rig.client, number + 1).await;
    }
    // The hold is taken back with the table that has a target: who waits is served all the same.
    let mut services = holding(&entry, LONG, &[&app]);
    services[0].hold = None;
    rig.publish(services).await;
    for client in &mut clients {
        assert_eq!(client.answer().await.expect("an answer").status, 200);
    }
    let order = order.lock().unwrap().clone();
    let displaced = order.iter().enumerate().map(|(at, number)| at.abs_diff(*number));
    let furthest = displaced.max().unwrap_or_default();
    assert!(order.len() == COUNT && furthest <= 16, "{furthest} places: {order:?}");
}

#[tokio::test]
async fn who_waited_too_long_is_told_when_to_come_again_and_counts_as_failed_by_hob() {
    let mut rig = Rig::start();
    let entry = service("a.test", &[]);
    rig.publish(holding(&entry, 50, &[])).await;
    let answer = rig.get("a.test", "/").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert!(answer.body.contains("in time"), "{}", answer.body);
    let receipt = rig.receipt(entry.receipt, |receipt| receipt.total() == 1).await;
    assert_eq!(receipt.failed_by_hob, 1);
    held(&rig.client, 0).await;
}

#[tokio::test]
async fn the_edge_has_a_longest_wait_of_its_own() {
    let mut rig = Rig::with(Limits { held_ms: 50, ..hasty() });
    rig.publish(holding(&service("a.test", &[]), LONG, &[])).await;
    assert_eq!(rig.get("a.test", "/").await.status, 503);
}

/// C6.12: by number of one service, by number of all, by bytes. Nobody who waits already is touched by that.
#[tokio::test]
async fn what_goes_beyond_a_limit_is_refused_at_once() {
    let app = App::says("hello").await;
    let narrow = Limits {
        max_held_per_service: 3,
        max_held: 4,
        max_held_bytes: 10_000,
        ..Limits::default()
    };
    let mut rig = Rig::with(narrow);
    let (first, second) = (service("a.test", &[]), service("b.test", &[]));
    let table = |apps: &[&App]| [holding(&first, LONG, apps), holding(&second, LONG, apps)].concat();
    rig.publish(table(&[])).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(asking(rig.address, "/").await);
    }
    held(&rig.client, 3).await;
    let refused = rig.get("a.test", "/").await;
    assert!(
        refused.status == 503 && refused.body.contains("too many"),
        "{refused:?}"
    );
    let large = format!("GET / HTTP/1.1\r\nHost: b.test\r\nX: {}\r\n\r\n", "x".repeat(11_000));
    assert_eq!(rig.connect().await.ask(&large).await.status, 503);
    let mut fourth = rig.connect().await;
    fourth.write(get("b.test", "/")).await;
    held(&rig.client, 4).await;
    assert_eq!(rig.get("b.test", "/").await.status, 503);
    waiting.push(fourth);
    rig.publish(table(&[&app])).await;
    for client in &mut waiting {
        assert_eq!(client.answer().await.expect("an answer").status, 200);
    }
    let receipt = rig.receipt(second.receipt, |receipt| receipt.total() == 3).await;
    assert_eq!((receipt.ok, receipt.failed_by_hob), (1, 2));
}

/// With a body as without one: nobody reads the body, so nobody but the edge itself could notice.
#[tokio::test]
async fn a_client_that_leaves_frees_its_place_and_nobody_has_failed() {
    let mut rig = Rig::with(hasty());
    let entry = service("a.test", &[]);
    rig.publish(holding(&entry, LONG, &[])).await;
    let mut clients = vec![asking(rig.address, "/").await];
    let mut posting = rig.connect().await;
    posting
        .write("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\nbegun")
        .await;
    clients.push(posting);
    held(&rig.client, 2).await;
    clients.clear();
    held(&rig.client, 0).await;
    assert_eq!(rig.get("nobody.test", "/").await.status, 404);
    rig.client.ask_receipts();
    assert_eq!(rig.client.receipts().borrow().sum(entry.receipt).total(), 0);
}

#[tokio::test]
async fn a_body_is_not_read_before_its_request_is_on_its_way() {
    const LENGTH: usize = 64 << 20;
    let app = App::mirror().await;
    let mut rig = Rig::start();
    let entry = service("a.test", &[]);
    rig.publish(holding(&entry, LONG, &[])).await;
    let mut conn = rig.connect().await;
    conn.write(format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {LENGTH}\r\n\r\n"
    ))
    .await;
    held(&rig.client, 1).await;
    // What fits into the sockets' buffers is taken by the kernel; the rest is not, however long it is tried.
    let (mut sent, chunk) = (0, vec![b'x'; 64 * 1024]);
    while let Ok(written) = tokio::time::timeout(
        Duration::from_millis(200),
        tokio::io::AsyncWriteExt::write(&mut conn.stream, &chunk),
    )
    .await
    {
        sent += written.expect("the edge is there");
        assert!(sent < LENGTH / 2, "the edge reads the body of a held request");
    }
    rig.publish(holding(&entry, LONG, &[&app])).await;
    conn.write(vec![b'x'; LENGTH - sent]).await;
    assert_eq!(conn.answer().await.expect("an answer").status, 200);
}

#[tokio::test]
async fn names_inside_are_held_as_well() {
    let app = App::says("inside").await;
    let mut rig = Rig::start();
    let entry = service("a.test", &[]);
    let callers = [(SocketAddr::from(([127, 0, 0, 1], 0)).ip(), entry.project)];
    rig.publish_with(holding(&entry, LONG, &[]), &callers).await;
    let mut conn = Conn::to(rig.internal).await;
    conn.write(get("a.hob.internal", "/")).await;
    held(&rig.client, 1).await;
    rig.publish_with(holding(&entry, LONG, &[&app]), &callers).await;
    assert_eq!(conn.answer().await.expect("an answer").body, "inside");
}

#[tokio::test]
async fn a_service_that_is_deleted_or_holds_no_longer_lets_its_requests_go() {
    let mut rig = Rig::start();
    let entry = service("a.test", &[]);
    for (services, status) in [(vec![], 404), (vec![entry.clone()], 503)] {
        rig.publish(holding(&entry, LONG, &[])).await;
        let mut waiting = [asking(rig.address, "/").await, asking(rig.address, "/").await];
        held(&rig.client, 2).await;
        rig.publish(services).await;
        for client in &mut waiting {
            assert_eq!(client.answer().await.expect("an answer").status, status);
        }
    }
}

/// A wish does not keep those behind it waiting, and what never comes to be fulfilled is refused.
#[tokio::test]
async fn a_held_request_that_wants_another_version_is_refused_when_its_turn_comes() {
    let app = App::says("hello").await;
    let mut rig = Rig::start();
    let entry = service("a.test", &[]);
    rig.publish(holding(&entry, LONG, &[])).await;
    let mut picky = rig.connect().await;
    picky
        .write("GET / HTTP/1.1\r\nHost: a.test\r\nX-Hob-Version: 7\r\n\r\n")
        .await;
    held(&rig.client, 1).await;
    let mut plain = asking(rig.address, "/").await;
    held(&rig.client, 2).await;
    rig.publish(holding(&entry, LONG, &[&app])).await;
    assert_eq!(picky.answer().await.expect("an answer").status, 404);
    assert_eq!(plain.answer().await.expect("an answer").status, 200);
}

/// Those who wait do not wait for a connection that hangs, nor for one that is refused.
#[tokio::test]
async fn a_dead_target_does_not_stop_the_queue() {
    const COUNT: usize = 20;
    let (good, dead) = (App::says("hello").await, App::silent());
    rig::wait_for("the silent app to be full", || dead.callers() >= App::SILENT_FILL).await;
    let mut rig = Rig::start();
    let entry = service("a.test", &[]);
    rig.publish(holding(&entry, LONG, &[])).await;
    let mut waiting = Vec::new();
    for _ in 0..COUNT {
        waiting.push(asking(rig.address, "/").await);
    }
    held(&rig.client, COUNT).await;
    rig.publish(holding(&entry, LONG, &[&dead, &good])).await;
    for client in &mut waiting {
        assert_eq!(client.answer().await.expect("an answer").status, 200);
    }
}

/// A rollout that stops the old version before it starts the new one, under load: the load sees answers only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_may_run_only_once_changes_version_without_a_failed_request() {
    let apps = [App::says("a").await, App::says("b").await];
    let mut rig = Rig::start();
    let entry = service("a.test", &[]);
    rig.publish(holding(&entry, LONG, &[&apps[0]])).await;
    let load = rig::Load::begin(rig.address, 12, |_, answer| answer.status == 200);
    for round in 1..=25 {
        rig.publish(holding(&entry, LONG, &[])).await;
        rig.view(|view| view.busy.is_empty()).await;
        held(&rig.client, 12).await;
        let app = &apps[round % 2];
        let seen = app.seen();
        rig.publish(holding(&entry, LONG, &[app])).await;
        rig::wait_for("requests", || app.seen() > seen + 50).await;
    }
    let (good, bad) = load.end().await;
    assert_eq!(bad, 0, "beside {good} good ones");
}

/// C6.11, C6.12: ten thousand clients that wait, and slow ones beside them, cost no other service a request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_held_clients_and_slow_heads_are_in_nobodys_way() {
    const CLIENTS: usize = 10_000;
    const DESCRIPTORS: u64 = 4 * CLIENTS as u64;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    // Only root may have more than the hard limit.
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS.max(hard)) {
        println!("SKIPPED: needs {DESCRIPTORS} descriptors, may have {hard}: {error}");
        return;
    }
    let (app, other) = (App::says("hello").await, App::says("other").await);
    let mut rig = Rig::with(Limits {
        max_held_per_service: CLIENTS,
        max_connections_per_client: 0,
        ..Limits::default()
    });
    let (entry, beside) = (service("a.test", &[]), service("b.test", &[&other]));
    let table = |apps: &[&App]| [holding(&entry, LONG, apps), vec![beside.clone()]].concat();
    rig.publish(table(&[])).await;
    let mut waiting = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        waiting.push(asking(rig.address, "/").await);
    }
    held(&rig.client, CLIENTS).await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut conn = rig.connect().await;
        conn.write("GET / HTTP/1.1\r\nHost: a.t").await;
        slow.push(conn);
    }
    for _ in 0..50 {
        assert_eq!(rig.get("b.test", "/").await.body, "other");
    }
    assert_eq!(rig.get("a.test", "/").await.status, 503, "one more than fit");
    // Every other one leaves, the rest is served.
    let mut keep = false;
    waiting.retain(|_| {
        keep = !keep;
        keep
    });
    held(&rig.client, CLIENTS / 2).await;
    rig.publish(table(&[&app])).await;
    for client in &mut waiting {
        assert_eq!(client.answer().await.expect("an answer").status, 200);
    }
    held(&rig.client, 0).await;
}

/// SIGTERM: no table will come any more, so nobody is kept waiting for one.
#[tokio::test]
async fn an_edge_that_stops_sends_waiting_requests_away() {
    let mut rig = Rig::start();
    rig.publish(holding(&service("a.test", &[]), LONG, &[])).await;
    let mut client = asking(rig.address, "/").await;
    held(&rig.client, 1).await;
    rig.stop();
    let answer = client.answer().await.expect("an answer");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    rig.join().await;
}

/// `kill -9`: held clients see their connection end, and nothing of their requests has reached an app. The next edge
/// holds again, by the table on its disk.
#[tokio::test]
async fn a_killed_edge_loses_those_who_wait_and_the_next_one_holds_again() {
    let home = tempfile::tempdir().unwrap();
    let app = App::says("hello").await;
    let command = EdgeCommand {
        program: env!("CARGO_BIN_EXE_hob-edge").into(),
        leading: Vec::<OsString>::new(),
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        args: EdgeArgs {
            dir: home.path().to_owned(),
            workers: 2,
            ..EdgeArgs::default()
        },
    };
    let (report, mut watch) = tokio::sync::watch::channel(Supervision::default());
    let supervisor = tokio::spawn(supervise(command, report));
    let _end = EndWithTest {
        supervisor: supervisor.abort_handle(),
        report: watch.clone(),
    };
    let first = watch.wait_for(|report| report.pid.is_some()).await.unwrap().clone();
    let client = EdgeClient::new(home.path().to_owned());
    let entry = service("a.test", &[]);
    let publish = async |epoch, apps: &[&App]| {
        client.publish(RoutingTable {
            epoch,
            services: holding(&entry, LONG, apps),
            ..RoutingTable::default()
        });
        let mut view = client.watch();
        let acked = tokio::time::timeout(rig::PATIENCE, view.wait_for(|view| view.acked_epoch == epoch)).await;
        acked.expect("acknowledged in time").expect("alive");
    };
    publish(1, &[]).await;
    let mut lost = asking(first.public[0], "/").await;
    held(&client, 1).await;
    // SAFETY: takes numbers. The process is one that this test has started.
    assert_eq!(unsafe { libc::kill(first.pid.unwrap(), libc::SIGKILL) }, 0);
    assert_eq!(lost.answer().await, None);
    watch
        .wait_for(|report| report.starts == 2 && report.pid.is_some())
        .await
        .unwrap();
    let mut waiting = asking(first.public[0], "/").await;
    client
        .watch()
        .wait_for(|view| view.connected && view.boot.is_some())
        .await
        .unwrap();
    rig::wait_for("the next edge", || {
        client.watch().borrow().pid != Some(first.pid.unwrap() as u32)
    })
    .await;
    held(&client, 1).await;
    assert_eq!(app.seen(), 0);
    publish(2, &[&app]).await;
    assert_eq!(waiting.answer().await.expect("an answer").status, 200);
}
