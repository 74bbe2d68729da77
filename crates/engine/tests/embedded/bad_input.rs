//! Images and orders that cannot work, and what is said about them.

use engine::{Engine, EngineError, InstanceSpec};
use images::PackRequest;

use crate::common::{World, can_run, eventually, spec};

/// Starts what cannot run and answers why.
async fn start_error(world: &World, spec: InstanceSpec) -> String {
    world.engine.start(&spec).await.expect("taken on");
    let why = world.exited(spec.id).await.start_error.expect("it could not start");
    world.engine.remove(spec.id).await.expect("removed");
    why
}

async fn error_of_image(world: &World, change: impl FnOnce(&mut PackRequest)) -> String {
    let image = world.image(change).await;
    start_error(world, spec(&image)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_an_image_gets_wrong_is_named() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let why = error_of_image(&world, |request| request.entrypoint = vec!["/srv/app".into()]).await;
    assert_eq!(why, "the image has no program `/srv/app`");
    let why = error_of_image(&world, |request| request.entrypoint = vec!["gunicorn".into()]).await;
    assert!(
        why.starts_with("the image has no program `gunicorn` in its PATH ("),
        "{why}"
    );
    let why = error_of_image(&world, |request| request.user = "nobody-here".into()).await;
    assert!(why.contains("`nobody-here`") && why.contains("/etc/passwd"), "{why}");
    let why = error_of_image(&world, |request| request.user = "app:nogroup".into()).await;
    assert!(why.contains("`nogroup`"), "{why}");
    let why = error_of_image(&world, |request| request.working_dir = "/etc/passwd/x".into()).await;
    assert!(why.contains("/etc/passwd/x"), "{why}");
    let why = error_of_image(&world, |request| request.entrypoint = vec!["/etc/passwd".into()]).await;
    assert_eq!(why, "`/etc/passwd` is not executable (chmod +x)");
    let why = error_of_image(&world, |request| request.entrypoint = vec!["/etc".into()]).await;
    assert!(why.contains("may not run `/etc`"), "{why}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_this_machine_cannot_run_are_named() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = |files: Vec<(&'static str, &'static [u8])>| {
        let (images, name) = (world.images.clone(), format!("odd-{}", uuid::Uuid::new_v4().simple()));
        async move {
            use std::os::unix::fs::PermissionsExt;
            let dir = tempfile::TempDir::new().expect("a directory");
            for (file, content) in files {
                std::fs::write(dir.path().join(file), content).expect("written");
                let executable = std::fs::Permissions::from_mode(0o755);
                std::fs::set_permissions(dir.path().join(file), executable).expect("executable");
            }
            let mut request = PackRequest::new(dir.path(), name.parse().expect("a name"));
            request.entrypoint = vec!["/app".into()];
            images.pack(request).await.expect("packed").to_string()
        }
    };
    let script = image(vec![("app", b"#!/usr/bin/python3\n")]).await;
    let why = start_error(&world, spec(&script)).await;
    assert!(why.contains("the interpreter in its first line"), "{why}");
    let garbage = image(vec![("app", b"\x7fELF but not really")]).await;
    let why = start_error(&world, spec(&garbage)).await;
    assert!(why.contains("another architecture"), "{why}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_there_is_refused_for_good() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    for image in [
        "sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "nonsense",
        "",
    ] {
        let spec = spec(image);
        let error = world.engine.start(&spec).await.expect_err("there is no such image");
        assert!(matches!(error, EngineError::Permanent(_)), "{error}");
        assert!(!world.home(spec.id).exists());
    }
    let image = world.image(|request| request.stop_signal = "SIGWHAT".into()).await;
    let error = world
        .engine
        .start(&spec(&image))
        .await
        .expect_err("there is no such signal")
        .to_string();
    assert!(error.contains("`SIGWHAT`"), "{error}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_that_cannot_be_is_named_without_its_value() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let mut nul = spec(&image);
    nul.env.insert("TOKEN".into(), "sec\0ret".into());
    assert_eq!(start_error(&world, nul).await, "the variable TOKEN holds a NUL byte");
    let mut huge = spec(&image);
    huge.env.insert("HUGE".into(), "x".repeat(200_000));
    assert_eq!(
        start_error(&world, huge).await,
        "the arguments and the environment are too large"
    );
    world.close().await;
}

/// A file system of our own at a directory, until it is dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(kind: &str, options: impl FnOnce(&std::path::Path) -> String) -> Mounted {
        let dir = tempfile::TempDir::new().expect("a directory");
        let at = dir.path().join("at");
        std::fs::create_dir(&at).expect("a directory");
        let options = options(dir.path());
        nix::mount::mount(
            Some(kind),
            &at,
            Some(kind),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("mounted");
        Mounted(dir)
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("at")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_overlayfs_is_refused_instances_get_copies() {
    if !can_run() {
        return;
    }
    // Overlayfs takes no directory of another overlayfs to write to.
    let mounted = Mounted::new("overlay", |dir| {
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir(dir.join(name)).expect("a directory");
        }
        let dir = dir.display();
        format!("lowerdir={dir}/lower,upperdir={dir}/upper,workdir={dir}/work")
    });
    let world = World::on(tempfile::TempDir::new_in(mounted.path()).expect("a directory")).await;
    let findings = world.engine.diagnose().await;
    let overlay = findings
        .iter()
        .find(|finding| finding.subject == "overlayfs")
        .expect("looked at");
    assert_eq!(overlay.level, engine::Level::Warning, "{overlay:?}");
    let image = world.image(|_| {}).await;
    let lines = world
        .output_of(&image, "echo x > /srv/mark; cat /srv/mark; id -u", |_| {})
        .await;
    assert_eq!(lines, ["x", "0"]);
    assert_eq!(world.output_of(&image, "ls /srv", |_| {}).await, Vec::<String>::new());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_loses_nothing_that_runs() {
    if !can_run() {
        return;
    }
    let mounted = Mounted::new("tmpfs", |_| "size=16m".to_owned());
    let world = World::on(tempfile::TempDir::new_in(mounted.path()).expect("a directory")).await;
    let image = world.image(|_| {}).await;
    let running = world
        .run_in(&image, "echo up; while :; do echo more; sleep 1; done", |_| {})
        .await;
    world.said(running, "up").await;
    let filler = world.dir.path().join("filler");
    let _ = std::fs::write(&filler, vec![0; 32 << 20]);
    let spec = spec(&image);
    let why = match world.engine.start(&spec).await {
        Err(error) => error.to_string(),
        Ok(()) => world.exited(spec.id).await.start_error.unwrap_or_default(),
    };
    assert!(why.contains("space") || why.contains("full"), "{why}");
    world.running(running).await;
    std::fs::remove_file(filler).expect("removed");
    let next = crate::common::spec(&image);
    // The file system counts what was freed a moment later.
    eventually("it starts again", || async { world.engine.start(&next).await.ok() }).await;
    assert_eq!(world.exited(next.id).await.code, Some(0));
    world.close().await;
}
