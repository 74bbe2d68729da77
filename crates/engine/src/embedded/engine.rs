//! The embedded engine's side of the [`Engine`] trait.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use async_trait::async_trait;
use domain::spec::CheckKind;
use domain::{HealthCheck, InstanceId};
use images::{Digest, ImageError, Prepared, WhiteoutForm};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::home::{Durability, Home, Record, Running, replace};
use super::instance::{self, State, now_us};
use super::launch::{LaunchOrder, RootSource};
use super::memory::Stamp;
use super::process::{PidFd, descendants, handles_signal};
use super::shim::write_bundle;
use super::{Embedded, HIDDEN, Inner, LAST_ADDRESS, blocking, bump, cgroup, homes, lock, log, signals, spawn, watcher};
use crate::{
    Engine, EngineError, Finding, InstanceSpec, InstanceStatus, Level, LogChunk, LogCursor, Phase, ProbeFailure,
};

/// How long a killed container and its shim may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Longest time that a program is given to end.
const GRACE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of mount options that overlayfs gets: a page, less some for what is not counted here.
const OVERLAY_OPTIONS_MAX: usize = 3900;

#[async_trait]
impl Engine for Embedded {
    async fn start(&self, spec: &InstanceSpec) -> Result<(), EngineError> {
        // On a task of its own: a caller that goes away must not leave half an instance behind.
        let (engine, spec) = (self.clone(), spec.clone());
        let started = tokio::spawn(async move { engine.take_on(&spec).await });
        started
            .await
            .unwrap_or_else(|error| Err(EngineError::Transient(format!("starting was interrupted: {error}"))))
    }

    async fn stop(&self, id: InstanceId, grace: Duration) -> Result<(), EngineError> {
        let _turn = self.inner.turn(id).await;
        self.bring_to_an_end(id, grace)
            .await
            .map_err(|error| about(id, "cannot be stopped", &error))
    }

    async fn remove(&self, id: InstanceId) -> Result<(), EngineError> {
        let _turn = self.inner.turn(id).await;
        let inner = self.inner.clone();
        let removed = blocking(move || inner.remove_now(id)).await;
        bump(&self.inner.changes);
        removed.map_err(|error| about(id, "cannot be removed", &error))
    }

    async fn list(&self) -> Result<Vec<InstanceStatus>, EngineError> {
        let inner = self.inner.clone();
        let listed = blocking(move || inner.list_now()).await;
        listed.map_err(|error| {
            EngineError::Transient(format!(
                "what runs cannot be told: {error}; see `hob doctor`, and do not delete the file"
            ))
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    async fn probe(&self, id: InstanceId, port: Option<u16>, check: &HealthCheck) -> Result<(), ProbeFailure> {
        let address = lock(&self.inner.known).get(&id).copied();
        let address = address.ok_or_else(|| ProbeFailure("there is no such instance".to_owned()))?;
        match (&check.kind, port, address) {
            (CheckKind::Process, ..) => self.process_lives(id).await,
            (_, Some(port), Some(address)) => self.inner.prober.probe(address, port, check).await,
            (_, None, _) => Err(ProbeFailure(
                "a check of a port was asked for, and the service has no port".to_owned(),
            )),
            (_, _, None) => Err(ProbeFailure("the instance has no address".to_owned())),
        }
    }

    async fn logs(
        &self,
        id: InstanceId,
        cursor: Option<LogCursor>,
        tail: usize,
        max_bytes: usize,
    ) -> Result<LogChunk, EngineError> {
        let home = self.inner.home(id);
        let read = blocking(move || {
            if !home.path().exists() {
                return Ok(LogChunk::default());
            }
            // Looked at first: what was written before the end is then read to the end.
            let ended = home.exit()?.is_some();
            log::read(home.path(), cursor.as_ref(), tail, max_bytes, ended)
        });
        read.await.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => EngineError::Permanent(error.to_string()),
            _ => about(id, "has an unreadable log", &error),
        })
    }

    async fn memory_peak(&self, id: InstanceId) -> Option<u64> {
        let home = self.inner.home(id);
        let read = blocking(move || {
            let group = home.record()?.and_then(|record| record.cgroup);
            Ok(group.as_deref().and_then(cgroup::memory_peak))
        });
        read.await.ok()?
    }

    async fn diagnose(&self) -> Vec<Finding> {
        let mut findings = self.inner.host.findings();
        findings.extend_from_slice(self.inner.network.findings());
        let inner = self.inner.clone();
        let leftovers = blocking(move || inner.leftovers()).await;
        findings.push(match leftovers {
            Ok(finding) => finding,
            Err(error) => Finding {
                level: Level::Error,
                subject: "leftovers".to_owned(),
                message: format!("cannot be looked for: {error}"),
                advice: "repair or move away the file that is named".to_owned(),
            },
        });
        findings
    }
}

impl Embedded {
    pub(super) async fn lay_out(&self, spec: &InstanceSpec, home: &Home) -> Result<(), EngineError> {
        let digest: Digest = spec.image_digest.parse().map_err(image_error)?;
        let prepared = self.inner.images.prepare(&digest).await.map_err(image_error)?;
        let record = self.inner.record(spec, None, libc::SIGTERM);
        let root = self.inner.root_source(&prepared, home);
        let order = self.inner.order(spec, &record, &prepared, root);
        let home = home.clone();
        let written = blocking(move || write_bundle(&home, &order).map_err(io::Error::other));
        written.await.map_err(|error| about(spec.id, "has no bundle", &error))
    }

