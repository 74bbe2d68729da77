//! `hob up`: the control plane, put together.

mod datadir;
mod edge;
mod images;
mod keeping;
mod runtime;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use api::ApiState;
use domain::Error;
use domain::error::Kind;
use engine::Engine;
use engine::embedded::{Embedded, UserNamespace, enter_user_namespace_if_needed};
use reconcile::{Live, Parts, Reconciler};
use store::{OpenOptions, Store};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::config::{Config, Host, LogFormat, UpArgs};
use datadir::DataDir;
use edge::{EdgeLink, EdgePlan};
use runtime::Platform;

/// How long the edge may take to answer at the start.
const EDGE_PATIENCE: Duration = Duration::from_secs(10);
/// A lease that no second control plane of this data directory could take anyway: its lock is held.
const OWN_LEASE_US: i64 = 24 * 3_600 * 1_000_000;
/// A shared database may have another control plane waiting for us to die.
const SHARED_LEASE_US: i64 = 15 * 1_000_000;
const LAUNCHES_AT_ONCE: usize = 8;

/// Runs the platform until SIGTERM or SIGINT. Exit codes as everywhere: 0 done, 1 failed, 2 usage.
pub fn run(args: UpArgs, host: &Host) -> ExitCode {
    let config = match args.resolve(host) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("hob up: {error:#}");
            return ExitCode::from(2);
        }
    };
    start_logging(config.log_format, host.log_filter.as_deref());
    refuse_core_files();
    // Before there is a second thread: the kernel lets no other process change its user namespace.
    let user = enter_user_namespace_if_needed(&config.data_dir).unwrap_or_else(|error| {
        tracing::warn!(%error, "no user namespace of one's own; what that means is said below");
        UserNamespace::NotNeeded
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let outcome = runtime
        .context("no threads to work with")
        .and_then(|runtime| runtime.block_on(serve(config, user)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hob up: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A core file would hold the root key and every secret in plain text. One byte is the limit that the kernel takes as
/// "none at all"; with zero it would still hand the core to a program where one is configured (core(5)). Edge and shims
/// inherit it.
fn refuse_core_files() {
    use nix::sys::resource::{Resource, setrlimit};
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 1, 1).or_else(|_| setrlimit(Resource::RLIMIT_CORE, 0, 0)) {
        tracing::warn!(%error, "a crash may leave a core file, and it would hold secrets");
    }
}

/// Logs go to standard error; standard output is for people.
pub fn start_logging(format: LogFormat, filter: Option<&str>) {
    use tracing_subscriber::EnvFilter;
    let filter = filter.and_then(|filter| EnvFilter::try_new(filter).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new("info"));
    let logger = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Whoever read our standard error may be gone: a line that cannot be written is lost, the process is not.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => logger.with_target(false).init(),
        LogFormat::Json => logger.json().flatten_event(true).init(),
    }
}

async fn serve(config: Config, user: UserNamespace) -> Result<()> {
    // First of all: a signal that comes while the parts start is kept, and stops them in order once they stand.
    let signals = StopSignals::listen()?;
    // In a user namespace we are root, and own as root what is ours outside.
    let uid = nix::unistd::geteuid().as_raw();
    let data_dir = DataDir::open(&config.data_dir, uid)?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!(
            "the API cannot listen on {}; stop what uses it or give another address with --listen",
            config.listen
        )
    })?;
    let first_start = !config.root_key_file.exists();
    let store = open_store(&config, &data_dir).await?;
    let operator = store.system().bootstrap().await.map_err(told)?;
    let images = open_images(&config, &data_dir).await?;
    let engine = Arc::new(open_engine(&config, images.clone()).await?);
    let plan = edge_plan(&config, &data_dir, user, &engine)?;
    plan.check_listener()?;
    let edge = EdgeLink::start(&plan, store.clone());
    edge.connected(EDGE_PATIENCE).await?;

    let live = Live::default();
    let engine_port: Arc<dyn Engine> = engine.clone();
    let parts = parts(
        &config,
        store.clone(),
        engine_port.clone(),
        edge.clone(),
        images.clone(),
    );
    let reconciler = Reconciler::start(parts, live.clone()).await.map_err(told)?;
    let platform = Arc::new(Platform {
        live,
        engine: engine_port.clone(),
        images: images.clone(),
        store: store.clone(),
        edge: edge.clone(),
    });
    let (stop, stopping) = watch::channel(false);
    let api = api_state(&config, store.clone(), platform, &edge, operator.id, stopping.clone());
    let claim = if first_start {
        Some(api::claim::issue(&api).await.map_err(told)?)
    } else {
        None
    };
    let router = api::router(api);

    // Before the API answers: whoever finds it ready may use the socket at once.
    let socket = api::ControlSocket::bind(&data_dir.join("control.sock")).context("the control socket")?;
    let reconciling = tokio::spawn(reconciler.run(stopping.clone()));
    let serving = tokio::spawn(api::serve(listener, router.clone(), stopping.clone()));
    let local = tokio::spawn(socket.serve(router, stopping.clone()));
    tokio::spawn(keeping::collect_images(
        store,
        engine.as_ref().clone(),
        images,
        stopping,
    ));
    greet(&config, edge.public(), claim.map(|claim| claim.url));

    let outcome = until_end(signals, reconciling, local).await;
    stop.send_replace(true);
    // Requests in flight are finished within the server's own bound.
    let _ = serving.await;
    if config.stop_instances {
        keeping::stop_everything(&engine, &edge).await;
    }
    outcome
}

