//! The command line and the HTTP interface, as a user drives them.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::{Hob, exit_code, wait};
use crate::http1;

/// Longest command.
const COMMAND: Duration = Duration::from_secs(180);

/// What a command came to.
#[derive(Debug, Clone)]
pub struct Cli {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Cli {
    /// # Panics
    /// When the command failed.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Both streams.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// What the platform says of one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    pub id: String,
    pub version: i64,
    pub state: String,
    pub pid: Option<u32>,
    pub exit: Value,
}

impl Hob {
    /// Runs `hob ARGUMENTS` to its end.
    pub fn cli(&self, arguments: &[&str]) -> Cli {
        let mut child = self
            .command()
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("hob runs");
        let read = |stream: Option<Box<dyn std::io::Read + Send>>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                stream.map(|mut stream| stream.read_to_end(&mut bytes));
                String::from_utf8_lossy(&bytes).into_owned()
            })
        };
        let stdout = read(child.stdout.take().map(|s| Box::new(s) as _));
        let stderr = read(child.stderr.take().map(|s| Box::new(s) as _));
        let mut status = None;
        wait::within(COMMAND, || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        });
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let late = if status.is_none() {
            format!("\n(killed: no end within {COMMAND:?})")
        } else {
            String::new()
        };
        Cli {
            code: status.map_or(-1, exit_code),
            stdout: stdout.join().unwrap_or_default(),
            stderr: stderr.join().unwrap_or_default() + &late,
        }
    }

    /// A request to the HTTP interface: status and document (null when there is none).
    pub fn api(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let bearer = format!("Bearer {}", self.key);
        let headers = [
            ("Authorization", bearer.as_str()),
            ("Content-Type", "application/json"),
            ("Connection", "close"),
        ];
        let request = http1::request(method, &self.api.to_string(), path, &headers, &bytes);
        match self.try_http(self.api, &request) {
            Ok(response) => (
                response.status(),
                serde_json::from_slice(&response.body).unwrap_or(Value::Null),
            ),
            Err(_) => (0, Value::Null),
        }
    }

    /// The service of that name, or null.
    pub fn service(&self, name: &str) -> Value {
        self.api("GET", &format!("/api/services/?name={name}"), None).1["results"]
            .get(0)
            .cloned()
            .unwrap_or_default()
    }

    /// The service's instances that are not gone, in the order of the interface.
    pub fn instances(&self, name: &str) -> Vec<Instance> {
        let Some(id) = self.service(name)["id"].as_str().map(str::to_owned) else {
            return Vec::new();
        };
        let rows = self.api("GET", &format!("/api/services/{id}/instances/"), None).1;
        rows["results"].as_array().into_iter().flatten().map(instance).collect()
    }

    /// Instances that requests are sent to.
    pub fn serving(&self, name: &str) -> Vec<Instance> {
        self.instances(name)
            .into_iter()
            .filter(|instance| instance.state == "serving")
            .collect()
    }

    /// Newest first, with all detail.
    pub fn deployments(&self, name: &str) -> Vec<Value> {
        let Some(id) = self.service(name)["id"].as_str().map(str::to_owned) else {
            return Vec::new();
        };
        let path = format!("/api/services/{id}/deployments/?detail=full&page_size=100&ordering=-version_number");
        self.api("GET", &path, None).1["results"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    }

    /// The stage of the newest deployment; empty when there is none.
    pub fn stage(&self, name: &str) -> String {
        self.deployments(name)
            .first()
            .and_then(|d| d["stage"].as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

fn instance(row: &Value) -> Instance {
    Instance {
        id: row["id"].as_str().unwrap_or_default().to_owned(),
        version: row["version"].as_i64().unwrap_or(0),
        state: row["state"].as_str().unwrap_or_default().to_owned(),
        pid: row["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()),
        exit: row["exit"].clone(),
    }
}
