//! A runtime that tells what a test has put into it.

use std::collections::HashMap;
use std::sync::Mutex;

use api::{ImageArchive, ImageInfo, LiveInstance, Runtime};
use async_trait::async_trait;
use domain::plan::Trial;
use domain::{Error, InstanceId, Result, ServiceId};
use engine::{Finding, Level, LogChunk, LogCursor, LogLine};
use store::Deployment;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

/// Most memory that live instances have had, in bytes.
pub const LIVE_MEMORY: u64 = 7_000_000;

pub struct FakeRuntime {
    pub instances: Mutex<Vec<LiveInstance>>,
    /// Everything that an instance has written so far.
    pub logs: Mutex<HashMap<InstanceId, Vec<LogLine>>>,
    pub images: Mutex<Vec<ImageInfo>>,
    /// `Err`: what `/readyz` shall say.
    pub readiness: Mutex<Result<(), String>>,
    /// What the edge has seen of every deployment that stands at a step.
    pub trial: Mutex<Option<Trial>>,
    changes: watch::Sender<u64>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        FakeRuntime {
            instances: Mutex::default(),
            logs: Mutex::default(),
            images: Mutex::default(),
            readiness: Mutex::new(Ok(())),
            trial: Mutex::default(),
            changes: watch::channel(0).0,
        }
    }
}

impl FakeRuntime {
    pub fn show(&self, instances: Vec<LiveInstance>) {
        *self.instances.lock().expect("no test panics with the lock") = instances;
        self.changes.send_modify(|n| *n += 1);
    }

    pub fn write(&self, instance: InstanceId, line: LogLine) {
        let mut logs = self.logs.lock().expect("no test panics with the lock");
        logs.entry(instance).or_default().push(line);
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn instances(&self, _service: ServiceId) -> Result<Vec<LiveInstance>> {
        Ok(self.instances.lock().expect("no test panics with the lock").clone())
    }

    async fn logs(
        &self,
        instance: InstanceId,
        cursor: Option<LogCursor>,
        tail: usize,
        _max_bytes: usize,
    ) -> Result<LogChunk> {
        let logs = self.logs.lock().expect("no test panics with the lock");
        let lines = logs.get(&instance).ok_or_else(|| Error::not_found("no log"))?;
        let start = match cursor {
            Some(LogCursor(at)) => at.parse().expect("our own cursor"),
            None => lines.len().saturating_sub(tail),
        };
        Ok(LogChunk {
            lines: lines[start..].to_vec(),
            next: Some(LogCursor(lines.len().to_string())),
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn trial(&self, deployment: &Deployment) -> Option<Trial> {
        let trial = self.trial.lock().expect("no test panics with the lock");
        trial.clone().filter(|_| deployment.at_step)
    }

    async fn memory_peak(&self, instances: &[InstanceId]) -> Option<u64> {
        (!instances.is_empty()).then_some(LIVE_MEMORY)
    }

    async fn import_image(&self, mut archive: ImageArchive, name: Option<String>) -> Result<Vec<ImageInfo>> {
        let mut bytes = Vec::new();
        archive
            .read_to_end(&mut bytes)
            .await
            .map_err(|e| Error::refused(format!("The upload failed: {e}")))?;
        let image = ImageInfo {
            reference: name.unwrap_or_else(|| "unnamed:latest".to_owned()),
            digest: super::digest(1),
            size_bytes: bytes.len() as u64,
            created_at_us: super::NOON_US,
            in_use: false,
        };
        self.images
            .lock()
            .expect("no test panics with the lock")
            .push(image.clone());
        Ok(vec![image])
    }

    async fn images(&self) -> Result<Vec<ImageInfo>> {
        Ok(self.images.lock().expect("no test panics with the lock").clone())
    }

    async fn remove_image(&self, reference: &str) -> Result<()> {
        let mut images = self.images.lock().expect("no test panics with the lock");
        let before = images.len();
        images.retain(|image| image.reference != reference);
        if images.len() < before {
            Ok(())
        } else {
            Err(Error::not_found(format!("no image {reference}")))
        }
    }

    async fn doctor(&self) -> Vec<Finding> {
        vec![Finding {
            level: Level::Ok,
            subject: "cgroups".to_owned(),
            message: "v2".to_owned(),
            advice: String::new(),
        }]
    }

    async fn ready(&self) -> Result<(), String> {
        self.readiness.lock().expect("no test panics with the lock").clone()
    }

    fn metrics(&self) -> String {
        "hob_fake 1\n".to_owned()
    }
}
