//! A store to test with, of either engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use domain::{DeploymentId, InstanceId, ProjectId, Result, ServiceId, Stage};
use uuid::Uuid;

use crate::*;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Engine {
    /// In memory.
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
}

/// Makes each test two: one for each engine. A test whose engine is not installed says so and passes.
macro_rules! both {
    ($($(#[$doc:meta])* async fn $name:ident($world:ident: World) $body:block)+) => {$(
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports, reason = "a body may need nothing of its file")]
            use super::*;

            async fn test($world: $crate::tests::World) $body

            #[tokio::test]
            async fn on_sqlite() {
                if let Some(world) = $crate::tests::World::new($crate::tests::Engine::Sqlite).await {
                    test(world).await;
                }
            }

            #[cfg(feature = "postgres")]
            #[tokio::test]
            async fn on_postgres() {
                if let Some(world) = $crate::tests::World::new($crate::tests::Engine::Postgres).await {
                    test(world).await;
                }
            }
        }
    )+};
}
pub(crate) use both;

pub(crate) const ROOT_KEY: [u8; 32] = [42; 32];

/// An open store with a clock that stands still until it is moved.
pub(crate) struct World {
    pub(crate) store: Store,
    clock: Arc<AtomicI64>,
}

impl World {
    pub(crate) async fn new(engine: Engine) -> Option<World> {
        let url = match engine {
            Engine::Sqlite => "sqlite::memory:".to_owned(),
            #[cfg(feature = "postgres")]
            Engine::Postgres => super::postgres::database().await?,
        };
        Some(World::at(&url, true).await.unwrap_or_else(|error| panic!("{error:?}")))
    }

    pub(crate) async fn at(url: &str, create: bool) -> domain::Result<World> {
        let clock = Arc::new(AtomicI64::new(1_700_000_000_000_000));
        let reading = clock.clone();
        let options = OpenOptions {
            url: url.to_owned(),
            root_key: RootKey::new(ROOT_KEY),
            clock: Arc::new(move || reading.fetch_add(1, Ordering::Relaxed)),
            create,
        };
        Ok(World {
            store: Store::open(options).await?,
            clock,
        })
    }

    /// Lets time pass.
    pub(crate) fn advance(&self, us: i64) {
        self.clock.fetch_add(us, Ordering::Relaxed);
    }

    pub(crate) fn now_us(&self) -> i64 {
        self.clock.load(Ordering::Relaxed)
    }

    pub(crate) fn system(&self) -> System {
        self.store.system()
    }

    /// The view of a new account.
    pub(crate) async fn tenant(&self, name: &str) -> Scope {
        let account = self.system().create_account(name, false, None).await.unwrap();
        self.store.scope(Principal {
            account: account.id,
            admin: false,
            via: Via::Session,
        })
    }

    /// The view of the operator.
    pub(crate) async fn operator(&self) -> Scope {
        let account = self.system().bootstrap().await.unwrap();
        self.store.scope(Principal {
            account: account.id,
            admin: true,
            via: Via::LocalOperator,
        })
    }

    pub(crate) async fn fence(&self) -> Fence {
        self.system()
            .acquire_lease("reconcile", "here", 60_000_000)
            .await
            .unwrap()
            .unwrap()
    }

    /// Drives a deployment from where it is to an end, as reconcilers do.
    pub(crate) async fn finish(&self, deployment: &Deployment, end: Stage) {
        let mut effects = Vec::new();
        let mut step = |from, to| effects.push(stage(deployment.id, from, to));
        match end {
            Stage::Succeeded => {
                step(Stage::Queued, Stage::Deploying);
                step(Stage::Deploying, Stage::Finalizing);
                step(Stage::Finalizing, Stage::Succeeded);
            }
            Stage::Canceled => {
                step(Stage::Queued, Stage::Canceling);
                step(Stage::Canceling, Stage::Canceled);
            }
            end => step(Stage::Queued, end),
        }
        self.apply(deployment.service, effects).await.unwrap();
    }

    pub(crate) async fn apply(&self, service: ServiceId, effects: Vec<Effect>) -> domain::Result<()> {
        self.system().apply(&self.fence().await, service, &effects).await
    }

    /// A decision made on what the record says now.
    pub(crate) async fn decided(&self, service: ServiceId, effects: Vec<Effect>) -> Decided {
        Decided {
            service,
            revision: self.state(service).await.service.revision,
            effects,
        }
    }

    pub(crate) async fn state(&self, service: ServiceId) -> ServiceState {
        self.system().load(&[service]).await.unwrap().remove(0)
    }
}

pub(crate) fn stage(deployment: DeploymentId, from: Stage, to: Stage) -> Effect {
    let error_message = (to == Stage::Failed).then(|| "it broke".to_owned());
    Effect::SetStage {
        deployment,
        from,
        to,
        reason: format!("{from} is over"),
        error_message,
    }
}

pub(crate) fn web(name: &str) -> NewService {
    NewService::new(ServiceKind::Service, name, "app:v1", Some(8080))
}

pub(crate) fn image(image: &str) -> ServicePatch {
    ServicePatch {
        image: Some(image.to_owned()),
        ..ServicePatch::default()
    }
}

pub(crate) fn instance() -> InstanceId {
    InstanceId(Uuid::now_v7())
}

/// The messages of one field of an `Invalid` error, or the text of any other kind.
pub(crate) fn message<T>(result: domain::Result<T>, field: &str) -> String {
    use domain::error::Kind;
    match result.err().map(|error| error.kind) {
        None => "no error".to_owned(),
        Some(Kind::Invalid(fields)) => fields.get(field).cloned().unwrap_or_default().join(" "),
        Some(Kind::Refused(text) | Kind::Conflict(text) | Kind::Unavailable(text) | Kind::Unauthenticated(text)) => {
            text
        }
        Some(other) => format!("{other:?}"),
    }
}

pub(crate) fn named(name: &str) -> ProjectPatch {
    ProjectPatch {
        name: Some(name.to_owned()),
        ..Default::default()
    }
}

/// By the names of the two kinds.
impl Scope {
    pub(crate) async fn create_config(&self, name: &str, project: Option<ProjectId>) -> Result<Config> {
        self.create_set(name, project).await
    }

    pub(crate) async fn create_secret(&self, name: &str, project: Option<ProjectId>) -> Result<Secret> {
        self.create_set(name, project).await
    }

    pub(crate) async fn list_configs(&self, query: &ListQuery) -> Result<Page<Config>> {
        self.list_sets(query).await
    }

    pub(crate) async fn list_secrets(&self, query: &ListQuery) -> Result<Page<Secret>> {
        self.list_sets(query).await
    }
}
