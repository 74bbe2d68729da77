//! `hob login`: a server and a key for later.

use std::io::{BufRead, Write};

use clap::Args;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use serde_json::json;

use super::Common;
use crate::client::Client;
use crate::client::connect::is_loopback;
use crate::client::login::Login;
use crate::environment::Environment;
use crate::error::{Result, Trouble};
use crate::screen::Screen;

#[derive(Args, Debug)]
#[command(after_help = "\
The key is asked for on a terminal, and read from standard input elsewhere. It is kept in
$XDG_CONFIG_HOME/hob/login.toml, which only you can read. HOB_URL and HOB_API_KEY are stronger than it.

Examples:
  hob login https://hob.example.com
  hob login https://hob.example.com < key
  hob login http://127.0.0.1:7700/claim/TOKEN        takes the link of `hob claim`")]
pub struct LoginCommand {
    /// The server's origin, or a claim link
    url: String,
    #[command(flatten)]
    pub common: Common,
}

impl LoginCommand {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let (url, key) = match self.url.split_once("/claim/") {
            Some((origin, token)) => {
                let client = Client::network(origin, None)?;
                let document = client.take_claim(&format!("/claim/{token}")).await?;
                let key = document["key"].as_str().unwrap_or_default().to_owned();
                (client.origin().to_owned(), key)
            }
            None => {
                let client = Client::network(&self.url, None)?;
                (client.origin().to_owned(), read_key(environment, client.origin())?)
            }
        };
        if url.starts_with("http://") && !is_loopback(&url) {
            screen.remark(format!(
                "warning: {url} is not encrypted; everybody on the way can read the key"
            ));
        }
        let account = Client::network(&url, Some(&key))?.get("/api/account/").await?;
        let path = Login { url: url.clone(), key }.write(environment)?;
        let name = account["name"].as_str().unwrap_or_default();
        let document = json!({ "url": url, "account": account, "file": path });
        screen.either(&document, || {
            format!("logged in to {url} as {name}; kept in {}", path.display())
        })
    }
}

fn read_key(environment: &Environment, origin: &str) -> Result<String> {
    let key = if environment.stdin_is_terminal {
        ask_silently(&format!(
            "Key for {origin} (`hob keys create NAME` on the server makes one): "
        ))?
    } else {
        read_line()?
    };
    let key = key.trim().to_owned();
    if key.starts_with("gob_") {
        Ok(key)
    } else {
        Err(Trouble::usage("that is no key: keys begin with gob_")
            .advise("On the server run `hob keys create NAME`, and give what it prints"))
    }
}

/// Asks on the terminal without showing what is typed.
pub fn ask_silently(question: &str) -> Result<String> {
    let input = std::io::stdin();
    let cannot = |error: String| Trouble::failed(format!("cannot ask: {error}"));
    let before = tcgetattr(&input).map_err(|error| cannot(error.to_string()))?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    let mut err = std::io::stderr();
    write!(err, "{question}")
        .and_then(|()| err.flush())
        .map_err(|error| cannot(error.to_string()))?;
    tcsetattr(&input, SetArg::TCSADRAIN, &silent).map_err(|error| cannot(error.to_string()))?;
    let line = read_line();
    // The terminal is given back whatever came of it.
    let _ = tcsetattr(&input, SetArg::TCSADRAIN, &before);
    let _ = writeln!(err);
    line
}

fn read_line() -> Result<String> {
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(0) => Err(Trouble::usage("there is nothing on standard input")),
        Ok(_) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(Trouble::failed(format!("cannot read standard input: {error}"))),
    }
}
