//! The limits that the engine is held against: bare container runtimes, and the app without a container.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use domain::{DeploymentId, InstanceId, ProjectId, Resources, ServiceId};
use engine::embedded::{Config, Embedded};
use engine::{Engine, InstanceSpec};
use images::{ImageStore, Limits, PackRequest};
use uuid::Uuid;

use super::host::Program;
use super::{Bench, median};
use crate::system::{App, free_address};

/// A range that no other piece uses; see `--instance-network`.
const NETWORK: &str = "10.214.0.0/24";
const PATIENCE: Duration = Duration::from_secs(20);

/// How long one start took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    /// Until the program's first output was there to be read.
    pub(super) first_output: Duration,
    /// Until all was over and cleared away.
    pub(super) whole: Duration,
}

/// An engine without a control plane, one image in it, and the same image as a bundle for other runtimes.
pub(super) struct Ground {
    runtime: tokio::runtime::Runtime,
    engine: Embedded,
    image: String,
    bundle: PathBuf,
    scratch: tempfile::TempDir,
}

impl Ground {
    /// The program of the image says one word and ends.
    pub(super) fn new(bench: &Bench) -> anyhow::Result<Self> {
        let scratch = tempfile::tempdir()?;
        let root = scratch.path().join("root");
        fs::create_dir(&root)?;
        fs::copy("/bin/busybox", root.join("busybox")).context("busybox-static is not installed")?;
        let images = ImageStore::open(scratch.path().join("data/images"), Limits::default())?;
        let mut request = PackRequest::new(&root, "bench:1".parse()?);
        request.entrypoint = ["/busybox", "echo", "here"].map(str::to_owned).into();
        let runtime = tokio::runtime::Runtime::new()?;
        let image = runtime.block_on(images.pack(request))?.to_string();
        let engine = runtime.block_on(Embedded::open(Config {
            data_dir: scratch.path().join("data"),
            images,
            shim_command: vec![bench.hob.clone().into(), "shim".into()],
            instance_network: NETWORK.parse()?,
        }))?;
        let bundle = scratch.path().join("bundle");
        fs::create_dir(&bundle)?;
        let ground = Ground {
            runtime,
            engine,
            image,
            bundle,
            scratch,
        };
        let spec = ground.spec();
        ground
            .runtime
            .block_on(ground.engine.write_bundle(&spec, &ground.bundle))?;
        Ok(ground)
    }

    fn spec(&self) -> InstanceSpec {
        InstanceSpec {
            id: InstanceId(Uuid::now_v7()),
            service: ServiceId(Uuid::nil()),
            service_name: "bench".into(),
            project: ProjectId(Uuid::nil()),
            deployment: DeploymentId(Uuid::nil()),
            version: 1,
            image_digest: self.image.clone(),
            port: None,
            env: BTreeMap::new(),
            files: Default::default(),
            command: None,
            resources: Resources::default(),
        }
    }

    /// One instance on the embedded engine, its network and its shim included.
    pub(super) fn engine(&self) -> anyhow::Result<Start> {
        let spec = self.spec();
        let log = self.scratch.path().join(format!("data/instances/{}/log.0", spec.id));
        let began = Instant::now();
        self.runtime.block_on(self.engine.start(&spec))?;
        while fs::metadata(&log).map_or(0, |file| file.len()) == 0 {
            ensure!(began.elapsed() < PATIENCE, "nothing was said within {PATIENCE:?}");
            std::thread::sleep(Duration::from_micros(100));
        }
        let first_output = began.elapsed();
        self.runtime.block_on(async {
            self.engine.stop(spec.id, PATIENCE).await?;
            self.engine.remove(spec.id).await
        })?;
        Ok(Start {
            first_output,
            whole: began.elapsed(),
        })
    }

    /// `crun run` or `runc run` of the same bundle, whose root file system is mounted already.
    pub(super) fn bare(&self, runtime: &'static str) -> anyhow::Result<Start> {
        self.bare_at(runtime, 0)
    }

