//! A data directory with an engine on it, and images made of busybox.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use domain::{DeploymentId, InstanceId, ProjectId, Resources, ServiceId};
use engine::embedded::{Config, Embedded, Subnet};
use engine::{Engine, Exit, InstanceSpec, InstanceStatus, Phase};
use images::{ImageStore, Limits, PackRequest};
use tempfile::TempDir;
use uuid::Uuid;

pub const BUSYBOX: &str = "/bin/busybox";
/// No wait of a test is longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Whether containers can be run here; says so if not.
pub fn can_run() -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if !Path::new(BUSYBOX).exists() {
        "/bin/busybox is missing (package busybox-static)"
    } else {
        return true;
    };
    println!("SKIPPED: {reason}");
    false
}

pub struct World {
    pub engine: Embedded,
    pub images: ImageStore,
    pub subnet: Subnet,
    pub dir: DataDir,
}

/// A directory that nothing outlives: a test that fails does not get to [`World::close`].
pub struct DataDir(TempDir);

impl DataDir {
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let path = self.path().display().to_string();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let command_line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let is_shim = String::from_utf8_lossy(&command_line).contains(&format!("{path}/instances/"));
            if let (Some(pid), true) = (pid, is_shim) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
        let _ = nix::mount::umount2(&self.path().join("net/ns"), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Every world of one test process gets a range of its own, and processes differ by id.
fn subnet() -> Subnet {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let third = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("10.{}.{third}.0/24", 100 + std::process::id() % 100)
        .parse()
        .expect("a network")
}

impl World {
    pub async fn new() -> World {
        World::on(TempDir::new().expect("a directory")).await
    }

    pub async fn on(dir: TempDir) -> World {
        let dir = DataDir(dir);
        let images = ImageStore::open(dir.path().join("images"), Limits::default()).expect("an image store");
        let subnet = subnet();
        let engine = open(dir.path(), &images, subnet).await;
        World {
            engine,
            images,
            subnet,
            dir,
        }
    }

    /// As after a restart of the control plane.
    pub async fn reopen(self) -> World {
        let World {
            engine,
            images,
            subnet,
            dir,
        } = self;
        drop(engine);
        let engine = open(dir.path(), &images, subnet).await;
        World {
            engine,
            images,
            subnet,
            dir,
        }
    }

    /// An image whose root holds busybox with the applets that tests use, and `/etc/passwd`.
    pub async fn image(&self, change: impl FnOnce(&mut PackRequest)) -> String {
        let root = TempDir::new().expect("a directory");
        make_root(root.path());
        let name = format!("test-{}", Uuid::new_v4().simple())
            .parse()
            .expect("a reference");
        let mut request = PackRequest::new(root.path(), name);
        request.entrypoint = vec!["/bin/sh".into(), "-c".into()];
        request.cmd = vec!["true".into()];
        change(&mut request);
        self.images.pack(request).await.expect("packed").to_string()
    }

    /// Starts `sh -c script` and answers its id.
    pub async fn run(&self, script: &str) -> InstanceId {
        let image = self.image(|_| {}).await;
        self.run_in(&image, script, |_| {}).await
    }

    pub async fn run_in(&self, image: &str, script: &str, change: impl FnOnce(&mut InstanceSpec)) -> InstanceId {
        let mut spec = spec(image);
        spec.command = Some(vec!["/bin/sh".into(), "-c".into(), script.into()]);
        change(&mut spec);
        self.engine.start(&spec).await.expect("started");
        spec.id
    }

    pub async fn status(&self, id: InstanceId) -> InstanceStatus {
        let list = self.engine.list().await.expect("a list");
        list.into_iter().find(|status| status.id == id).expect("listed")
    }

    pub async fn running(&self, id: InstanceId) -> InstanceStatus {
        eventually("the instance runs", || async {
            let status = self.status(id).await;
            if let Phase::Exited(exit) = &status.phase {
                panic!("it ended: {} {:?}", exit.describe(), exit.tail);
            }
            (status.phase == Phase::Running).then_some(status)
        })
        .await
    }

    pub async fn exited(&self, id: InstanceId) -> Exit {
        eventually("the instance has ended", || async {
            match self.status(id).await.phase {
                Phase::Exited(exit) => Some(*exit),
                _ => None,
            }
        })
        .await
    }

    /// Runs a script to its end and answers its output.
    pub async fn output_of(&self, image: &str, script: &str, change: impl FnOnce(&mut InstanceSpec)) -> Vec<String> {
        let id = self.run_in(image, script, change).await;
        let exit = self.exited(id).await;
        // A program that was killed has not said all that it would have.
        assert!(exit.code.is_some() && exit.start_error.is_none(), "{exit:?}");
        self.lines(id).await
    }

    pub async fn lines(&self, id: InstanceId) -> Vec<String> {
        let chunk = self.engine.logs(id, None, 10_000, 4 << 20).await.expect("a log");
        chunk.lines.into_iter().map(|line| line.text).collect()
    }

    /// Waits for a line of output.
    pub async fn said(&self, id: InstanceId, wanted: &str) {
        eventually(&format!("it says {wanted:?}"), || async {
            self.lines(id).await.iter().any(|line| line == wanted).then_some(())
        })
        .await
    }

    pub fn home(&self, id: InstanceId) -> PathBuf {
        self.dir.path().join("instances").join(id.to_string())
    }

    pub fn shim_pid(&self, id: InstanceId) -> i32 {
        let text = std::fs::read_to_string(self.home(id).join("shim.json")).expect("shim.json");
        let pid = text.split(['{', ':', ',']).find_map(|field| field.parse().ok());
        pid.expect("a process id")
    }

    /// Stops and removes everything. Every test ends with it.
    pub async fn close(self) -> DataDir {
        for status in self.engine.list().await.expect("a list") {
            self.engine.stop(status.id, Duration::ZERO).await.expect("stopped");
            self.engine.remove(status.id).await.expect("removed");
        }
        self.engine.teardown().await.expect("torn down");
        self.dir
    }
}

pub async fn open(data_dir: &Path, images: &ImageStore, instance_network: Subnet) -> Embedded {
    let config = Config {
        data_dir: data_dir.to_owned(),
        images: images.clone(),
        shim_command: vec![env!("CARGO_BIN_EXE_hob-test-shim").into()],
        instance_network,
    };
    Embedded::open(config).await.expect("an engine")
}

fn make_root(root: &Path) {
    for dir in ["bin", "etc", "srv"] {
        std::fs::create_dir(root.join(dir)).expect("a directory");
    }
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).expect("busybox");
    for applet in [
        "sh", "cat", "echo", "sleep", "env", "id", "pwd", "touch", "httpd", "nc", "wget", "grep", "ls", "kill", "true",
        "false", "seq", "dd", "head", "tail", "yes", "trap", "wc", "ping", "mount", "hostname", "ip", "stat", "mkdir",
        "nslookup", "tr", "mknod", "unshare", "date",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/srv:/bin/sh\n",
    )
    .expect("file");
    std::fs::write(root.join("etc/group"), "root:x:0:\napp:x:1000:\nextra:x:77:app\n").expect("file");
}

pub fn spec(image: &str) -> InstanceSpec {
    InstanceSpec {
        id: InstanceId(Uuid::now_v7()),
        service: ServiceId(Uuid::now_v7()),
        service_name: "web".into(),
        project: ProjectId(Uuid::now_v7()),
        deployment: DeploymentId(Uuid::now_v7()),
        version: 3,
        image_digest: image.to_owned(),
        port: Some(8080),
        env: BTreeMap::new(),
        files: Default::default(),
        command: None,
        resources: Resources::default(),
    }
}

/// Asks again and again until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
