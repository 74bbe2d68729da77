//! How long a start takes: `start-latency SHIM ROUNDS`, where SHIM is a program that plays the shim.
//!
//! Prints one line of milliseconds for each way, medians and ranges: this engine (start of `/bin/true` until its end is
//! listed), and `crun run` and `runc run` of the same root file system with their own default configuration, where
//! they are installed. The three take turns, so that they meet the same machine.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use domain::{DeploymentId, InstanceId, ProjectId, Resources, ServiceId};
use engine::embedded::{Config, Embedded};
use engine::{Engine, InstanceSpec, Phase};
use images::{ImageStore, Limits, PackRequest};
use uuid::Uuid;

#[tokio::main]
async fn main() {
    let mut args = std::env::args_os().skip(1);
    let shim = args.next().expect("usage: start-latency SHIM ROUNDS");
    let rounds: u32 = args.next().and_then(|text| text.to_str()?.parse().ok()).unwrap_or(30);
    let dir = tempfile::TempDir::new().expect("a directory");
    let images = ImageStore::open(dir.path().join("images"), Limits::default()).expect("a store");
    let mut request = PackRequest::new("/bin/busybox", "busybox".parse().expect("a name"));
    request.entrypoint = vec!["/busybox".into(), "true".into()];
    let digest = images.pack(request).await.expect("packed");
    let bundle = dir.path().join("bundle");
    std::fs::create_dir(&bundle).expect("a directory");
    images.flatten(&digest, &bundle.join("rootfs")).await.expect("copied");
    let config = Config {
        data_dir: dir.path().to_owned(),
        images,
        shim_command: vec![shim],
        instance_network: "10.99.0.0/16".parse().expect("a network"),
    };
    let engine = Embedded::open(config).await.expect("an engine");
    let runtimes: Vec<&str> = ["crun", "runc"]
        .into_iter()
        .filter(|runtime| write_config(runtime, &bundle))
        .collect();

    let mut taken: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for round in 0..rounds {
        let (running, all) = one_start(&engine, &digest.to_string()).await;
        taken.entry("hob, to its end").or_default().push(all);
        taken.entry("hob, start() returned").or_default().push(running);
        for runtime in &runtimes {
            taken.entry(runtime).or_default().push(run(runtime, &bundle, round));
        }
    }
    for (way, mut times) in taken {
        times.sort();
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        let (median, best, worst) = (ms(&times[times.len() / 2]), ms(&times[0]), ms(&times[times.len() - 1]));
        println!("{way:22} median {median:6.1} ms   best {best:6.1}   worst {worst:6.1}");
    }
    engine.teardown().await.expect("torn down");
}

async fn one_start(engine: &Embedded, image: &str) -> (Duration, Duration) {
    let spec = InstanceSpec {
        id: InstanceId(Uuid::now_v7()),
        service: ServiceId(Uuid::now_v7()),
        service_name: "bench".into(),
        project: ProjectId(Uuid::now_v7()),
        deployment: DeploymentId(Uuid::now_v7()),
        version: 1,
        image_digest: image.to_owned(),
        port: None,
        env: BTreeMap::new(),
        files: Default::default(),
        command: None,
        resources: Resources::default(),
    };
    let mut changes = engine.changes();
    let begin = Instant::now();
    engine.start(&spec).await.expect("started");
    let returned = begin.elapsed();
    loop {
        changes.mark_unchanged();
        let list = engine.list().await.expect("a list");
        let status = list.into_iter().find(|status| status.id == spec.id).expect("listed");
        if let Phase::Exited(exit) = status.phase {
            assert_eq!(exit.code, Some(0), "{exit:?}");
            break;
        }
        changes.changed().await.expect("alive");
    }
    let all = begin.elapsed();
    engine.remove(spec.id).await.expect("removed");
    (returned, all)
}

/// The runtime's own default configuration, made to run the same program. `false` where the runtime is not installed.
fn write_config(runtime: &str, bundle: &Path) -> bool {
    let _ = std::fs::remove_file(bundle.join("config.json"));
    let status = Command::new(runtime)
        .arg("spec")
        .current_dir(bundle)
        .stderr(Stdio::null())
        .status();
    if !status.is_ok_and(|status| status.success()) {
        return false;
    }
    let text = std::fs::read(bundle.join("config.json")).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    config["process"]["args"] = serde_json::json!(["/busybox", "true"]);
    config["process"]["terminal"] = false.into();
    // Machines whose root may not raise limits refuse them.
    config["process"]["rlimits"] = serde_json::json!([]);
    std::fs::write(bundle.join(format!("{runtime}.json")), config.to_string()).expect("written");
    true
}

fn run(runtime: &str, bundle: &Path, round: u32) -> Duration {
    std::fs::copy(bundle.join(format!("{runtime}.json")), bundle.join("config.json")).expect("copied");
    let name = format!("bench-{}-{round}", std::process::id());
    let mut command = Command::new(runtime);
    if runtime == "crun" && Path::new("/sys/fs/cgroup/unified").exists() {
        // crun refuses hybrid cgroups. Hidden from it, which costs it a millisecond or two.
        command = Command::new("unshare");
        command.args([
            "-m",
            "sh",
            "-c",
            "umount /sys/fs/cgroup/unified && exec crun \"$@\"",
            "sh",
        ]);
    }
    command
        .args(["run", &name])
        .current_dir(bundle)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    let begin = Instant::now();
    let status = command.status().expect("run");
    let taken = begin.elapsed();
    assert!(status.success(), "{runtime}: {status}");
    taken
}
