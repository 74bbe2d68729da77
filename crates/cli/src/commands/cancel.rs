//! `hob cancel`: back to what served before.

use clap::Args;
use serde_json::json;

use super::Common;
use super::report::Wait;
use crate::environment::Environment;
use crate::error::{Result, Trouble};
use crate::model;
use crate::screen::Screen;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(after_help = "\
The last version that served takes over again; no request fails for it.

Examples:
  hob cancel web")]
pub struct Cancel {
    /// Service
    name: String,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    pub common: Common,
}

impl Cancel {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
        let found = session.find(&self.name).await?;
        let cannot = |trouble: Trouble| trouble.within(format!("cannot cancel a rollout of {}", self.name));
        let document = session
            .client
            .post(&found.path("cancel/"), json!({}))
            .await
            .map_err(cannot)?;
        let deployment: model::Deployment = model::read(&document)?;
        let patience = self.wait.patience();
        let rollout = session.follow(&found, &deployment.id, patience).await?;
        match rollout.stage.as_str() {
            "canceled" => {
                let text = format!("{} version {} is cancelled", rollout.name, rollout.version);
                if session.screen.is_json() {
                    Ok(())
                } else {
                    session.screen.line(text)
                }
            }
            _ if !rollout.done && !patience.waits => Ok(()),
            stage => Err(Trouble::failed(format!(
                "{} version {} was not cancelled: it has {stage}",
                rollout.name, rollout.version
            ))),
        }
    }
}
