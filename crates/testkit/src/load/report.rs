//! What came of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::{Histogram, Kind};

/// Most failures that are kept one by one; all are counted.
const FAILURES_MAX: usize = 10_000;
/// Most POSTs whose ids are kept.
const POSTS_MAX: usize = 5_000_000;

/// How one request ended. Exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    /// Status 500 or above.
    ServerError,
    /// Any other status than the one that was due.
    OtherStatus,
    /// No connection.
    Refused,
    ResetBeforeFirstByte,
    ResetAfterFirstByte,
    Timeout,
    /// A good status and not the bytes that were due.
    WrongBody,
    /// The generator had too many in flight: the server is too slow for the rate.
    NotSent,
}

impl Outcome {
    pub const ALL: [Outcome; 9] = [
        Outcome::Ok,
        Outcome::ServerError,
        Outcome::OtherStatus,
        Outcome::Refused,
        Outcome::ResetBeforeFirstByte,
        Outcome::ResetAfterFirstByte,
        Outcome::Timeout,
        Outcome::WrongBody,
        Outcome::NotSent,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::ServerError => "5xx",
            Outcome::OtherStatus => "other status",
            Outcome::Refused => "refused",
            Outcome::ResetBeforeFirstByte => "reset before first byte",
            Outcome::ResetAfterFirstByte => "reset after first byte",
            Outcome::Timeout => "timeout",
            Outcome::WrongBody => "wrong body",
            Outcome::NotSent => "not sent",
        }
    }
}

/// One request that did not end well.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// When it was meant to be sent, since the start of the run.
    pub at_ms: u64,
    pub kind: Kind,
    pub outcome: Outcome,
    pub detail: String,
}

/// The id of a POST, and whether its sender was told that it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostRecord {
    pub id: Uuid,
    pub outcome: Outcome,
}

/// Counts and durations of one kind of request.
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub outcomes: BTreeMap<Outcome, u64>,
    /// From the intended start to the end, good ones only.
    pub latency: Histogram,
}

impl Row {
    pub fn sent(&self) -> u64 {
        self.outcomes.values().sum()
    }

    pub fn ok(&self) -> u64 {
        self.outcomes.get(&Outcome::Ok).copied().unwrap_or(0)
    }
}

#[derive(Debug, Clone, Default)]
pub struct Report {
    pub rows: BTreeMap<Kind, Row>,
    /// The first 10,000.
    pub failures: Vec<Failure>,
    pub posts: Vec<PostRecord>,
    pub lasted: Duration,
}

impl Report {
    pub(super) fn record(&mut self, kind: Kind, at: Duration, took: Duration, outcome: Outcome, detail: String) {
        let row = self.rows.entry(kind).or_default();
        *row.outcomes.entry(outcome).or_default() += 1;
        if outcome == Outcome::Ok {
            row.latency.record(took);
        } else if self.failures.len() < FAILURES_MAX {
            let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
            self.failures.push(Failure {
                at_ms,
                kind,
                outcome,
                detail,
            });
        }
    }

    pub(super) fn record_post(&mut self, id: Uuid, outcome: Outcome) {
        if self.posts.len() < POSTS_MAX {
            self.posts.push(PostRecord { id, outcome });
        }
    }

    pub fn sent(&self) -> u64 {
        self.rows.values().map(Row::sent).sum()
    }

    pub fn ok(&self) -> u64 {
        self.rows.values().map(Row::ok).sum()
    }

    /// Everything that is not ok.
    pub fn failed(&self) -> u64 {
        self.sent() - self.ok()
    }

    pub fn count(&self, outcome: Outcome) -> u64 {
        self.rows.values().filter_map(|row| row.outcomes.get(&outcome)).sum()
    }

    /// Latency of everything that ended well.
    pub fn latency(&self) -> Histogram {
        let mut all = Histogram::default();
        self.rows.values().for_each(|row| all.merge(&row.latency));
        all
    }

