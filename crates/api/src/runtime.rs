//! What only a running platform knows, seen from the faces.

use std::net::IpAddr;
use std::pin::Pin;

use async_trait::async_trait;
use domain::plan::Trial;
use domain::{InstanceId, Result, ServiceId};
use engine::{Finding, LogChunk, LogCursor, Phase};
use store::Deployment;
use tokio::sync::watch;

/// The bytes of an uploaded image archive. Already capped in size; an error ends the upload.
pub type ImageArchive = Pin<Box<dyn tokio::io::AsyncRead + Send>>;

/// The live side: engines, edge, images. Implemented where they are put together.
///
/// # Guarantees that callers rely on
/// Every operation is cancel-safe: a client that leaves drops the future. Tenancy is *not* judged here; callers have
/// asked a [`store::Scope`] for the service before. Errors are ready for a client ([`domain::Error`]).
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// What is seen now of each instance of a service that exists in the engine, in any order. An instance that the
    /// store wants and that is missing here has not been started yet.
    async fn instances(&self, service: ServiceId) -> Result<Vec<LiveInstance>>;

    /// One piece of an instance's output, see [`engine::Engine::logs`].
    async fn logs(
        &self,
        instance: InstanceId,
        cursor: Option<LogCursor>,
        tail: usize,
        max_bytes: usize,
    ) -> Result<LogChunk>;

    /// Changes (value without meaning) whenever [`Runtime::instances`] may answer something new.
    fn changes(&self) -> watch::Receiver<u64>;

    /// What the edge has seen of a deployment that stands at a step, or is watched after its success, beside the version
    /// before it. [`Runtime::changes`] does not tell of it.
    fn trial(&self, _deployment: &Deployment) -> Option<Trial> {
        None
    }

    /// Most memory that one of these instances has had so far, in bytes; nothing where it is not known of any.
    async fn memory_peak(&self, _instances: &[InstanceId]) -> Option<u64> {
        None
    }

    /// Takes an OCI image layout or a `docker save` archive, as a tar, into the local store. `name` is the reference
    /// that the image gets; without it the archive's own names are kept.
    async fn import_image(&self, archive: ImageArchive, name: Option<String>) -> Result<Vec<ImageInfo>>;

    /// Every image in the local store.
    async fn images(&self) -> Result<Vec<ImageInfo>>;

    /// What a reference, or a digest, means in the local store; `None` where it is not there.
    async fn image(&self, reference: &str) -> Result<Option<ImageInfo>> {
        let images = self.images().await?;
        let meant = |image: &ImageInfo| image.reference == reference || image.digest == reference;
        Ok(images.into_iter().find(meant))
    }

    /// Memory that programs can still get on this machine, in MiB; `None` where it does not say.
    fn free_memory_mb(&self) -> Option<u64> {
        None
    }

    /// Forgets a reference. What a kept deployment needs stays (`Kind::Refused`).
    async fn remove_image(&self, reference: &str) -> Result<()>;

    /// What works and what does not on this machine.
    async fn doctor(&self) -> Vec<Finding>;

    /// Whether the engine answers, in a sentence where it does not; for `/readyz`.
    async fn ready(&self) -> Result<(), String>;

    /// Lines in Prometheus' text format to add to `/metrics`.
    fn metrics(&self) -> String {
        String::new()
    }

    /// Anything worth knowing in `hob status --server`, for people.
    async fn status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

/// One instance as the engine and the edge see it now.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveInstance {
    pub id: InstanceId,
    pub phase: Phase,
    pub health: Health,
    /// The edge has acknowledged a table that holds it.
    pub routed: bool,
    pub address: Option<IpAddr>,
    pub pid: Option<u32>,
    /// Microseconds since the epoch.
    pub started_at_us: Option<i64>,
}

/// What the health checks of one instance say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Not checked yet.
    Unknown,
    Passing,
    /// What was expected and what was seen.
    Failing(String),
}

/// One reference in the local image store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// `name:tag`, or the bare digest of an image without a name.
    pub reference: String,
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// Bytes of its blobs.
    pub size_bytes: u64,
    pub created_at_us: i64,
    /// A kept deployment needs it.
    pub in_use: bool,
}
