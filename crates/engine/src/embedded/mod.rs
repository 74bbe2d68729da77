//! The engine that needs nothing installed: OCI containers, one [`shim`] process each, on a network of their own.
//!
//! # Expected flow
//! [`Embedded::start`] writes the instance's directory ([`home`]), prepares its image and address, and starts a shim.
//! From then on the directory and the kernel know everything; this process only watches. [`Embedded::open`] finds the
//! directories of an earlier life, watches their shims again, and restarts nothing.
//!
//! # Guarantees
//! - Instances do not notice when this process is killed, at any instruction.
//! - [`Engine::list`](crate::Engine::list) is complete or an error.
//! - What an instance had is gone after `remove`: directory, address, and by the kernel's own doing mounts and cable.
//!
//! # Assumptions
//! One `Embedded` for a data directory at a time (the server holds a lock on it).

mod cgroup;
mod engine;
mod home;
mod host;
mod instance;
mod launch;
mod log;
mod memory;
pub mod net;
mod probe;
mod process;
mod shim;
mod signals;
mod spawn;
mod user_namespace;
mod watcher;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use domain::InstanceId;
use images::ImageStore;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::tag::tag_of;
use crate::{EngineError, InstanceSpec};
use home::{Home, private_dir};
use host::Host;
use instance::State;
use memory::Memory;
use net::addresses::Addresses;
use probe::Prober;
use watcher::Watcher;

pub use host::Unsuited;
pub use net::{BadSubnet, Network, NetworkError, Subnet};
pub use shim::shim_main;
pub use user_namespace::{UserNamespace, enter_user_namespace_if_needed};

/// Prefix of a directory that is not an instance's yet, or no longer.
const HIDDEN: &str = ".";

/// File that remembers which address was given out last.
const LAST_ADDRESS: &str = "last-address";

/// What [`Embedded::open`] needs to know.
pub struct Config {
    /// Absolute. `instances/` and `net/` in it are this engine's.
    pub data_dir: PathBuf,
    pub images: ImageStore,
    /// Program and leading arguments of a shim, such as `/proc/self/exe`, `shim`: a process that calls [`shim_main`]
    /// with the arguments that follow.
    pub shim_command: Vec<OsString>,
    /// Where instances get their addresses from.
    pub instance_network: Subnet,
}

/// Why the engine cannot be opened on this machine.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Unsuited(#[from] Unsuited),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("cannot read what is known of the instances in {}: {source}", dir.display())]
    Records { dir: PathBuf, source: io::Error },
    #[error("cannot watch the instances: {0}")]
    Watch(io::Error),
}

/// The embedded engine. Cheap to clone; the last clone's end ends the watching, and no instance.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    instances_dir: PathBuf,
    images: ImageStore,
    shim_command: Vec<OsString>,
    host: Host,
    network: Network,
    prober: Prober,
    addresses: Mutex<Addresses>,
    /// Instances that have a directory, with their addresses.
    known: Mutex<HashMap<InstanceId, Option<Ipv4Addr>>>,
    /// What the last listing read.
    memory: Mutex<Memory>,
    /// Held while an instance's directory is changed.
    turns: Mutex<HashMap<InstanceId, Weak<tokio::sync::Mutex<()>>>>,
    watcher: Arc<Watcher>,
    changes: Arc<watch::Sender<u64>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Embedded {
    /// Opens the engine on its part of the data directory, and adopts what runs there. Call it within a runtime.
    ///
    /// # Errors
    /// The kernel lacks what no container can do without, the instances' network clashes with the host's, or a record
    /// of something that may run is unreadable. Each says what to do.
    pub async fn open(config: Config) -> Result<Embedded, OpenError> {
        tokio::task::spawn_blocking(move || Inner::open(config))
            .await
            .map_err(|error| OpenError::Watch(io::Error::other(error)))?
            .map(|inner| Embedded { inner: Arc::new(inner) })
            .and_then(|engine| {
                engine.watch_files();
                engine.adopt().map_err(|source| OpenError::Records {
                    dir: engine.inner.instances_dir.clone(),
                    source,
                })?;
                Ok(engine)
            })
    }

    /// The instances' network: where the edge's inner listeners belong.
    pub fn network(&self) -> &Network {
        &self.inner.network
    }

    /// Digests of the images that instances here run on: never to be collected.
    ///
    /// # Errors
    /// A record cannot be read; then nothing may be collected.
    pub fn image_digests_in_use(&self) -> io::Result<Vec<String>> {
        let mut digests = Vec::new();
        for (_, home) in homes(&self.inner.instances_dir)? {
            digests.extend(home.record()?.map(|record| record.image_digest));
        }
        digests.sort();
        digests.dedup();
        Ok(digests)
    }

    /// Removes the network and the parent of the cgroups. For when all instances are removed; refuses while any is not.
    ///
    /// # Errors
    /// Instances are left, or the kernel refused.
    pub async fn teardown(&self) -> io::Result<()> {
        let inner = self.inner.clone();
        blocking(move || {
            let left = homes(&inner.instances_dir)?.len();
            if left > 0 {
                return Err(io::Error::other(format!("{left} instances are not removed yet")));
            }
            inner.network.close()?;
            if let Some(parent) = inner.host.usable_cgroup_parent() {
                cgroup::remove(parent);
            }
            Ok(())
        })
        .await
    }

    /// Writes what another OCI runtime needs to run the same instance: `config.json` in the directory `dir`, and the
    /// root file system at `rootfs/` in it, mounted where this process sees it. For comparisons; changes the current
    /// directory of the process.
    ///
    /// # Errors
    /// The image is not there, or the kernel refused.
    pub async fn write_bundle(&self, spec: &InstanceSpec, dir: &Path) -> Result<(), EngineError> {
        self.lay_out(spec, &Home::new(dir)).await
    }

    fn watch_files(&self) {
        let (watcher, changes) = (self.inner.watcher.clone(), self.inner.changes.clone());
        let mut tasks = lock(&self.inner.tasks);
        tasks.spawn(async move {
            loop {
                match watcher.changed().await {
                    Ok(()) => bump(&changes),
                    Err(error) => return tracing::error!(%error, "no longer notices changes of instances by itself"),
                }
            }
        });
    }

    /// Watches the shims of an earlier life, and writes down the end of those that were killed meanwhile.
    fn adopt(&self) -> io::Result<()> {
        for (id, home) in homes(&self.inner.instances_dir)? {
            let Some(snapshot) = instance::read(&home)? else {
                continue;
            };
            lock(&self.inner.known).insert(id, snapshot.record.address);
            match snapshot.state {
                State::Alive(_) => self.watch(id)?,
                State::Orphaned => instance::settle(&home, &snapshot.record)?,
                State::Exited(_) => {}
            }
        }
        Ok(())
    }

    /// Follows one instance until its shim ends.
    fn watch(&self, id: InstanceId) -> io::Result<()> {
        let home = self.inner.home(id);
        self.inner.watcher.add(home.path())?;
        let Some(shim) = home.shim()? else { return Ok(()) };
        let pidfd = shim.open()?;
        let (weak, changes) = (Arc::downgrade(&self.inner), self.inner.changes.clone());
        let mut tasks = lock(&self.inner.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            if let Some(pidfd) = pidfd
                && let Err(error) = watcher::ended(pidfd.into_owned_fd()).await
            {
                return tracing::error!(instance.id = %id, %error, "cannot follow the shim");
            }
            if let Some(inner) = weak.upgrade() {
                let settled = blocking(move || inner.settle_if_orphaned(id)).await;
                if let Err(error) = settled {
                    tracing::error!(instance.id = %id, %error, "cannot clear up after a shim that was killed");
                }
            }
            bump(&changes);
        });
        Ok(())
    }
}