    async fn take_on(&self, spec: &InstanceSpec) -> Result<(), EngineError> {
        let _turn = self.inner.turn(spec.id).await;
        let home = self.inner.home(spec.id);
        let there = blocking({
            let home = home.clone();
            move || Ok(home.path().exists() && instance::read(&home)?.is_some())
        });
        if there
            .await
            .map_err(|error| about(spec.id, "cannot be looked at", &error))?
        {
            return Ok(());
        }
        let digest: Digest = spec.image_digest.parse().map_err(image_error)?;
        let prepared = self.inner.images.prepare(&digest).await.map_err(image_error)?;
        let stop_signal = signals::stop_signal(&prepared.config.stop_signal).ok_or_else(|| {
            EngineError::Permanent(format!(
                "the image's stop signal `{}` is none",
                prepared.config.stop_signal.escape_debug()
            ))
        })?;
        let root = self.inner.root_source(&prepared, &home);
        let inner = self.inner.clone();
        let address = blocking(move || inner.take_address()).await;
        let address = address.map_err(|error| about(spec.id, "gets no address", &error))?;
        let record = self.inner.record(spec, Some(address), stop_signal);
        let order = self.inner.order(spec, &record, &prepared, root);
        let launched = self.launch(home, record, order, digest).await;
        drop(prepared);
        if let Err(error) = launched {
            self.inner.undo(spec.id, address);
            return Err(about(spec.id, "cannot be started", &error));
        }
        bump(&self.inner.changes);
        Ok(())
    }

    async fn launch(&self, home: Home, record: Record, order: LaunchOrder, digest: Digest) -> io::Result<()> {
        let (id, address) = (record.id, record.address);
        // Copied beside, since it may take long: a directory of an instance means that its start is a matter of moments.
        let copy = self.inner.instances_dir.join(format!("{HIDDEN}{id}.copy"));
        let copied = matches!(order.root, RootSource::Copy);
        if copied {
            let _ = fs::remove_dir_all(&copy);
            self.inner
                .images
                .flatten(&digest, &copy)
                .await
                .map_err(io::Error::other)?;
        }
        let inner = self.inner.clone();
        blocking(move || {
            if home.path().exists() {
                // What an earlier start left that was interrupted; nothing of it runs, or we would not be here.
                fs::remove_dir_all(home.path())?;
            }
            home.create()?;
            home.write_record(&record)?;
            if copied {
                fs::rename(&copy, home.join("rootfs"))?;
            }
            inner.watcher.add(home.path())?;
            spawn::spawn(&inner.shim_command, &home, &order)
        })
        .await?;
        lock(&self.inner.known).insert(id, address);
        self.watch(id)
    }

