//! What runs containers.
//!
//! **Architecture invariant:** engines decide nothing. They start, stop, list and probe what they are told, each
//! operation any number of times with the same result as once, and report what is.

pub mod tag;
pub mod types;

#[cfg(feature = "embedded")]
pub mod embedded;

use std::time::Duration;

use async_trait::async_trait;
use domain::{HealthCheck, InstanceId};
use tokio::sync::watch;

pub use types::*;

/// The operations on instances. All are idempotent by [`InstanceId`], cancel-safe, and safe to repeat after a crash of
/// the caller at any point.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Makes the instance exist and run. Returns once the engine has taken responsibility for it (the process may
    /// still be starting: [`Engine::list`] tells). An instance that has exited is *not* started again.
    ///
    /// # Errors
    /// [`EngineError::Permanent`] when trying again cannot help (bad image, no such user, refused by the kernel);
    /// [`EngineError::Transient`] otherwise.
    async fn start(&self, spec: &InstanceSpec) -> Result<(), EngineError>;

    /// Sends the stop signal, kills after `grace`, returns when nothing of the process is left. Succeeds when there is
    /// no such instance.
    async fn stop(&self, id: InstanceId, grace: Duration) -> Result<(), EngineError>;

    /// Frees everything that a stopped instance still owns (bundle, mounts, cgroup, network device, address). Output
    /// that is worth keeping must have been read before. Succeeds when there is no such instance; refuses a running
    /// one.
    async fn remove(&self, id: InstanceId) -> Result<(), EngineError>;

    /// Every instance that this engine knows of, running or exited. Complete, or an error: never a partial list, since
    /// a missing row is read as "gone" (invariant 20).
    async fn list(&self) -> Result<Vec<InstanceStatus>, EngineError>;

    /// Changes (value without meaning) whenever [`Engine::list`] may answer something new. A wake-up, nothing more.
    fn changes(&self) -> watch::Receiver<u64>;

    /// One health check of a running instance, from outside its container.
    ///
    /// # Errors
    /// [`ProbeFailure`] says in a user's words what was seen instead.
    async fn probe(&self, id: InstanceId, port: Option<u16>, check: &HealthCheck) -> Result<(), ProbeFailure>;

    /// The output of an instance from `cursor` on (see [`LogChunk`]), at most `max_bytes` of it. `None` starts
    /// `tail` lines before the end.
    async fn logs(
        &self,
        id: InstanceId,
        cursor: Option<LogCursor>,
        tail: usize,
        max_bytes: usize,
    ) -> Result<LogChunk, EngineError>;

    /// Most memory that a running instance has had so far, in bytes; see [`Exit::memory_peak`]. Read when it is asked
    /// for. Nothing where it is not counted, or there is no such instance.
    async fn memory_peak(&self, _id: InstanceId) -> Option<u64> {
        None
    }

    /// What this engine can and cannot do on this machine, for `hob doctor` and `/readyz`.
    async fn diagnose(&self) -> Vec<Finding>;
}
