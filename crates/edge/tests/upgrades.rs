//! Connections that become something else, such as WebSockets, between a client and an app.

mod rig;

use std::sync::Arc;
use std::time::Duration;

use edge::protocol::{self, FromEdge, SOCKET, ToEdge};
use http_body_util::{BodyExt, Empty};
use hyper::Response;
use rig::{App, Conn, Rig, service};
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;

#[tokio::test]
async fn a_websocket_echoes_and_counts_as_in_flight_until_it_closes() {
    let app = websocket_echo().await;
    let mut rig = Rig::start();
    let entry = service("a.test", &[&app]);
    rig.publish(vec![entry.clone()]).await;
    let mut conn = upgraded(&rig).await;
    for word in ["one", "two!"] {
        conn.write(word).await;
        assert_eq!(conn.exactly(word.len()).await.unwrap(), word.as_bytes());
    }
    let view = rig.publish(vec![]).await;
    assert_eq!(view.busy.get(&app.id), Some(&1));
    conn.write("still").await;
    assert_eq!(conn.exactly(5).await.unwrap(), b"still");
    drop(conn);
    rig.view(|view| view.busy.is_empty()).await;
    let receipt = rig.receipt(entry.receipt, |receipt| receipt.ok == 1).await;
    assert_eq!((receipt.total(), receipt.drained), (1, 1));
}

#[tokio::test]
async fn a_websocket_is_cut_when_the_drain_deadline_has_passed() {
    let app = websocket_echo().await;
    let mut rig = Rig::start();
    let entry = service("a.test", &[&app]);
    rig.publish(vec![entry.clone()]).await;
    let mut conn = upgraded(&rig).await;
    // While it is routed, nobody drains it. The status is answered after the order before it was followed.
    let mut control = tokio::net::UnixStream::connect(rig.home.path().join(SOCKET))
        .await
        .unwrap();
    let hello = ToEdge::Hello {
        version: protocol::VERSION,
    };
    for message in [
        hello,
        ToEdge::CloseBusy {
            instances: vec![app.id],
        },
        ToEdge::Status,
    ] {
        protocol::write(&mut control, &message).await.unwrap();
    }
    while !matches!(protocol::read(&mut control).await.unwrap(), FromEdge::Status(_)) {}
    conn.write("alive").await;
    assert_eq!(conn.exactly(5).await.unwrap(), b"alive");
    let view = rig.publish(vec![]).await;
    assert_eq!(view.busy.get(&app.id), Some(&1));
    rig.client.close_busy([app.id]);
    assert_eq!(conn.rest().await, b"");
    rig.view(|view| view.busy.is_empty()).await;
    rig.receipt(entry.receipt, |receipt| {
        receipt.failed_by_hob == 1 && receipt.total() == 1
    })
    .await;
}

async fn websocket_echo() -> App {
    App::http(|mut request| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        assert_eq!(request.headers()["upgrade"], "websocket");
        tokio::spawn(async move {
            let upgraded = upgrade.await.expect("upgrades");
            let (mut reader, mut writer) = tokio::io::split(hyper_util::rt::TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
        let response = Response::builder()
            .status(101)
            .header("upgrade", "websocket")
            .header("connection", "upgrade");
        response.body(Empty::new().boxed()).unwrap()
    })
    .await
}

async fn upgraded(rig: &Rig) -> Conn {
    let mut conn = rig.connect().await;
    let request = "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let answer = conn.ask(request).await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    conn
}

#[tokio::test]
async fn bytes_after_an_upgrade_request_reach_the_app_only_after_its_101() {
    let release = Arc::new(Notify::new());
    let gate = Arc::clone(&release);
    let app = App::raw(move |stream| {
        let gate = Arc::clone(&gate);
        async move {
            let mut conn = Conn::over(stream);
            conn.until(b"\r\n\r\n").await.expect("a head");
            let mut early = [0; 1];
            let silence = tokio::time::timeout(Duration::from_millis(100), conn.stream.read(&mut early)).await;
            assert!(silence.is_err(), "bytes came before 101");
            gate.notified().await;
            conn.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nfrom app")
                .await;
            assert_eq!(conn.exactly(5).await.unwrap(), b"early");
            conn.write("bye").await;
        }
    })
    .await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut conn = rig.connect().await;
    conn.write("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nearly")
        .await;
    release.notify_one();
    let answer = conn.answer().await.expect("an answer");
    assert_eq!(answer.status, 101);
    assert_eq!(conn.rest().await, b"from appbye");
}

#[tokio::test]
async fn an_app_that_does_not_want_to_upgrade_answers_as_usual() {
    let app = App::says("no").await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut conn = rig.connect().await;
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for _ in 0..2 {
        let answer = conn.ask(request).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "no"));
    }
}
