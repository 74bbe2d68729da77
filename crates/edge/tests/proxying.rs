//! What a client and an app see of the edge between them.

mod rig;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use domain::routing::{Pool, RouteMatch, ServiceEntry};
use edge::Limits;
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use rig::{App, Conn, Rig, get, hasty, service, text, wait_for};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

#[tokio::test]
async fn a_connection_serves_many_requests_and_so_does_the_one_to_the_app() {
    let app = App::says("hello").await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut conn = rig.connect().await;
    for _ in 0..20 {
        let answer = conn.ask(&get("a.test", "/")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    }
    assert_eq!(app.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let app = App::mirror().await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut conn = rig.connect().await;
    let all: String = (0..10).map(|i| get("a.test", &format!("/{i}"))).collect();
    conn.write(all).await;
    for i in 0..10 {
        let answer = conn.answer().await.expect("an answer");
        assert!(answer.body.starts_with(&format!("GET /{i} ")), "{}", answer.body);
    }
}

#[tokio::test]
async fn host_and_path_choose_the_service() {
    let (root, api, other) = (
        App::says("root").await,
        App::says("api").await,
        App::says("other").await,
    );
    let mut rig = Rig::start();
    let mut api_entry = service("a.test", &[&api]);
    api_entry.matches[0].path = "/api".to_owned();
    api_entry.matches.push(RouteMatch {
        host: "api.test".to_owned(),
        path: "/".to_owned(),
    });
    rig.publish(vec![
        service("a.test", &[&root]),
        api_entry,
        service("b.test", &[&other]),
    ])
    .await;
    for (host, path, expected) in [
        ("a.test", "/", "root"),
        ("A.TEST:8080", "/apix", "root"),
        ("a.test.", "/api", "api"),
        ("a.test", "/api/x?y=z", "api"),
        ("api.test", "/", "api"),
        ("b.test", "/api", "other"),
    ] {
        assert_eq!(rig.get(host, path).await.body, expected, "{host}{path}");
    }
    let mut conn = rig.connect().await;
    assert_eq!(
        conn.ask("GET http://b.test/x HTTP/1.1\r\nHost: b.test\r\n\r\n")
            .await
            .body,
        "other"
    );
}

#[tokio::test]
async fn an_unknown_host_is_a_short_404_and_a_service_without_instances_a_503() {
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[])]).await;
    let unknown = rig.get("nobody.test", "/").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.len() < 200 && unknown.header("content-type").unwrap().starts_with("text/plain"));
    let empty = rig.get("a.test", "/").await;
    assert_eq!((empty.status, empty.header("retry-after")), (503, Some("1")));
    let html = "GET / HTTP/1.1\r\nHost: b.test\r\nAccept: text/html,*/*\r\n\r\n";
    let html = rig.connect().await.ask(html).await;
    assert!(html.body.starts_with("<!doctype html>") && html.header("content-type").unwrap().starts_with("text/html"));
}

#[tokio::test]
async fn the_app_is_told_who_asks_and_nothing_that_the_client_made_up() {
    let app = App::mirror().await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let request = "GET /p?q HTTP/1.1\r\nHost: A.test:123\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
        X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Real-IP: 6.6.6.6\r\nConnection: keep-alive, X-Hop\r\n\
        X-Hop: 1\r\nKeep-Alive: timeout=9\r\nProxy-Authorization: x\r\nTE: trailers, deflate\r\nX-Kept: 2\r\n\r\n";
    let told = rig.connect().await.ask(request).await.body;
    let port = rig.address.port();
    for expected in [
        "GET /p?q HTTP/1.1\n",
        "host: A.test:123\n",
        "x-forwarded-for: 127.0.0.1\n",
        "x-real-ip: 127.0.0.1\n",
        "x-forwarded-proto: http\n",
        "x-forwarded-host: A.test:123\n",
        &format!("x-forwarded-port: {port}\n"),
        "forwarded: for=127.0.0.1;host=\"A.test:123\";proto=http\n",
        "te: trailers\n",
        "x-kept: 2\n",
        "x-request-id: ",
    ] {
        assert!(told.contains(expected), "{expected:?} is missing in {told}");
    }
    for absent in [
        "6.6.6.6",
        "evil",
        "x-hop",
        "keep-alive",
        "proxy-authorization",
        "deflate",
    ] {
        assert!(!told.contains(absent), "{absent:?} is in {told}");
    }
    let given = rig
        .connect()
        .await
        .ask("GET / HTTP/1.1\r\nHost: a.test\r\nX-Request-Id: mine\r\n\r\n")
        .await
        .body;
    assert!(given.contains("x-request-id: mine\n"));
}