    /// The same at one of several places, which can be used at once.
    fn bare_at(&self, runtime: &'static str, place: u32) -> anyhow::Result<Start> {
        let bundle = self.bundle_at(place)?;
        let began = Instant::now();
        let mut command = Command::new(runtime);
        command.arg("run").arg("--bundle").arg(&bundle);
        command.arg(format!("hob-bench-{}-{place}", std::process::id()));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: system calls on constants.
        unsafe { command.pre_exec(hide_empty_v2) };
        let mut child = command.spawn().with_context(|| format!("{runtime} is not installed"))?;
        let mut said = [0; 4];
        let read = child.stdout.take().context("a pipe")?.read_exact(&mut said);
        let first_output = began.elapsed();
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success() && read.is_ok(),
            "{}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(Start {
            first_output,
            whole: began.elapsed(),
        })
    }

    /// A bundle differs from that of another place by its control group, which a runtime empties when it is done.
    fn bundle_at(&self, place: u32) -> anyhow::Result<PathBuf> {
        if place == 0 {
            return Ok(self.bundle.clone());
        }
        let dir = self.scratch.path().join(format!("bundle-{place}"));
        if !dir.exists() {
            let mut config: serde_json::Value = serde_json::from_slice(&fs::read(self.bundle.join("config.json"))?)?;
            let group = config["linux"]["cgroupsPath"]
                .as_str()
                .map(|group| format!("{group}-{place}"));
            config["linux"]["cgroupsPath"] = group.into();
            fs::create_dir(&dir)?;
            fs::write(dir.join("config.json"), config.to_string())?;
        }
        Ok(dir)
    }

    /// How long `count` such runs take that begin at once: what the cores of this machine leave of doing it in parallel.
    pub(super) fn wave(&self, runtime: &'static str, count: u32) -> anyhow::Result<Duration> {
        let began = Instant::now();
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..count)
                .map(|place| scope.spawn(move || self.bare_at(runtime, place)))
                .collect();
            runs.into_iter()
                .try_for_each(|run| run.join().expect("it does not panic").map(drop))
        })?;
        Ok(began.elapsed())
    }

    /// Those of the two that work here, and why the others do not.
    pub(super) fn runtimes(&self) -> anyhow::Result<Vec<&'static str>> {
        let mut why = Vec::new();
        let mut works = |name: &&'static str| {
            self.bare(name)
                .map_err(|error| why.push(format!("{name}: {error:#}")))
                .is_ok()
        };
        let found: Vec<&str> = ["crun", "runc"].into_iter().filter(|name| works(name)).collect();
        why.iter().for_each(|why| eprintln!("left out: {why}"));
        ensure!(!found.is_empty(), "no container runtime works here");
        Ok(found)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let rootfs = self.bundle.join("rootfs");
        let _ = Command::new("umount").arg(rootfs).output();
        let torn_down = self.runtime.block_on(self.engine.teardown());
        if let Err(error) = torn_down {
            eprintln!("the bench's engine left something behind: {error}");
        }
    }
}

/// crun refuses hybrid control groups until the empty v2 tree is out of sight.
fn hide_empty_v2() -> std::io::Result<()> {
    let check = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    // SAFETY: constant strings with their terminators, null pointers where the kernel allows them.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        let flags = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            flags,
            std::ptr::null(),
        ))?;
        // Where there is none, nothing needs to be hidden.
        libc::umount2(c"/sys/fs/cgroup/unified".as_ptr(), libc::MNT_DETACH);
    }
    Ok(())
}

/// From the start of the app, without a container, until it accepts connections.
pub(super) fn app_ready(scratch: &Path) -> anyhow::Result<Duration> {
    let ready = || -> anyhow::Result<f64> {
        let address = free_address();
        let began = Instant::now();
        let mut command = Command::new(App::binary());
        command.env("PORT", address.port().to_string());
        let _app = Program::spawn("the example app", command, &scratch.join("app.log"))?;
        wait_for(address)?;
        Ok(began.elapsed().as_secs_f64())
    };
    let times = (0..5).map(|_| ready()).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Duration::from_secs_f64(median(times)))
}

fn wait_for(address: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(address).is_err() {
        ensure!(Instant::now() < deadline, "nothing listens at {address}");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
