//! Measurements side by side, as ratios: what `bin/bench` prints.
//!
//! # Assumptions
//! The machine is quiet. Absolute numbers are only good for one machine and one hour; the ratios travel.

mod ask;
mod bare;
mod connections;
mod endurance;
mod footprint;
mod host;
mod lists;
mod proxy;
mod rival;
mod rollout;
mod scale;
mod strategies;
mod writes;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What every piece is told.
#[derive(Debug, Clone)]
pub struct Bench {
    /// The `hob` to measure.
    pub hob: PathBuf,
    /// Rounds of each interleaved comparison.
    pub rounds: usize,
    /// Length of one round of load.
    pub round: Duration,
    /// Rollouts under load with each app.
    pub rollouts: usize,
    /// Moments at which something is killed.
    pub kills: usize,
}

/// One line of the table.
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub what: String,
    /// Ours divided by theirs.
    pub ratio: Option<f64>,
    pub ours: String,
    pub against: String,
    pub aim: String,
    /// Whether the aim is met, where there is one.
    pub met: Option<bool>,
}

impl Row {
    pub fn new(what: impl Into<String>) -> Self {
        Row {
            what: what.into(),
            ..Row::default()
        }
    }

    /// Ours against theirs, with the ratio that is aimed at.
    fn against(self, ours: Measure, theirs: Measure, of: &str, aim: f64) -> Self {
        let ratio = ours.value / theirs.value;
        Row {
            ratio: Some(ratio),
            ours: ours.text(),
            against: format!("{of} {}", theirs.text()),
            aim: format!("<= {aim}x"),
            met: Some(ratio <= aim),
            ..self
        }
    }

    /// A value with an upper bound.
    fn at_most(self, value: Measure, aim: f64) -> Self {
        let bound = Measure { value: aim, ..value };
        Row {
            ours: value.text(),
            aim: format!("<= {}", bound.text()),
            met: Some(value.value <= aim),
            ..self
        }
    }
}

/// A number with its unit.
#[derive(Debug, Clone, Copy)]
struct Measure {
    value: f64,
    unit: &'static str,
}

impl Measure {
    fn new(value: f64, unit: &'static str) -> Self {
        Measure { value, unit }
    }

    fn text(self) -> String {
        let digits = if self.value >= 100.0 || self.value.fract() == 0.0 {
            0
        } else {
            1
        };
        format!("{:.digits$} {}", self.value, self.unit)
    }
}

/// A piece: its name, what it shows, and how it is measured.
pub type Piece = (&'static str, &'static str, fn(&Bench) -> anyhow::Result<Vec<Row>>);

/// All pieces, in the order in which they run.
pub const PIECES: [Piece; 14] = [
    (
        "proxy",
        "CPU per proxied request against nginx, HAProxy and kamal-proxy",
        proxy::run,
    ),
    (
        "connections",
        "memory of idle keep-alive connections against nginx and HAProxy",
        connections::run,
    ),
    ("start", "start of one instance against a bare runtime", rollout::start),
    (
        "rollout",
        "rollout of ten instances against the ideal",
        rollout::wall_clock,
    ),
    ("memory", "resident memory of control plane and edge", footprint::memory),
    ("cold", "cold start to the first proxied request", footprint::cold_start),
    (
        "store",
        "durable writes by the interface against a bare insert",
        writes::run,
    ),
    (
        "lists",
        "lists and details at a thousand, a hundred thousand and a million deployments",
        lists::run,
    ),
    (
        "drf",
        "the platform interface against the same by Django REST framework",
        rival::run,
    ),
    ("load", "rollouts under mixed load", endurance::rollouts),
    (
        "strategies",
        "every strategy under mixed load, and a version that cannot live",
        strategies::under_load,
    ),
    ("kills", "kill -9 at random moments", endurance::kills),
    (
        "swarm",
        "rollout against Docker Swarm's start-first update",
        rollout::swarm,
    ),
    ("scale", "a hundred thousand instances on a fake engine", scale::run),
];

/// Runs one piece; a panic in it (a failed assertion of the harness) is its failure and nobody else's.
pub fn run_piece(bench: &Bench, piece: Piece) -> Vec<Row> {
    let (name, what, measure) = piece;
    eprintln!("== {name}: {what}");
    let began = Instant::now();
    let result = std::panic::catch_unwind(|| measure(bench));
    eprintln!("   {} s", began.elapsed().as_secs());
    match result {
        Ok(Ok(rows)) => rows,
        Ok(Err(why)) => vec![Row {
            ours: format!("not measured: {why:#}"),
            ..Row::new(name)
        }],
        Err(_) => vec![Row {
            ours: "failed, see above".to_owned(),
            met: Some(false),
            ..Row::new(name)
        }],
    }
}

/// The table, ratios first.
pub fn table(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let ratio = row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}x"));
        let met = match row.met {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        };
        [
            ratio,
            row.what.clone(),
            row.ours.clone(),
            row.against.clone(),
            row.aim.clone(),
            met.to_owned(),
        ]
    };
    let head = ["ratio", "what", "hob", "against", "aim", ""].map(str::to_owned);
    let lines: Vec<_> = std::iter::once(head).chain(rows.iter().map(cells)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |cells: &[String; 6]| {
        let padded: Vec<_> = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

/// The middle one; not a number when there is none.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_begins_with_the_ratio_and_says_what_was_missed() {
        let us = |value| Measure::new(value, "us");
        let rows = [
            Row::new("cpu").against(us(30.0), us(20.0), "nginx", 1.2),
            Row::new("start").at_most(Measure::new(120.0, "ms"), 150.0),
        ];
        let text = table(&rows);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("1.50x") && lines[1].ends_with("MISSED"), "{text}");
        assert!(lines[2].starts_with("-") && lines[2].ends_with("met"), "{text}");
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
    }
}
