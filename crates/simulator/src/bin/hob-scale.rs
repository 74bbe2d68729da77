//! `hob-scale`: the real reconciler and a real store on disk drive a fake engine with very many instances, in real time.
//! `bin/bench scale` prints what it measures.
//!
//! A step is one instance started or stopped. Steps are divided by the CPU time of the whole process: the reconciler, its
//! health checks, the store with its threads and the requests that ask for the change, and also the fake engine, the fake
//! edge and this program's looking. What one core can do, and less than the control plane alone would. Memory per
//! instance is what the process has gained when all serve, less what the fake engine alone takes for as many; the fake
//! edge's tables are counted. A planner's step is one plan with its guard, over a service of that
//! rollout as it was seen then: what the rules alone take, without reading and writing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use async_trait::async_trait;
use clap::Parser;
use domain::plan::{Desired, Observed};
use domain::routing::{EdgeView, RoutingTable};
use domain::{Behaviour, DeploymentId, HealthCheck, InstanceId, ProjectId, ServiceId};
use engine::{Engine, InstanceSpec};
use reconcile::{EdgePort, ImageSource, Live, ObtainError, Parts, Planner, Reconciler, Settings};
use store::{NewService, OpenOptions, Principal, RootKey, Scope, ServiceKind, ServicePatch, Store, Via};
use testkit::{FakeEdge, FakeEngine, Script};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Longest wait for any of the stages.
const PATIENCE: Duration = Duration::from_secs(900);
/// Scenes that the planner alone is measured on.
const SCENES: usize = 2_000;
/// How long it is measured.
const PLANNING: Duration = Duration::from_secs(2);

#[derive(Parser)]
#[command(about = "Measures the control plane with very many instances")]
struct Arguments {
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Of each service.
    #[arg(long, default_value_t = 10)]
    instances: u32,
    /// Only what the fake engine takes for as many instances: to be subtracted.
    #[arg(long, hide = true)]
    engine_only: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.engine_only {
        return engine_only(&arguments).await;
    }
    let scratch = tempfile::tempdir()?;
    let scale = Scale::open(&arguments, scratch.path().join("hob.db")).await?;
    let before = resident();
    let (stop, running) = scale.rule().await?;
    let services = scale.create().await?;
    scale.until_all_serve(1).await?;
    let settled = resident();

    scale.scenes.begin();
    let (began, cpu) = (Instant::now(), cpu_seconds());
    scale.change_images(&services).await?;
    scale.until_all_serve(2).await?;
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    stop.send_replace(true);
    running.await?.map_err(|error| anyhow!(error.context))?;

    let steps = 2 * scale.total();
    println!("instances {}", scale.total());
    println!("steps_per_cpu_second {:.0}", steps as f64 / cpu);
    println!("steps_per_second {:.0}", steps as f64 / wall);
    println!("planner_steps_per_second {:.0}", scale.scenes.pace());
    println!("recovery_seconds {:.2}", scale.recover().await?);
    let alone = engine_bytes(&arguments)?;
    let each = settled.saturating_sub(before).saturating_sub(alone) / scale.total().max(1);
    println!("resident_bytes_per_instance {each}");
    Ok(())
}

/// One store, one engine, one edge.
struct Scale {
    store: Store,
    scope: Scope,
    engine: FakeEngine,
    edge: FakeEdge,
    scenes: Scenes,
    services: usize,
    instances: u32,
}

impl Scale {
    async fn open(arguments: &Arguments, path: PathBuf) -> anyhow::Result<Scale> {
        let options = OpenOptions {
            url: format!("sqlite://{}", path.display()),
            root_key: RootKey::new([7; 32]),
            clock: Arc::new(now_us),
            create: true,
        };
        let store = Store::open(options).await.map_err(|error| anyhow!(error.context))?;
        let operator = store.system().bootstrap().await;
        let operator = operator.map_err(|error| anyhow!(error.context))?;
        let scope = store.scope(Principal {
            account: operator.id,
            admin: true,
            via: Via::LocalOperator,
        });
        Ok(Scale {
            store,
            scope,
            engine: engine(),
            edge: FakeEdge::new(),
            scenes: Scenes::default(),
            services: arguments.services,
            instances: arguments.instances,
        })
    }

    fn total(&self) -> usize {
        self.services * self.instances as usize
    }

    async fn rule(&self) -> anyhow::Result<(watch::Sender<bool>, JoinHandle<domain::Result<()>>)> {
        let parts = Parts {
            store: self.store.clone(),
            engine: Arc::new(self.engine.clone()),
            edge: Arc::new(Wire(self.edge.clone())),
            images: Arc::new(ThinAir),
            planner: self.scenes.planner(),
            clock: Arc::new(now_us),
            new_id: Arc::new(Uuid::now_v7),
            settings: Settings {
                base_domain: "localhost".to_owned(),
                launches_at_once: 64,
                holder: "scale".to_owned(),
                lease_us: 600_000_000,
            },
        };
        let (stop, stopped) = watch::channel(false);
        let reconciler = Reconciler::start(parts, Live::default()).await;
        let reconciler = reconciler.map_err(|error| anyhow!(error.context))?;
        Ok((stop, tokio::spawn(reconciler.run(stopped))))
    }

    async fn create(&self) -> anyhow::Result<Vec<ServiceId>> {
        let mut ids = Vec::with_capacity(self.services);
        for n in 0..self.services {
            let new = NewService {
                instances: self.instances,
                health: HealthCheck {
                    interval_ms: 60_000,
                    healthy_after: 1,
                    ..HealthCheck::default()
                },
                ..NewService::new(ServiceKind::Service, format!("s-{n}"), "app:1", Some(8080))
            };
            let made = self.scope.create_service(new).await;
            ids.push(made.map_err(|error| anyhow!(error.context))?.0.id);
        }
        Ok(ids)
    }

