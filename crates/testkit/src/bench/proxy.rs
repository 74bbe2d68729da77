//! CPU per proxied request: the proxy on one core, generator and backend on another, rounds interleaved (method B1).

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use domain::routing::{Pool, RouteMatch, RoutingTable, ServiceEntry, Target};
use domain::{DeploymentId, InstanceId, ProjectId, ServiceId};
use uuid::Uuid;

use super::host::{Program, on_core};
use super::{Bench, Measure, Row, median};
use crate::system::free_address;

const PROXY_CORE: usize = 0;
const OTHER_CORE: usize = 1;
const CONNECTIONS: usize = 32;
pub(super) const HOST: &str = "app.localhost";
const WARM_UP: Duration = Duration::from_secs(1);
/// What the edge may cost at most, in multiples of nginx.
const AIM: f64 = 1.2;
/// The file descriptor on which the edge finds its listener.
const LISTENER_FD: i32 = 3;

pub(super) struct Contestant {
    pub(super) program: Program,
    pub(super) address: SocketAddr,
    us_per_request: Vec<f64>,
    per_second: Vec<f64>,
}

pub(super) fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let scratch = tempfile::tempdir()?;
    let backend = free_address();
    let _backend = backend_server(scratch.path(), backend)?;
    let mut contestants = vec![edge(bench, scratch.path(), backend)?, nginx(scratch.path(), backend)?];
    for start in [haproxy, kamal_proxy] {
        match start(scratch.path(), backend) {
            Ok(contestant) => contestants.push(contestant),
            Err(why) => eprintln!("   left out: {why:#}"),
        }
    }
    contestants
        .iter_mut()
        .try_for_each(|c| load(c.address, WARM_UP).map(drop))?;
    for round in 0..bench.rounds {
        let count = contestants.len();
        for turn in 0..count {
            measure(&mut contestants[(round + turn) % count], bench.round)?;
        }
    }
    Ok(rows(&contestants))
}

fn rows(contestants: &[Contestant]) -> Vec<Row> {
    let cpu = |c: &Contestant| Measure::new(median(c.us_per_request.iter().copied()), "us");
    let rate = |c: &Contestant| format!("{:.0} requests/s", median(c.per_second.iter().copied()));
    let (hob, rivals) = contestants.split_first().expect("the edge is the first");
    let against = |rival: &Contestant| {
        let what = format!("CPU per proxied request ({} against {})", rate(hob), rate(rival));
        let row = Row::new(what).against(cpu(hob), cpu(rival), rival.program.name, AIM);
        // Only nginx is aimed at; the others are there for comparison.
        if rival.program.name == "nginx" {
            row
        } else {
            Row {
                aim: String::new(),
                met: None,
                ..row
            }
        }
    };
    rivals.iter().map(against).collect()
}

fn measure(contestant: &mut Contestant, round: Duration) -> anyhow::Result<()> {
    let before = contestant.program.cpu();
    let requests = load(contestant.address, round)?;
    let cpu = contestant.program.cpu() - before;
    contestant.us_per_request.push(cpu.as_secs_f64() * 1e6 / requests);
    contestant.per_second.push(requests / round.as_secs_f64());
    Ok(())
}

/// Runs wrk and tells how many requests were answered well.
fn load(address: SocketAddr, lasts: Duration) -> anyhow::Result<f64> {
    let seconds = format!("-d{}s", lasts.as_secs().max(1));
    let connections = format!("-c{CONNECTIONS}");
    let header = format!("Host: {HOST}");
    let output = on_core(OTHER_CORE, "wrk")
        .args([
            "-t1",
            &connections,
            &seconds,
            "-H",
            &header,
            &format!("http://{address}/"),
        ])
        .output()
        .context("wrk cannot be started: is it installed?")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        !text.contains("Non-2xx"),
        "the proxy at {address} answered with errors:\n{text}"
    );
    let line = text
        .lines()
        .find(|line| line.contains(" requests in "))
        .with_context(|| format!("wrk said:\n{text}"))?;
    let count = line
        .split_whitespace()
        .next()
        .and_then(|count| count.parse::<f64>().ok());
    count
        .filter(|count| *count > 0.0)
        .with_context(|| format!("no request was answered:\n{text}"))
}

pub(super) fn backend_server(scratch: &Path, address: SocketAddr) -> anyhow::Result<Program> {
    let location = "location / { return 200 \"hello world\\n\"; }";
    let mut backend = start_nginx(
        "backend",
        scratch,
        OTHER_CORE,
        &format!("server {{ listen {address} reuseport; {location} }}"),
    )?;
    backend.listens(address)?;
    Ok(backend)
}

pub(super) fn nginx(scratch: &Path, backend: SocketAddr) -> anyhow::Result<Contestant> {
    let address = free_address();
    let server = format!(
        "upstream app {{ server {backend}; keepalive 64; }}
         server {{ listen {address}; server_name {HOST}; location / {{
             proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\";
             proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
             proxy_set_header X-Forwarded-Proto http; proxy_set_header X-Forwarded-Host $host;
         }} }}"
    );
    contestant(start_nginx("nginx", scratch, PROXY_CORE, &server)?, address)
}

fn start_nginx(name: &'static str, scratch: &Path, core: usize, server: &str) -> anyhow::Result<Program> {
    let home = scratch.join(name);
    fs::create_dir_all(home.join("tmp"))?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|part| format!("{part}_temp_path tmp;\n"))
        .concat();
    let config = format!(
        "daemon off; worker_processes 1; pid nginx.pid; error_log stderr error; events {{ worker_connections 20000; }}
         http {{ access_log off; keepalive_requests 1000000000; {temporary} {server} }}"
    );
    fs::write(home.join("nginx.conf"), config)?;
    let prefix = home.to_str().context("a plain path")?;
    Program::start(
        name,
        core,
        &["nginx", "-p", prefix, "-c", "nginx.conf"],
        &home.join("log"),
    )
}

