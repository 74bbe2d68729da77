//! What a deployment asks for: the specification that is recorded once and never changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DeploymentId, RolloutOptions, Strategy};

/// Everything that one deployment wants of a service. Immutable from creation to prune (invariant 13).
///
/// Secret *values* are not here: a secret is named with the version of each key, and read when an instance starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The reference as the user wrote it, for people.
    pub image: String,
    /// `sha256:…` of the manifest for this machine. `None` until the image has been resolved, then fixed for good.
    pub digest: Option<String>,
    /// The port that the app listens on; `None` for a worker.
    pub port: Option<u16>,
    /// Wanted instances, see [`crate::names::INSTANCES`].
    pub instances: u32,
    /// Config values of then (S0.14).
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Secret keys of then (S0.15), with the version of the value that each had.
    #[serde(default)]
    pub secrets: BTreeMap<String, i64>,
    /// How the program gets its values.
    #[serde(default)]
    pub delivery: Delivery,
    /// Overrides the image's entrypoint and arguments.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Run once in the new image before any instance of it starts (migrations, asset uploads). Unless it ends with
    /// status 0 the deployment fails and nothing has changed.
    #[serde(default)]
    pub release: Option<Vec<String>>,
    #[serde(default)]
    pub health: HealthCheck,
    #[serde(default)]
    pub resources: Resources,
    #[serde(default)]
    pub strategy: Strategy,
    #[serde(default)]
    pub options: RolloutOptions,
    /// Differs where instances must be replaced although nothing else changed (an asked-for restart).
    #[serde(default)]
    pub restart: u32,
}

/// The part of a [`Spec`] that a running instance embodies. Two specs with equal templates share instances, so that
/// scaling replaces nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(pub String);

impl Template {
    const RELEASE: &str = "release-";

    /// That of the run of a deployment's release command, which no other instance has.
    pub fn of_release(deployment: DeploymentId) -> Template {
        Template(format!("{}{deployment}", Template::RELEASE))
    }

    /// Whether an instance of it runs a release command instead of the app.
    pub fn is_release(&self) -> bool {
        self.0.starts_with(Template::RELEASE)
    }
}

impl Spec {
    /// Text that is equal exactly when two specs may share instances. Callers hash it ([`Template`] holds the hash).
    ///
    /// Wanted instances, strategy, options and release command are left out: they say how many and how to get there,
    /// not what runs.
    /// Health is left out too: it is judged from outside, and tightening it need not restart anything.
    pub fn template_text(&self) -> String {
        let identity = self.digest.as_deref().unwrap_or(&self.image);
        let parts = (
            identity,
            self.port,
            &self.config,
            &self.secrets,
            &self.command,
            &self.resources,
            self.restart,
        );
        // Maps are ordered and text is escaped, so equal specs give equal text and different ones differ. The names in
        // this form are part of every stored template: renaming a field of `Resources` replaces all instances once.
        // What came later is told only where it is not the default, for the same reason.
        match self.delivery {
            Delivery::Env => format!("{parts:?}"),
            Delivery::SecretFiles => format!("{parts:?} secrets as files"),
            Delivery::Files => format!("{parts:?} values as files"),
        }
    }
}

/// How config and secret values reach a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// All as environment variables.
    #[default]
    Env,
    /// Secrets as files of the keys' names in [`SECRETS_DIR`], which is in memory only; config as environment variables.
    SecretFiles,
    /// All as files: config in [`CONFIGS_DIR`], secrets in [`SECRETS_DIR`].
    Files,
}

/// Where a program finds its secrets as files.
pub const SECRETS_DIR: &str = "/run/secrets";
/// Where a program finds its config as files.
pub const CONFIGS_DIR: &str = "/run/configs";

/// How an instance is judged from outside the container.
///
/// Unknown fields are not refused here: serde cannot tell them from those of the flattened kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    #[serde(flatten)]
    pub kind: CheckKind,
    /// Between two checks of one instance once it is healthy. Checks come faster while it starts and while it fails;
    /// the end of its process is noticed at once and needs no check.
    #[serde(default = "default_interval_ms")]
    pub interval_ms: u64,
    /// One check's limit.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Passed checks in a row that make an instance healthy.
    #[serde(default = "default_healthy_after")]
    pub healthy_after: u32,
    /// Failed checks in a row that make a healthy instance unhealthy.
    #[serde(default = "default_unhealthy_after")]
    pub unhealthy_after: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum CheckKind {
    /// A TCP connection to the port opens. The default where there is a port.
    #[default]
    Tcp,
    /// `GET path` on the port answers with `status` (or any 2xx or 3xx where none is given).
    Http {
        path: String,
        #[serde(default)]
        status: Option<u16>,
    },
    /// The process is alive. The only choice for workers.
    Process,
}

impl Default for HealthCheck {
    fn default() -> Self {
        HealthCheck {
            kind: CheckKind::default(),
            interval_ms: default_interval_ms(),
            timeout_ms: default_timeout_ms(),
            healthy_after: default_healthy_after(),
            unhealthy_after: default_unhealthy_after(),
        }
    }
}

fn default_interval_ms() -> u64 {
    10_000
}
fn default_timeout_ms() -> u64 {
    5_000
}
fn default_healthy_after() -> u32 {
    1
}
fn default_unhealthy_after() -> u32 {
    3
}

/// What one instance may use. `None` is the operator's default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// MiB of memory.
    #[serde(default)]
    pub memory_mb: Option<u64>,
    /// Thousandths of a CPU.
    #[serde(default)]
    pub cpu_millis: Option<u64>,
    /// Most processes and threads.
    #[serde(default)]
    pub pids: Option<u64>,
    /// Mount the root file system read-only.
    #[serde(default)]
    pub read_only_root: bool,
}
