//! Deaths of all kinds.

use std::time::Duration;

use engine::{Engine, InstanceSpec, Phase};

use crate::common::{World, can_run, eventually};

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("killed");
}

fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_control_plane_adopts_what_runs_and_restarts_nothing() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let serving = world.run("echo up; exec httpd -f -p 8080").await;
    let ended = world.run("echo bye; exit 5").await;
    world.said(serving, "up").await;
    let before = world.running(serving).await;
    world.exited(ended).await;
    let world = world.reopen().await;
    assert_eq!(world.status(serving).await, before);
    assert_eq!(world.exited(ended).await.code, Some(5));
    assert_eq!(world.lines(serving).await, ["up"]);
    let check = domain::HealthCheck::default();
    eventually("it is reached", || async {
        world.engine.probe(serving, Some(8080), &check).await.ok()
    })
    .await;
    // Its end is noticed by the new one too, and the next instance gets another address.
    let next = world.run("sleep 1000").await;
    assert_ne!(world.running(next).await.address, before.address);
    let mut changes = world.engine.changes();
    changes.mark_unchanged();
    kill(before.pid.expect("a process") as i32);
    tokio::time::timeout(Duration::from_secs(10), changes.changed())
        .await
        .expect("told")
        .expect("alive");
    assert_eq!(world.exited(serving).await.signal, Some(9));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_instance_during_the_control_planes_absence_is_found() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let short = world.run("echo up; sleep 1; exit 6").await;
    let orphan = world.run("echo up; exec sleep 1000").await;
    world.said(short, "up").await;
    // What is still in the pipe when a shim is killed is lost with it.
    world.said(orphan, "up").await;
    let pid = world.running(orphan).await.pid.expect("a process");
    let World {
        engine,
        images,
        subnet,
        dir,
    } = world;
    drop(engine);
    let shim = std::fs::read_to_string(dir.path().join("instances").join(orphan.to_string()).join("shim.json"));
    let shim = shim
        .expect("shim.json")
        .split(['{', ':', ','])
        .find_map(|field| field.parse().ok())
        .expect("a pid");
    kill(shim);
    eventually("the kernel ends the container with its shim", || async {
        (!is_alive(pid)).then_some(())
    })
    .await;
    let exit_file = dir.path().join("instances").join(short.to_string()).join("exit.json");
    eventually("the shim writes down the end", || async {
        exit_file.exists().then_some(())
    })
    .await;
    let world = World {
        engine: crate::common::open(dir.path(), &images, subnet).await,
        images,
        subnet,
        dir,
    };
    assert_eq!(world.exited(short).await.code, Some(6));
    let exit = world.exited(orphan).await;
    assert_eq!((exit.code, exit.signal, exit.asked), (None, None, false));
    assert_eq!(exit.tail, ["up"]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_is_noticed_at_once_and_its_container_ends() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let id = world.run("echo up; sleep 1000 & wait").await;
    world.said(id, "up").await;
    let pid = world.running(id).await.pid.expect("a process");
    let mut changes = world.engine.changes();
    changes.mark_unchanged();
    kill(world.shim_pid(id));
    tokio::time::timeout(Duration::from_secs(5), changes.changed())
        .await
        .expect("told")
        .expect("alive");
    let exit = world.exited(id).await;
    assert_eq!((exit.code, exit.signal, exit.asked), (None, None, false));
    assert!(exit.describe().contains("supervisor was killed"));
    assert_eq!(exit.tail, ["up"]);
    assert!(!is_alive(pid));
    world.engine.remove(id).await.expect("removed");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_is_found_again_when_its_file_is_lost() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let id = world.run("exec httpd -f -p 8080").await;
    world.running(id).await;
    // As after a restart in a new mount namespace.
    nix::mount::umount2(world.engine.network().enter_path(), nix::mount::MntFlags::MNT_DETACH).expect("unmounted");
    let world = world.reopen().await;
    let check = domain::HealthCheck::default();
    eventually("it is reached", || async {
        world.engine.probe(id, Some(8080), &check).await.ok()
    })
    .await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_was_cut_off_is_not_listed_and_can_be_repeated() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let spec = crate::common::spec(&image);
    // What a control plane leaves that is killed right after it wrote its record.
    let donor = world.run("sleep 1000").await;
    std::fs::create_dir(world.home(spec.id)).expect("a directory");
    let record = std::fs::read_to_string(world.home(donor).join("record.json")).expect("a record");
    let record = record.replace(&donor.to_string(), &spec.id.to_string());
    std::fs::write(world.home(spec.id).join("record.json"), record).expect("written");
    let world = world.reopen().await;
    assert!(
        world
            .engine
            .list()
            .await
            .expect("a list")
            .iter()
            .all(|status| status.id != spec.id)
    );
    world.engine.start(&spec).await.expect("started");
    assert_eq!(world.exited(spec.id).await.code, Some(0));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_of_something_that_runs_makes_the_list_an_error_and_not_shorter() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let id = world.run("sleep 1000").await;
    world.running(id).await;
    for file in ["record.json", "shim.json", "state.json"] {
        let path = world.home(id).join(file);
        let whole = std::fs::read(&path).expect("bytes");
        for length in [0, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).expect("truncated");
            let error = world
                .engine
                .list()
                .await
                .expect_err("nothing is concluded from a damaged file")
                .to_string();
            assert!(error.contains(file), "{error}");
            assert!(world.engine.remove(id).await.is_err(), "and nothing is destroyed");
        }
        std::fs::write(&path, whole).expect("restored");
    }
    assert_eq!(world.status(id).await.phase, Phase::Running);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_whose_order_was_cut_off_takes_nothing_on() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let spec = crate::common::spec(&image);
    // What happens when the control plane is killed while it gives the order.
    std::fs::create_dir(world.home(spec.id)).expect("a directory");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hob-test-shim"));
    command
        .arg("--dir")
        .arg(world.home(spec.id))
        .stdin(std::process::Stdio::piped());
    let mut shim = command.stderr(std::process::Stdio::piped()).spawn().expect("a shim");
    std::io::Write::write_all(&mut shim.stdin.take().expect("a pipe"), br#"{"env":{"TOKEN":"s3cret"#).expect("written");
    let output = shim.wait_with_output().expect("its end");
    assert!(!output.status.success());
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        complaint.contains("cut short") && !complaint.contains("s3cret"),
        "{complaint}"
    );
    assert!(world.engine.list().await.expect("a list").is_empty());
    world.engine.start(&spec).await.expect("started");
    assert_eq!(world.exited(spec.id).await.code, Some(0));
    world.close().await;
}

