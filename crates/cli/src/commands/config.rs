//! `hob config`: a service's plain settings.

use clap::{Args, Subcommand};

use super::Common;
use super::settings::CONFIG;
use crate::environment::Environment;
use crate::error::Result;
use crate::screen::Screen;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(after_help = "\
Changes reach instances with the next deployment: `hob deploy NAME`.

Examples:
  hob config set web GREETING=hello LOG_LEVEL=info
  hob config list web
  hob config unset web GREETING && hob deploy web")]
pub struct ConfigCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Set variables
    Set {
        /// Service
        name: String,
        /// Variables
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_pair)]
        pairs: Vec<(String, String)>,
    },
    /// Remove variables
    Unset {
        /// Service
        name: String,
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Show variables and their values
    List {
        /// Service
        name: String,
    },
}

/// Reads `KEY=VALUE`. The value is taken as it is and may be empty.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("use KEY=VALUE".to_owned()),
    }
}

impl ConfigCommand {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
        match self.action {
            Action::Set { name, pairs } => session.set_settings(&CONFIG, &name, &pairs).await,
            Action::Unset { name, keys } => session.unset_settings(&CONFIG, &name, &keys).await,
            Action::List { name } => session.list_settings(&CONFIG, &name).await,
        }
    }
}
