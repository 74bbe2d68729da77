//! What the server counts about itself, in Prometheus' text format. Names of tenants and paths never appear.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counters and gauges of this process. Handwritten, because there are few.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Answers by first digit of the status: 1xx to 5xx.
    answered: [AtomicU64; 5],
    busy_us: AtomicU64,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) streams: Gauge,
    pub(crate) throttled: AtomicU64,
    pub(crate) panics: AtomicU64,
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

/// Counts one more until it is dropped.
pub struct Counted(Arc<AtomicI64>);

impl Gauge {
    pub fn enter(&self) -> Counted {
        self.0.fetch_add(1, Relaxed);
        Counted(self.0.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Metrics {
    pub(crate) fn answered(&self, status: http::StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.answered[class].fetch_add(1, Relaxed);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.busy_us.fetch_add(took_us, Relaxed);
        if status == http::StatusCode::TOO_MANY_REQUESTS {
            self.throttled.fetch_add(1, Relaxed);
        }
    }

    /// The text that `/metrics` answers, but for what the runtime adds.
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(1024);
        let mut family = |name: &str, kind: &str, help: &str, rows: &[(&str, String)]| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in rows {
                let _ = writeln!(out, "{name}{labels} {value}");
            }
        };
        let count = |n: &AtomicU64| n.load(Relaxed).to_string();
        let level = |g: &Gauge| g.0.load(Relaxed).to_string();
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| format!("{{class=\"{class}\"}}"));
        let answered: Vec<_> = classes
            .iter()
            .map(String::as_str)
            .zip(self.answered.iter().map(count))
            .collect();

        family("hob_api_requests_total", "counter", "Requests answered.", &answered);
        let busy_s = self.busy_us.load(Relaxed) as f64 / 1e6;
        family(
            "hob_api_request_seconds_total",
            "counter",
            "Time spent until the head of the answer.",
            &[("", format!("{busy_s:.6}"))],
        );
        family(
            "hob_api_throttled_total",
            "counter",
            "Requests over a rate limit.",
            &[("", count(&self.throttled))],
        );
        family(
            "hob_api_panics_total",
            "counter",
            "Handlers that panicked.",
            &[("", count(&self.panics))],
        );
        family(
            "hob_api_requests_in_flight",
            "gauge",
            "Requests not answered yet.",
            &[("", level(&self.in_flight))],
        );
        family(
            "hob_api_connections",
            "gauge",
            "Open connections.",
            &[("", level(&self.connections))],
        );
        family(
            "hob_api_streams",
            "gauge",
            "Open log and rollout streams.",
            &[("", level(&self.streams))],
        );
        out
    }
}
