//! `hob secret`: settings whose values are never shown, logged, or given on a command line.

use std::io::{BufRead, Read};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Common;
use super::config::parse_pair;
use super::login::ask_silently;
use super::report::Wait;
use super::settings::SECRET;
use crate::environment::Environment;
use crate::error::{Result, Trouble};
use crate::find::{Found, unknown};
use crate::model::{self, Deployment, Item};
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

/// Most bytes of one value (the server's limit is the same).
const VALUE_BYTES_MAX: u64 = 64 * 1024;
/// Most bytes of a file of variables.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

#[derive(Args, Debug)]
#[command(after_help = "\
Values come from standard input or a file, never from the command line, where others could see them.
Changes reach instances with the next deployment: `hob deploy NAME`.

Examples:
  hob secret set web DATABASE_PASSWORD            asks for the value
  hob secret set web API_KEY < key.txt            takes it from a file, without its last line end
  hob secret set web --env-file secrets.env       takes many, KEY=VALUE on each line
  hob secret rotate web SESSION_KEY --generate    a new random value, deployed at once
  hob secret reads web API_KEY                    who has read its value
  hob secret list web")]
pub struct SecretCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Set a secret variable from standard input, or many from a file
    Set {
        /// Service
        name: String,
        /// Variable whose value standard input gives
        #[arg(
            required_unless_present = "env_file",
            conflicts_with = "env_file",
            value_name = "KEY"
        )]
        key: Option<String>,
        /// File with KEY=VALUE on each line; - is standard input
        #[arg(long, value_name = "FILE")]
        env_file: Option<PathBuf>,
    },
    /// Give a secret variable a new value and deploy it
    Rotate {
        /// Service
        name: String,
        /// Variable that gets the new value
        #[arg(value_name = "KEY")]
        key: String,
        /// Take a random value that nobody sees, instead of asking for one
        #[arg(long)]
        generate: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Remove secret variables
    Unset {
        /// Service
        name: String,
        /// Variables to remove
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Show who has read a value, when and how; oldest first
    Reads {
        /// Service
        name: String,
        /// Variable whose readers are shown
        #[arg(value_name = "KEY")]
        key: String,
        /// Only what came after this number
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        after: u64,
    },
    /// Show keys, never values
    List {
        /// Service
        name: String,
    },
}

impl SecretCommand {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
        match self.action {
            Action::Set { name, key, env_file } => {
                session.find(&name).await?;
                let pairs = match (key, env_file) {
                    (Some(key), _) => vec![(key.clone(), read_value(environment, &key)?)],
                    (None, Some(file)) => read_file(&file)?,
                    (None, None) => return Err(Trouble::usage("give a KEY, or --env-file FILE")),
                };
                session.set_settings(&SECRET, &name, &pairs).await
            }
            Action::Rotate {
                name,
                key,
                generate,
                wait,
            } => session.rotate(environment, &name, &key, generate, &wait).await,
            Action::Unset { name, keys } => session.unset_settings(&SECRET, &name, &keys).await,
            Action::Reads { name, key, after } => session.reads(&name, &key, after).await,
            Action::List { name } => session.list_settings(&SECRET, &name).await,
        }
    }
}