/// The control plane as a process of its own, killed at one moment after the other while it starts instances.
#[tokio::test(flavor = "multi_thread")]
async fn whenever_the_control_plane_is_killed_the_next_one_has_each_instance_once() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let World {
        engine,
        images,
        subnet,
        dir,
    } = world;
    drop(engine);
    let mut dir = dir;
    for delay_ms in [0, 2, 4, 6, 8, 10, 13, 16, 20, 25, 30, 40] {
        let specs: Vec<InstanceSpec> = (0..6)
            .map(|_| InstanceSpec {
                command: Some(vec!["sleep".into(), "1000".into()]),
                ..crate::common::spec(&image)
            })
            .collect();
        let mut starter = std::process::Command::new(env!("CARGO_BIN_EXE_hob-test-shim"));
        starter.arg("starter").arg(dir.path()).arg(subnet.to_string());
        starter
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut starter = starter.spawn().expect("a starter");
        let order = serde_json::to_vec(&specs).expect("JSON");
        std::io::Write::write_all(&mut starter.stdin.take().expect("a pipe"), &order).expect("written");
        let mut opened = [0; 5];
        std::io::Read::read_exact(starter.stdout.as_mut().expect("a pipe"), &mut opened).expect("opened");
        // The moment is what the test is about, so it waits for time here.
        std::thread::sleep(Duration::from_millis(delay_ms));
        starter.kill().expect("killed");
        starter.wait().expect("reaped");

        let world = World {
            engine: crate::common::open(dir.path(), &images, subnet).await,
            images: images.clone(),
            subnet,
            dir,
        };
        for spec in &specs {
            eventually("it is started", || async { world.engine.start(spec).await.ok() }).await;
        }
        let mut addresses = std::collections::HashSet::new();
        for spec in &specs {
            addresses.extend(world.running(spec.id).await.address);
        }
        assert_eq!(addresses.len(), specs.len());
        assert_eq!(world.engine.list().await.expect("a list").len(), specs.len());
        assert_eq!(shims_of(world.dir.path()), specs.len(), "after {delay_ms} ms");
        for spec in &specs {
            world.engine.stop(spec.id, Duration::ZERO).await.expect("stopped");
            world.engine.remove(spec.id).await.expect("removed");
        }
        dir = world.dir;
    }
    let world = World {
        engine: crate::common::open(dir.path(), &images, subnet).await,
        images,
        subnet,
        dir,
    };
    world.close().await;
}

/// Shims that live, as the machine sees it.
fn shims_of(dir: &std::path::Path) -> usize {
    let processes = std::fs::read_dir("/proc").expect("proc").flatten();
    let wanted = dir.display().to_string();
    processes
        .filter(|entry| {
            let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
            let is_shim = read("comm").starts_with(b"hob-shim");
            is_shim && String::from_utf8_lossy(&read("cmdline")).contains(&wanted)
        })
        .count()
}