impl Inner {
    fn open(config: Config) -> Result<Inner, OpenError> {
        let instances_dir = config.data_dir.join("instances");
        let records = |source| OpenError::Records {
            dir: instances_dir.clone(),
            source,
        };
        private_dir(&instances_dir).map_err(records)?;
        let tag = tag_of(&config.data_dir);
        let host = Host::examine(&instances_dir, &tag)?;
        clear_hidden(&instances_dir).map_err(records)?;

        let (mut taken, mut surviving) = (Vec::new(), Vec::new());
        for (_, home) in homes(&instances_dir).map_err(records)? {
            // Unreadable records fail `adopt`, with a better message.
            taken.extend(home.record().ok().flatten().and_then(|record| record.address));
            surviving.extend(home.shim().ok().flatten().map(|shim| shim::hob_namespace_of(shim.pid)));
        }
        let net_dir = config.data_dir.join("net");
        let network = Network::open(&net_dir, &tag, config.instance_network, &surviving)?;
        let prober = Prober::start(network.enter_path()).map_err(|source| NetworkError::Refused {
            doing: "entering it for checks",
            source,
        })?;
        let last = std::fs::read_to_string(net_dir.join(LAST_ADDRESS))
            .ok()
            .and_then(|text| text.trim().parse().ok());
        Ok(Inner {
            addresses: Mutex::new(Addresses::new(config.instance_network, taken, last)),
            instances_dir,
            images: config.images,
            shim_command: config.shim_command,
            host,
            network,
            prober,
            known: Mutex::default(),
            memory: Mutex::default(),
            turns: Mutex::default(),
            watcher: Arc::new(Watcher::new().map_err(OpenError::Watch)?),
            changes: Arc::new(watch::Sender::new(0)),
            tasks: Mutex::default(),
        })
    }

    fn home(&self, id: InstanceId) -> Home {
        Home::new(self.instances_dir.join(id.to_string()))
    }

    /// One at a time for each instance.
    async fn turn(&self, id: InstanceId) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = lock(&self.turns);
            turns.retain(|_, turn| turn.strong_count() > 0);
            match turns.get(&id).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(tokio::sync::Mutex::new(()));
                    turns.insert(id, Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }

    fn settle_if_orphaned(&self, id: InstanceId) -> io::Result<()> {
        let home = self.home(id);
        match instance::read(&home)? {
            Some(snapshot) if matches!(snapshot.state, State::Orphaned) => {
                tracing::warn!(instance.id = %id, "a shim was killed; its instance has ended with it");
                instance::settle(&home, &snapshot.record)
            }
            _ => Ok(()),
        }
    }
}

/// The directories of instances.
fn homes(instances_dir: &Path) -> io::Result<Vec<(InstanceId, Home)>> {
    let mut homes = Vec::new();
    for entry in std::fs::read_dir(instances_dir)? {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            homes.push((id, Home::new(entry.path())));
        }
    }
    Ok(homes)
}

/// What a crash in the middle of a copy or a removal left.
fn clear_hidden(instances_dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(instances_dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(HIDDEN)) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn bump(changes: &watch::Sender<u64>) {
    changes.send_modify(|count| *count = count.wrapping_add(1));
}

/// A poisoned lock's value is as good as before: nothing here panics halfway through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}
