//! The generator against servers that are known to be bad.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// A server whose `serve` handles each connection; ends with its runtime, which lives as long as the answer.
fn server<F, S>(serve: S) -> (SocketAddr, tokio::runtime::Runtime)
where
    S: Fn(TcpStream, u64) -> F + Send + 'static,
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("starts");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let address = listener.local_addr().expect("bound");
    runtime.spawn(async move {
        let mut n = 0;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, n));
            n += 1;
        }
    });
    (address, runtime)
}

/// Answers every request on the connection with `answer`, after `delay()`.
async fn answer(mut stream: TcpStream, bytes: &[u8], delay: impl Fn() -> Duration) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await? > 0 {
        let delay = delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        stream.write_all(bytes).await?;
    }
    Ok(())
}

fn plan(server: SocketAddr) -> LoadPlan {
    LoadPlan::new(server, "app.localhost")
        .rate(500.0)
        .lasts(Duration::from_millis(400))
}

fn none() -> Duration {
    Duration::ZERO
}

#[test]
fn a_good_server_has_every_request_answered_once() {
    let seen = Arc::new(AtomicU64::new(0));
    let count = seen.clone();
    let (address, _runtime) = server(move |stream, _| {
        let count = count.clone();
        async move {
            answer(stream, OK, move || {
                count.fetch_add(1, Ordering::Relaxed);
                none()
            })
            .await
        }
    });
    let report = run(plan(address).mix(vec![(Kind::Short, 1), (Kind::ShortClose, 1)]));
    assert_eq!((report.sent(), report.failed()), (200, 0), "{}", report.table());
    assert_eq!(seen.load(Ordering::Relaxed), 200);
}

/// A stall of 200 ms in every second meets a fifth of all arrivals: the 99th percentile must be near its length. A
/// generator that waits for its answers would have one slow request a second and show nothing.
#[test]
fn a_stalling_server_shows_in_the_tail() {
    let began = Instant::now();
    let (address, _runtime) = server(move |stream, _| async move {
        answer(stream, OK, move || {
            let phase = Duration::from_millis((began.elapsed().as_millis() % 1_000) as u64);
            Duration::from_millis(200).saturating_sub(phase)
        })
        .await
    });
    let report = run(LoadPlan {
        lasts: Duration::from_secs(2),
        ..plan(address)
    });
    assert_eq!(report.failed(), 0, "{}", report.table());
    let latency = report.latency();
    let (p50, p99) = (latency.quantile(0.5), latency.quantile(0.99));
    assert!(
        p99 > Duration::from_millis(150) && p99 < Duration::from_millis(300),
        "p99 {p99:?}"
    );
    assert!(p50 < p99 / 2, "p50 {p50:?}");
}

#[test]
fn each_way_of_failing_has_its_own_class() {
    const PARTIAL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello";
    let cases: [(Outcome, &[u8]); 5] = [
        (Outcome::ServerError, b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
        (Outcome::OtherStatus, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"),
        (Outcome::ResetBeforeFirstByte, b""),
        (Outcome::ResetAfterFirstByte, PARTIAL),
        (Outcome::WrongBody, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbye"),
    ];
    for (expected, bytes) in cases {
        let (address, _runtime) = server(move |mut stream, _| async move {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await?;
            stream.write_all(bytes).await
        });
        let report = run(LoadPlan {
            expect: "hello".to_owned(),
            ..plan(address)
        });
        assert_eq!(
            report.count(expected),
            report.sent(),
            "{expected:?}:\n{}",
            report.table()
        );
        assert!(report.sent() > 0);
    }
    let refused = run(plan("127.0.0.1:1".parse().expect("an address")));
    assert_eq!(refused.count(Outcome::Refused), refused.sent(), "{}", refused.table());
}

#[test]
fn a_silent_server_times_out_and_the_run_still_ends() {
    let (address, _runtime) = server(|stream, _| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
        Ok(())
    });
    let began = Instant::now();
    let report = run(LoadPlan {
        timeout: Duration::from_millis(300),
        in_flight_max: 100,
        ..plan(address)
    });
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(
        report.count(Outcome::Timeout) + report.count(Outcome::NotSent),
        report.sent()
    );
    assert!(
        report.count(Outcome::NotSent) > 0,
        "200 were due within 400 ms and 100 may be in flight"
    );
}

#[test]
fn an_outage_is_as_long_as_the_failures_are_apart() {
    let began = Instant::now();
    let (address, _runtime) = server(move |stream, _| async move {
        let down = (100..300).contains(&began.elapsed().as_millis());
        if down { Ok(()) } else { answer(stream, OK, none).await }
    });
    let report = run(plan(address).mix(vec![(Kind::ShortClose, 1)]));
    let outage = report.longest_outage(Duration::from_millis(100));
    assert!(
        (150..250).contains(&outage.as_millis()),
        "{outage:?}\n{}",
        report.table()
    );
}

#[test]
fn a_mix_is_read_as_people_write_it() {
    assert_eq!(
        parse_mix("short=70, post=30"),
        Ok(vec![(Kind::Short, 70), (Kind::Post, 30)])
    );
    assert_eq!(parse_mix("slow"), Ok(vec![(Kind::Slow, 1)]));
    assert_eq!(parse_mix("mixed").map(|mix| mix.len()), Ok(6));
    for bad in ["", "fast", "short=x", "short=0"] {
        assert!(parse_mix(bad).is_err(), "{bad:?}");
    }
}
