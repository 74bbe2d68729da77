//! A whole control plane in memory: store, faces, and actors who make requests.

mod actor;
pub mod leaks;
mod rollouts;
mod runtime;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use api::{ApiState, RateLimits, Settings, Throttle};
use axum::Router;
use store::{OpenOptions, RootKey, Store};
use tokio::sync::watch;

pub use actor::{Actor, Answer};
pub use rollouts::{ENDED_MEMORY, digest};
pub use runtime::{FakeRuntime, LIVE_MEMORY};

/// 2024-10-15T12:00:00Z, the documents' favourite moment.
pub const NOON_US: i64 = 1_728_993_600_000_000;
pub const SECOND_US: i64 = 1_000_000;
pub const PUBLIC_URL: &str = "https://hob.example";

pub struct World {
    pub api: ApiState,
    pub store: Store,
    pub runtime: Arc<FakeRuntime>,
    pub router: Router,
    clock: TestClock,
    closing: watch::Sender<bool>,
}

/// Stands still unless told otherwise.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub fn now_us(&self) -> i64 {
        self.0.load(SeqCst)
    }

    pub fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds * SECOND_US, SeqCst);
    }
}

impl World {
    /// Without rate limits.
    pub async fn new() -> World {
        World::with(None).await
    }

    pub async fn with(rate_limits: Option<RateLimits>) -> World {
        let clock = TestClock(Arc::new(AtomicI64::new(NOON_US)));
        let tick = clock.clone();
        let options = OpenOptions {
            url: "sqlite::memory:".to_owned(),
            root_key: RootKey::new([7; 32]),
            clock: Arc::new(move || tick.now_us()),
            create: true,
        };
        let store = Store::open(options.clone()).await.expect("an in-memory store opens");
        let operator = store
            .system()
            .bootstrap()
            .await
            .expect("the operator's account is made");
        let runtime = Arc::new(FakeRuntime::default());
        let (closing, closed) = watch::channel(false);
        let settings = Settings {
            rate_limits,
            image_upload_bytes_max: 1024,
            ..Settings::new(format!("{PUBLIC_URL}/"))
        };
        let api = ApiState::new(
            store.clone(),
            runtime.clone(),
            options.clock,
            operator.id,
            settings,
            closed,
        );
        World {
            router: api::router(api.clone()),
            api,
            store,
            runtime,
            clock,
            closing,
        }
    }

    pub fn advance(&self, seconds: i64) {
        self.clock.advance(seconds);
    }

    /// The same actor before a server that has been started anew: it remembers what the store does.
    pub fn restarted(&self, actor: Actor) -> Actor {
        let mut api = self.api.clone();
        api.throttle = Arc::new(Throttle::new(api.settings.rate_limits));
        Actor::new(api::router(api), self.clock.clone()).with_headers_of(&actor)
    }

    /// The server is about to end.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Sends no key.
    pub fn anonymous(&self) -> Actor {
        Actor::new(self.router.clone(), self.clock.clone())
    }

    /// Speaks over the control socket.
    pub fn operator(&self) -> Actor {
        self.anonymous().over_the_control_socket()
    }

    /// An account of its own, with a key.
    pub async fn account(&self, name: &str) -> Actor {
        let system = self.store.system();
        let account = system
            .create_account(name, false, None)
            .await
            .expect("an account is made");
        let (_, key) = system
            .create_api_key_for(account.id, "test", None)
            .await
            .expect("a key is made");
        self.anonymous().with_key(key.expose())
    }

    pub async fn alice(&self) -> Actor {
        self.account("alice").await
    }

    pub async fn bob(&self) -> Actor {
        self.account("bob").await
    }
}
