//! The platform interface against the same shape in Django REST framework with PostgreSQL: requests per CPU second.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::ask::Interface;
use super::host::{Program, cores, cpu_of, cpu_of_family};
use super::writes::target;
use super::{Bench, Measure, Row, median};
use crate::postgres::Server;
use crate::system::{Hob, Options, Role, eventually, free_address};

/// More than a page of deployments, one of each service.
const SERVICES: usize = 30;
const CLIENTS: u64 = 4;
/// Requests per CPU second, ours over theirs.
const AIM: f64 = 10.0;
/// In the tree: `rival.py` and what it needs.
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/rivals/drf");

/// What is asked of either side.
#[derive(Debug, Clone)]
struct Paths {
    deployment: String,
    item: String,
}

/// The request of which number; changes differ from each other.
type Question = fn(&Interface, &Paths, u64) -> Vec<u8>;

const QUESTIONS: [(&str, Question); 3] = [
    ("page 1 of the deployments", |interface, _, _| {
        interface.get("/api/deployments/")
    }),
    ("one deployment", |interface, paths, _| interface.get(&paths.deployment)),
    ("a durable change of a value", |interface, paths, n| {
        interface.patch(&paths.item, n)
    }),
];

/// One side: where it answers, and what it has used so far, its database included.
struct Side<'a> {
    interface: Interface,
    paths: Paths,
    cpu: Box<dyn Fn() -> f64 + 'a>,
}

pub(super) fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let python =
        std::env::var_os("DRF_PYTHON").context("there is no Python with Django REST framework (see bin/bench)")?;
    let server = Server::durable().map_err(anyhow::Error::msg)?;
    let scratch = tempfile::tempdir()?;
    let database = move || server.pid().map_or(0.0, |pid| cpu_of_family(pid).as_secs_f64());
    let rival = Rival::start(&PathBuf::from(python), server, scratch.path())?;
    let theirs = Side {
        interface: rival.interface.clone(),
        paths: rival.paths.clone(),
        cpu: Box::new(|| rival.program.cpu().as_secs_f64() + database()),
    };

    let mut rows = Vec::new();
    let stores = [
        ("SQLite", Vec::new()),
        (
            "PostgreSQL",
            vec![
                "--database-url".to_owned(),
                server.create("hob", None).map_err(anyhow::Error::msg)?,
            ],
        ),
    ];
    for (store, flags) in stores {
        let on_postgres = !flags.is_empty();
        let options = Options {
            flags,
            ..Options::default()
        };
        let hob = Hob::start_with(bench.hob.to_str().context("a plain path")?, options);
        let hob = hob.context("the kernel forbids containers")?;
        let ours = Side {
            interface: Interface::of(&hob),
            paths: fill(&hob)?,
            cpu: Box::new(|| {
                let edge: f64 = hob
                    .processes(Role::Edge)
                    .into_iter()
                    .map(|pid| cpu_of(pid).as_secs_f64())
                    .sum();
                let record = if on_postgres { database() } else { 0.0 };
                cpu_of(hob.pid()).as_secs_f64() + edge + record
            }),
        };
        for (what, question) in QUESTIONS {
            let (mut us, mut them) = (Vec::new(), Vec::new());
            for _ in 0..bench.rounds.min(3) {
                us.push(per_cpu_second(&ours, bench, question)?);
                them.push(per_cpu_second(&theirs, bench, question)?);
            }
            rows.push(row(&format!("{what}, on {store}"), median(us), median(them)));
        }
    }
    Ok(rows)
}

fn row(what: &str, ours: f64, theirs: f64) -> Row {
    let rate = |value| Measure::new(value, "per CPU second");
    Row {
        ratio: Some(ours / theirs),
        ours: rate(ours).text(),
        against: format!("DRF on PostgreSQL {}", rate(theirs).text()),
        aim: format!(">= {AIM}x"),
        met: Some(ours >= AIM * theirs),
        ..Row::new(what)
    }
}

fn per_cpu_second(side: &Side<'_>, bench: &Bench, question: Question) -> anyhow::Result<f64> {
    let before = (side.cpu)();
    let answers = side
        .interface
        .by_many(CLIENTS, bench.round, |n| question(&side.interface, &side.paths, n))?;
    let used = (side.cpu)() - before;
    ensure!(used > 0.0, "no CPU time was counted");
    Ok(answers as f64 / used)
}

/// As many services as the rival has, each with a deployment that is over: there is no such image.
fn fill(hob: &Hob) -> anyhow::Result<Paths> {
    for n in 0..SERVICES {
        let name = format!("web-{n}");
        let body = serde_json::json!({ "name": name, "image": "nowhere.invalid/none:1", "port": 80 });
        let (status, made) = hob.api("POST", "/api/services/", Some(body));
        ensure!(status == 201, "{status} {made}");
    }
    let failed = || hob.api("GET", "/api/deployments/?status=failed", None).1["count"] == SERVICES;
    eventually(crate::system::READY, "all deployments are over", failed);
    let (_, list) = hob.api("GET", "/api/deployments/", None);
    let one = list["results"][0]["id"].as_str().context("an id")?;
    Ok(Paths {
        deployment: format!("/api/deployments/{one}/"),
        item: target(hob)?,
    })
}

/// Django REST framework, behind gunicorn with a process for each core.
struct Rival {
    program: Program,
    interface: Interface,
    paths: Paths,
}

impl Rival {
    fn start(python: &Path, server: &Server, scratch: &Path) -> anyhow::Result<Self> {
        server.create("rival", None).map_err(anyhow::Error::msg)?;
        let filled = Command::new(python)
            .arg(Path::new(DIRECTORY).join("rival.py"))
            .arg("rival")
            .arg(server.directory())
            .output()?;
        ensure!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
        let told: Value = serde_json::from_slice(&filled.stdout)?;
        let text = |name: &str| told[name].as_str().map(str::to_owned).context("a text");

        let address = free_address();
        let mut command = Command::new(python);
        command.args([
            "-m",
            "gunicorn",
            "--worker-class",
            "gthread",
            "--threads",
            "4",
            "--keep-alive",
            "60",
        ]);
        command.args([
            "--workers",
            &cores().to_string(),
            "--bind",
            &address.to_string(),
            "rival:application",
        ]);
        command
            .current_dir(DIRECTORY)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("RIVAL_DATABASE", "rival")
            .env("RIVAL_SOCKET", server.directory());
        let log = scratch.join("rival.log");
        let mut program = Program::spawn("gunicorn", command, &log)?;
        program
            .listens(address)
            .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(Rival {
            program,
            interface: Interface {
                address,
                authorization: format!("Token {}", text("key")?),
            },
            paths: Paths {
                deployment: format!("/api/deployments/{}/", text("deployment")?),
                item: text("item")?,
            },
        })
    }
}
