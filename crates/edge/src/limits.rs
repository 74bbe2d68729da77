//! Every limit and deadline of the edge, by name. The defaults are meant for strangers' traffic.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Times are in milliseconds and are kept to about one [`Limits::tick_ms`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most client connections at once; beyond it the edge stops accepting until one ends.
    pub max_connections: usize,
    /// Most connections at once of one client: an IPv4 address, or a /64 network of IPv6. Further ones are closed. Zero: as
    /// many as there may be, for an edge behind another proxy.
    pub max_connections_per_client: usize,
    /// Most requests at once that wait for the head of their answer; beyond it: 503.
    pub max_pending: usize,
    /// Most requests of one service at once that wait for a target to become ready; beyond it: 503.
    pub max_held_per_service: usize,
    /// The same of all services together.
    pub max_held: usize,
    /// Most bytes of the heads of requests that wait for a target; beyond it: 503.
    pub max_held_bytes: usize,
    /// Most bytes of a request's head; beyond it: 431. At least 8192.
    pub head_bytes: usize,
    /// Most header lines of a request; beyond it: 431.
    pub head_lines: usize,
    /// Most bytes of an answer's head; beyond it: 502. At least 8192.
    pub answer_head_bytes: usize,
    /// Most bytes of a request's body; beyond it: 413 or the connection is cut. Zero: as many as the app takes.
    pub body_bytes: u64,
    /// Longest wait for a target, whatever a service's hold says; then 503.
    pub held_ms: u64,
    /// From the first byte of a head to its last.
    pub head_ms: u64,
    /// A connection on which nothing is asked.
    pub keep_alive_ms: u64,
    /// Without a byte from a client whose body is awaited.
    pub client_body_ms: u64,
    /// Without a byte taken by a client that is being answered.
    pub client_write_ms: u64,
    /// Without a byte from the app: before the head 504, after it the answer is broken off.
    pub app_silence_ms: u64,
    /// Without a byte in either direction of an upgraded connection.
    pub upgraded_ms: u64,
    /// To connect to an instance.
    pub connect_ms: u64,
    /// How long a connection to an instance is kept for the next request. Below the 5 s after which common servers hang
    /// up by themselves.
    pub upstream_idle_ms: u64,
    /// Most connections kept per instance and worker.
    pub upstream_idle: usize,
    /// After SIGTERM: how long requests in flight may take.
    pub drain_ms: u64,
    /// How often deadlines are looked at, while there is a connection at all.
    pub tick_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: 20_000,
            max_connections_per_client: 8_000,
            max_pending: 10_000,
            max_held_per_service: 5_000,
            max_held: 10_000,
            max_held_bytes: 32 << 20,
            head_bytes: 64 * 1024,
            head_lines: 100,
            answer_head_bytes: 128 * 1024,
            body_bytes: 0,
            held_ms: 300_000,
            head_ms: 15_000,
            keep_alive_ms: 75_000,
            client_body_ms: 60_000,
            client_write_ms: 60_000,
            app_silence_ms: 300_000,
            upgraded_ms: 3_600_000,
            connect_ms: 2_000,
            upstream_idle_ms: 4_000,
            upstream_idle: 256,
            drain_ms: 30_000,
            tick_ms: 1_000,
        }
    }
}

impl Limits {
    pub fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms)
    }

    pub fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms.max(1))
    }

    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}
