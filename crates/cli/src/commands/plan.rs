//! What a change would do, and how two versions differ: differences in words.

use serde::Deserialize;
use serde_json::Value;

use crate::error::Trouble;
use crate::text;

/// Longest value of a change that is shown.
const VALUE_MAX: usize = 60;

/// One thing that differs.
#[derive(Debug, Clone, Deserialize)]
pub struct Change {
    what: String,
    #[serde(default)]
    key: Option<String>,
    before: Value,
    after: Value,
    #[serde(default)]
    replaces: bool,
}

/// As the server has made it.
#[derive(Debug, Clone, Deserialize)]
pub struct Plan {
    name: String,
    deploys: bool,
    version: Option<i64>,
    running_version: Option<i64>,
    supersedes: Option<String>,
    image: Image,
    changes: Vec<Change>,
    replaces: bool,
    routes: Vec<String>,
    downtime: Downtime,
    memory: Memory,
    expected_ms: Option<i64>,
    way_back: WayBack,
    pub hash: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Image {
    reference: String,
    digest: Option<String>,
    local: bool,
    size_bytes: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
struct Downtime {
    class: String,
    why: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Memory {
    needed_mb: u64,
    running_mb: u64,
    free_mb: Option<u64>,
    fits: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
struct WayBack {
    exists: bool,
    version: Option<i64>,
    why: String,
}

/// Says what to do about a plan that no longer fits.
pub fn stale(trouble: Trouble) -> Trouble {
    match trouble.status {
        Some(409) => {
            trouble.advise("Nothing was changed. The same command with --plan instead of --apply shows the new plan")
        }
        _ => trouble,
    }
}

/// A line for each change: `+` new, `-` gone, `~` another; `!` where instances are replaced for it.
pub fn differences(changes: &[Change]) -> Vec<String> {
    changes.iter().map(difference).collect()
}

fn difference(change: &Change) -> String {
    let key = change.key.as_ref().map(|key| format!(" {key}")).unwrap_or_default();
    let what = match change.what.as_str() {
        "replicas" => "instances".to_owned(),
        what => what.replace('_', " "),
    };
    let mark = if change.replaces { '!' } else { ' ' };
    let (before, after) = (value(&change.before), value(&change.after));
    match (change.before.is_null(), change.after.is_null()) {
        (true, _) => format!("+{mark} {what}{key}: {after}"),
        (_, true) => format!("-{mark} {what}{key}: {before}"),
        _ => format!("~{mark} {what}{key}: {before} -> {after}"),
    }
}

fn value(value: &Value) -> String {
    let shown = match value {
        Value::String(text) if text.starts_with("sha256:") => text::short_digest(text).to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(words) if words.is_empty() => "none".to_owned(),
        Value::Array(words) => {
            let words = words
                .iter()
                .map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned));
            // Words of commands have no spaces as a rule, steps have.
            let words: Vec<String> = words.collect();
            let separator = if words.iter().any(|word| word.contains(' ')) {
                ", "
            } else {
                " "
            };
            words.join(separator)
        }
        other => other.to_string(),
    };
    text::first_line(&shown, VALUE_MAX)
}

impl Plan {
    /// `extra` are lines for what the command does beside the deployment.
    pub fn text(&self, extra: &[String]) -> String {
        let mut lines = vec![self.head()];
        let changes = differences(&self.changes);
        if changes.is_empty() && extra.is_empty() {
            lines.push("  nothing changes".to_owned());
        }
        lines.extend(changes.iter().chain(extra).map(|line| format!("  {line}")));
        lines.push(String::new());
        let mut add = |label: &str, value: String| lines.push(format!("{label:<10}{value}"));
        add("image", self.image_in_words());
        if !self.routes.is_empty() {
            add("routes", format!("{}; they stay", self.routes.join(", ")));
        }
        if self.deploys {
            add("downtime", format!("{}: {}", self.downtime.class, self.downtime.why));
            add("memory", self.memory.text());
            add(
                "takes",
                match self.expected_ms {
                    Some(ms) => format!("about {}, by its earlier rollouts", text::duration(ms)),
                    None => "not known: no rollout of it has succeeded yet".to_owned(),
                },
            );
            add("way back", self.way_back.text());
        }
        add(
            "hash",
            format!("{}; bind the change to this plan by --apply {0}", self.hash),
        );
        lines.join("\n")
    }

    fn head(&self) -> String {
        let Some(version) = self.version.filter(|_| self.deploys) else {
            return format!("{}: nothing would be deployed", self.name);
        };
        let from = match self.running_version {
            Some(running) => format!("takes the place of version {running}"),
            None => "would be the first that serves".to_owned(),
        };
        let how = if self.replaces {
            "instances are replaced"
        } else {
            "no instance is replaced"
        };
        let overtakes = match self.supersedes {
            Some(_) => "; the rollout that is on its way now is overtaken",
            None => "",
        };
        format!("{} version {version} {from}; {how}{overtakes}", self.name)
    }

    fn image_in_words(&self) -> String {
        let Image {
            reference,
            digest,
            local,
            size_bytes,
        } = &self.image;
        match (digest, local) {
            (Some(digest), true) => format!(
                "{reference} is {} in the local store, {}",
                text::short_digest(digest),
                text::size(size_bytes.unwrap_or(0))
            ),
            (Some(digest), false) => format!(
                "{reference} is {}, not in the local store: it is fetched",
                text::short_digest(digest)
            ),
            (None, _) => format!("{reference} is not in the local store: its registry says what it is"),
        }
    }
}

impl Memory {
    fn text(&self) -> String {
        let used = format!(
            "at most {} MiB, {} MiB of them run now",
            self.needed_mb, self.running_mb
        );
        match (self.free_mb, self.fits) {
            (Some(free), Some(false)) => format!("{used}; only {free} MiB are free: TOO LITTLE"),
            (Some(free), _) => format!("{used}; {free} MiB are free"),
            (None, _) => used,
        }
    }
}

impl WayBack {
    fn text(&self) -> String {
        match (self.exists, self.version) {
            (true, Some(version)) => format!("to version {version}: {}", self.why),
            _ => format!("none: {}", self.why),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::text::tests_support::check;

    #[test]
    fn a_plan_reads_like_a_diff() {
        let change = |what: &str, key: Value, before: Value, after: Value, replaces: bool| json!({ "what": what, "key": key, "before": before, "after": after, "replaces": replaces });
        let digest = |n: u8| json!(format!("sha256:{}", format!("{n:02x}").repeat(32)));
        let plan: Plan = crate::model::read(&json!({
            "service": "s", "name": "web", "deploys": true, "version": 4, "running_version": 3, "supersedes": null,
            "image": { "reference": "web:2", "digest": digest(2), "local": true, "size_bytes": 5_242_880 },
            "changes": [
                change("image", Value::Null, json!("web:1"), json!("web:2"), true),
                change("digest", Value::Null, digest(1), digest(2), true),
                change("replicas", Value::Null, json!(2), json!(4), false),
                change("options", json!("steps"), json!([]), json!(["10%", "50% for 5m"]), false),
                change("config", json!("LEVEL"), json!("info"), json!("de\u{1b}bug"), true),
                change("config", json!("NEW"), Value::Null, json!("1"), true),
                change("secret", json!("TOKEN"), json!("version 1"), Value::Null, true),
            ],
            "replaces": true, "routes": ["shop.example.com/"],
            "downtime": { "class": "none", "why": "new instances are healthy and routed before old ones leave" },
            "memory": { "needed_mb": 2_560, "running_mb": 1_024, "free_mb": 900, "fits": false },
            "expected_ms": 8_000,
            "way_back": { "exists": true, "version": 3, "why": "its image is in the local store" },
            "hash": "0123456789abcdef",
        }))
        .unwrap();
        check("plan.txt", &plan.text(&["+  route shop.example.com/api".to_owned()]));
    }
}
