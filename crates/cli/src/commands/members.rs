//! `hob members`: who else works on a project.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::Common;
use crate::environment::Environment;
use crate::error::Result;
use crate::find::unknown;
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

#[derive(Args, Debug)]
#[command(after_help = "\
Viewers see, developers deploy and change, owners decide about members too. Only owners can change the list.

Examples:
  hob members list shop
  hob members add shop carol --role developer
  hob members set shop carol --role viewer
  hob members rm shop carol                 effective with her next request")]
pub struct MembersCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Show who works on a project
    List {
        #[arg(value_name = "PROJECT")]
        of: String,
    },
    /// Let an account into a project
    Add {
        #[arg(value_name = "PROJECT")]
        of: String,
        account: String,
        #[arg(long, value_enum)]
        role: Role,
    },
    /// Give a member another role
    Set {
        #[arg(value_name = "PROJECT")]
        of: String,
        account: String,
        #[arg(long, value_enum)]
        role: Role,
    },
    /// Let an account out of a project
    Rm {
        #[arg(value_name = "PROJECT")]
        of: String,
        account: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Viewer,
    Developer,
    Owner,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Developer => "developer",
            Role::Owner => "owner",
        }
    }
}

impl MembersCommand {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
        match self.action {
            Action::List { of } => {
                let members = session.members_of(&of).await?;
                let rows = session.client.rows(&members, &[("ordering", "name")]).await?;
                session.screen.either(&json!({ "results": rows }), || listing(&rows))
            }
            Action::Add { of, account, role } => {
                let members = session.members_of(&of).await?;
                let body = json!({ "name": account, "role": role.word() });
                let document = session.client.post(&members, body).await?;
                session
                    .screen
                    .either(&document, || format!("{account} is a {} of {of}", role.word()))
            }
            Action::Set { of, account, role } => {
                let path = session.member(&of, &account).await?;
                let document = session.client.patch(&path, json!({ "role": role.word() })).await?;
                session
                    .screen
                    .either(&document, || format!("{account} is a {} of {of} now", role.word()))
            }
            Action::Rm { of, account } => {
                let path = session.member(&of, &account).await?;
                session.client.delete(&path).await?;
                session.screen.either(&json!({ "removed": account }), || {
                    format!("{account} does not work on {of} any more")
                })
            }
        }
    }
}

impl Session<'_> {
    /// Path of the list.
    async fn members_of(&mut self, project: &str) -> Result<String> {
        Ok(format!("/api/projects/{}/members/", self.project_named(project).await?))
    }

    /// Path of a member.
    async fn member(&mut self, project: &str, account: &str) -> Result<String> {
        let members = self.members_of(project).await?;
        let rows = self.client.rows(&members, &[]).await?;
        let found = rows.iter().find(|row| row["name"] == account || row["id"] == account);
        match found.and_then(|row| row["id"].as_str()) {
            Some(id) => Ok(format!("{members}{id}/")),
            None => {
                let names = rows.iter().filter_map(|row| row["name"].as_str());
                let advice = format!("`hob members list {project}` shows all");
                Err(unknown("member", account, names, &advice))
            }
        }
    }
}

fn listing(rows: &[Value]) -> String {
    let word = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let row = |row: &Value| {
        [
            word(row, "name"),
            word(row, "role"),
            text::moment(&word(row, "created_at")),
        ]
    };
    text::table(["ACCOUNT", "ROLE", "SINCE (UTC)"], rows.iter().map(row))
}