#[tokio::test]
async fn hop_by_hop_headers_of_the_app_stay_with_the_app() {
    let app = App::raw(|stream| async move {
        let mut conn = Conn::over(stream);
        conn.until(b"\r\n\r\n").await;
        conn.write("HTTP/1.1 200 OK\r\nConnection: X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=1\r\nUpgrade: h2\r\nX-Kept: 2\r\nContent-Length: 2\r\n\r\nok").await;
    })
    .await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let answer = rig.get("a.test", "/").await;
    assert_eq!((answer.body.as_str(), answer.header("x-kept")), ("ok", Some("2")));
    for name in ["x-secret", "keep-alive", "upgrade", "connection"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn chunked_bodies_and_trailers_pass_in_both_directions() {
    let app = App::http(|request| async move {
        let collected = request.into_body().collect().await.expect("a whole body");
        let trailer = collected.trailers().and_then(|trailers| trailers.get("x-sum")).cloned();
        let body = collected.to_bytes();
        let mut trailers = hyper::HeaderMap::new();
        trailers.insert("x-sum", trailer.expect("the trailer arrives"));
        let frames = [
            Ok(Frame::data(body.slice(..3))),
            Ok(Frame::data(body.slice(3..))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
        Response::builder().header("trailer", "x-sum").body(body).unwrap()
    })
    .await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let request = "POST / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
        4\r\nabcd\r\n3\r\nefg\r\n0\r\nX-Sum: 7\r\n\r\n";
    let answer = rig.connect().await.ask(request).await;
    assert_eq!(
        (answer.status, answer.header("transfer-encoding")),
        (200, Some("chunked"))
    );
    assert_eq!(answer.body, "abcdefgx-sum: 7\r\n");
}

#[tokio::test]
async fn bodies_stream_both_ways_without_being_gathered() {
    // The app answers each chunk before the next one is sent: a proxy that gathers either body would stand still.
    let app = App::http(|request| async move {
        let body = request
            .into_body()
            .map_frame(|frame| frame)
            .map_err(|_| unreachable!("the body is whole"));
        Response::new(body.boxed())
    })
    .await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut conn = rig.connect().await;
    conn.write("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    for round in 0..50 {
        let word = format!("round-{round:02}");
        conn.write(format!("8\r\n{word}\r\n")).await;
        if round == 0 {
            conn.until(b"\r\n\r\n")
                .await
                .expect("the head comes before the body has ended");
        }
        assert_eq!(conn.until(b"\r\n").await.unwrap(), b"8\r\n");
        assert_eq!(conn.until(b"\r\n").await.unwrap(), format!("{word}\r\n").as_bytes());
    }
    conn.write("0\r\n\r\n").await;
    assert_eq!(conn.chunks().await.unwrap(), b"");
}

#[tokio::test]
async fn a_large_body_arrives_whole() {
    const LEN: usize = 20 << 20;
    let app = App::http(|request| async move {
        let body = request.into_body().collect().await.expect("a whole body").to_bytes();
        assert!(body.iter().enumerate().all(|(i, byte)| *byte == (i % 251) as u8));
        Response::new(text(body))
    })
    .await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut conn = rig.connect().await;
    conn.write(format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {LEN}\r\n\r\n"
    ))
    .await;
    conn.write((0..LEN).map(|i| (i % 251) as u8).collect::<Vec<_>>()).await;
    conn.until(b"\r\n\r\n").await.expect("a head");
    let back = conn.exactly(LEN).await.expect("a whole body");
    assert!(back.iter().enumerate().all(|(i, byte)| *byte == (i % 251) as u8));
}

#[tokio::test]
async fn expect_100_continue_is_answered_when_the_app_wants_the_body() {
    let app = App::mirror().await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut conn = rig.connect().await;
    conn.write("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(conn.until(b"\r\n\r\n").await.unwrap(), b"HTTP/1.1 100 Continue\r\n\r\n");
    conn.write("body").await;
    let answer = conn.answer().await.expect("an answer");
    assert!(answer.status == 200 && answer.body.ends_with("\nbody"), "{answer:?}");
    let other = rig
        .connect()
        .await
        .ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nExpect: gold\r\n\r\n")
        .await;
    assert_eq!(other.status, 417);
}

#[tokio::test]
async fn head_and_http_1_0_are_answered_in_kind() {
    let app = App::says("hello").await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut conn = rig.connect().await;
    conn.write("HEAD / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        .await;
    let head = String::from_utf8(conn.rest().await).unwrap();
    assert!(
        head.contains("content-length: 5\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let mut conn = rig.connect().await;
    conn.write("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n").await;
    let old = String::from_utf8(conn.rest().await).unwrap();
    assert!(
        old.starts_with("HTTP/1.0 200 ") && old.ends_with("\r\n\r\nhello"),
        "{old}"
    );
}

#[tokio::test]
async fn a_request_goes_to_another_instance_when_the_first_cannot_be_reached() {
    let (absent, app) = (App::absent(), App::says("here").await);
    let mut rig = Rig::start();
    let entry = service("a.test", &[&absent, &app]);
    rig.publish(vec![entry.clone()]).await;
    for _ in 0..10 {
        let mut conn = rig.connect().await;
        let answer = conn
            .ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi")
            .await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "here"));
    }
    let receipt = rig.receipt(entry.receipt, |receipt| receipt.ok == 10).await;
    assert!(receipt.retried > 0 && receipt.total() == 10, "{receipt:?}");
}

/// After a power failure the edge begins with a table of instances that are no more: connections to them hang. A request
/// that waits for one goes on as soon as the control plane has told who is there now.
#[tokio::test]
async fn a_request_does_not_wait_for_an_instance_that_has_left_the_table() {
    let (gone, app) = (App::silent(), App::says("here").await);
    let mut rig = Rig::with(Limits {
        connect_ms: 600_000,
        ..Limits::default()
    });
    let old = service("a.test", &[&gone]);
    rig.publish(vec![old.clone()]).await;
    let mut conn = rig.connect().await;
    conn.write(get("a.test", "/")).await;
    wait_for("the request waits for a connection", || {
        gone.callers() > App::SILENT_FILL
    })
    .await;
    let new = ServiceEntry {
        pools: vec![Pool::new(old.receipt, 1, vec![app.target()])],
        ..old
    };
    rig.publish(vec![new]).await;
    let answer = conn.answer().await.expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, "here"));
}

#[tokio::test]
async fn a_request_that_may_have_reached_an_instance_is_never_sent_to_another() {
    let hang_up = || {
        App::raw(|stream| async move {
            Conn::over(stream).until(b"\r\n\r\n").await;
        })
    };
    let (first, second) = (hang_up().await, hang_up().await);
    let mut rig = Rig::start();
    let entry = service("a.test", &[&first, &second]);
    rig.publish(vec![entry.clone()]).await;
    assert_eq!(rig.get("a.test", "/").await.status, 502);
    let connections = [&first, &second].map(|app| app.connections.load(Ordering::SeqCst));
    assert_eq!(connections.iter().sum::<usize>(), 1);
    let receipt = rig.receipt(entry.receipt, |receipt| receipt.total() == 1).await;
    assert_eq!((receipt.failed_by_hob, receipt.retried), (1, 0));
}

#[tokio::test]
async fn no_instance_that_answers_is_a_502() {
    let (one, two) = (App::absent(), App::absent());
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&one, &two])]).await;
    assert_eq!(rig.get("a.test", "/").await.status, 502);
}

