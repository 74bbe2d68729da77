//! Tables: published, acknowledged, kept, refused; and the drain that hangs on them (invariants 4 and 21).

mod rig;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use domain::InstanceId;
use domain::routing::{Pool, RoutingTable, Target};
use edge::protocol::{self, FromEdge, SOCKET, ToEdge};
use edge::{EdgeClient, Limits, TableDir};
use hyper::Response;
use rig::{App, Conn, Rig, get, hasty, service, text, wait_for};
use tokio::net::UnixStream;
use tokio::sync::Notify;

/// A control connection without a client's cleverness.
async fn control(rig: &Rig) -> UnixStream {
    let mut stream = UnixStream::connect(rig.home.path().join(SOCKET))
        .await
        .expect("the edge listens");
    protocol::write(
        &mut stream,
        &ToEdge::Hello {
            version: protocol::VERSION,
        },
    )
    .await
    .expect("writes");
    stream
}

async fn next(stream: &mut UnixStream, wanted: impl Fn(&FromEdge) -> bool) -> FromEdge {
    let search = async {
        loop {
            let frame = protocol::read(stream).await.expect("a frame");
            if wanted(&frame) {
                return frame;
            }
        }
    };
    tokio::time::timeout(rig::PATIENCE, search)
        .await
        .expect("the frame comes in time")
}

fn table(epoch: u64) -> RoutingTable {
    RoutingTable {
        epoch,
        ..RoutingTable::default()
    }
}

#[tokio::test]
async fn an_acknowledged_table_is_on_disk() {
    let mut rig = Rig::start();
    let dir = TableDir::open(rig.home.path()).unwrap();
    for _ in 0..20 {
        let view = rig.publish(vec![service("a.test", &[])]).await;
        assert_eq!(dir.load().epoch, view.acked_epoch);
    }
}

#[tokio::test]
async fn an_older_table_is_refused_an_equal_one_acknowledged_again_and_a_different_one_of_its_epoch_refused() {
    let rig = Rig::start();
    let mut stream = control(&rig).await;
    let is_answer = |frame: &FromEdge| matches!(frame, FromEdge::Ack { .. } | FromEdge::Refused { .. });
    let mut send = async |table: RoutingTable| {
        protocol::write(&mut stream, &ToEdge::Table(table)).await.unwrap();
        next(&mut stream, is_answer).await
    };
    assert!(matches!(send(table(5)).await, FromEdge::Ack { epoch: 5, .. }));
    assert!(matches!(send(table(4)).await, FromEdge::Refused { epoch: 4, .. }));
    assert!(matches!(send(table(5)).await, FromEdge::Ack { epoch: 5, .. }));
    let other = RoutingTable {
        services: vec![service("a.test", &[])],
        ..table(5)
    };
    assert!(matches!(send(other).await, FromEdge::Refused { epoch: 5, .. }));
    assert_eq!(TableDir::open(rig.home.path()).unwrap().load(), table(5));
}

#[tokio::test]
async fn of_many_tables_the_newest_is_served_and_not_every_one_is_written() {
    let rig = Rig::start();
    let mut stream = control(&rig).await;
    for epoch in 1..=2_000 {
        protocol::write(&mut stream, &ToEdge::Table(table(epoch)))
            .await
            .unwrap();
    }
    let mut acks = 0;
    loop {
        if let FromEdge::Ack { epoch, .. } = next(&mut stream, |frame| matches!(frame, FromEdge::Ack { .. })).await {
            acks += 1;
            if epoch == 2_000 {
                break;
            }
        }
    }
    assert!(acks < 2_000, "every table was acknowledged by itself");
    assert_eq!(TableDir::open(rig.home.path()).unwrap().load().epoch, 2_000);
}

