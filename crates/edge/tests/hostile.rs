//! Bytes that nobody should send, and peers that are too slow, too many or too large (C6.8, C6.9, C6.11, C6.12).

mod rig;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use edge::Limits;
use hyper::Response;
use rig::{App, Conn, Rig, get, hasty, service, text, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Sends raw bytes and a marked request after them; answers with everything that comes back. Half a second of silence
/// counts as the end: a head that never ends is not answered.
async fn provoke(rig: &Rig, bytes: &[u8]) -> String {
    let mut conn = rig.connect().await;
    let _ = conn.stream.write_all(bytes).await;
    let mut back = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(Ok(read @ 1..)) = tokio::time::timeout(Duration::from_millis(500), conn.stream.read(&mut chunk)).await
    {
        back.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8_lossy(&back).into_owned()
}

/// C6.9. After each of these comes a request for `/smuggled`. None may be answered by the app, and none may let the
/// request behind it through.
#[tokio::test]
async fn ambiguous_framing_is_refused_and_its_connection_closed() {
    let app = App::mirror().await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    const H: &str = "Host: a.test\r\n";
    const T: &str = "Transfer-Encoding: chunked\r\n";
    let cases: Vec<(&str, String)> = vec![
        (
            "CL.TE",
            format!("POST / HTTP/1.1\r\n{H}Content-Length: 4\r\n{T}\r\n0\r\n\r\n"),
        ),
        (
            "TE.CL",
            format!("POST / HTTP/1.1\r\n{H}{T}Content-Length: 4\r\n\r\n0\r\n\r\n"),
        ),
        ("TE.TE", format!("POST / HTTP/1.1\r\n{H}{T}{T}\r\n0\r\n\r\n")),
        (
            "TE obfuscated",
            format!("POST / HTTP/1.1\r\n{H}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "TE identity",
            format!("POST / HTTP/1.1\r\n{H}Transfer-Encoding: identity\r\n\r\n"),
        ),
        (
            "TE list",
            format!("POST / HTTP/1.1\r\n{H}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "TE ,chunked",
            format!("POST / HTTP/1.1\r\n{H}Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "TE chunked not last",
            format!("POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n"),
        ),
        (
            "TE vertical tab",
            format!("POST / HTTP/1.1\r\n{H}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "CL twice, differing",
            format!("POST / HTTP/1.1\r\n{H}Content-Length: 0\r\nContent-Length: 5\r\n\r\nabcde"),
        ),
        (
            "CL list",
            format!("POST / HTTP/1.1\r\n{H}Content-Length: 5, 5\r\n\r\nabcde"),
        ),
        ("CL +1", format!("POST / HTTP/1.1\r\n{H}Content-Length: +1\r\n\r\na")),
        ("CL -1", format!("POST / HTTP/1.1\r\n{H}Content-Length: -1\r\n\r\na")),
        ("CL hex", format!("POST / HTTP/1.1\r\n{H}Content-Length: 0x1\r\n\r\na")),
        (
            "CL underscore",
            format!("POST / HTTP/1.1\r\n{H}Content-Length: 1_0\r\n\r\n0123456789"),
        ),
        ("CL empty", format!("POST / HTTP/1.1\r\n{H}Content-Length: \r\n\r\n")),
        (
            "CL huge",
            format!("POST / HTTP/1.1\r\n{H}Content-Length: 99999999999999999999\r\n\r\n"),
        ),
        (
            "CL with a space inside",
            format!("POST / HTTP/1.1\r\n{H}Content-Length: 1 0\r\n\r\n0123456789"),
        ),
        (
            "bare LF",
            format!("POST / HTTP/1.1\r\n{H}X: y\nContent-Length: 0\r\n\r\n"),
        ),
        ("all LF", "GET / HTTP/1.1\nHost: a.test\n\n".to_owned()),
        (
            "bare CR in a value",
            format!("GET / HTTP/1.1\r\n{H}X: y\rContent-Length: 5\r\n\r\n"),
        ),
        ("folded header", format!("GET / HTTP/1.1\r\n{H}X: y\r\n folded\r\n\r\n")),
        (
            "space before the colon",
            format!("POST / HTTP/1.1\r\n{H}Content-Length : 0\r\n\r\n"),
        ),
        ("space before the first header", format!("GET / HTTP/1.1\r\n {H}\r\n")),
        ("NUL in a value", format!("GET / HTTP/1.1\r\n{H}X: a\0b\r\n\r\n")),
        ("NUL in a name", format!("GET / HTTP/1.1\r\n{H}X\0Y: a\r\n\r\n")),
        ("no name", format!("GET / HTTP/1.1\r\n{H}: a\r\n\r\n")),
        ("no colon", format!("GET / HTTP/1.1\r\n{H}Garbage\r\n\r\n")),
        (
            "chunk size overflow",
            format!("POST / HTTP/1.1\r\n{H}{T}\r\n10000000000000000\r\na\r\n0\r\n\r\n"),
        ),
        (
            "chunk size signed",
            format!("POST / HTTP/1.1\r\n{H}{T}\r\n+1\r\na\r\n0\r\n\r\n"),
        ),
        (
            "chunk size 0x",
            format!("POST / HTTP/1.1\r\n{H}{T}\r\n0x1\r\na\r\n0\r\n\r\n"),
        ),
        (
            "chunk size missing",
            format!("POST / HTTP/1.1\r\n{H}{T}\r\n\r\na\r\n0\r\n\r\n"),
        ),
        (
            "chunk longer than said",
            format!("POST / HTTP/1.1\r\n{H}{T}\r\n1\r\nabc\r\n0\r\n\r\n"),
        ),
        (
            "chunk extension with LF",
            format!("POST / HTTP/1.1\r\n{H}{T}\r\n1;x\ny\r\na\r\n0\r\n\r\n"),
        ),
        (
            "bad trailer",
            format!("POST / HTTP/1.1\r\n{H}{T}\r\n0\r\nbad trailer\r\n\r\n"),
        ),
        ("HTTP/1.0 and TE", format!("POST / HTTP/1.0\r\n{H}{T}\r\n0\r\n\r\n")),
        ("two hosts", format!("GET / HTTP/1.1\r\n{H}Host: b.test\r\n\r\n")),
        ("the same host twice", format!("GET / HTTP/1.1\r\n{H}{H}\r\n")),
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("no host in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n".to_owned()),
        ("empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n".to_owned()),
        (
            "host with userinfo",
            "GET / HTTP/1.1\r\nHost: x@a.test\r\n\r\n".to_owned(),
        ),
        (
            "host with a path",
            "GET / HTTP/1.1\r\nHost: a.test/x\r\n\r\n".to_owned(),
        ),
        (
            "host with a space",
            "GET / HTTP/1.1\r\nHost: a.test b\r\n\r\n".to_owned(),
        ),
        (
            "absolute target of another host",
            format!("GET http://b.test/ HTTP/1.1\r\n{H}\r\n"),
        ),
        (
            "absolute target with userinfo",
            format!("GET http://x@a.test/ HTTP/1.1\r\n{H}\r\n"),
        ),
        ("authority target", format!("GET a.test:80 HTTP/1.1\r\n{H}\r\n")),
        ("CONNECT", format!("CONNECT a.test:80 HTTP/1.1\r\n{H}\r\n")),
        ("asterisk GET", format!("GET * HTTP/1.1\r\n{H}\r\n")),
        ("space in the target", format!("GET /a b HTTP/1.1\r\n{H}\r\n")),
        ("HTTP/0.9", "GET /\r\n".to_owned()),
        ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("HTTP/1.2", format!("GET / HTTP/1.2\r\n{H}\r\n")),
        ("lower-case version", format!("GET / http/1.1\r\n{H}\r\n")),
        ("bad method", format!("G\x01T / HTTP/1.1\r\n{H}\r\n")),
        ("TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03".to_owned()),
    ];
    let mut wrong = Vec::new();
    for (name, bytes) in cases {
        let before = app.seen();
        let follow = get("a.test", "/smuggled");
        let back = provoke(&rig, format!("{bytes}{follow}").as_bytes()).await;
        let let_through = back.contains("/smuggled") || back.contains("HTTP/1.1 200");
        let status: u16 = back.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        // A head that is refused never reaches the app. A chunk may be found bad after the request has begun.
        let late = name.starts_with("chunk") || name == "bad trailer";
        if let_through || !(status == 0 || (400..=505).contains(&status)) || (!late && app.seen() > before) {
            wrong.push(format!("{name}: seen {}, {:?}", app.seen() - before, back));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_request_whose_body_breaks_off_or_is_bad_is_not_whole_for_the_app() {
    let app = App::raw(|stream| async move {
        let all = Conn::over(stream).rest().await;
        assert!(
            !String::from_utf8_lossy(&all).contains("0\r\n\r\n"),
            "the app saw the end of a bad body"
        );
    })
    .await;
    let mut rig = Rig::start();
    let entry = service("a.test", &[&app]);
    rig.publish(vec![entry.clone()]).await;
    for body in ["5\r\nab", "1\r\nabc\r\n0\r\n\r\n", "z\r\n", "0\r\nbad trailer\r\n\r\n"] {
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut conn = rig.connect().await;
        conn.write(format!("{head}{body}")).await;
        drop(conn);
    }
    wait_for("the app's connections to end", || {
        app.connections.load(Ordering::SeqCst) > 0 && app.open.load(Ordering::SeqCst) == 0
    })
    .await;
    assert_eq!(rig.client.receipts().borrow().sum(entry.receipt).total(), 0);
}

#[tokio::test]
async fn what_is_forwarded_is_written_anew() {
    let app = App::raw(|stream| async move {
        let mut conn = Conn::over(stream);
        let head = conn.until(b"\r\n\r\n").await.expect("a head");
        let body = conn.until(b"0\r\n\r\n").await.expect("a body");
        let told = [head, body].concat();
        conn.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", told.len()))
            .await;
        conn.write(told).await;
    })
    .await;
    let mut rig = Rig::start();
    rig.publish(vec![service("a.test", &[&app])]).await;
    let request = "POST /x HTTP/1.1\r\nhOsT:a.test\r\ntransfer-ENCODING:\tCHUNKED \r\nX-Odd:   spaced   \r\n\r\n\
        003;ext=1\r\nabc\r\n0;last\r\n\r\n";
    let told = rig.connect().await.ask(request).await.body;
    assert!(told.starts_with("POST /x HTTP/1.1\r\n"), "{told}");
    assert!(
        told.contains("\r\nx-odd: spaced\r\n") && told.contains("\r\ntransfer-encoding: chunked\r\n"),
        "{told}"
    );
    assert!(told.ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{told}");
}

#[tokio::test]
async fn heads_are_limited_in_bytes_and_lines() {
    let app = App::says("hello").await;
    let mut rig = Rig::with(Limits {
        head_bytes: 16 * 1024,
        head_lines: 50,
        ..Limits::default()
    });
    rig.publish(vec![service("a.test", &[&app])]).await;
    let lines = "X: y\r\n".repeat(60);
    let long = format!("X: {}\r\n", "y".repeat(40_000));
    for extra in [lines, long] {
        let back = provoke(
            &rig,
            format!("GET / HTTP/1.1\r\nHost: a.test\r\n{extra}\r\n").as_bytes(),
        )
        .await;
        assert!(back.starts_with("HTTP/1.1 431 "), "{back}");
    }
    let back = provoke(
        &rig,
        format!("GET /{} HTTP/1.1\r\nHost: a.test\r\n\r\n", "x".repeat(70_000)).as_bytes(),
    )
    .await;
    assert!(
        back.starts_with("HTTP/1.1 414 ") || back.starts_with("HTTP/1.1 431 "),
        "{back}"
    );
    assert_eq!(app.seen(), 0);
}

#[tokio::test]
async fn bodies_are_limited_where_a_limit_is_set() {
    let app = App::mirror().await;
    let mut rig = Rig::with(Limits {
        body_bytes: 10,
        ..Limits::default()
    });
    let entry = service("a.test", &[&app]);
    rig.publish(vec![entry.clone()]).await;
    let said = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 11\r\n\r\n01234567890";
    assert_eq!(rig.connect().await.ask(said).await.status, 413);
    assert_eq!(app.seen(), 0);
    let unsaid = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n";
    let back = provoke(&rig, unsaid.as_bytes()).await;
    assert!(back.starts_with("HTTP/1.1 413 "), "{back}");
    let fits = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\n0123456789";
    assert_eq!(rig.connect().await.ask(fits).await.status, 200);
    // What clients do wrong is no failure of Hob or the app.
    let receipt = rig.receipt(entry.receipt, |receipt| receipt.total() > 0).await;
    assert_eq!((receipt.ok, receipt.total()), (1, 1));
}

#[tokio::test]
async fn an_answer_with_too_large_a_head_is_a_502() {
    let app = App::raw(|stream| async move {
        let mut conn = Conn::over(stream);
        conn.until(b"\r\n\r\n").await;
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(100_000));
        let _ = conn.stream.write_all(long.as_bytes()).await;
        conn.rest().await;
    })
    .await;
    let mut rig = Rig::with(Limits {
        answer_head_bytes: 16 * 1024,
        ..Limits::default()
    });
    rig.publish(vec![service("a.test", &[&app])]).await;
    assert_eq!(rig.get("a.test", "/").await.status, 502);
}

#[tokio::test]
async fn nonsense_from_an_app_is_a_502() {
    for nonsense in [
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        "",
    ] {
        let app = App::raw(move |stream| async move {
            let mut conn = Conn::over(stream);
            conn.until(b"\r\n\r\n").await;
            conn.write(nonsense).await;
        })
        .await;
        let mut rig = Rig::start();
        rig.publish(vec![service("a.test", &[&app])]).await;
        assert_eq!(rig.get("a.test", "/").await.status, 502, "{nonsense:?}");
    }
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_closed_while_others_are_served() {
    let app = App::says("hello").await;
    let mut rig = Rig::with(Limits {
        head_ms: 200,
        keep_alive_ms: 400,
        ..hasty()
    });
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut conn = rig.connect().await;
        conn.write("GET / HTTP/1.1\r\nHo").await;
        slow.push(conn);
    }
    let mut idle = rig.connect().await;
    assert_eq!(idle.ask(&get("a.test", "/")).await.status, 200);
    let mut dripping = rig.connect().await;
    let drip = tokio::spawn(async move {
        // One byte now and then does not keep a head alive.
        while dripping.stream.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    for _ in 0..10 {
        assert_eq!(rig.get("a.test", "/").await.status, 200);
    }
    for mut conn in slow {
        conn.rest().await;
    }
    assert_eq!(idle.rest().await, b"");
    tokio::time::timeout(rig::PATIENCE, drip)
        .await
        .expect("the dripping connection is closed")
        .expect("no panic");
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let app = App::mirror().await;
    let mut rig = Rig::with(Limits {
        client_body_ms: 200,
        ..hasty()
    });
    let entry = service("a.test", &[&app]);
    rig.publish(vec![entry.clone()]).await;
    let mut conn = rig.connect().await;
    conn.write("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nsome")
        .await;
    assert_eq!(conn.rest().await, b"");
    // The client's fault: neither a success nor a failure of anybody here.
    assert_eq!(rig.get("a.test", "/").await.status, 200);
    let receipt = rig.receipt(entry.receipt, |receipt| receipt.total() > 0).await;
    assert_eq!((receipt.ok, receipt.total()), (1, 1));
}

#[tokio::test]
async fn a_body_that_trickles_is_not_given_up() {
    let app = App::mirror().await;
    let mut rig = Rig::with(Limits {
        client_body_ms: 300,
        app_silence_ms: 300,
        head_ms: 300,
        ..hasty()
    });
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut conn = rig.connect().await;
    conn.write("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\n")
        .await;
    for byte in 0..10 {
        tokio::time::sleep(Duration::from_millis(80)).await;
        conn.write(byte.to_string()).await;
    }
    let answer = conn.answer().await.expect("an answer");
    assert!(answer.body.ends_with("\n0123456789"), "{answer:?}");
}

#[tokio::test]
async fn an_app_that_stays_silent_is_a_504_and_one_that_falls_silent_breaks_off() {
    let silent = App::http(|_| std::future::pending()).await;
    let halting = App::raw(|stream| async move {
        let mut conn = Conn::over(stream);
        conn.until(b"\r\n\r\n").await;
        conn.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun").await;
        conn.rest().await;
    })
    .await;
    let mut rig = Rig::with(Limits {
        app_silence_ms: 200,
        ..hasty()
    });
    let entries = [service("silent.test", &[&silent]), service("halting.test", &[&halting])];
    rig.publish(entries.to_vec()).await;
    let answer = rig.get("silent.test", "/").await;
    assert_eq!(answer.status, 504);
    let mut conn = rig.connect().await;
    conn.write(get("halting.test", "/")).await;
    let back = String::from_utf8(conn.rest().await).unwrap();
    assert!(back.ends_with("begun"), "{back}");
    rig.receipt(entries[0].receipt, |receipt| {
        receipt.failed_by_hob == 1 && receipt.total() == 1
    })
    .await;
    rig.receipt(entries[1].receipt, |receipt| {
        receipt.failed_by_app == 1 && receipt.total() == 1
    })
    .await;
    wait_for("the halting app to be let go", || {
        halting.open.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_given_up_and_memory_stays_bounded() {
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let app = App::raw(move |stream| {
        let sent = Arc::clone(&counted);
        async move {
            let mut conn = Conn::over(stream);
            conn.until(b"\r\n\r\n").await;
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
                .await;
            let chunk = vec![b'x'; 64 * 1024];
            while conn.stream.write_all(&chunk).await.is_ok() {
                sent.fetch_add(chunk.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let mut rig = Rig::with(Limits {
        client_write_ms: 300,
        ..hasty()
    });
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut conn = rig.connect().await;
    conn.write(get("a.test", "/")).await;
    wait_for("the client to be given up", || {
        app.open.load(Ordering::SeqCst) == 0 && sent.load(Ordering::SeqCst) > 0
    })
    .await;
    // What the kernel's socket buffers hold, and little more.
    assert!(
        sent.load(Ordering::SeqCst) < 64 << 20,
        "{} bytes were taken from the app",
        sent.load(Ordering::SeqCst)
    );
}

#[tokio::test]
async fn too_many_waiting_requests_are_refused_with_503() {
    let app = App::http(|request| async move {
        match request.uri().path() {
            "/wait" => std::future::pending().await,
            _ => Response::new(text("hello")),
        }
    })
    .await;
    let mut rig = Rig::with(Limits {
        max_pending: 4,
        ..Limits::default()
    });
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut waiting = Vec::new();
    // Two workers with two places each: after enough requests, both are full.
    for _ in 0..200 {
        let mut conn = rig.connect().await;
        conn.write(get("a.test", "/wait")).await;
        waiting.push(conn);
        if let Ok(Some(answer)) =
            tokio::time::timeout(Duration::from_millis(50), waiting.last_mut().unwrap().answer()).await
        {
            assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
            assert!(app.seen() <= 4);
            return;
        }
    }
    panic!("200 requests wait");
}

#[tokio::test]
async fn beyond_the_limit_of_connections_others_wait_their_turn() {
    let app = App::says("hello").await;
    let mut rig = Rig::with(Limits {
        max_connections: 5,
        ..Limits::default()
    });
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut conn = rig.connect().await;
        assert_eq!(conn.ask(&get("a.test", "/")).await.status, 200);
        held.push(conn);
    }
    // A worker may have been waiting in accept when the limit was reached: it takes one more.
    let mut late: Vec<_> = vec![];
    for _ in 0..3 {
        let mut conn = rig.connect().await;
        conn.write(get("a.test", "/")).await;
        late.push(conn);
    }
    let last = late.last_mut().unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(200), last.answer())
            .await
            .is_err(),
        "the limit does not hold"
    );
    drop(held);
    for mut conn in late {
        assert_eq!(conn.answer().await.expect("an answer").status, 200);
    }
}

/// C6.12: one address cannot take all connections. Loopback has many addresses, so that there is another client.
#[tokio::test]
async fn a_client_has_so_many_connections_and_others_have_theirs() {
    const MOST: usize = 5;
    let app = App::says("hello").await;
    let mut rig = Rig::with(Limits {
        max_connections_per_client: MOST,
        ..Limits::default()
    });
    rig.publish(vec![service("a.test", &[&app])]).await;
    let mut taken = Vec::new();
    for _ in 0..MOST {
        let mut conn = rig.connect().await;
        assert_eq!(conn.ask(&get("a.test", "/")).await.status, 200);
        taken.push(conn);
    }
    let mut beyond = rig.connect().await;
    let _ = beyond.stream.write_all(get("a.test", "/").as_bytes()).await;
    assert_eq!(beyond.answer().await, None);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
    let mut other = Conn::over(socket.connect(rig.address).await.unwrap());
    assert_eq!(other.ask(&get("a.test", "/")).await.status, 200);
    for conn in &mut taken {
        assert_eq!(conn.ask(&get("a.test", "/")).await.status, 200);
    }
    // Whoever ends one may have another.
    taken.pop();
    let deadline = std::time::Instant::now() + rig::PATIENCE;
    loop {
        let mut conn = rig.connect().await;
        let _ = conn.stream.write_all(get("a.test", "/").as_bytes()).await;
        if conn.answer().await.is_some_and(|answer| answer.status == 200) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "its place is never given back");
    }
}
