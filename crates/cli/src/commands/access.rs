//! `hob keys`, `hob users`, `hob claim`: who may do what. Only by the control socket: whoever owns the data directory
//! owns the platform.

use std::io::Read;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Common;
use crate::environment::Environment;
use crate::error::{Result, Trouble};
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

/// Longest password (the server's limit is the same).
const PASSWORD_BYTES_MAX: u64 = 1_024;

#[derive(Args, Debug)]
#[command(after_help = "\
Works on the server's machine, for the owner of the data directory. Prints the key and nothing else; it is shown once.

Examples:
  hob keys create laptop > key
  hob keys create ci --account deployer --expires 30d
  HOB_URL=https://hob.example.com HOB_API_KEY=$(cat key) hob status")]
pub struct Keys {
    #[command(subcommand)]
    action: KeysAction,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Subcommand, Debug)]
enum KeysAction {
    /// Make a key and print it
    Create {
        /// What it is for
        name: String,
        /// Account that it acts for [default: the operator's, which may do everything]
        #[arg(long)]
        account: Option<String>,
        /// When it stops working, such as 30d [default: never]
        #[arg(long, value_name = "DURATION", value_parser = text::parse_duration)]
        expires: Option<Duration>,
    },
}

impl Keys {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let session = Session::open_local(environment, &self.common, screen)?;
        let KeysAction::Create { name, account, expires } = self.action;
        let mut body = json!({ "name": name });
        if let Some(account) = account {
            body["account"] = json!(account);
        }
        if let Some(expires) = expires {
            body["expires_in_s"] = json!(expires.as_secs());
        }
        let document = session.client.post("/local/keys", body).await?;
        let key = document["key"].as_str().unwrap_or_default().to_owned();
        if key.is_empty() {
            return Err(Trouble::failed("the server made a key and did not tell it"));
        }
        session.screen.either(&document, || key)
    }
}

#[derive(Args, Debug)]
#[command(after_help = "\
Works on the server's machine, for the owner of the data directory.

Examples:
  hob users create deployer                                 an account with keys only
  hob users create ada --password-stdin --admin < password")]
pub struct Users {
    #[command(subcommand)]
    action: UsersAction,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Subcommand, Debug)]
enum UsersAction {
    /// Make an account
    Create {
        name: String,
        /// Read its password from standard input
        #[arg(long)]
        password_stdin: bool,
        /// It may do everything
        #[arg(long)]
        admin: bool,
    },
}

impl Users {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let session = Session::open_local(environment, &self.common, screen)?;
        let UsersAction::Create {
            name,
            password_stdin,
            admin,
        } = self.action;
        let mut body = json!({ "name": name, "admin": admin });
        if password_stdin {
            body["password"] = json!(read_password()?);
        }
        let document = session.client.post("/local/users", body).await?;
        let text = || format!("{name} is there; `hob keys create KEY --account {name}` makes a key for it");
        session.screen.either(&document, text)
    }
}

fn read_password() -> Result<String> {
    let mut password = String::new();
    let read = std::io::stdin()
        .lock()
        .take(PASSWORD_BYTES_MAX + 1)
        .read_to_string(&mut password);
    read.map_err(|_| Trouble::usage("the password on standard input is no UTF-8 text"))?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Trouble::usage("there is no password on standard input"));
    }
    Ok(password.to_owned())
}

#[derive(Args, Debug)]
#[command(after_help = "\
Works on the server's machine, for the owner of the data directory. The link works once, for 15 minutes.

Examples:
  hob claim
  hob login $(hob claim)")]
pub struct Claim {
    #[command(flatten)]
    pub common: Common,
}

impl Claim {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let session = Session::open_local(environment, &self.common, screen)?;
        let document = session.client.post("/local/claim", json!({})).await?;
        let url = document["url"].as_str().unwrap_or_default().to_owned();
        if let Some(at) = document["expires_at"].as_str() {
            session
                .screen
                .remark(format!("Works once, until {} UTC:", text::moment(at)));
        }
        session.screen.either(&document, || url)
    }
}
