//! What every request handler can reach.

use std::sync::Arc;

use domain::AccountId;
use store::{Clock, Store};
use tokio::sync::{Semaphore, watch};

use crate::{Metrics, RateLimits, Runtime, Streams, Throttle, limits};

/// Shared by all requests; cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    pub store: Store,
    pub runtime: Arc<dyn Runtime>,
    pub clock: Clock,
    pub settings: Arc<Settings>,
    /// Whom requests over the control socket act as ([`store::System::bootstrap`]).
    pub operator: AccountId,
    pub throttle: Arc<Throttle>,
    pub metrics: Arc<Metrics>,
    /// Becomes true when the server is about to end: streams then end too.
    pub closing: watch::Receiver<bool>,
    pub streams: Arc<Streams>,
    /// Turns at comparing passwords.
    pub logins: Arc<Semaphore>,
    pub started_at_us: i64,
}

/// Read once in `main`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Origin of every absolute link, without a final slash. Never taken from a `Host` header.
    pub public_url: String,
    /// `None` switches throttling off.
    pub rate_limits: Option<RateLimits>,
    pub image_upload_bytes_max: u64,
    /// For `/local/status` and the landing page.
    pub version: String,
    /// Where users' traffic comes in, for clients that show a service's address.
    pub edge: Option<EdgeAddress>,
}

/// How a service without a route of its own is reached: `http://NAME.base_domain:http_port`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct EdgeAddress {
    pub base_domain: String,
    pub http_port: Option<u16>,
    pub https_port: Option<u16>,
}

impl Settings {
    /// Defaults, with links that begin with `public_url`.
    pub fn new(public_url: impl Into<String>) -> Self {
        let public_url: String = public_url.into();
        Settings {
            public_url: public_url.trim_end_matches('/').to_owned(),
            rate_limits: Some(RateLimits::default()),
            image_upload_bytes_max: limits::IMAGE_UPLOAD_BYTES_MAX,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            edge: None,
        }
    }
}

impl ApiState {
    pub fn new(
        store: Store,
        runtime: Arc<dyn Runtime>,
        clock: Clock,
        operator: AccountId,
        settings: Settings,
        closing: watch::Receiver<bool>,
    ) -> Self {
        ApiState {
            started_at_us: clock(),
            throttle: Arc::new(Throttle::new(settings.rate_limits)),
            metrics: Arc::new(Metrics::default()),
            streams: Arc::new(Streams::default()),
            logins: Arc::new(Semaphore::new(limits::LOGINS_AT_ONCE)),
            settings: Arc::new(settings),
            store,
            runtime,
            clock,
            operator,
            closing,
        }
    }

    /// Microseconds since the epoch.
    pub fn now_us(&self) -> i64 {
        (self.clock)()
    }
}
