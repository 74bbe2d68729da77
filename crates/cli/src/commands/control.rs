//! `hob continue`, `hob pause`, `hob resume`: steering a rollout that is on its way.

use clap::Args;
use serde_json::json;

use super::Common;
use super::report::Wait;
use crate::environment::Environment;
use crate::error::Result;
use crate::model::{self, Deployment};
use crate::screen::Screen;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  hob continue web")]
pub struct Continue {
    /// Service
    name: String,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Instances and routes stay as they are until `hob resume`; a rollout that waits at a step waits there again afterwards.

Example:
  hob pause web")]
pub struct Pause {
    /// Service
    name: String,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  hob resume web")]
pub struct Resume {
    /// Service
    name: String,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    pub common: Common,
}

impl Continue {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
        session.go_on("continue", &self.name, &self.wait).await
    }
}

impl Resume {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
        session.go_on("resume", &self.name, &self.wait).await
    }
}

impl Pause {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let session = Session::open(environment, &self.common, screen)?;
        let found = session.find(&self.name).await?;
        let cannot = |trouble: crate::error::Trouble| trouble.within(format!("cannot pause {}", self.name));
        let document = session
            .client
            .post(&found.path("pause/"), json!({}))
            .await
            .map_err(cannot)?;
        let deployment: Deployment = model::read(&document)?;
        let (name, version) = (found.name(), deployment.version_number);
        session.screen.either(&document, || {
            format!("{name} version {version} is paused; `hob resume {name}` lets it go on")
        })
    }
}

impl Session<'_> {
    /// Gives the command and follows the rollout to its end, or to where it needs somebody again.
    async fn go_on(&mut self, verb: &str, name: &str, wait: &Wait) -> Result<()> {
        let found = self.find(name).await?;
        let path = found.path(&format!("{verb}/"));
        let cannot = |trouble: crate::error::Trouble| trouble.within(format!("cannot {verb} {name}"));
        let document = self.client.post(&path, json!({})).await.map_err(cannot)?;
        let deployment: Deployment = model::read(&document)?;
        self.see_through(&found, &deployment.id, wait).await
    }
}
