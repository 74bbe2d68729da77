//! Lists and details at a thousand, a hundred thousand and a million deployments: whether the millionth costs more.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::ask::{Interface, p99};
use super::{Bench, Measure, Row};
use crate::system::{Hob, eventually};

const SIZES: [u64; 3] = [1_000, 100_000, 1_000_000];
/// p99 of page 1, and of one deployment, at the largest size against the smallest.
const FLAT: f64 = 2.0;
/// p99 of the last page against page 1, at the largest size.
const DEEP: f64 = 5.0;
/// Longest time to seed the largest size.
const SEEDED: Duration = Duration::from_secs(600);

/// Copies the only deployment, one a second into the past, together with what counts them. The server is down.
const SEED: &str = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None); size = int(sys.argv[2])
db.execute("pragma synchronous=off"); db.execute("pragma cache_size=-200000"); db.execute("begin")
columns = [row[1] for row in db.execute("pragma table_info(deployment)")]
changed = {
    "id": "printf('00000000-0000-4000-8000-%012x', n)", "version": "d.version + n",
    "created_at_us": "d.created_at_us - n * 1000000", "rollback_from": "null", "replaced": "null",
}
values = ", ".join(changed.get(name, "d." + name) for name in columns)
project, = db.execute("select project from deployment").fetchone()
db.execute(f"""with recursive seq(n) as (select 1 union all select n + 1 from seq where n < {size})
    insert into deployment ({", ".join(columns)}) select {values} from deployment d, seq where d.version = 1""")
db.execute("update counter set n = n + ? where kind in ('deployments', 'service_deployments')", (size,))
db.execute("delete from position where kind = 'deployments'")
for owner in [project, ""]:
    for level in [22, 31, 40]:
        db.execute("""insert into position (owner, kind, level, bucket, n)
            select ?, 'deployments', ?, created_at_us >> ?, count(*) from deployment group by created_at_us >> ?""",
            (owner, level, level, level))
db.execute("commit")
"#;

/// p99 of each request, in microseconds.
struct Times {
    first: f64,
    last: f64,
    one: f64,
}

pub(super) fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut seen = Vec::new();
    for size in SIZES {
        seen.push(at_size(bench, size)?);
    }
    let [small, _, large] = &seen[..] else {
        anyhow::bail!("three sizes are measured")
    };
    let micros = |value| Measure::new(value, "us");
    let course = |of: fn(&Times) -> f64| {
        let values: Vec<String> = seen.iter().map(|times| format!("{:.0}", of(times))).collect();
        format!("1 k, 100 k, 1 M: {} us", values.join(", "))
    };
    let flat = |what: &str, of: fn(&Times) -> f64| Row {
        ours: course(of),
        ..Row::new(format!("{what}, p99 at 1 M deployments")).against(
            micros(of(large)),
            micros(of(small)),
            "at 1 k",
            FLAT,
        )
    };
    Ok(vec![
        flat("page 1", |times| times.first),
        flat("one deployment", |times| times.one),
        Row {
            ours: course(|times| times.last),
            ..Row::new("the last page, p99 at 1 M deployments").against(
                micros(large.last),
                micros(large.first),
                "page 1",
                DEEP,
            )
        },
    ])
}

fn at_size(bench: &Bench, size: u64) -> anyhow::Result<Times> {
    let mut hob = Hob::start(bench.hob.to_str().context("a plain path")?).context("the kernel forbids containers")?;
    // No such image: the deployment is over at once, and nothing runs.
    let body = serde_json::json!({ "name": "web", "image": "nowhere.invalid/none:1", "port": 80 });
    let (status, made) = hob.api("POST", "/api/services/", Some(body));
    ensure!(status == 201, "{status} {made}");
    eventually(SEEDED, "the first deployment is over", || hob.stage("web") == "failed");
    ensure!(hob.shut_down() == 0, "hob did not end well");
    seed(&hob.data_dir().join("hob.db"), size)?;
    hob.up();
    let (_, list) = hob.api("GET", "/api/deployments/", None);
    ensure!(list["count"] == size + 1, "{} were seeded", list["count"]);
    let one = list["results"][0]["id"].as_str().context("an id")?;
    let interface = Interface::of(&hob);
    let asked = |path: &str| p99(interface.in_turn(bench.round, &interface.get(path))?);
    Ok(Times {
        first: asked("/api/deployments/")?,
        last: asked("/api/deployments/?page=last")?,
        one: asked(&format!("/api/deployments/{one}/"))?,
    })
}

fn seed(database: &Path, size: u64) -> anyhow::Result<()> {
    let output = Command::new("timeout")
        .arg(SEEDED.as_secs().to_string())
        .args(["python3", "-c", SEED])
        .arg(database)
        .arg(size.to_string())
        .output()
        .context("python3 is not installed")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