    /// The longest stretch of time in which requests failed with less than `pause` between one and the next; zero
    /// when at most one did.
    pub fn longest_outage(&self, pause: Duration) -> Duration {
        let mut times: Vec<u64> = self.failures.iter().map(|failure| failure.at_ms).collect();
        times.sort_unstable();
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let mut longest = 0;
        let mut began = times.first().copied().unwrap_or(0);
        for pair in times.windows(2) {
            if pair[1] - pair[0] > pause_ms {
                began = pair[1];
            }
            longest = longest.max(pair[1] - began);
        }
        Duration::from_millis(longest)
    }

    /// Adds what came of another run.
    pub fn merge(&mut self, other: Report) {
        for (kind, theirs) in other.rows {
            let mine = self.rows.entry(kind).or_default();
            theirs
                .outcomes
                .iter()
                .for_each(|(outcome, n)| *mine.outcomes.entry(*outcome).or_default() += n);
            mine.latency.merge(&theirs.latency);
        }
        self.failures.extend(other.failures);
        self.failures.truncate(FAILURES_MAX);
        self.posts.extend(other.posts);
        self.posts.truncate(POSTS_MAX);
        self.lasted += other.lasted;
    }

    /// One stable document for programs.
    pub fn json(&self) -> serde_json::Value {
        let row = |row: &Row| {
            let outcomes: BTreeMap<_, _> = row.outcomes.iter().map(|(outcome, n)| (key(*outcome), *n)).collect();
            serde_json::json!({ "sent": row.sent(), "ok": row.ok(), "outcomes": outcomes, "latency_us": quantiles(&row.latency) })
        };
        let kinds: BTreeMap<_, _> = self.rows.iter().map(|(kind, r)| (kind.as_str(), row(r))).collect();
        serde_json::json!({
            "seconds": self.lasted.as_secs_f64(),
            "sent": self.sent(),
            "ok": self.ok(),
            "failed": self.failed(),
            "latency_us": quantiles(&self.latency()),
            "kinds": kinds,
            "failures": self.failures,
        })
    }

    /// The same for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<10} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9}  not ok\n",
            "kind", "sent", "failed", "p50 ms", "p99 ms", "p99.9 ms", "max ms"
        );
        for (kind, row) in &self.rows {
            push_row(&mut text, kind.as_str(), row);
        }
        let mut all = Row {
            latency: self.latency(),
            ..Row::default()
        };
        for outcome in Outcome::ALL {
            let count = self.count(outcome);
            if count > 0 {
                all.outcomes.insert(outcome, count);
            }
        }
        push_row(&mut text, "all", &all);
        for failure in self.failures.iter().take(10) {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  +{} ms {}: {}: {}",
                failure.at_ms,
                failure.kind.as_str(),
                failure.outcome.as_str(),
                failure.detail
            );
        }
        text
    }
}

fn push_row(text: &mut String, name: &str, row: &Row) {
    let ms = |q| row.latency.quantile(q).as_secs_f64() * 1_000.0;
    let bad: Vec<_> = row
        .outcomes
        .iter()
        .filter(|(outcome, _)| **outcome != Outcome::Ok)
        .collect();
    let bad: Vec<_> = bad
        .into_iter()
        .map(|(outcome, n)| format!("{n} {}", outcome.as_str()))
        .collect();
    let _ = writeln!(
        text,
        "{name:<10} {:>9} {:>7} {:>9.2} {:>9.2} {:>9.2} {:>9.2}  {}",
        row.sent(),
        row.sent() - row.ok(),
        ms(0.5),
        ms(0.99),
        ms(0.999),
        row.latency.max().as_secs_f64() * 1_000.0,
        bad.join(", ")
    );
}

fn key(outcome: Outcome) -> String {
    outcome.as_str().replace(' ', "_")
}

fn quantiles(histogram: &Histogram) -> serde_json::Value {
    let us = |q| u64::try_from(histogram.quantile(q).as_micros()).unwrap_or(u64::MAX);
    serde_json::json!({ "p50": us(0.5), "p90": us(0.9), "p99": us(0.99), "p999": us(0.999), "max": us(1.0) })
}
