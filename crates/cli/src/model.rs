//! The server's documents, as far as the commands read them. Unknown fields are left alone.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Result, Trouble};

/// Reads a document.
///
/// # Errors
/// When the server speaks of other things than we expect.
pub fn read<T: DeserializeOwned>(document: &Value) -> Result<T> {
    T::deserialize(document).map_err(|error| {
        Trouble::failed(format!("the server's answer is not understood: {error}"))
            .advise("Server and `hob` may be of different versions: compare `hob --version`")
    })
}

#[derive(Debug, Clone, Deserialize)]
pub struct Service {
    pub id: String,
    pub name: String,
    pub image: String,
    pub port: Option<u16>,
    pub replicas_target: u32,
    pub replicas_running: u32,
    pub status: String,
    pub secret: Option<String>,
    #[serde(default)]
    pub active_deployment: Option<String>,
    #[serde(default)]
    pub serving_deployment: Option<String>,
    #[serde(default)]
    pub last_deployment: Option<String>,
    #[serde(default)]
    pub frozen: Option<String>,
    pub updated_at: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Deployment {
    pub id: String,
    pub version_number: i64,
    pub image: String,
    pub port: Option<u16>,
    pub replicas: u32,
    #[serde(default)]
    pub config_snapshot: BTreeMap<String, String>,
    pub status: String,
    pub deployed_at: String,
    pub deployed_by: String,
    pub rollback_from: Option<String>,
    #[serde(default)]
    pub notes: String,
    #[serde(default)]
    pub error_message: String,
    /// The rest only with `?detail=full`.
    #[serde(default)]
    pub stage: String,
    #[serde(default)]
    pub strategy: String,
    #[serde(default)]
    pub step: u32,
    #[serde(default)]
    pub steps: u32,
    #[serde(default)]
    pub at_step: bool,
    #[serde(default)]
    pub automatic: bool,
    #[serde(default)]
    pub duration_ms: Option<i64>,
    #[serde(default)]
    pub receipt: Option<Receipt>,
}

impl Deployment {
    pub fn succeeded(&self) -> bool {
        self.status == "success"
    }
}

/// What the edge counted for one deployment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Receipt {
    pub ok: u64,
    pub failed_by_hob: u64,
    pub failed_by_app: u64,
    pub retried: u64,
    pub drained: u64,
}

impl Receipt {
    pub fn failed(&self) -> u64 {
        self.failed_by_hob + self.failed_by_app
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Rollout {
    pub deployment: String,
    pub name: String,
    pub version: i64,
    pub image: String,
    pub stage: String,
    pub done: bool,
    #[serde(default)]
    pub waiting: String,
    #[serde(default)]
    pub strategy: String,
    /// Steps that are passed.
    #[serde(default)]
    pub step: u32,
    #[serde(default)]
    pub steps: Vec<Step>,
    #[serde(default)]
    pub at_step: bool,
    #[serde(default)]
    pub ends: Option<String>,
    /// At a step, or watched after its success.
    #[serde(default)]
    pub trial: Option<Trial>,
    /// Percent of the requests that the new version gets at this step.
    #[serde(default)]
    pub share: Option<u32>,
    #[serde(default)]
    pub preview_host: Option<String>,
    /// `done`, `reverted` or `needs_you`; nothing while it moves by itself.
    #[serde(default)]
    pub outcome: Option<String>,
    #[serde(default)]
    pub next_command: Option<String>,
    #[serde(default)]
    pub error_message: String,
    #[serde(default)]
    pub frozen: Option<String>,
    pub replicas: u32,
    #[serde(default)]
    pub instances: Sides,
    pub elapsed_ms: i64,
    #[serde(default)]
    pub receipt: Receipt,
}

/// What the edge has seen of the new version beside the old one.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Trial {
    /// Without so many requests of the new version nothing is decided.
    #[serde(default)]
    pub min_requests: Option<u64>,
    pub new: Behaviour,
    pub old: Behaviour,
}

/// How a version behaved, as the edge measured it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Behaviour {
    pub requests: u64,
    /// 0 to 1.
    pub error_rate: f64,
    #[serde(default)]
    pub p50_ms: Option<f64>,
    #[serde(default)]
    pub p95_ms: Option<f64>,
}

/// A step of a strategy, as it is written on a command line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Step {
    pub text: String,
}

impl Rollout {
    /// It stands still until somebody acts.
    pub fn needs_you(&self) -> bool {
        !self.done && self.outcome.as_deref() == Some("needs_you")
    }
}

/// How the deployments of a service ended, those that are not kept any more included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Outcomes {
    pub succeeded: u64,
    pub failed: u64,
    pub canceled: u64,
    pub superseded: u64,
    pub rolled_back: u64,
}

impl Outcomes {
    /// Those that there are; nothing before the first end.
    pub fn told(&self) -> Option<String> {
        let all = [
            (self.succeeded, "succeeded"),
            (self.failed, "failed"),
            (self.canceled, "canceled"),
            (self.superseded, "superseded"),
            (self.rolled_back, "rolled back"),
        ];
        let told = all.into_iter().filter(|(n, _)| *n > 0);
        let told: Vec<String> = told.map(|(n, end)| format!("{n} {end}")).collect();
        (!told.is_empty()).then(|| format!("{} (deployments of all time)", told.join(", ")))
    }
}

/// Instances by state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Sides {
    pub new: BTreeMap<String, u32>,
    pub old: BTreeMap<String, u32>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Instance {
    pub id: String,
    pub deployment: String,
    pub version: Option<i64>,
    pub state: String,
    #[serde(default)]
    pub health: String,
    #[serde(default)]
    pub health_message: String,
    #[serde(default)]
    pub address: Option<String>,
    #[serde(default)]
    pub started_at: Option<String>,
    #[serde(default)]
    pub crashed: bool,
    #[serde(default)]
    pub exit: Option<Exit>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Exit {
    /// One clause for people.
    pub text: String,
    /// The last lines of output.
    pub tail: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct LogLine {
    pub at: String,
    pub instance: String,
    #[serde(default)]
    pub version: Option<i64>,
    pub stream: String,
    pub text: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Route {
    pub id: String,
    pub path: String,
    pub enabled: bool,
    pub service: String,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub hostname: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Domain {
    pub id: String,
    pub hostname: String,
    pub created_at: String,
}

/// A config or a secret.
#[derive(Debug, Clone, Deserialize)]
pub struct Settings {
    pub id: String,
}

/// One setting. A secret's value is never read.
#[derive(Debug, Clone, Deserialize)]
pub struct Item {
    pub id: String,
    pub key: String,
    #[serde(default)]
    pub value: Option<String>,
    #[serde(default)]
    pub updated_at: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Image {
    pub reference: String,
    pub digest: String,
    pub size_bytes: u64,
    pub created_at: String,
    pub in_use: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Finding {
    pub level: String,
    pub subject: String,
    pub message: String,
    #[serde(default)]
    pub advice: String,
}