#[tokio::test]
async fn what_is_no_frame_ends_only_its_own_connection() {
    let mut rig = Rig::start();
    for bytes in [
        &b"\xff\xff\xff\xff"[..],
        b"\0\0\0\x02{]",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\x08\"status\"",
    ] {
        let mut stream = UnixStream::connect(rig.home.path().join(SOCKET)).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, bytes).await.unwrap();
        let mut back = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut back).await;
    }
    rig.publish(vec![]).await;
}

#[tokio::test]
async fn only_its_owner_may_open_the_control_socket() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::start();
    let mode = std::fs::metadata(rig.home.path().join(SOCKET))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_table_that_cannot_be_written_is_served_but_not_acknowledged_until_it_can() {
    let app = App::says("hello").await;
    let mut rig = Rig::start();
    rig.publish(vec![]).await;
    // A directory where the next file should be: no table can be written.
    let obstacle = rig.home.path().join("table.prev.json");
    std::fs::create_dir(&obstacle).unwrap();
    rig.client.publish(RoutingTable {
        services: vec![service("a.test", &[&app])],
        ..table(2)
    });
    let view = rig.view(|view| view.refused.is_some()).await;
    assert_eq!((view.acked_epoch, view.refused.map(|(epoch, _)| epoch)), (1, Some(2)));
    assert_eq!(rig.get("a.test", "/").await.body, "hello");
    std::fs::remove_dir(&obstacle).unwrap();
    rig.view(|view| view.acked_epoch == 2 && view.refused.is_none()).await;
}

#[tokio::test]
async fn a_late_client_sees_the_state_and_a_table_it_published_before_arrives() {
    let mut rig = Rig::start();
    rig.publish(vec![]).await;
    let late = EdgeClient::new(rig.home.path().to_owned());
    late.publish(table(7));
    let mut watch = late.watch();
    let view = watch.wait_for(|view| view.acked_epoch == 7).await.unwrap().clone();
    assert!(view.connected && view.boot.is_some() && view.pid == Some(std::process::id()));
    let status = late.status().await.unwrap();
    assert_eq!(
        (status.epoch, status.workers, Some(status.edge_boot)),
        (7, 2, view.boot)
    );
}

#[tokio::test]
async fn the_sockets_can_be_handed_to_somebody_else() {
    let app = App::says("hello").await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let sockets = rig.client.hand_over().await.unwrap();
    let roles: Vec<_> = sockets.iter().map(|(role, _)| *role).collect();
    use protocol::SocketRole::{Dns, DnsTcp, Internal, Public};
    let [dns, dns_tcp] = rig.names;
    let all = [Public(rig.address), Internal(rig.internal), Dns(dns), DnsTcp(dns_tcp)];
    assert_eq!(roles, all);
    // While they are held, nobody is refused, edge or no edge.
    rig.stop();
    rig.join().await;
    let mut waiting = rig.connect().await;
    waiting.write(get("a.test", "/")).await;
    drop(sockets);
    assert_eq!(waiting.rest().await, b"");
    assert!(tokio::net::TcpStream::connect(rig.address).await.is_err());
}

#[tokio::test]
async fn a_stopping_edge_finishes_what_it_has_begun_and_takes_nothing_new() {
    let release = Arc::new(Notify::new());
    let app = waiting_app(&release).await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut idle = rig.connect().await;
    let mut busy = rig.connect().await;
    busy.write(get("a.test", "/")).await;
    wait_for("the request to arrive", || app.seen() == 1).await;
    rig.stop();
    assert_eq!(idle.rest().await, b"");
    let address = rig.address;
    wait_for("the listener to close", || {
        std::net::TcpStream::connect(address).is_err()
    })
    .await;
    release.notify_one();
    let answer = busy.answer().await.expect("the answer");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(busy.rest().await, b"");
    rig.join().await;
}