    async fn bring_to_an_end(&self, id: InstanceId, grace: Duration) -> io::Result<()> {
        let home = self.inner.home(id);
        let looked = blocking({
            let home = home.clone();
            move || {
                if !home.path().exists() {
                    return Ok(None);
                }
                let snapshot = instance::read(&home)?;
                if snapshot
                    .as_ref()
                    .is_some_and(|snapshot| matches!(snapshot.state, State::Alive(_)))
                {
                    // A full disk must not keep anything from being stopped; it will just look unasked.
                    if let Err(error) = home.ask_to_stop() {
                        tracing::warn!(instance.id = %id, %error, "cannot note that the instance was asked to stop");
                    }
                }
                Ok(snapshot)
            }
        });
        let Some(snapshot) = looked.await? else { return Ok(()) };
        let shim = match snapshot.state {
            State::Exited(_) => return self.shim_is_gone(&home).await,
            State::Orphaned => return self.settle(id).await,
            State::Alive(shim) => shim,
        };
        bump(&self.inner.changes);
        let deadline = Instant::now() + grace.min(GRACE_MAX);
        let running = match snapshot.running {
            Some(running) => Some(running),
            None => self.running_by(deadline, &home, &shim).await?,
        };
        match running {
            Some(running) => end_program(&running, snapshot.record.stop_signal, deadline).await?,
            // It still does not run, so there is nobody to ask.
            None => shim.signal(libc::SIGKILL)?,
        }
        if !gone_within(&shim, KILL_LIMIT).await? {
            shim.signal(libc::SIGKILL)?;
            gone_within(&shim, KILL_LIMIT).await?;
        }
        self.settle(id).await
    }

    /// The program, once its shim says that it runs. `None` when the shim has ended or the time is over.
    async fn running_by(&self, deadline: Instant, home: &Home, shim: &PidFd) -> io::Result<Option<Running>> {
        let mut changes = self.inner.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let home = home.clone();
            let running = blocking(move || home.running()).await?;
            let waited = match running {
                Some(_) => return Ok(running),
                None if shim.wait(Duration::ZERO)? => return Ok(None),
                None => timeout_at(deadline, changes.changed()).await,
            };
            if !matches!(waited, Ok(Ok(()))) {
                return Ok(None);
            }
        }
    }

    async fn settle(&self, id: InstanceId) -> io::Result<()> {
        let inner = self.inner.clone();
        blocking(move || inner.settle_if_orphaned(id)).await
    }

    /// The last word is written, and its writer is about to go: wait for that too.
    async fn shim_is_gone(&self, home: &Home) -> io::Result<()> {
        if let Some(shim) = home.shim()?
            && let Some(pidfd) = shim.open()?
            && !gone_within(&pidfd, KILL_LIMIT).await?
        {
            pidfd.signal(libc::SIGKILL)?;
        }
        Ok(())
    }

    async fn process_lives(&self, id: InstanceId) -> Result<(), ProbeFailure> {
        let home = self.inner.home(id);
        let inner = self.inner.clone();
        let read = move || {
            Ok(inner
                .read_or_wait(id, &home)?
                .map(|snapshot| snapshot.status(&home).phase))
        };
        let phase = blocking(read).await;
        match phase {
            Ok(Some(Phase::Running)) => Ok(()),
            Ok(Some(Phase::Exited(exit))) => Err(ProbeFailure(exit.describe())),
            Ok(Some(Phase::Starting)) => Err(ProbeFailure("the process does not run yet".to_owned())),
            Ok(Some(Phase::Stopping)) => Err(ProbeFailure("the instance is being stopped".to_owned())),
            Ok(None) => Err(ProbeFailure("there is no such instance".to_owned())),
            Err(error) => Err(ProbeFailure(format!(
                "it cannot be told whether the process lives: {error}"
            ))),
        }
    }
}

impl Inner {
    /// Stacked by overlayfs where that is possible for this image, else a copy.
    fn root_source(&self, prepared: &Prepared, home: &Home) -> RootSource {
        let layers_dir = self.images.layers_dir();
        let names: Option<Vec<String>> = prepared
            .layers
            .iter()
            .map(|layer| layer.strip_prefix(&layers_dir).ok()?.to_str().map(str::to_owned))
            .collect();
        let Some(layers) = names else { return RootSource::Copy };
        let length: usize = layers.iter().map(|name| name.len() + 1).sum::<usize>() + 2 * home.path().as_os_str().len();
        let stackable = self.host.overlay.is_ok()
            && prepared.form != WhiteoutForm::Recorded
            && !layers.is_empty()
            && length < OVERLAY_OPTIONS_MAX;
        if stackable {
            RootSource::Overlay {
                layers_dir,
                layers,
                user_xattr: prepared.form == WhiteoutForm::User,
            }
        } else {
            RootSource::Copy
        }
    }

