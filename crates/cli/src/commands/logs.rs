//! `hob logs`: the output of a service's instances, across instances and rollouts.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::Common;
use crate::client::query;
use crate::environment::Environment;
use crate::error::{Result, Trouble};
use crate::find::Found;
use crate::model::{self, LogLine};
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

/// Lines of each instance that are asked for again after a break, to find what is new among them.
const OVERLAP_LINES: &str = "1000";
/// A server that is away for so long is given up.
const ABSENCE_MAX: Duration = Duration::from_secs(60);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
#[command(after_help = "\
Each line begins with the version and the end of the instance's id.

Examples:
  hob logs web
  hob logs web -f --tail 0
  hob logs web --instance 0190b6a2-0000-7000-8000-00000000000a --timestamps")]
pub struct Logs {
    /// Service
    name: String,
    /// Stay, and show what comes
    #[arg(long, short)]
    follow: bool,
    /// Lines of each instance to begin with
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    tail: u32,
    /// Only this instance, by its id or the end of it
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Begin each line with its time (UTC)
    #[arg(long, short)]
    timestamps: bool,
    #[command(flatten)]
    pub common: Common,
}

impl Logs {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
        let found = session.find(&self.name).await?;
        let instance = match &self.instance {
            Some(id) => Some(session.instance_id(&found, id).await?),
            None => None,
        };
        let mut reader = Reader {
            logs: &self,
            instance,
            shown: HashMap::new(),
            tail: self.tail.to_string(),
        };
        let mut heard = Instant::now();
        loop {
            match reader.read(&mut session, &found).await {
                Ok(()) if !self.follow => return Ok(()),
                Ok(()) => heard = Instant::now(),
                Err(t) if self.follow && t.is_absence() && heard.elapsed() < ABSENCE_MAX => {}
                Err(t) if self.follow && t.status == Some(404) => {
                    return Err(Trouble::failed(format!("{} has been removed", self.name)));
                }
                Err(trouble) => return Err(trouble),
            }
            reader.tail = OVERLAP_LINES.to_owned();
            sleep(RECONNECT_PAUSE).await;
        }
    }
}

struct Reader<'a> {
    logs: &'a Logs,
    instance: Option<String>,
    /// The time of the last line of each instance.
    shown: HashMap<String, String>,
    tail: String,
}

impl Reader<'_> {
    /// Until the stream ends.
    async fn read(&mut self, session: &mut Session<'_>, found: &Found) -> Result<()> {
        let mut pairs = vec![("tail", self.tail.as_str())];
        pairs.extend(self.instance.as_deref().map(|id| ("instance", id)));
        if self.logs.follow {
            pairs.push(("follow", "1"));
        }
        let mut lines = session.client.lines(&query(&found.path("logs/"), &pairs)).await?;
        // Only what was shown before the break is old: two lines may well have one time.
        let before = self.shown.clone();
        while let Some(document) = lines.next().await {
            let line: LogLine = model::read(&document)?;
            if before.get(&line.instance).is_some_and(|last| line.at <= *last) {
                continue;
            }
            self.show(session.screen, &document, &line)?;
            self.shown.insert(line.instance, line.at);
        }
        Ok(())
    }

    fn show(&self, screen: &mut Screen, document: &Value, line: &LogLine) -> Result<()> {
        if screen.is_json() {
            return screen.document(document);
        }
        screen.line(rendered(line, self.logs.timestamps))
    }
}

fn rendered(line: &LogLine, timestamps: bool) -> String {
    let time = if timestamps {
        format!("{} ", text::moment(&line.at))
    } else {
        String::new()
    };
    let version = line
        .version
        .map_or_else(|| "?".to_owned(), |version| version.to_string());
    let mark = if line.stream == "stderr" { '!' } else { '|' };
    format!(
        "{time}v{version} {} {mark} {}",
        text::short_id(&line.instance),
        text::printable(&line.text)
    )
}

impl Session<'_> {
    /// The id that ends like this.
    async fn instance_id(&self, found: &Found, asked: &str) -> Result<String> {
        let document = self.client.get(&found.path("instances/?all=1")).await?;
        let rows = document["results"].as_array().into_iter().flatten();
        let matching: Vec<&str> = rows
            .filter_map(|row| row["id"].as_str())
            .filter(|id| id.ends_with(asked))
            .collect();
        match matching.as_slice() {
            [id] => Ok((*id).to_owned()),
            [] => Err(Trouble::failed(format!("{} has no instance {asked}", found.name()))
                .advise(format!("`hob ps {} --all` lists them", found.name()))),
            _ => Err(
                Trouble::usage(format!("several instances of {} end with {asked}", found.name()))
                    .advise("Give more of the id"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whose_it_is_and_cannot_move_the_cursor() {
        let line = LogLine {
            at: "2026-01-02T03:04:05.000006Z".to_owned(),
            instance: "0190b6a2-0000-7000-8000-00000000000a".to_owned(),
            version: Some(2),
            stream: "stderr".to_owned(),
            text: "gone\u{1b}[2J".to_owned(),
        };
        assert_eq!(rendered(&line, false), "v2 0000000a ! gone·[2J");
        assert_eq!(
            rendered(&line, true),
            "2026-01-02 03:04:05.000006 v2 0000000a ! gone·[2J"
        );
    }
}
