//! Durable writes through the whole interface, against a bare prepared insert in the same file system.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::{Bench, Measure, Row, median};
use crate::http1::{self, Connection};
use crate::system::Hob;

const CLIENTS: usize = 8;
const AIM: f64 = 0.6;

/// One row and two indexes a transaction, WAL, synchronous=FULL: what a durable write costs at least. Python's driver
/// takes about 24 us of each.
const BARE: &str = r#"
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("pragma journal_mode=wal"); db.execute("pragma synchronous=full")
db.execute("create table t(id integer primary key, a text, b integer, c text)")
db.execute("create index ta on t(a)"); db.execute("create index tb on t(b)")
n, end = 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    db.execute("insert into t(a, b, c) values (?, ?, ?)", (str(n), n, "x" * 200)); n += 1
print(n / float(sys.argv[2]))
"#;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let hob = Hob::start(bench.hob.to_str().context("a plain path")?).context("the kernel forbids containers")?;
    let item = target(&hob)?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..bench.rounds.min(5) {
        bare.push(bare_inserts(&hob, round, bench.round)?);
        ours.push(patches(&hob, &item, bench.round)?);
    }
    let rate = |values: Vec<f64>| Measure::new(median(values), "writes/s");
    let (ours, bare) = (rate(ours), rate(bare));
    let ratio = ours.value / bare.value;
    Ok(vec![Row {
        ratio: Some(ratio),
        ours: ours.text(),
        against: format!("prepared insert {}", bare.text()),
        aim: format!(">= {AIM}x"),
        met: Some(ratio >= AIM),
        ..Row::new(format!("durable writes by the interface, {CLIENTS} clients"))
    }])
}

/// A config item whose value can be changed without anything being deployed.
fn target(hob: &Hob) -> anyhow::Result<String> {
    let (status, config) = hob.api("POST", "/api/configs/", Some(serde_json::json!({ "name": "bench" })));
    ensure!(status == 201, "{status} {config}");
    let items = format!("/api/configs/{}/items/", config["id"].as_str().context("an id")?);
    let body = serde_json::json!({ "key": "N", "value": "0" });
    let (status, item) = hob.api("POST", &items, Some(body));
    ensure!(status == 201, "{status} {item}");
    Ok(format!("{items}{}/", item["id"].as_str().context("an id")?))
}

fn bare_inserts(hob: &Hob, round: usize, lasts: Duration) -> anyhow::Result<f64> {
    let file = hob.scratch().join(format!("bare-{round}.db"));
    let output = Command::new("python3")
        .args(["-c", BARE])
        .arg(&file)
        .arg(lasts.as_secs_f64().to_string())
        .output()
        .context("python3 is not installed")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

/// Acknowledged changes a second.
fn patches(hob: &Hob, path: &str, lasts: Duration) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let done = AtomicU64::new(0);
    let began = Instant::now();
    let client = async |client: usize| -> anyhow::Result<()> {
        let mut connection = Connection::open(hob.api_address()).await?;
        let mut n = 0_u64;
        while began.elapsed() < lasts {
            n += 1;
            let body = serde_json::json!({ "value": format!("{client} {n}") }).to_string();
            let bearer = format!("Bearer {}", hob.key());
            let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
            let host = hob.api_address().to_string();
            connection
                .send(&http1::request("PATCH", &host, path, &headers, body.as_bytes()))
                .await?;
            let answer = connection.response(100_000).await?;
            ensure!(answer.status() == 200, "{} {}", answer.status(), answer.text());
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    runtime.block_on(async {
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            clients.push(client(n));
        }
        join_all(clients).await
    })?;
    Ok(done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
}

/// Polls all to their end; the first error wins.
async fn join_all<F: Future<Output = anyhow::Result<()>>>(futures: Vec<F>) -> anyhow::Result<()> {
    let mut left: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        let mut failed = None;
        left.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(answer) => {
                failed = failed.take().or(answer.err());
                false
            }
        });
        match failed {
            Some(error) => std::task::Poll::Ready(Err(error)),
            None if left.is_empty() => std::task::Poll::Ready(Ok(())),
            None => std::task::Poll::Pending,
        }
    })
    .await
}
