//! `hob projects`: sets of services that see each other.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Common;
use crate::environment::Environment;
use crate::error::Result;
use crate::find::unknown;
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

const PROJECTS: &str = "/api/projects/";

#[derive(Args, Debug)]
#[command(after_help = "\
Services of one project reach each other at http://NAME.hob.internal; those of others they do not.

Examples:
  hob projects
  hob projects add shop
  hob deploy web --image web:1 --project shop
  hob projects rm shop")]
pub struct Projects {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Show all projects (the default)
    List,
    /// Make a project
    Add { name: String },
    /// Give a project another name
    Rename { name: String, new_name: String },
    /// Remove a project that holds nothing
    Rm { name: String },
}

impl Projects {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
        match self.action.unwrap_or(Action::List) {
            Action::List => {
                let rows = session.client.rows(PROJECTS, &[("ordering", "name")]).await?;
                session.screen.either(&json!({ "results": rows }), || listing(&rows))
            }
            Action::Add { name } => {
                let document = session.client.post(PROJECTS, json!({ "name": name })).await?;
                session.screen.either(&document, || {
                    format!("project {name} is there; use it by --project {name}")
                })
            }
            Action::Rename { name, new_name } => {
                let path = format!("{PROJECTS}{}/", session.project_named(&name).await?);
                let document = session.client.patch(&path, json!({ "name": new_name })).await?;
                session
                    .screen
                    .either(&document, || format!("project {name} is {new_name} now"))
            }
            Action::Rm { name } => {
                let path = format!("{PROJECTS}{}/", session.project_named(&name).await?);
                session.client.delete(&path).await?;
                session
                    .screen
                    .either(&json!({ "removed": name }), || format!("project {name} is gone"))
            }
        }
    }
}

impl Session<'_> {
    pub(super) async fn project_named(&mut self, name: &str) -> Result<String> {
        let rows = self.client.rows(PROJECTS, &[]).await?;
        let found = rows.iter().find(|row| row["name"] == name || row["id"] == name);
        match found.and_then(|row| row["id"].as_str()) {
            Some(id) => Ok(id.to_owned()),
            None => {
                let names = rows.iter().filter_map(|row| row["name"].as_str());
                Err(unknown("project", name, names, "`hob projects` lists all"))
            }
        }
    }
}

fn listing(rows: &[Value]) -> String {
    let word = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let row = |row: &Value| {
        let mark = if row["is_default"] == true { "*" } else { "" };
        [
            format!("{}{mark}", word(row, "name")),
            text::short_id(&word(row, "id")).to_owned(),
            text::moment(&word(row, "created_at")),
        ]
    };
    text::table(["NAME", "ID", "CREATED (UTC)"], rows.iter().map(row))
}
