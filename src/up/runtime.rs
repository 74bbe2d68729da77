//! The live side of the platform, as the faces see it.

use std::collections::HashSet;
use std::sync::Arc;

use api::{Health, ImageArchive, ImageInfo, LiveInstance, Runtime};
use async_trait::async_trait;
use domain::error::Kind;
use domain::plan::Trial;
use domain::{Error, InstanceId, Result, ServiceId};
use engine::{Engine, EngineError, Finding, Level, LogChunk, LogCursor};
use images::{ImageError, ImageStore, Reference};
use reconcile::Live;
use store::{Deployment, Store};
use tokio::sync::watch;

use super::edge::EdgeLink;

/// What the parts of a running platform know of each other.
pub struct Platform {
    pub live: Live,
    pub engine: Arc<dyn Engine>,
    pub images: ImageStore,
    pub store: Store,
    pub edge: Arc<EdgeLink>,
}

#[async_trait]
impl Runtime for Platform {
    async fn instances(&self, service: ServiceId) -> Result<Vec<LiveInstance>> {
        Ok(self.live.instances(service).into_iter().map(live_instance).collect())
    }

    async fn logs(
        &self,
        instance: InstanceId,
        cursor: Option<LogCursor>,
        tail: usize,
        max_bytes: usize,
    ) -> Result<LogChunk> {
        self.engine
            .logs(instance, cursor, tail, max_bytes)
            .await
            .map_err(|error| engine_error("reading a log", error))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.live.changes()
    }

    fn trial(&self, deployment: &Deployment) -> Option<Trial> {
        self.live.trial(deployment, self.edge.as_ref())
    }

    async fn memory_peak(&self, instances: &[InstanceId]) -> Option<u64> {
        let mut most = None;
        for instance in instances {
            most = most.max(self.engine.memory_peak(*instance).await);
        }
        most
    }

    async fn import_image(&self, archive: ImageArchive, name: Option<String>) -> Result<Vec<ImageInfo>> {
        let name = name.map(|name| reference(&name)).transpose()?;
        let imported = self.images.import_stream(archive, name).await.map_err(image_error)?;
        let digests: HashSet<String> = imported.iter().map(|image| image.digest.to_string()).collect();
        let listed = self.images().await?;
        Ok(listed
            .into_iter()
            .filter(|image| digests.contains(&image.digest))
            .collect())
    }

    async fn images(&self) -> Result<Vec<ImageInfo>> {
        let in_use = self.store.system().image_digests_in_use().await?;
        let listed = self.images.list().map_err(image_error)?;
        Ok(listed
            .into_iter()
            .map(|image| {
                let digest = image.digest.to_string();
                ImageInfo {
                    reference: image.name.to_string(),
                    size_bytes: image.size,
                    created_at_us: image.created.as_deref().and_then(created_us).unwrap_or(0),
                    in_use: in_use.contains(&digest),
                    digest,
                }
            })
            .collect())
    }

    async fn image(&self, name: &str) -> Result<Option<ImageInfo>> {
        // Names are compared in the one form that the store writes.
        let wanted = reference(name).map_or_else(|_| name.to_owned(), |name| name.to_string());
        let meant = |image: &ImageInfo| image.reference == wanted || image.digest == name;
        Ok(self.images().await?.into_iter().find(meant))
    }

    fn free_memory_mb(&self) -> Option<u64> {
        let report = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = report.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib / 1024)
    }

    async fn remove_image(&self, name: &str) -> Result<()> {
        self.images.remove(&reference(name)?).map_err(image_error)
    }

    async fn doctor(&self) -> Vec<Finding> {
        let mut findings = self.engine.diagnose().await;
        findings.push(self.edge.finding());
        findings
    }

    async fn ready(&self) -> Result<(), String> {
        self.engine.list().await.map(|_| ()).map_err(|error| error.to_string())
    }

    async fn status(&self) -> serde_json::Value {
        let mut status = self.edge.status();
        if let Some(fields) = status.as_object_mut() {
            fields.insert("instances".to_owned(), self.live.count().into());
        }
        status
    }

    fn metrics(&self) -> String {
        format!(
            "# HELP hob_instances Instances that exist now.\n# TYPE hob_instances gauge\nhob_instances {}\n",
            self.live.count()
        )
    }
}

fn live_instance(instance: reconcile::LiveInstance) -> LiveInstance {
    LiveInstance {
        id: instance.status.id,
        phase: instance.status.phase,
        health: match instance.health {
            None => Health::Unknown,
            Some(Ok(())) => Health::Passing,
            Some(Err(what)) => Health::Failing(what),
        },
        routed: instance.routed,
        address: instance.status.address,
        pid: instance.status.pid,
        started_at_us: instance.status.started_at_us,
    }
}

fn created_us(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(|at| at.as_microsecond())
}

fn reference(name: &str) -> Result<Reference> {
    name.parse().map_err(image_error)
}

/// An image error in the terms that every face translates. Its text is made for users.
pub fn image_error(error: ImageError) -> Error {
    let text = error.to_string();
    let kind = match &error {
        ImageError::Unknown(_) | ImageError::UnknownDigest(_) | ImageError::NotInRegistry { .. } => {
            Kind::Refused(text.clone())
        }
        ImageError::Io { .. } | ImageError::NoSpace { .. } => Kind::Unavailable(text.clone()),
        _ if error.is_transient() => Kind::Unavailable(text.clone()),
        _ => Kind::Refused(text.clone()),
    };
    Error::new(kind, text)
}

fn engine_error(operation: &str, error: EngineError) -> Error {
    let text = error.to_string();
    let kind = match error {
        EngineError::Permanent(_) => Kind::Refused(text.clone()),
        EngineError::Transient(_) => Kind::Unavailable(text.clone()),
    };
    Error::new(kind, text).within(operation)
}

/// A finding that asks nothing of anybody.
pub fn fine(subject: &str, message: impl Into<String>) -> Finding {
    Finding {
        level: Level::Ok,
        subject: subject.to_owned(),
        message: message.into(),
        advice: String::new(),
    }
}
