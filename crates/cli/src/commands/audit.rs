//! `hob audit`: who did what.

use clap::Args;
use serde_json::Value;

use super::Common;
use crate::client::query;
use crate::environment::Environment;
use crate::error::Result;
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

#[derive(Args, Debug)]
#[command(after_help = "\
Newest first: your own acts; with --project those of all in a project that you own; everything for administrators.
Each line's hash covers the one before it: keep the newest elsewhere, and nobody can rewrite what came earlier.

Examples:
  hob audit
  hob audit --project shop --limit 20
  hob audit --before 1200                   goes on where a page ended
  hob audit --json")]
pub struct Audit {
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only what came before this number
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    #[command(flatten)]
    pub common: Common,
}

impl Audit {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let session = Session::open(environment, &self.common, screen)?;
        let project = session.project_id().await?;
        let (limit, before) = (self.limit.to_string(), self.before.map(|number| number.to_string()));
        let mut asked = vec![("limit", limit.as_str())];
        asked.extend(before.as_deref().map(|number| ("before", number)));
        asked.extend(project.as_deref().map(|id| ("project", id)));
        let document = session.client.get(&query("/api/audit/", &asked)).await?;
        session.screen.either(&document, || listing(&document))
    }
}

fn listing(document: &Value) -> String {
    let rows = document["results"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return "nothing is recorded there".to_owned();
    }
    let word = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let row = |row: &Value| {
        [
            row["seq"].to_string(),
            text::moment(&word(row, "at")),
            text::short_id(&word(row, "account")).to_owned(),
            word(row, "via"),
            word(row, "outcome"),
            word(row, "action"),
            word(row, "object"),
        ]
    };
    let headers = ["NUMBER", "WHEN (UTC)", "ACCOUNT", "VIA", "OUTCOME", "ACTION", "OBJECT"];
    text::table(headers, rows.iter().map(row))
}
