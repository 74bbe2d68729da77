//! `hob rm`: a service and what belongs to it alone.

use std::io::{BufRead, Write};

use clap::Args;
use serde_json::json;

use super::Common;
use crate::environment::Environment;
use crate::error::{Result, Trouble};
use crate::find::Found;
use crate::screen::Screen;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(after_help = "\
Removes the service with its instances, routes and history, and the config and secret of the same name that no other
service uses (--keep-settings leaves those). Domains and images stay.

Examples:
  hob rm web
  hob rm web --yes          without asking, for scripts")]
pub struct Rm {
    /// Service
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Leave its config and secret in place
    #[arg(long)]
    keep_settings: bool,
    #[command(flatten)]
    pub common: Common,
}

impl Rm {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let session = Session::open(environment, &self.common, screen)?;
        let found = session.find(&self.name).await?;
        if !self.yes {
            confirm(environment, &self.name)?;
        }
        let settings = if self.keep_settings {
            Vec::new()
        } else {
            session.own_settings(&found).await?
        };
        session.client.delete(&found.path("")).await?;
        for path in &settings {
            session.client.delete(path).await?;
        }
        let text = || format!("{} is removed; its instances finish their requests and end", self.name);
        session.screen.either(&json!({ "removed": self.name }), text)
    }
}

fn confirm(environment: &Environment, name: &str) -> Result<()> {
    if !environment.stdin_is_terminal {
        return Err(
            Trouble::usage(format!("{name} is not removed: nobody is there to confirm it")).advise("Add --yes"),
        );
    }
    let mut err = std::io::stderr();
    let asked = write!(
        err,
        "Remove {name} with its instances, routes, settings and history? [y/N] "
    );
    let mut answer = String::new();
    let read = asked
        .and_then(|()| err.flush())
        .and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    match (read, answer.trim()) {
        (Ok(_), "y" | "Y" | "yes") => Ok(()),
        _ => Err(Trouble::failed(format!("{name} is not removed"))),
    }
}

impl Session<'_> {
    /// Paths of the config and secret that bear the service's name and that nothing else uses.
    async fn own_settings(&self, found: &Found) -> Result<Vec<String>> {
        let all = self.workloads().await?;
        let mut paths = Vec::new();
        for (field, path) in [("config", "/api/configs/"), ("secret", "/api/secrets/")] {
            let Some(id) = found.document[field].as_str() else {
                continue;
            };
            let shared = all
                .iter()
                .any(|o| o.service.id != found.service.id && o.document[field].as_str() == Some(id));
            let path = format!("{path}{id}/");
            if !shared && self.client.get(&path).await?["name"] == found.name() {
                paths.push(path);
            }
        }
        Ok(paths)
    }
}