/// What asks `hob up` to end. From [`StopSignals::listen`] on, no such signal kills the process or is lost.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn listen() -> Result<StopSignals> {
        Ok(StopSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ends with a signal, or with the failure of a part that nothing works without.
async fn until_end(
    mut signals: StopSignals,
    reconciling: tokio::task::JoinHandle<domain::Result<()>>,
    local: tokio::task::JoinHandle<()>,
) -> Result<()> {
    tokio::select! {
        () = signals.received() => Ok(()),
        ended = reconciling => match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(told(error)),
            Err(panic) => Err(anyhow!("the reconciler broke down: {panic}")),
        },
        ended = local => match ended {
            Ok(()) => Ok(()),
            Err(panic) => Err(anyhow!("the control socket broke down: {panic}")),
        },
    }
}

async fn open_store(config: &Config, data_dir: &DataDir) -> Result<Store> {
    let own_database = data_dir.join("hob.db");
    let has_database = own_database.exists();
    let found = datadir::root_key(&config.root_key_file, has_database)?;
    let options = OpenOptions {
        url: config.database_url.clone(),
        root_key: found.key,
        clock: Arc::new(now_us),
        // A named key without a database is a database that was lost: never an empty platform to start with.
        create: found.unnamed.is_some(),
    };
    let own_is_lost = found.unnamed.is_none() && !has_database && config.database_url.starts_with("sqlite:");
    let store = Store::open(options).await.map_err(told).with_context(|| {
        if own_is_lost {
            format!(
                "the database {} is missing although this platform has been used before; put it back from a backup, or \
                 remove {} as well to begin anew",
                own_database.display(),
                config.root_key_file.display()
            )
        } else {
            "the database cannot be opened".to_owned()
        }
    })?;
    if let Some(unnamed) = found.unnamed {
        datadir::name_root_key(&unnamed, &config.root_key_file)?;
    }
    Ok(store)
}

fn registry_authorities(file: Option<&Path>) -> Result<::images::Authorities> {
    let Some(file) = file else {
        return Ok(::images::Authorities::default());
    };
    let what = || format!("the registries' authorities in {}", file.display());
    let pem = std::fs::read(file).with_context(what)?;
    ::images::Authorities::from_pem(&pem)
        .map_err(anyhow::Error::msg)
        .with_context(what)
}

