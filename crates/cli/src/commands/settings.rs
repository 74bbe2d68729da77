//! Configs and secrets alike: named sets of variables that a service reads.

use serde_json::json;

use crate::error::{Result, Trouble};
use crate::find::{Found, unknown};
use crate::model::{self, Item};
use crate::session::Session;
use crate::text;

/// One of the two sorts of settings.
pub struct Sort {
    pub path: &'static str,
    /// Of a service, that names its set.
    field: &'static str,
    /// What each is called, of many.
    noun: &'static str,
    /// What makes one, after the service's name.
    makes_one: &'static str,
    /// Values may be read and shown.
    open: bool,
}

pub const CONFIG: Sort = Sort {
    path: "/api/configs/",
    field: "config",
    noun: "settings",
    makes_one: "config set NAME KEY=VALUE",
    open: true,
};

pub const SECRET: Sort = Sort {
    path: "/api/secrets/",
    field: "secret",
    noun: "secrets",
    makes_one: "secret set NAME KEY",
    open: false,
};

impl Sort {
    /// The service's set of this sort.
    fn of<'a>(&self, found: &'a Found) -> Option<&'a str> {
        found.document[self.field].as_str()
    }

    fn listing(&self, found: &Found, mut items: Vec<Item>) -> String {
        if items.is_empty() {
            let how = self.makes_one.replace("NAME", found.name());
            return format!("{} has no {}; `hob {how}` makes one", found.name(), self.noun);
        }
        items.sort_by(|a, b| a.key.cmp(&b.key));
        if !self.open {
            let row = |item: Item| [item.key, text::moment(&item.updated_at)];
            return text::table(["KEY", "CHANGED (UTC)"], items.into_iter().map(row));
        }
        let row = |item: Item| [item.key, item.value.unwrap_or_default(), text::moment(&item.updated_at)];
        text::table(["KEY", "VALUE", "CHANGED (UTC)"], items.into_iter().map(row))
    }
}

impl Session<'_> {
    pub async fn set_settings(&mut self, sort: &Sort, name: &str, pairs: &[(String, String)]) -> Result<()> {
        let found = self.find(name).await?;
        let attached = sort.of(&found).map(str::to_owned);
        let set = self.settings_of(sort.path, name, attached).await?;
        self.set_items(sort.path, &set, pairs).await?;
        let deploying = self.attach(sort.field, &found, &set).await?;
        self.told_changes(&found, "set", &keys_of(pairs), deploying)
    }

    pub async fn unset_settings(&mut self, sort: &Sort, name: &str, keys: &[String]) -> Result<()> {
        let found = self.find(name).await?;
        self.unset_items(sort.path, sort.of(&found), &found, keys).await?;
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.told_changes(&found, "removed", &keys, false)
    }

    pub async fn list_settings(&mut self, sort: &Sort, name: &str) -> Result<()> {
        let found = self.find(name).await?;
        // Values of secrets are not even asked for.
        let filter: &[(&str, &str)] = if sort.open {
            &[("ordering", "key")]
        } else {
            &[("keys", "1")]
        };
        let items = match sort.of(&found) {
            Some(id) => self.client.rows(&format!("{}{id}/items/", sort.path), filter).await?,
            None => Vec::new(),
        };
        let read: Vec<Item> = items.iter().map(model::read).collect::<Result<_>>()?;
        self.screen
            .either(&json!({ "results": items }), || sort.listing(&found, read))
    }

    /// The set that is attached; else the one of the service's name, made where it is missing. `path` tells of which
    /// sort.
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