impl Session<'_> {
    /// A new value for a key that is there, and a deployment that brings it to the instances.
    async fn rotate(
        &mut self,
        environment: &Environment,
        name: &str,
        key: &str,
        generate: bool,
        wait: &Wait,
    ) -> Result<()> {
        let found = self.find(name).await?;
        let (secret, _) = self.secret_item(&found, key).await?;
        let value = if generate {
            random_value()
        } else {
            read_value(environment, key)?
        };
        self.set_items(SECRET.path, &secret, &[(key.to_owned(), value)]).await?;
        let body = json!({ "notes": format!("rotated {key}") });
        let document = self.client.post(&found.path("deployments/"), body).await?;
        let deployment: Deployment = model::read(&document)?;
        self.see_through(&found, &deployment.id, wait).await
    }

    async fn reads(&mut self, name: &str, key: &str, after: u64) -> Result<()> {
        let found = self.find(name).await?;
        let (secret, item) = self.secret_item(&found, key).await?;
        let path = format!("{}{secret}/items/{}/accesses/?after={after}", SECRET.path, item.id);
        let document = self.client.get(&path).await?;
        self.screen.either(&document, || readings(&document))
    }

    /// The service's secret and one of its items, by its key.
    async fn secret_item(&self, found: &Found, key: &str) -> Result<(String, Item)> {
        let keys = match &found.service.secret {
            Some(id) => self.keys(SECRET.path, id).await?,
            None => Vec::new(),
        };
        let item = keys.iter().find(|item| item.key == key).cloned();
        match (&found.service.secret, item) {
            (Some(secret), Some(item)) => Ok((secret.clone(), item)),
            _ => {
                let names = keys.iter().map(|item| item.key.as_str());
                Err(unknown("secret", key, names, "`hob secret set` makes a new one").within(found.name()))
            }
        }
    }
}

fn readings(document: &Value) -> String {
    let rows = document["results"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return "nobody has read it".to_owned();
    }
    let word = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let row = |row: &Value| {
        let account = text::short_id(&word(row, "account")).to_owned();
        [
            row["seq"].to_string(),
            text::moment(&word(row, "at")),
            account,
            word(row, "how"),
        ]
    };
    text::table(["NUMBER", "WHEN (UTC)", "ACCOUNT", "HOW"], rows.iter().map(row))
}

/// 244 random bits in 64 hexadecimal digits.
fn random_value() -> String {
    [Uuid::new_v4(), Uuid::new_v4()]
        .map(|half| half.simple().to_string())
        .concat()
}

fn read_value(environment: &Environment, key: &str) -> Result<String> {
    if environment.stdin_is_terminal {
        return ask_silently(&format!("Value of {key}: "));
    }
    let mut value = String::new();
    let mut input = std::io::stdin().lock().take(VALUE_BYTES_MAX + 1);
    input
        .read_to_string(&mut value)
        .map_err(|_| Trouble::usage(format!("the value of {key} is no UTF-8 text")))?;
    if value.len() as u64 > VALUE_BYTES_MAX {
        return Err(Trouble::usage(format!(
            "the value of {key} is longer than {VALUE_BYTES_MAX} bytes"
        )));
    }
    // What `echo` and editors add.
    if value.ends_with('\n') {
        value.pop();
    }
    Ok(value)
}

fn read_file(path: &std::path::Path) -> Result<Vec<(String, String)>> {
    let cannot = |error: std::io::Error| Trouble::failed(format!("cannot read {}: {error}", path.display()));
    let reader: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(cannot)?)
    };
    let mut pairs = Vec::new();
    for (n, line) in std::io::BufReader::new(reader.take(FILE_BYTES_MAX)).lines().enumerate() {
        let line = line.map_err(cannot)?;
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        // The line itself is not repeated: it may hold a value.
        let bad = |_| Trouble::usage(format!("{}, line {}: use KEY=VALUE", path.display(), n + 1));
        pairs.push(parse_pair(trimmed.strip_prefix("export ").unwrap_or(trimmed)).map_err(bad)?);
    }
    if pairs.is_empty() {
        return Err(Trouble::usage(format!("{} holds no KEY=VALUE", path.display())));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_variables_is_read_without_comments_and_its_lines_are_never_repeated() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# a\nA=1\n\nexport B=x=y\n").unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(read_file(file.path()).unwrap(), [pair("A", "1"), pair("B", "x=y")]);
        std::fs::write(file.path(), "A=1\nhunter2\n").unwrap();
        let trouble = read_file(file.path()).unwrap_err();
        assert!(trouble.message.contains("line 2") && !trouble.message.contains("hunter2"));
    }
}