#[tokio::test]
async fn a_kept_connection_that_the_app_has_closed_costs_nobody_a_request() {
    // Answers once per connection and hangs up without having said so.
    let app = App::raw(|stream| async move {
        let mut conn = Conn::over(stream);
        if conn.until(b"\r\n\r\n").await.is_some() {
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let mut rig = Rig::start();
    let entry = service("a.test", &[&app]);
    rig.publish(vec![entry.clone()]).await;
    let mut conn = rig.connect().await;
    for _ in 0..20 {
        assert_eq!(conn.ask(&get("a.test", "/")).await.status, 200);
        wait_for("the app to hang up", || app.open.load(Ordering::SeqCst) == 0).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.receipt(entry.receipt, |receipt| receipt.ok == 20 && receipt.total() == 20)
        .await;
}

#[tokio::test]
async fn the_least_loaded_instance_is_chosen() {
    let release = Arc::new(Notify::new());
    let gate = Arc::clone(&release);
    let slow = App::http(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            Response::new(text("slow"))
        }
    })
    .await;
    let fast = App::says("fast").await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&slow, &fast])]).await;
    let mut waiting = rig.connect().await;
    // Taking turns, one of two requests meets the slow instance, and from then on nobody does.
    while slow.seen() == 0 {
        waiting.write(get("a.test", "/")).await;
        let answered = tokio::time::timeout(Duration::from_millis(200), waiting.answer()).await;
        assert!(answered.is_ok() || slow.seen() == 1);
    }
    for _ in 0..10 {
        assert_eq!(rig.get("a.test", "/").await.body, "fast");
    }
    release.notify_one();
    assert_eq!(waiting.answer().await.unwrap().body, "slow");
}