#[tokio::test]
async fn a_stopping_edge_does_not_wait_for_ever() {
    let app = App::http(|_| std::future::pending()).await;
    let mut rig = Rig::with(Limits {
        drain_ms: 200,
        ..hasty()
    });
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut busy = rig.connect().await;
    busy.write(get("a.test", "/")).await;
    wait_for("the request to arrive", || app.seen() == 1).await;
    rig.stop();
    rig.join().await;
}

async fn waiting_app(release: &Arc<Notify>) -> App {
    let gate = Arc::clone(release);
    App::http(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            Response::new(text("done"))
        }
    })
    .await
}

#[tokio::test]
async fn an_instance_that_left_is_busy_until_its_last_request_has_ended() {
    let release = Arc::new(Notify::new());
    let app = waiting_app(&release).await;
    let mut rig = Rig::start();
    let entry = service("a.test", &[&app]);
    rig.publish(vec![entry.clone()]).await;
    let mut conns = Vec::new();
    for sent in 1..=3 {
        let mut conn = rig.connect().await;
        conn.write(get("a.test", "/")).await;
        conns.push(conn);
        wait_for("the request to arrive", || app.seen() == sent).await;
    }
    let view = rig.publish(vec![]).await;
    assert_eq!(view.busy, HashMap::from([(app.id, 3)]));
    release.notify_waiters();
    for conn in &mut conns {
        assert_eq!(conn.answer().await.expect("an answer").status, 200);
    }
    rig.view(|view| view.busy.is_empty()).await;
    let receipt = rig.receipt(entry.receipt, |receipt| receipt.ok == 3).await;
    assert_eq!(receipt.drained, 3);
}

#[tokio::test]
async fn what_is_left_at_the_drain_deadline_is_cut_and_counted_as_failed_by_hob() {
    let app = App::http(|_| std::future::pending()).await;
    let other = App::says("other").await;
    let mut rig = Rig::start();
    let (entry, kept) = (service("a.test", &[&app]), service("b.test", &[&other]));
    rig.publish(vec![entry.clone(), kept.clone()]).await;
    let mut bystander = rig.connect().await;
    bystander.ask(&get("b.test", "/")).await;
    let mut conn = rig.connect().await;
    conn.write(get("a.test", "/")).await;
    wait_for("the request to arrive", || app.seen() == 1).await;
    rig.publish(vec![kept]).await;
    rig.client.close_busy([app.id]);
    rig.view(|view| view.busy.is_empty()).await;
    assert_eq!(conn.rest().await, b"");
    let receipt = rig.receipt(entry.receipt, |receipt| receipt.total() == 1).await;
    assert_eq!((receipt.failed_by_hob, receipt.drained), (1, 0));
    assert_eq!(bystander.ask(&get("b.test", "/")).await.body, "other");
}

#[tokio::test]
async fn a_client_that_reads_slowly_does_not_hold_an_instance_beyond_the_deadline() {
    let app = App::raw(|stream| async move {
        let mut conn = Conn::over(stream);
        conn.until(b"\r\n\r\n").await;
        conn.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            .await;
        while tokio::io::AsyncWriteExt::write_all(&mut conn.stream, &[b'x'; 65536])
            .await
            .is_ok()
        {}
    })
    .await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut conn = rig.connect().await;
    conn.write(get("a.test", "/")).await;
    conn.until(b"\r\n\r\n").await.expect("a head");
    let view = rig.publish(vec![]).await;
    assert_eq!(view.busy.get(&app.id), Some(&1));
    rig.client.close_busy([app.id]);
    rig.view(|view| view.busy.is_empty()).await;
    wait_for("the app to be let go", || app.open.load(Ordering::SeqCst) == 0).await;
}