    async fn change_images(&self, services: &[ServiceId]) -> anyhow::Result<()> {
        for id in services {
            let patch = ServicePatch {
                image: Some("app:2".to_owned()),
                ..ServicePatch::default()
            };
            let patched = self.scope.patch_service(*id, patch).await;
            patched.map_err(|error| anyhow!(error.context))?;
        }
        Ok(())
    }

    /// A new control plane begins. Seconds until the edge has a table of it, and that table has all instances.
    async fn recover(&self) -> anyhow::Result<f64> {
        let began = Instant::now();
        let published = self.edge.published();
        let (stop, running) = self.rule().await?;
        while self.edge.published() == published || self.routed() < self.total() {
            if began.elapsed() > PATIENCE {
                bail!("no table with all instances after a restart");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let seconds = began.elapsed().as_secs_f64();
        stop.send_replace(true);
        running.await?.map_err(|error| anyhow!(error.context))?;
        Ok(seconds)
    }

    fn routed(&self) -> usize {
        self.edge.count_routed()
    }

    /// Until exactly the instances of this version live and are routed.
    async fn until_all_serve(&self, version: i64) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            // Looking takes time as well: it must not be what is measured.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let live = self.engine.count_live(|_| true);
            let fresh = self.engine.count_live(|spec| spec.version == version);
            if fresh == self.total() && live == fresh && self.routed() == fresh {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                bail!("{fresh} of {} serve version {version}, {live} live", self.total());
            }
        }
    }
}

/// What the planner was told in the middle of the rollout.
#[derive(Clone, Default)]
struct Scenes(Arc<Mutex<Vec<(Desired, Observed)>>>);

impl Scenes {
    /// The product's planner; it is listened to from [`Scenes::begin`] until there is enough.
    fn planner(&self) -> Planner {
        let scenes = self.0.clone();
        Arc::new(move |desired, observed| {
            let mut scenes = scenes.lock().unwrap_or_else(PoisonError::into_inner);
            if scenes.len() < scenes.capacity() {
                scenes.push((desired.clone(), observed.clone()));
            }
            reconcile::guarded(desired, observed)
        })
    }

    fn begin(&self) {
        let mut scenes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        scenes.reserve_exact(SCENES);
    }

    /// Plans with their guard for each second of this thread.
    fn pace(&self) -> f64 {
        let scenes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let mut planned = 0usize;
        while began.elapsed() < PLANNING && !scenes.is_empty() {
            for (desired, observed) in &scenes {
                std::hint::black_box(reconcile::guarded(desired, observed).is_ok());
            }
            planned += scenes.len();
        }
        planned as f64 / (cpu_seconds() - cpu).max(0.01)
    }
}

/// Everything happens at once: the control plane is what is measured.
fn engine() -> FakeEngine {
    let engine = FakeEngine::new();
    let at_once = Duration::from_millis(1);
    let script = Script::default().start_after(at_once).ready_after(at_once);
    engine.set_default_script(script.stop_after(at_once));
    engine
}

struct Wire(FakeEdge);

impl EdgePort for Wire {
    fn publish(&self, table: RoutingTable) {
        self.0.publish(table);
    }

    fn view(&self) -> watch::Receiver<EdgeView> {
        self.0.view()
    }

    fn behaviour(&self, deployment: DeploymentId) -> Behaviour {
        self.0.behaviour(deployment)
    }

    fn close_busy(&self, instances: &[InstanceId]) {
        self.0.close_busy(instances);
    }
}

struct ThinAir;

#[async_trait]
impl ImageSource for ThinAir {
    async fn obtain(&self, reference: &str, _: Option<&str>, _: watch::Sender<String>) -> Result<String, ObtainError> {
        Ok(format!("sha256:{reference}"))
    }
}

async fn engine_only(arguments: &Arguments) -> anyhow::Result<()> {
    let before = resident();
    let engine = engine();
    let id = |n: usize| Uuid::from_u128(n as u128 + 1);
    for n in 0..arguments.services * arguments.instances as usize {
        let service = n / arguments.instances as usize;
        let spec = InstanceSpec {
            id: InstanceId(id(n)),
            service: ServiceId(id(service)),
            service_name: "s-1000".to_owned(),
            project: ProjectId(id(0)),
            deployment: DeploymentId(id(service)),
            version: 1,
            image_digest: "sha256:app:1".to_owned(),
            port: Some(8080),
            env: Default::default(),
            files: Default::default(),
            command: None,
            resources: Default::default(),
        };
        engine.start(&spec).await?;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    println!("{}", resident().saturating_sub(before));
    Ok(())
}

/// What the fake engine alone takes, in a process of its own.
fn engine_bytes(arguments: &Arguments) -> anyhow::Result<usize> {
    let mut child = std::process::Command::new(std::env::current_exe()?);
    child.arg("--engine-only");
    child.args(["--services", &arguments.services.to_string()]);
    child.args(["--instances", &arguments.instances.to_string()]);
    let said = String::from_utf8(child.output()?.stdout)?;
    said.trim()
        .parse()
        .with_context(|| format!("the engine alone says `{said}`"))
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0usize) * 4_096
}

/// CPU time of this process, all threads.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    // The kernel's unit for programs is a hundredth of a second on every platform that Hob runs on.
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as i64)
}
