//! `hob config`: a service's plain settings.

use clap::{Args, Subcommand};
use serde_json::json;

use super::Common;
use crate::environment::Environment;
use crate::error::{Result, Trouble};
use crate::find::{Found, unknown};
use crate::model::{self, Item};
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

const CONFIGS: &str = "/api/configs/";

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
            Action::Set { name, pairs } => {
                let found = session.find(&name).await?;
                let config = session.config_of(&name, Some(&found)).await?;
                session.set_items(CONFIGS, &config, &pairs).await?;
                let deploying = session.attach("config", &found, &config).await?;
                session.told_changes(&found, "set", &keys_of(&pairs), deploying)
            }
            Action::Unset { name, keys } => {
                let found = session.find(&name).await?;
                session
                    .unset_items(CONFIGS, found.service.config.as_deref(), &found, &keys)
                    .await?;
                let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                session.told_changes(&found, "removed", &keys, false)
            }
            Action::List { name } => {
                let found = session.find(&name).await?;
                let items = match &found.service.config {
                    Some(id) => {
                        session
                            .client
                            .rows(&format!("{CONFIGS}{id}/items/"), &[("ordering", "key")])
                            .await?
                    }
                    None => Vec::new(),
                };
                let read: Vec<Item> = items.iter().map(model::read).collect::<Result<_>>()?;
                session
                    .screen
                    .either(&json!({ "results": items }), || listing(&found, read))
            }
        }
    }
}

fn listing(found: &Found, mut items: Vec<Item>) -> String {
    if items.is_empty() {
        return format!(
            "{} has no settings; `hob config set {} KEY=VALUE` makes one",
            found.name(),
            found.name()
        );
    }
    items.sort_by(|a, b| a.key.cmp(&b.key));
    let row = |item: Item| [item.key, item.value.unwrap_or_default(), text::moment(&item.updated_at)];
    text::table(["KEY", "VALUE", "CHANGED (UTC)"], items.into_iter().map(row))
}

impl Session<'_> {
    /// The config that the service reads; else the one of its name, made where it is missing.
    pub async fn config_of(&mut self, name: &str, found: Option<&Found>) -> Result<String> {
        let attached = found.and_then(|found| found.service.config.clone());
        self.settings_of(CONFIGS, name, attached).await
    }

    /// Likewise for configs and secrets alike; `path` tells which.
    pub async fn settings_of(&mut self, path: &str, name: &str, attached: Option<String>) -> Result<String> {
        if let Some(id) = attached {
            return Ok(id);
        }
        if let Some(settings) = self.settings(path, name).await? {
            return Ok(settings.id);
        }
        let mut body = json!({ "name": name });
        if let Some(project) = self.project_id().await? {
            body["project"] = json!(project);
        }
        let document = self.client.post(path, body).await?;
        model::read::<model::Settings>(&document).map(|settings| settings.id)
    }

    /// Makes or changes one item for each pair.
    pub async fn set_items(&mut self, path: &str, id: &str, pairs: &[(String, String)]) -> Result<()> {
        let items = self.keys(path, id).await?;
        for (key, value) in pairs {
            // Values stay out of the error: they may be what must not be shown.
            let cannot = |trouble: Trouble| trouble.within(format!("cannot set {key}"));
            match items.iter().find(|item| item.key == *key) {
                Some(item) if item.value.as_ref() == Some(value) => {}
                Some(item) => {
                    let path = format!("{path}{id}/items/{}/", item.id);
                    self.client
                        .patch(&path, json!({ "value": value }))
                        .await
                        .map_err(cannot)?;
                }
                None => {
                    let body = json!({ "key": key, "value": value });
                    self.client
                        .post(&format!("{path}{id}/items/"), body)
                        .await
                        .map_err(cannot)?;
                }
            }
        }
        Ok(())
    }

    /// Removes items by key; all must be there.
    pub async fn unset_items(&mut self, path: &str, id: Option<&str>, found: &Found, keys: &[String]) -> Result<()> {
        let items = match id {
            Some(id) => self.keys(path, id).await?,
            None => Vec::new(),
        };
        let by_key = |key: &String| items.iter().find(|item| item.key == *key);
        if let Some(missing) = keys.iter().find(|key| by_key(key).is_none()) {
            let names = items.iter().map(|item| item.key.as_str());
            return Err(unknown("variable", missing, names, "Nothing was removed").within(found.name()));
        }
        for item in keys.iter().filter_map(by_key) {
            let path = format!("{path}{}/items/{}/", id.unwrap_or_default(), item.id);
            self.client.delete(&path).await?;
        }
        Ok(())
    }

    /// Items; those of secrets without their values, so that nothing is read.
    pub async fn keys(&self, path: &str, id: &str) -> Result<Vec<Item>> {
        let rows = self
            .client
            .rows(&format!("{path}{id}/items/"), &[("keys", "1")])
            .await?;
        rows.iter().map(model::read).collect()
    }

    /// Makes the service read these settings from its next deployment on. Answers whether that has just become one:
    /// the server deploys what reads other settings than before.
    pub async fn attach(&mut self, field: &str, found: &Found, id: &str) -> Result<bool> {
        if found.document[field].as_str() == Some(id) {
            return Ok(false);
        }
        self.client.patch(&found.path(""), json!({ field: id })).await?;
        Ok(true)
    }

    /// Tells what was done to which keys; `deploying` when the instances get it without being asked to.
    pub fn told_changes(&mut self, found: &Found, what: &str, keys: &[&str], deploying: bool) -> Result<()> {
        let name = found.name();
        let then = match deploying {
            true => format!("{name} is being deployed with it"),
            false => format!("`hob deploy {name}` brings it to the instances"),
        };
        let text = || format!("{name}: {} {what}; {then}", keys.join(", "));
        self.screen
            .either(&json!({ "service": name, what: keys, "deploying": deploying }), text)
    }
}

/// The keys of pairs.
pub fn keys_of(pairs: &[(String, String)]) -> Vec<&str> {
    pairs.iter().map(|(key, _)| key.as_str()).collect()
}
