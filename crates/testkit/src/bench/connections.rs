//! Memory of idle keep-alive connections (method B3).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::proxy::{Contestant, HOST, backend_server, edge, haproxy, nginx};
use super::{Bench, Measure, Row};
use crate::system::free_address;

const CONNECTIONS: usize = 5_000;
/// Descriptors of this program beside the connections.
const SPARE: u64 = 200;
/// Connections that come and go before memory is first looked at: what a proxy allocates once is not counted.
const WARM_UP: usize = 500;
/// What an idle connection of the edge may cost at most, bytes.
const AIM_BYTES: f64 = 4096.0;
/// Memory has settled when it has not shrunk for so long.
const SETTLED: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(most > CONNECTIONS as u64 + SPARE, "only {most} descriptors are allowed");
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let scratch = tempfile::tempdir()?;
    let backend = free_address();
    let _backend = backend_server(scratch.path(), backend)?;
    let hob = bytes_each(edge(bench, scratch.path(), backend)?)?;
    let what = format!("memory per idle connection, {CONNECTIONS} held");
    let ours = Measure::new(hob, "B");
    let mut rows = vec![Row::new(what.clone()).at_most(ours, AIM_BYTES)];
    for start in [nginx, haproxy] {
        let rival = match start(scratch.path(), backend) {
            Ok(rival) => rival,
            Err(why) => {
                eprintln!("   left out: {why:#}");
                continue;
            }
        };
        let name = rival.program.name;
        let theirs = Measure::new(bytes_each(rival)?, "B");
        rows.push(Row {
            aim: String::new(),
            met: None,
            ..Row::new(what.clone()).against(ours, theirs, name, 1.0)
        });
    }
    Ok(rows)
}

fn bytes_each(contestant: Contestant) -> anyhow::Result<f64> {
    drop(hold(contestant.address, WARM_UP)?);
    let before = settled(&contestant);
    let held = hold(contestant.address, CONNECTIONS)?;
    let after = settled(&contestant);
    drop(held);
    Ok((after - before) / CONNECTIONS as f64)
}

/// Connections on which one request was answered.
fn hold(address: SocketAddr, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let ask = |_| {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: hob-bench\r\nAccept: */*\r\n\r\n"
        )?;
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer)?;
        ensure!(
            answer[..length].starts_with(b"HTTP/1.1 200"),
            "the proxy at {address} answered: {}",
            String::from_utf8_lossy(&answer[..length])
        );
        Ok(stream)
    };
    (0..count)
        .map(ask)
        .collect::<anyhow::Result<_>>()
        .context("a connection")
}

/// The least memory that is seen, once it shrinks no more.
fn settled(contestant: &Contestant) -> f64 {
    let began = Instant::now();
    let (mut least, mut since) = (f64::INFINITY, Instant::now());
    while since.elapsed() < SETTLED && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(200));
        let now = contestant.program.memory();
        if now < least {
            (least, since) = (now, Instant::now());
        }
    }
    least
}
