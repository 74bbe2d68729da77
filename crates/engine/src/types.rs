//! The values that cross the [`crate::Engine`] trait.

use std::collections::BTreeMap;
use std::net::IpAddr;

use domain::{DeploymentId, InstanceId, ProjectId, Resources, ServiceId};
use serde::{Deserialize, Serialize};

/// The limit of an instance for which none is asked, in MiB.
pub const DEFAULT_MEMORY_MB: u64 = 512;

/// Everything that an engine needs to start one instance. Complete: the engine asks nobody for more.
#[derive(Clone, Serialize, Deserialize)]
pub struct InstanceSpec {
    pub id: InstanceId,
    pub service: ServiceId,
    pub service_name: String,
    pub project: ProjectId,
    pub deployment: DeploymentId,
    pub version: i64,
    /// `sha256:…` of an image manifest that the local content store holds.
    pub image_digest: String,
    pub port: Option<u16>,
    /// Config and secret values, over those of the image. Secret values live here: this type has no `Debug`.
    pub env: BTreeMap<String, String>,
    /// Values that the program finds as files instead.
    #[serde(default)]
    pub files: ValueFiles,
    pub command: Option<Vec<String>>,
    pub resources: Resources,
}

/// Values by the names of their files, which are in memory only. Secret values live here: this type has no `Debug`.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct ValueFiles {
    /// In [`domain::CONFIGS_DIR`].
    pub configs: BTreeMap<String, String>,
    /// In [`domain::SECRETS_DIR`].
    pub secrets: BTreeMap<String, String>,
}

/// One row of [`crate::Engine::list`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub id: InstanceId,
    pub phase: Phase,
    /// Known from the moment the network exists until removal.
    pub address: Option<IpAddr>,
    /// Process id of the container's first process as the host sees it.
    pub pid: Option<u32>,
    /// Microseconds since the epoch, wall clock, for people.
    pub started_at_us: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// Taken on; the process does not run yet.
    Starting,
    Running,
    /// Was asked to stop and has not ended yet.
    Stopping,
    /// In a box: most instances run, and there are many.
    Exited(Box<Exit>),
}

/// How an instance ended, kept until [`crate::Engine::remove`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, where the process ended by itself.
    pub code: Option<i32>,
    /// Signal number, where one ended it.
    pub signal: Option<i32>,
    /// The kernel killed it for its memory limit.
    pub out_of_memory: bool,
    /// [`crate::Engine::stop`] was called before it ended.
    pub asked: bool,
    /// It could not be started at all: why, in a user's words.
    pub start_error: Option<String>,
    /// Microseconds since the epoch, wall clock.
    pub at_us: i64,
    /// Most memory that it had, in bytes, its files in memory included. Nothing where that is not counted.
    pub memory_peak: Option<u64>,
    /// The last lines of output, oldest first, at most [`Exit::TAIL_LINES`].
    pub tail: Vec<String>,
}

impl Exit {
    pub const TAIL_LINES: usize = 20;

    /// One clause for people: `exit code 3`, `killed by signal 9 (out of memory)`.
    pub fn describe(&self) -> String {
        if let Some(error) = &self.start_error {
            return format!("could not start: {error}");
        }
        match (self.code, self.signal) {
            _ if self.out_of_memory => "killed by the kernel: out of memory".to_owned(),
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended in an unknown way (its supervisor was killed)".to_owned(),
        }
    }
}

/// Where the reader of a log is. Opaque to everybody but the engine that gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCursor(pub String);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogChunk {
    pub lines: Vec<LogLine>,
    /// Pass it to the next call. `None`: the instance is gone and nothing more will come.
    pub next: Option<LogCursor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Microseconds since the epoch.
    pub at_us: i64,
    pub stream: Stream,
    /// Without the line end; invalid UTF-8 replaced.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A check that did not pass: what was expected and what was seen, e.g. `no answer on port 8080: connection refused`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProbeFailure(pub String);

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Trying again cannot help. The text is safe to show to the user of the service.
    #[error("{0}")]
    Permanent(String),
    /// Trying again may help. The text is safe to show.
    #[error("{0}")]
    Transient(String),
}

/// One line of `hob doctor`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub level: Level,
    /// What was looked at: `cgroups`, `overlayfs`, `network`.
    pub subject: String,
    pub message: String,
    /// What to do about it; empty when nothing is to be done.
    pub advice: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warning,
    Error,
}