pub(super) fn haproxy(scratch: &Path, backend: SocketAddr) -> anyhow::Result<Contestant> {
    let address = free_address();
    let config = format!(
        "global\n  nbthread 1\n  maxconn 8000\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  http-reuse always\n  \
         option forwardfor\n\
         frontend f\n  bind {address}\n  use_backend b if {{ hdr(host) -i {HOST} }}\n\
         backend b\n  server s {backend}\n"
    );
    let path = scratch.join("haproxy.cfg");
    fs::write(&path, config)?;
    let path = path.to_str().context("a plain path")?;
    contestant(
        Program::start(
            "HAProxy",
            PROXY_CORE,
            &["haproxy", "-db", "-f", path],
            &scratch.join("haproxy.log"),
        )?,
        address,
    )
}

/// kamal-proxy, where `bin/bench` could build it: on one thread, its access log on (it cannot be turned off).
fn kamal_proxy(scratch: &Path, backend: SocketAddr) -> anyhow::Result<Contestant> {
    let program = std::env::var("KAMAL_PROXY").context("kamal-proxy is not there (no Go toolchain)")?;
    let address = free_address();
    let mut command = on_core(PROXY_CORE, &program);
    command.args([
        "run",
        "--http-port",
        &address.port().to_string(),
        "--https-port",
        &free_address().port().to_string(),
    ]);
    command
        .env("GOMAXPROCS", "1")
        .env("XDG_CONFIG_HOME", scratch)
        .env("XDG_RUNTIME_DIR", scratch)
        .env("HOME", scratch);
    let mut proxy = Program::spawn("kamal-proxy", command, &scratch.join("kamal.log"))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
    proxy.listens(address)?;
    let target = backend.to_string();
    let deployed = Command::new(&program)
        .args([
            "deploy",
            "app",
            "--target",
            &target,
            "--host",
            HOST,
            "--health-check-path",
            "/",
        ])
        .env("XDG_CONFIG_HOME", scratch)
        .env("XDG_RUNTIME_DIR", scratch)
        .env("HOME", scratch)
        .output()?;
    ensure!(
        deployed.status.success(),
        "kamal-proxy deploy: {}",
        String::from_utf8_lossy(&deployed.stderr)
    );
    contestant(proxy, address)
}

/// The edge alone, as `hob up` would start it, with one worker and a table of a thousand other hosts.
pub(super) fn edge(bench: &Bench, scratch: &Path, backend: SocketAddr) -> anyhow::Result<Contestant> {
    let home = scratch.join("edge");
    fs::create_dir_all(&home)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let hob = bench.hob.to_str().context("a plain path")?;
    let mut command = on_core(PROXY_CORE, hob);
    command.arg("edge").arg("--dir").arg(&home);
    command.args(["--public-fd", &LISTENER_FD.to_string(), "--workers", "1"]);
    let fd = listener.as_raw_fd();
    // SAFETY: between fork and exec, only dup2 and fcntl are called, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            let same = fd == LISTENER_FD;
            let done = if same {
                libc::fcntl(fd, libc::F_SETFD, 0)
            } else {
                libc::dup2(fd, LISTENER_FD)
            };
            if done < 0 {
                Err(std::io::Error::last_os_error())
            } else {
                Ok(())
            }
        });
    }
    let mut program = Program::spawn("hob", command, &scratch.join("edge.log"))?;
    drop(listener);
    program.listens(address)?;
    publish(&home.join("control.sock"), &table(backend)).context("the edge takes no table")?;
    contestant(program, address)
}

/// Sends one table as the control plane would, and waits until it is served.
fn publish(socket: &Path, table: &RoutingTable) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    for message in [
        serde_json::json!({ "hello": { "version": 1 } }),
        serde_json::json!({ "table": table }),
    ] {
        let body = message.to_string();
        stream.write_all(&u32::try_from(body.len())?.to_be_bytes())?;
        stream.write_all(body.as_bytes())?;
    }
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    loop {
        let answer = frame(&mut stream)?;
        if answer["ack"]["epoch"] == table.epoch {
            return Ok(());
        }
        ensure!(answer["refused"].is_null(), "the table was refused: {answer}");
    }
}

fn frame(stream: &mut UnixStream) -> anyhow::Result<serde_json::Value> {
    use std::io::Read;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(length))?.min(64 << 20)];
    stream.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

fn table(backend: SocketAddr) -> RoutingTable {
    let target = |n: u128| Target {
        instance: InstanceId(Uuid::from_u128(n)),
        address: backend.ip(),
        port: backend.port(),
    };
    let entry = |n: u128, host: String| ServiceEntry {
        service: ServiceId(Uuid::from_u128(n)),
        project: ProjectId(Uuid::from_u128(1)),
        name: format!("app-{n}"),
        receipt: DeploymentId(Uuid::from_u128(n)),
        matches: vec![RouteMatch {
            host,
            path: "/".to_owned(),
        }],
        pools: vec![Pool::new(DeploymentId(Uuid::from_u128(n)), 1, vec![target(n)])],
        sticky: false,
        hold: None,
    };
    let others = (2..=1_000).map(|n| entry(n, format!("other-{n}.localhost")));
    RoutingTable {
        epoch: 1,
        services: std::iter::once(entry(1, HOST.to_owned())).chain(others).collect(),
        callers: BTreeMap::new(),
    }
}

fn contestant(mut program: Program, address: SocketAddr) -> anyhow::Result<Contestant> {
    program.listens(address)?;
    Ok(Contestant {
        program,
        address,
        us_per_request: Vec::new(),
        per_second: Vec::new(),
    })
}