    fn record(&self, spec: &InstanceSpec, address: Option<Ipv4Addr>, stop_signal: i32) -> Record {
        let parent = self.host.usable_cgroup_parent();
        Record {
            id: spec.id,
            service_name: spec.service_name.clone(),
            image_digest: spec.image_digest.clone(),
            address,
            stop_signal,
            cgroup: parent.map(|parent| parent.join(spec.id.to_string())),
            taken_on_at_us: now_us(),
        }
    }

    fn order(&self, spec: &InstanceSpec, record: &Record, prepared: &Prepared, root: RootSource) -> LaunchOrder {
        let platform_env = BTreeMap::from([
            ("HOB_SERVICE".to_owned(), spec.service_name.clone()),
            ("HOB_INSTANCE".to_owned(), spec.id.to_string()),
            ("HOB_VERSION".to_owned(), spec.version.to_string()),
        ]);
        LaunchOrder {
            hostname: hostname(&spec.service_name, spec.id),
            image: prepared.config.clone(),
            root,
            command: spec.command.clone(),
            env: spec.env.clone(),
            files: spec.files.clone(),
            platform_env,
            port: spec.port,
            resources: spec.resources.clone(),
            network: record.address.map(|address| self.network.plan_for(address)),
            cgroup: record.cgroup.clone(),
        }
    }

    fn take_address(&self) -> io::Result<Ipv4Addr> {
        let mut addresses = lock(&self.addresses);
        let all_taken = || io::Error::other(format!("all addresses of {} are taken", self.network.subnet()));
        let address = addresses.take().ok_or_else(all_taken)?;
        // While the lock is held, so that the file never goes back.
        let kept = replace(
            self.network.dir(),
            LAST_ADDRESS,
            address.to_string().as_bytes(),
            Durability::Crash,
        );
        if kept.is_err() {
            addresses.free(address);
        }
        kept.map(|()| address)
    }

    fn undo(&self, id: InstanceId, address: Ipv4Addr) {
        if let Err(error) = self.remove_now(id) {
            tracing::warn!(instance.id = %id, %error, "could not clear up after a failed start");
        }
        lock(&self.addresses).free(address);
    }

    fn remove_now(&self, id: InstanceId) -> io::Result<()> {
        let home = self.home(id);
        if home.path().exists() {
            let snapshot = instance::read(&home)?;
            if let Some(snapshot) = &snapshot {
                match &snapshot.state {
                    State::Alive(_) => {
                        return Err(io::Error::new(
                            io::ErrorKind::ResourceBusy,
                            "it still runs; stop it first",
                        ));
                    }
                    State::Orphaned => instance::settle(&home, &snapshot.record)?,
                    State::Exited(_) => wait_for_shim(&home)?,
                }
                if let Some(group) = &snapshot.record.cgroup {
                    cgroup::remove(group);
                }
            }
            // In one step out of sight, then in peace.
            let removed = self.instances_dir.join(format!("{HIDDEN}{id}.removed"));
            fs::rename(home.path(), &removed)?;
            fs::remove_dir_all(&removed)?;
            if let Some(address) = snapshot.and_then(|snapshot| snapshot.record.address) {
                lock(&self.addresses).free(address);
            }
        }
        lock(&self.known).remove(&id);
        Ok(())
    }

    fn list_now(&self) -> io::Result<Vec<InstanceStatus>> {
        let mut statuses = Vec::new();
        for (id, home) in homes(&self.instances_dir)? {
            let stamp = Stamp::of(&home)?;
            if let Some(status) = lock(&self.memory).recall(id, &stamp)? {
                statuses.push(status.clone());
                continue;
            }
            // `None`: removed since the directory was listed, or never completely taken on.
            if let Some(snapshot) = self.read_or_wait(id, &home)? {
                let status = snapshot.status(&home);
                statuses.push(status.clone());
                lock(&self.memory).keep(stamp, snapshot, status);
            }
        }
        statuses.sort_by_key(|status| status.id);
        lock(&self.memory).retain(&statuses);
        Ok(statuses)
    }