async fn open_images(config: &Config, data_dir: &DataDir) -> Result<::images::ImageStore> {
    let root = data_dir.subdir("images")?;
    let options = ::images::RegistryOptions {
        insecure_registries: config.insecure_registries.clone(),
        authorities: registry_authorities(config.registry_ca_file.as_deref())?,
        ..::images::RegistryOptions::default()
    };
    let open = move || ::images::ImageStore::open_with(root, ::images::Limits::default(), options);
    tokio::task::spawn_blocking(open)
        .await?
        .context("the image store cannot be opened")
}

async fn open_engine(config: &Config, images: ::images::ImageStore) -> Result<Embedded> {
    let program = own_program()?;
    let settings = engine::embedded::Config {
        data_dir: config.data_dir.clone(),
        images,
        shim_command: vec![program.into(), "shim".into()],
        instance_network: config.instance_network.parse().context("--instance-network")?,
    };
    Embedded::open(settings)
        .await
        .context("the embedded engine cannot work here")
}

fn own_program() -> Result<PathBuf> {
    std::env::current_exe().context("this program's own file cannot be found; it starts others of its kind from it")
}

fn edge_plan(config: &Config, data_dir: &DataDir, user: UserNamespace, engine: &Embedded) -> Result<EdgePlan> {
    let network = engine.network();
    Ok(EdgePlan {
        dir: data_dir.subdir("edge")?,
        program: own_program()?,
        listen: config.edge_http,
        client_connections: config.edge_client_connections,
        // Becoming nobody takes a user besides root to become.
        drops_privileges: match user {
            UserNamespace::NotNeeded => nix::unistd::geteuid().is_root(),
            UserNamespace::Entered { many_users, .. } => many_users,
        },
        network: Some((network.enter_path().to_owned(), network.gateway())),
    })
}

fn parts(
    config: &Config,
    store: Store,
    engine: Arc<dyn Engine>,
    edge: Arc<EdgeLink>,
    images: ::images::ImageStore,
) -> Parts {
    let own = config.database_url.starts_with("sqlite:");
    Parts {
        store,
        engine,
        edge,
        images: Arc::new(images::Images(images)),
        planner: Arc::new(reconcile::guarded),
        clock: Arc::new(now_us),
        new_id: Arc::new(uuid::Uuid::now_v7),
        settings: reconcile::Settings {
            base_domain: config.base_domain.clone(),
            launches_at_once: LAUNCHES_AT_ONCE,
            holder: config.data_dir.display().to_string(),
            lease_us: if own { OWN_LEASE_US } else { SHARED_LEASE_US },
        },
    }
}

fn api_state(
    config: &Config,
    store: Store,
    platform: Arc<Platform>,
    edge: &EdgeLink,
    operator: domain::AccountId,
    stopping: watch::Receiver<bool>,
) -> ApiState {
    let mut settings = api::Settings::new(config.public_url.clone());
    settings.rate_limits = config.rate_limits;
    settings.edge = Some(api::EdgeAddress {
        base_domain: config.base_domain.clone(),
        http_port: Some(edge.public().unwrap_or(config.edge_http).port()),
        https_port: None,
    });
    ApiState::new(store, platform, Arc::new(now_us), operator, settings, stopping)
}

/// What a person at the terminal wants to know first. On standard output, so that logs stay logs.
fn greet(config: &Config, edge: Option<SocketAddr>, claim: Option<String>) {
    println!("Hob {} is up.", env!("CARGO_PKG_VERSION"));
    println!("  API      {}", config.public_url);
    println!(
        "  traffic  http://{}  (services at http://NAME.{})",
        edge.unwrap_or(config.edge_http),
        config.base_domain
    );
    println!("  data     {}", config.data_dir.display());
    if let Some(url) = claim {
        println!("  claim    {url}  (once, within 15 minutes; `hob claim` makes a new one)");
    }
}

/// Wall clock, microseconds since the epoch.
fn now_us() -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

/// A domain error at the top of the program: the operator is who the log context is for. What to do comes before it.
fn told(error: Error) -> anyhow::Error {
    match error.kind {
        Kind::Unavailable(advice) if !error.context.contains(&advice) => anyhow!(error.context).context(advice),
        _ => anyhow!(error.context),
    }
}
