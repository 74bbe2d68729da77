//! `hob domain`: host names that routes may use.

use clap::{Args, Subcommand};
use serde_json::json;

use super::Common;
use crate::environment::Environment;
use crate::error::Result;
use crate::find::unknown;
use crate::model::{self, Domain};
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

#[derive(Args, Debug)]
#[command(after_help = "\
`hob route add` and `hob deploy --route` make the domain that they need by themselves.

Examples:
  hob domain add shop.example.com
  hob domain list
  hob domain rm shop.example.com            removes its routes too")]
pub struct DomainCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Take a host name
    Add { hostname: String },
    /// Give a host name up, with its routes
    Rm { hostname: String },
    /// Show host names
    List,
}

impl DomainCommand {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
        match self.action {
            Action::Add { hostname } => {
                let hostname = hostname.to_ascii_lowercase();
                let domain = session.domain_or_new(&hostname).await?;
                let document = json!({ "id": domain.id, "hostname": domain.hostname, "created_at": domain.created_at });
                session.screen.either(&document, || {
                    format!("{hostname} is yours; `hob route add {hostname} SERVICE` leads it")
                })
            }
            Action::Rm { hostname } => {
                let hostname = hostname.to_ascii_lowercase();
                let Some(domain) = session.domain(&hostname).await? else {
                    let rows = session.client.rows("/api/domains/", &[]).await?;
                    let names = rows.iter().filter_map(|row| row["hostname"].as_str());
                    return Err(unknown("domain", &hostname, names, "`hob domain list` shows all"));
                };
                session.client.delete(&format!("/api/domains/{}/", domain.id)).await?;
                session.screen.either(&json!({ "removed": hostname }), || {
                    format!("{hostname} and its routes are removed")
                })
            }
            Action::List => {
                let project = session.project_id().await?;
                let mut filter = vec![("ordering", "hostname")];
                filter.extend(project.as_deref().map(|id| ("project", id)));
                let rows = session.client.rows("/api/domains/", &filter).await?;
                let domains: Vec<Domain> = rows.iter().map(model::read).collect::<Result<_>>()?;
                session.screen.either(&json!({ "results": rows }), || listing(domains))
            }
        }
    }
}

fn listing(domains: Vec<Domain>) -> String {
    if domains.is_empty() {
        return "there are no domains; `hob domain add HOST` takes one".to_owned();
    }
    text::table(
        ["DOMAIN", "SINCE (UTC)"],
        domains.into_iter().map(|d| [d.hostname, text::moment(&d.created_at)]),
    )
}
