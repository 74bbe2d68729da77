//! What this crate's tests run in processes of their own: the shim (a role of `hob` in the product);
//! `ordinary-user UID DIR SCRIPT`, which runs a script in a container without being root; and `starter DIR NETWORK`,
//! which starts the instances that it reads from standard input and waits to be killed.

use std::ffi::OsString;
use std::io::Error;
use std::process::ExitCode;
use std::time::Duration;

use engine::embedded::{Config, Embedded, enter_user_namespace_if_needed, shim_main};
use engine::{Engine, InstanceSpec, Phase};
use images::{ImageStore, Limits, PackRequest};

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let role = match args.first().and_then(|role| role.to_str()) {
        Some("ordinary-user") => ordinary_user,
        Some("starter") => starter,
        _ => return shim_main(args),
    };
    args.remove(0);
    match role(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn starter(args: Vec<OsString>) -> Result<(), Box<dyn std::error::Error>> {
    let [dir, network] = <[OsString; 2]>::try_from(args).map_err(|_| "usage: starter DIR NETWORK")?;
    let specs: Vec<InstanceSpec> = serde_json::from_reader(std::io::stdin().lock())?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let images = ImageStore::open(std::path::Path::new(&dir).join("images"), Limits::default())?;
        let engine = Embedded::open(Config {
            data_dir: dir.into(),
            images,
            shim_command: vec!["/proc/self/exe".into()],
            instance_network: network.to_str().ok_or("NETWORK")?.parse()?,
        })
        .await?;
        println!("open");
        for spec in specs {
            let engine = engine.clone();
            tokio::spawn(async move { engine.start(&spec).await });
        }
        std::future::pending().await
    })
}

fn ordinary_user(args: Vec<OsString>) -> Result<(), Box<dyn std::error::Error>> {
    let [uid, dir, script] = <[OsString; 3]>::try_from(args).map_err(|_| "usage: ordinary-user UID DIR SCRIPT")?;
    let uid: u32 = uid.to_str().ok_or("UID")?.parse()?;
    // SAFETY: plain numbers, one thread.
    if unsafe { libc::setgroups(0, std::ptr::null()) != 0 || libc::setgid(uid) != 0 || libc::setuid(uid) != 0 } {
        return Err(Error::last_os_error().into());
    }
    // A process that gave up root may not look at itself; one that never was root may.
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
    println!("{:?}", enter_user_namespace_if_needed(dir.as_ref())?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(in_a_container(dir, script))
}

async fn in_a_container(dir: OsString, script: OsString) -> Result<(), Box<dyn std::error::Error>> {
    let images = ImageStore::open(std::path::Path::new(&dir).join("images"), Limits::default())?;
    let mut request = PackRequest::new("/bin/busybox", "busybox".parse()?);
    request.entrypoint = vec!["/busybox".into(), "sh".into(), "-c".into()];
    request.cmd = vec![script.into_string().map_err(|_| "SCRIPT")?];
    let image = images.pack(request).await?;
    let engine = Embedded::open(Config {
        data_dir: dir.into(),
        images,
        shim_command: vec!["/proc/self/exe".into()],
        instance_network: "10.98.0.0/16".parse()?,
    })
    .await?;
    for finding in engine.diagnose().await {
        println!("{:?} {}: {}", finding.level, finding.subject, finding.message);
    }
    let spec: InstanceSpec = serde_json::from_value(serde_json::json!({
        "id": "01a206de-a646-753f-a09f-d3d2ea912a53",
        "service": "01a206de-a646-753f-a09f-d3d2ea912a53",
        "service_name": "web",
        "project": "01a206de-a646-753f-a09f-d3d2ea912a53",
        "deployment": "01a206de-a646-753f-a09f-d3d2ea912a53",
        "version": 1,
        "image_digest": image.to_string(),
        "port": 8080,
        "env": {},
        "files": { "configs": {}, "secrets": { "TOKEN": "sesame" } },
        "command": null,
        "resources": {},
    }))?;
    engine.start(&spec).await?;
    let exit = loop {
        let list = engine.list().await?;
        match list
            .into_iter()
            .find(|status| status.id == spec.id)
            .map(|status| status.phase)
        {
            Some(Phase::Exited(exit)) => break exit,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    println!("{}", exit.describe());
    exit.tail.iter().for_each(|line| println!("> {line}"));
    engine.remove(spec.id).await?;
    engine.teardown().await?;
    Ok(())
}