    /// A directory in the middle of a start or a removal is looked at when that is over.
    fn read_or_wait(&self, id: InstanceId, home: &Home) -> io::Result<Option<instance::Snapshot>> {
        let turn = lock(&self.turns).get(&id).and_then(std::sync::Weak::upgrade);
        let complete = home.path().join("shim.json").exists() || home.path().join("exit.json").exists();
        let _turn = match turn {
            Some(turn) if !complete => Some(turn.blocking_lock_owned()),
            _ => None,
        };
        instance::read(home)
    }

    fn leftovers(&self) -> io::Result<Finding> {
        let mut addresses = Vec::new();
        let mut ids = Vec::new();
        for (id, home) in homes(&self.instances_dir)? {
            ids.push(id.to_string());
            addresses.extend(home.record()?.and_then(|record| record.address));
        }
        let mut strays = self.network.stray_devices(&addresses)?;
        if let Some(parent) = self.host.usable_cgroup_parent() {
            let groups = cgroup::children(parent).into_iter().filter(|name| !ids.contains(name));
            strays.extend(groups.map(|name| format!("cgroup {}/{name}", parent.display())));
        }
        let (level, message, advice) = if strays.is_empty() {
            (Level::Ok, format!("none ({} instances)", ids.len()), "")
        } else {
            (
                Level::Warning,
                format!("belong to no instance: {}", strays.join(", ")),
                "they may be removed by hand",
            )
        };
        Ok(Finding {
            level,
            subject: "leftovers".to_owned(),
            message,
            advice: advice.to_owned(),
        })
    }
}

/// Asks the program to end, waits, and kills it and everything it started.
///
/// A first process that does nothing about the signal never gets it from the kernel. Mostly it is a shell that waits
/// for the program proper, so that is asked in its place; where there is none, there is nothing to wait for.
async fn end_program(running: &Running, stop_signal: i32, deadline: Instant) -> io::Result<()> {
    let Some(init) = running.init.open()? else {
        return Ok(());
    };
    let pid = running.init.pid;
    let asked = if handles_signal(pid, stop_signal) {
        vec![init.signal(stop_signal)]
    } else {
        descendants(pid)
            .iter()
            .map(|process| process.signal(stop_signal))
            .collect()
    };
    let somebody_was = asked.iter().any(Result::is_ok);
    if somebody_was && gone_within(&init, deadline.saturating_duration_since(Instant::now())).await? {
        return Ok(());
    }
    // Killing the first process of a PID namespace kills all of it.
    init.signal(libc::SIGKILL)
}

async fn gone_within(process: &PidFd, limit: Duration) -> io::Result<bool> {
    let handle = process.as_fd().try_clone_to_owned()?;
    match timeout(limit, watcher::ended(handle)).await {
        Ok(ended) => ended.map(|()| true),
        Err(_) => Ok(false),
    }
}

fn wait_for_shim(home: &Home) -> io::Result<()> {
    if let Some(shim) = home.shim()?
        && let Some(pidfd) = shim.open()?
        && !pidfd.wait(KILL_LIMIT)?
    {
        pidfd.signal(libc::SIGKILL)?;
    }
    Ok(())
}

/// A legal host name that tells a person which instance this is.
fn hostname(service: &str, id: InstanceId) -> String {
    const LABEL_MAX: usize = 63;
    let id = id.to_string();
    // The end of a time-ordered id is its random part.
    let suffix = &id[id.len() - 8..];
    let legal = service.chars().map(|c| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    });
    let name: String = legal.take(LABEL_MAX - 1 - suffix.len()).collect();
    match name.trim_matches('-') {
        "" => suffix.to_owned(),
        name => format!("{name}-{suffix}"),
    }
}

fn image_error(error: ImageError) -> EngineError {
    if error.is_transient() {
        EngineError::Transient(error.to_string())
    } else {
        EngineError::Permanent(error.to_string())
    }
}

fn about(id: InstanceId, what: &str, error: &io::Error) -> EngineError {
    let advice = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; the data directory's disk is full: free some space"
        }
        _ => "",
    };
    EngineError::Transient(format!("the instance {id} {what}: {error}{advice}"))
}