#[tokio::test]
async fn idle_connections_to_an_instance_end_when_it_leaves_the_table() {
    let (old, new) = (App::says("old").await, App::says("new").await);
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&old])]).await;
    assert_eq!(rig.get("a.test", "/").await.body, "old");
    assert_eq!(old.open.load(Ordering::SeqCst), 1);
    rig.publish(vec![service("a.test", &[&new])]).await;
    wait_for("the kept connection to end", || old.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn an_idle_connection_to_an_instance_is_not_kept_for_long() {
    let app = App::says("hello").await;
    let mut rig = Rig::with(Limits {
        upstream_idle_ms: 100,
        ..hasty()
    });
    rig.publish(vec![service("a.test", &[&app])]).await;
    rig.get("a.test", "/").await;
    wait_for("the kept connection to end", || app.open.load(Ordering::SeqCst) == 0).await;
    assert_eq!(rig.get("a.test", "/").await.status, 200);
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_is_served_as_before() {
    // After a tick without work its buffers are taken down; it must not notice.
    let app = App::mirror().await;
    let mut rig = Rig::with(hasty());
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut conn = rig.connect().await;
    for round in 0..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        // In two pieces, so that the first byte alone wakes it.
        conn.write("G").await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        conn.write(&format!("ET /{round} HTTP/1.1\r\nHost: a.test\r\n\r\n"))
            .await;
        assert!(conn.answer().await.unwrap().body.starts_with(&format!("GET /{round} ")));
    }
}

#[tokio::test]
async fn names_inside_are_answered_for_the_callers_project_only() {
    let (web, other) = (App::mirror().await, App::says("other").await);
    let mut rig = Rig::start();
    let mut mine = service("web.example.com", &[&web]);
    mine.name = "web".to_owned();
    let mut theirs = service("db.example.com", &[&other]);
    theirs.name = "db".to_owned();
    let here = std::net::IpAddr::from([127, 0, 0, 1]);
    let project = mine.project;
    rig.publish_with(vec![mine.clone(), theirs.clone()], &[]).await;
    let ask = async |rig: &Rig, host: &str| Conn::to(rig.internal).await.ask(&get(host, "/x")).await;
    assert_eq!(ask(&rig, "web.hob.internal").await.status, 403);
    rig.publish_with(vec![mine, theirs], &[(here, project)]).await;
    let answer = ask(&rig, "web.hob.internal").await;
    assert!(
        answer.status == 200 && answer.body.contains("x-forwarded-for: 127.0.0.1"),
        "{answer:?}"
    );
    for host in [
        "db.hob.internal",
        "web.example.com",
        "db.example.com",
        "hob.internal",
        "x.web.hob.internal",
    ] {
        assert_eq!(ask(&rig, host).await.status, 404, "{host}");
    }
    // And the other way round: names inside mean nothing to strangers.
    assert_eq!(rig.get("web.hob.internal", "/").await.status, 404);
}

#[tokio::test]
async fn receipts_add_up() {
    let good = App::says("fine").await;
    let bad = App::http(|_| async { Response::builder().status(500).body(text("oops")).unwrap() }).await;
    let broken = App::raw(|stream| async move {
        let mut conn = Conn::over(stream);
        conn.until(b"\r\n\r\n").await;
        conn.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
            .await;
    })
    .await;
    let mut rig = Rig::start();
    let mut entries: Vec<_> = [("good.test", &good), ("bad.test", &bad), ("broken.test", &broken)]
        .map(|(host, app)| service(host, &[app]))
        .into();
    entries.push(service("none.test", &[]));
    rig.publish(entries.clone()).await;
    for _ in 0..7 {
        assert_eq!(rig.get("good.test", "/").await.status, 200);
        assert_eq!(rig.get("bad.test", "/").await.status, 500);
        let mut conn = rig.connect().await;
        conn.write(get("broken.test", "/")).await;
        assert_eq!(conn.answer().await, None);
        assert_eq!(rig.get("none.test", "/").await.status, 503);
        rig.get("unknown.test", "/").await;
    }
    let expected = [(7, 0, 0), (0, 0, 7), (0, 0, 7), (0, 7, 0)];
    for (entry, (ok, by_hob, by_app)) in entries.iter().zip(expected) {
        let receipt = rig.receipt(entry.receipt, |receipt| receipt.total() == 7).await;
        let counted = (receipt.ok, receipt.failed_by_hob, receipt.failed_by_app);
        assert_eq!(counted, (ok, by_hob, by_app), "{}", entry.matches[0].host);
        assert_eq!((receipt.retried, receipt.drained), (0, 0));
    }
}

#[tokio::test]
async fn a_request_is_counted_for_the_deployment_that_was_active_when_it_was_routed() {
    let release = Arc::new(Notify::new());
    let gate = Arc::clone(&release);
    let app = App::http(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            Response::new(text("done"))
        }
    })
    .await;
    let mut rig = Rig::start();
    let before = service("a.test", &[&app]);
    rig.publish(vec![before.clone()]).await;
    let mut conn = rig.connect().await;
    conn.write(get("a.test", "/")).await;
    wait_for("the request to arrive", || app.seen() == 1).await;
    let mut after = before.clone();
    after.receipt = uuid::Uuid::new_v4().into();
    rig.publish(vec![after.clone()]).await;
    release.notify_one();
    conn.answer().await.expect("an answer");
    rig.receipt(before.receipt, |receipt| receipt.ok == 1).await;
    assert_eq!(rig.client.receipts().borrow().sum(after.receipt).total(), 0);
}

#[tokio::test]
async fn an_answer_before_the_body_was_read_ends_the_connection() {
    let app = App::raw(|stream| async move {
        let mut conn = Conn::over(stream);
        conn.until(b"\r\n\r\n").await;
        conn.write("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
            .await;
        let _ = conn.stream.shutdown().await;
        conn.rest().await;
    })
    .await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut conn = rig.connect().await;
    conn.write("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\nsome")
        .await;
    let answer = conn.answer().await.expect("the early answer");
    assert_eq!((answer.status, answer.body.as_str()), (413, "no"));
    // What is left of the body is never taken for a request.
    let _ = conn.stream.write_all(get("a.test", "/smuggled").as_bytes()).await;
    assert_eq!(conn.rest().await, Bytes::new());
    assert_eq!(app.connections.load(Ordering::SeqCst), 1);
}