/// Invariant 4 under load: the tables flip between two sets of apps as fast as they are acknowledged. After an
/// acknowledgement without an app and a view in which it is not busy, the app must see nothing until it is published
/// again, and no request may fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_reaches_an_instance_that_was_reported_idle_after_it_left() {
    const FLIPS: usize = 2_000;
    let gates: Vec<Arc<AtomicBool>> = (0..4).map(|_| Arc::new(AtomicBool::new(false))).collect();
    let trespasses = Arc::new(AtomicUsize::new(0));
    let mut apps = Vec::new();
    for gate in &gates {
        let (gate, trespasses) = (Arc::clone(gate), Arc::clone(&trespasses));
        let app = App::http(move |_| {
            let answer = Response::new(text("ok"));
            trespasses.fetch_add(usize::from(!gate.load(Ordering::SeqCst)), Ordering::SeqCst);
            async move { answer }
        });
        apps.push(app.await);
    }
    let mut rig = Rig::start();
    let entry = service("a.test", &[]);
    let targets = |group: usize| -> Vec<Target> { apps[group * 2..][..2].iter().map(App::target).collect() };
    let open = |group: usize, open: bool| {
        gates[group * 2..][..2]
            .iter()
            .for_each(|gate| gate.store(open, Ordering::SeqCst))
    };
    open(0, true);
    rig.publish(vec![with(&entry, targets(0))]).await;

    let (stop, failed, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let load: Vec<_> = (0..8)
        .map(|client| {
            let (stop, failed, asked) = (Arc::clone(&stop), Arc::clone(&failed), Arc::clone(&asked));
            tokio::spawn(load(rig.address, client, stop, failed, asked))
        })
        .collect();
    for flip in 1..=FLIPS {
        let (new, old) = (flip % 2, 1 - flip % 2);
        open(new, true);
        rig.publish(vec![with(&entry, targets(new))]).await;
        let old_ids: Vec<InstanceId> = targets(old).iter().map(|target| target.instance).collect();
        rig.view(|view| old_ids.iter().all(|id| !view.busy.contains_key(id)))
            .await;
        open(old, false);
    }
    stop.store(true, Ordering::SeqCst);
    for client in load {
        client.await.expect("no panic");
    }
    let asked = asked.load(Ordering::SeqCst);
    assert!(asked > FLIPS, "only {asked} requests were made");
    assert_eq!(
        (trespasses.load(Ordering::SeqCst), failed.load(Ordering::SeqCst)),
        (0, 0),
        "of {asked} requests"
    );
    let receipt = rig
        .receipt(entry.receipt, |receipt| receipt.total() == asked as u64)
        .await;
    assert_eq!(receipt.ok, asked as u64);
}

fn with(entry: &domain::routing::ServiceEntry, targets: Vec<Target>) -> domain::routing::ServiceEntry {
    domain::routing::ServiceEntry {
        pools: vec![Pool::new(entry.receipt, 1, targets)],
        ..entry.clone()
    }
}

/// Asks until told to stop; every fourth client without keep-alive.
async fn load(
    address: SocketAddr,
    client: usize,
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
) {
    let mut conn = Conn::to(address).await;
    while !stop.load(Ordering::SeqCst) {
        if client.is_multiple_of(4) {
            conn = Conn::to(address).await;
        }
        conn.write(get("a.test", "/")).await;
        let answer = conn.answer().await;
        asked.fetch_add(1, Ordering::SeqCst);
        failed.fetch_add(
            usize::from(answer.is_none_or(|answer| answer.status != 200)),
            Ordering::SeqCst,
        );
    }
}

#[tokio::test]
async fn an_instance_with_another_address_is_another_one() {
    let (old, new) = (App::says("old").await, App::says("new").await);
    let mut rig = Rig::start();
    let entry = service("a.test", &[&old]);
    rig.publish(vec![entry.clone()]).await;
    assert_eq!(rig.get("a.test", "/").await.body, "old");
    let target = Target {
        instance: old.id,
        address: Ipv4Addr::LOCALHOST.into(),
        port: new.address.port(),
    };
    rig.publish(vec![with(&entry, vec![target])]).await;
    for _ in 0..5 {
        assert_eq!(rig.get("a.test", "/").await.body, "new");
    }
}
