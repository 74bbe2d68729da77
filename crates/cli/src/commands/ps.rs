//! `hob ps`: instances.

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Common;
use crate::environment::Environment;
use crate::error::Result;
use crate::model::{self, Instance};
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

/// Longest remark in the table.
const NOTE_MAX: usize = 80;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hob ps
  hob ps web --all          also the last few that are gone")]
pub struct Ps {
    /// Service; without it the instances of all are listed
    name: Option<String>,
    /// Also the last few that are gone
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    pub common: Common,
}

impl Ps {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let session = Session::open(environment, &self.common, screen)?;
        let services = match &self.name {
            Some(name) => vec![session.find(name).await?],
            None => session.workloads().await?,
        };
        let mut rows: Vec<(String, Value)> = Vec::new();
        for found in &services {
            let tail = if self.all { "instances/?all=1" } else { "instances/" };
            let mut document = session.client.get(&found.path(tail)).await?;
            if let Value::Array(results) = document["results"].take() {
                rows.extend(results.into_iter().map(|row| (found.name().to_owned(), row)));
            }
        }
        if session.screen.is_json() {
            let named = |(name, mut row): (String, Value)| {
                row["service_name"] = json!(name);
                row
            };
            let rows: Vec<Value> = rows.into_iter().map(named).collect();
            return session.screen.document(&json!({ "results": rows }));
        }
        let instances: Vec<(String, Instance)> = rows
            .into_iter()
            .map(|(name, row)| Ok((name, model::read(&row)?)))
            .collect::<Result<_>>()?;
        if instances.is_empty() {
            return session.screen.line("there are no instances");
        }
        let text = listing(
            instances.iter().map(|(name, instance)| (name.as_str(), instance)),
            Timestamp::now(),
        );
        session.screen.line(text)
    }
}

/// The table; the service's column only where there is something to tell.
pub fn listing<'a>(instances: impl Iterator<Item = (&'a str, &'a Instance)>, now: Timestamp) -> String {
    let mut rows: Vec<(&str, &Instance)> = instances.collect();
    rows.sort_by_key(|(name, instance)| (*name, -instance.version.unwrap_or(0), &instance.id));
    let cells = |(_, instance): &(&str, &Instance)| {
        [
            text::short_id(&instance.id).to_owned(),
            instance.version.map(|version| version.to_string()).unwrap_or_default(),
            instance.state.clone(),
            instance.health.clone(),
            instance
                .started_at
                .as_deref()
                .map(|at| text::age(at, now))
                .unwrap_or_default(),
            instance.address.clone().unwrap_or_default(),
            note(instance),
        ]
    };
    if rows.iter().all(|(name, _)| name.is_empty()) {
        let headers = ["INSTANCE", ">VERSION", "STATE", "HEALTH", ">AGE", "ADDRESS", "NOTE"];
        return text::table(headers, rows.iter().map(cells));
    }
    let headers = [
        "SERVICE", "INSTANCE", ">VERSION", "STATE", "HEALTH", ">AGE", "ADDRESS", "NOTE",
    ];
    let with_name = |row: &(&str, &Instance)| {
        let [a, b, c, d, e, f, g] = cells(row);
        [row.0.to_owned(), a, b, c, d, e, f, g]
    };
    text::table(headers, rows.iter().map(with_name))
}

fn note(instance: &Instance) -> String {
    match &instance.exit {
        Some(exit) if !exit.text.is_empty() => text::first_line(&exit.text, NOTE_MAX),
        _ => text::first_line(&instance.health_message, NOTE_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tests_support::{check, now};

    #[test]
    fn instances_are_listed() {
        let instance = |n: u8, version: i64, state: &str, extra: Value| {
            let mut document = json!({
                "id": format!("0190b6a2-0000-7000-8000-00000000000{n}"), "deployment": "d", "version": version,
                "state": state, "health": "passing", "address": format!("10.213.0.{n}"),
                "started_at": "2026-01-02T03:04:00Z",
            });
            extra
                .as_object()
                .unwrap()
                .iter()
                .for_each(|(key, value)| document[key] = value.clone());
            model::read::<Instance>(&document).unwrap()
        };
        let failing = json!({ "health": "failing", "health_message": "no answer on port 8080: connection refused" });
        let gone = json!({ "health": "unknown", "exit": { "text": "exit code 3", "tail": [] }, "address": null });
        let instances = [
            ("web", instance(1, 1, "serving", json!({}))),
            ("web", instance(2, 2, "starting", failing)),
            ("api", instance(3, 7, "gone", gone)),
        ];
        check("ps.txt", &listing(instances.iter().map(|(name, i)| (*name, i)), now()));
    }
}
