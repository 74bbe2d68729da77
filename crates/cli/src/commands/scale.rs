//! `hob scale`: more instances, or fewer.

use clap::Args;
use serde_json::json;

use super::Common;
use super::report::Wait;
use crate::environment::Environment;
use crate::error::{Result, Trouble};
use crate::find::Found;
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

#[derive(Args, Debug)]
#[command(after_help = "\
Instances that stay are not restarted; those that go finish their requests first.

Examples:
  hob scale web 5")]
pub struct Scale {
    /// Service
    name: String,
    /// Number of instances, 1 to 12
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=12))]
    instances: u32,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    pub common: Common,
}

impl Scale {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
        let before = session.find(&self.name).await?;
        let body = json!({ "replicas_target": self.instances });
        let cannot = |trouble: Trouble| trouble.within(format!("cannot scale {}", self.name));
        let document = session.client.patch(&before.path(""), body).await.map_err(cannot)?;
        let found = Found::new(before.kind, document)?;
        match found.service.last_deployment.clone() {
            Some(made) if before.service.last_deployment.as_ref() != Some(&made) => {
                session.see_through(&found, &made, &self.wait).await
            }
            _ => {
                let wanted = text::count(self.instances, "instance");
                session
                    .screen
                    .either(&found.document, || format!("{} has {wanted} already", self.name))
            }
        }
    }
}
