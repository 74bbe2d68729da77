//! Durable writes through the whole interface, against a bare prepared insert in the same file system.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::ask::{Interface, p99};
use super::{Bench, Measure, Row, median};
use crate::system::Hob;

const CLIENTS: u64 = 8;
const AIM: f64 = 0.6;
/// Writes a second at which nothing is in a hurry.
const CALM: u32 = 200;

/// One row and two indexes a transaction, WAL, synchronous=FULL: what a durable write costs at least. Python's driver
/// takes about 24 us of each.
///
/// Prints inserts a second, and then, at a fixed rate, how long one takes that one in a hundred exceeds, in microseconds.
const BARE: &str = r#"
import sqlite3, sys, time
file, lasts, rate = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
db = sqlite3.connect(file, isolation_level=None)
db.execute("pragma journal_mode=wal"); db.execute("pragma synchronous=full")
db.execute("create table t(id integer primary key, a text, b integer, c text)")
db.execute("create index ta on t(a)"); db.execute("create index tb on t(b)")
def insert(n):
    db.execute("insert into t(a, b, c) values (?, ?, ?)", (str(n), n, "x" * 200))
n, end = 0, time.monotonic() + lasts
while time.monotonic() < end:
    insert(n); n += 1
times, began = [], time.monotonic()
for i in range(int(lasts * rate)):
    time.sleep(max(0, began + i / rate - time.monotonic()))
    asked = time.perf_counter(); insert(n + i); times.append(time.perf_counter() - asked)
print(n / lasts, sorted(times)[len(times) * 99 // 100] * 1e6)
"#;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let hob = Hob::start(bench.hob.to_str().context("a plain path")?).context("the kernel forbids containers")?;
    let item = target(&hob)?;
    let interface = Interface::of(&hob);
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let (mut our_p99, mut bare_p99) = (Vec::new(), Vec::new());
    for round in 0..bench.rounds.min(5) {
        let (rate, longest) = bare_inserts(&hob, round, bench.round)?;
        bare.push(rate);
        bare_p99.push(longest);
        let done = interface.by_many(CLIENTS, bench.round, |n| interface.patch(&item, n))?;
        ours.push(done as f64 / bench.round.as_secs_f64());
        our_p99.push(p99(
            interface.at_rate(CALM, bench.round, |n| interface.patch(&item, n))?
        )?);
    }
    let rate = |values: Vec<f64>| Measure::new(median(values), "writes/s");
    let (ours, bare) = (rate(ours), rate(bare));
    let ratio = ours.value / bare.value;
    let (our_p99, bare_p99) = (median(our_p99), median(bare_p99));
    Ok(vec![
        Row {
            ratio: Some(ratio),
            ours: ours.text(),
            against: format!("prepared insert {}", bare.text()),
            aim: format!(">= {AIM}x"),
            met: Some(ratio >= AIM),
            ..Row::new(format!("durable writes by the interface, {CLIENTS} clients"))
        },
        Row {
            ratio: Some(our_p99 / bare_p99),
            ours: Measure::new(our_p99, "us").text(),
            against: format!("prepared insert {}", Measure::new(bare_p99, "us").text()),
            ..Row::new(format!("durable writes by the interface at {CALM}/s, p99"))
        },
    ])
}

/// A config item whose value can be changed without anything being deployed.
pub(super) fn target(hob: &Hob) -> anyhow::Result<String> {
    let (status, config) = hob.api("POST", "/api/configs/", Some(serde_json::json!({ "name": "bench" })));
    ensure!(status == 201, "{status} {config}");
    let items = format!("/api/configs/{}/items/", config["id"].as_str().context("an id")?);
    let body = serde_json::json!({ "key": "N", "value": "0" });
    let (status, item) = hob.api("POST", &items, Some(body));
    ensure!(status == 201, "{status} {item}");
    Ok(format!("{items}{}/", item["id"].as_str().context("an id")?))
}

/// Inserts a second, and the p99 of one in microseconds.
fn bare_inserts(hob: &Hob, round: usize, lasts: Duration) -> anyhow::Result<(f64, f64)> {
    let file = hob.scratch().join(format!("bare-{round}.db"));
    let output = Command::new("python3")
        .args(["-c", BARE])
        .arg(&file)
        .args([lasts.as_secs_f64().to_string(), CALM.to_string()])
        .output()
        .context("python3 is not installed")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let (rate, longest) = text.trim().split_once(' ').context("two numbers")?;
    Ok((rate.parse()?, longest.parse()?))
}
