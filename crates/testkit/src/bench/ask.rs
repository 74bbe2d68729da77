//! Asks an HTTP interface for one thing over and over: alone, by many at once, or at a fixed rate.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;

use crate::http1::{self, Connection};

const ANSWER_MAX: usize = 1 << 20;
/// Connections that share a fixed rate.
const LANES: u32 = 8;

/// An interface, and who asks.
#[derive(Debug, Clone)]
pub(super) struct Interface {
    pub(super) address: SocketAddr,
    /// The value of `Authorization`.
    pub(super) authorization: String,
}

impl Interface {
    pub(super) fn of(hob: &crate::system::Hob) -> Self {
        Interface {
            address: hob.api_address(),
            authorization: format!("Bearer {}", hob.key()),
        }
    }

    pub(super) fn get(&self, path: &str) -> Vec<u8> {
        self.request("GET", path, "")
    }

    /// Changes a text at `path`, to something else for each `n`.
    pub(super) fn patch(&self, path: &str, n: u64) -> Vec<u8> {
        self.request(
            "PATCH",
            path,
            &serde_json::json!({ "value": n.to_string() }).to_string(),
        )
    }

    fn request(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        let mut headers = vec![("Authorization", self.authorization.as_str())];
        if !body.is_empty() {
            headers.push(("Content-Type", "application/json"));
        }
        http1::request(method, &self.address.to_string(), path, &headers, body.as_bytes())
    }

    /// One after the other, for `lasts`: how long each took, in microseconds.
    pub(super) fn in_turn(&self, lasts: Duration, request: &[u8]) -> anyhow::Result<Vec<f64>> {
        runtime()?.block_on(async {
            let mut connection = Connection::open(self.address).await?;
            let (began, mut times) = (Instant::now(), Vec::new());
            while began.elapsed() < lasts {
                let asked = Instant::now();
                ask(&mut connection, request).await?;
                times.push(micros(asked.elapsed()));
            }
            Ok(times)
        })
    }

    /// `clients` at once, each after its last answer, for `lasts`: the number of answers.
    pub(super) fn by_many(
        &self,
        clients: u64,
        lasts: Duration,
        request: impl Fn(u64) -> Vec<u8>,
    ) -> anyhow::Result<u64> {
        let (request, began) = (&request, Instant::now());
        let client = async |client: u64| {
            let (mut connection, mut done) = (Connection::open(self.address).await?, 0);
            while began.elapsed() < lasts {
                ask(&mut connection, &request(client + clients * done)).await?;
                done += 1;
            }
            anyhow::Ok(done)
        };
        Ok(runtime()?
            .block_on(try_join_all((0..clients).map(client)))?
            .into_iter()
            .sum())
    }

    /// `rate` a second, on a schedule that waits for nobody, for `lasts`: from the moment at which each was due to its
    /// answer, in microseconds. That a timer of ours went off late is not counted.
    pub(super) fn at_rate(
        &self,
        rate: u32,
        lasts: Duration,
        request: impl Fn(u64) -> Vec<u8>,
    ) -> anyhow::Result<Vec<f64>> {
        let all = u32::try_from(lasts.as_millis())? * rate / 1000;
        let (request, began) = (&request, Instant::now());
        let lane = async |lane: u32| {
            let (mut connection, mut times) = (Connection::open(self.address).await?, Vec::new());
            for n in (lane..all).step_by(LANES as usize) {
                let mut due = began + Duration::from_secs(1) * n / rate;
                if Instant::now() < due {
                    tokio::time::sleep_until(due.into()).await;
                    due = Instant::now();
                }
                ask(&mut connection, &request(n.into())).await?;
                times.push(micros(due.elapsed()));
            }
            anyhow::Ok(times)
        };
        Ok(runtime()?.block_on(try_join_all((0..LANES).map(lane)))?.concat())
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn ask(connection: &mut Connection, request: &[u8]) -> anyhow::Result<()> {
    connection.send(request).await?;
    let answer = connection.response(ANSWER_MAX).await?;
    ensure!(answer.status() == 200, "{} {}", answer.status(), answer.text());
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The value that one in a hundred exceeds.
pub(super) fn p99(mut times: Vec<f64>) -> anyhow::Result<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len() * 99 / 100).copied().context("no answer in time")
}
