//! The limits that the engine is held against: a bare container runtime, and the app without a container.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::host::Program;
use super::median;
use crate::system::{App, free_address};

/// Containers that are run one after the other for one measurement.
const RUNS: usize = 10;

/// A runtime that works here, with what it takes to run a program that ends at once.
pub(super) struct Runtime {
    pub(super) name: &'static str,
    bundle: tempfile::TempDir,
}

impl Runtime {
    /// crun, or else runc.
    pub(super) fn find() -> anyhow::Result<Self> {
        let mut why = Vec::new();
        for name in ["crun", "runc"] {
            match bundle(name).map(|bundle| Runtime { name, bundle }) {
                Ok(runtime) => match runtime.run(1) {
                    Ok(_) => return Ok(runtime),
                    Err(error) => why.push(format!("{name}: {error:#}")),
                },
                Err(error) => why.push(format!("{name}: {error:#}")),
            }
        }
        bail!("no container runtime works here: {}", why.join("; "))
    }

    /// Create, start, end and delete, per container.
    pub(super) fn start(&self) -> anyhow::Result<Duration> {
        let nothing = self.run(0)?;
        let all = self.run(RUNS)?;
        Ok(all.saturating_sub(nothing) / u32::try_from(RUNS)?)
    }

    /// crun refuses hybrid cgroups until the empty v2 hierarchy is out of sight, so it is hidden in a mount namespace
    /// of the loop's own. The script is fixed text; nothing is pasted into it.
    fn run(&self, times: usize) -> anyhow::Result<Duration> {
        const LOOP: &str = r#"
            umount /sys/fs/cgroup/unified 2>/dev/null
            i=0
            while [ "$i" -lt "$3" ]; do i=$((i + 1)); "$1" run --bundle "$2" "bench-$$-$i" || exit 1; done"#;
        let began = Instant::now();
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", LOOP, "sh", self.name])
            .arg(self.bundle.path())
            .arg(times.to_string())
            .output()
            .context("unshare")?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(began.elapsed())
    }
}

fn bundle(runtime: &str) -> anyhow::Result<tempfile::TempDir> {
    let bundle = tempfile::tempdir()?;
    let rootfs = bundle.path().join("rootfs");
    fs::create_dir(&rootfs)?;
    fs::copy("/bin/busybox", rootfs.join("busybox")).context("busybox-static is not installed")?;
    let made = Command::new(runtime)
        .arg("spec")
        .current_dir(bundle.path())
        .output()
        .context("not installed")?;
    ensure!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr).trim()
    );
    let path = bundle.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["args"] = serde_json::json!(["/busybox", "true"]);
    config["process"]["terminal"] = false.into();
    fs::write(&path, config.to_string())?;
    Ok(bundle)
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
