//! From start to removal.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use domain::{HealthCheck, Resources};
use engine::{Engine, InstanceSpec, Stream};
use testkit::conformance::{Behaviour, Subject, check_engine};

use crate::common::{World, can_run, eventually, spec};

/// The shim joins the groups of its instance for a moment, so that the container is born in them.
#[tokio::test(flavor = "multi_thread")]
async fn a_shim_uses_nothing_of_what_its_instance_is_limited_to() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let id = world.run("sleep 1000").await;
    let program = world.running(id).await.pid.expect("a process");
    let groups = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its groups");
    let of_instance = |pid| {
        groups(pid)
            .lines()
            .filter(|line| line.contains(&id.to_string()))
            .count()
    };
    if of_instance(program as i32) == 0 {
        println!("SKIPPED: no control groups");
    }
    assert_eq!(of_instance(world.shim_pid(id)), 0, "{}", groups(world.shim_pid(id)));
    world.close().await;
}

/// What is proven with the fake engine holds for this one: the suite that the fake one is held to.
#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_engine_does_what_the_fake_one_does() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let behaving = |behaviour: Behaviour| {
        let script = match behaviour {
            Behaviour::Impossible => {
                return InstanceSpec {
                    command: Some(vec!["/no/such/program".into()]),
                    ..spec(&image)
                };
            }
            Behaviour::Good => "trap 'exit 0' TERM; httpd -f -p 8080 & while :; do sleep 1 & wait $!; done".to_owned(),
            Behaviour::EndsWith(code) => format!("echo last words; exit {code}"),
            Behaviour::IgnoresStop => "trap '' TERM; httpd -f -p 8080 & while :; do sleep 1; done".to_owned(),
        };
        InstanceSpec {
            command: Some(vec!["/bin/sh".into(), "-c".into(), script]),
            ..spec(&image)
        }
    };
    let subject = Subject {
        engine: &world.engine,
        spec: &behaving,
        check: HealthCheck::default(),
    };
    check_engine(&subject).await;
    assert!(world.engine.list().await.expect("a list").is_empty());
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_and_exit_are_kept_until_removal() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let id = world.run("echo hello; echo oops >&2; exit 3").await;
    let exit = world.exited(id).await;
    assert_eq!((exit.code, exit.signal, &exit.start_error), (Some(3), None, &None));
    assert!(!exit.asked && !exit.out_of_memory);
    let tail: HashSet<&str> = exit.tail.iter().map(String::as_str).collect();
    assert_eq!(tail, HashSet::from(["hello", "oops"]));
    let chunk = world.engine.logs(id, None, 10, 1 << 20).await.expect("a log");
    let stream = |text: &str| {
        chunk
            .lines
            .iter()
            .find(|line| line.text == text)
            .map(|line| line.stream)
    };
    assert_eq!(
        (stream("hello"), stream("oops")),
        (Some(Stream::Stdout), Some(Stream::Stderr))
    );
    assert_eq!(chunk.next, None);
    world.engine.remove(id).await.expect("removed");
    assert!(!world.home(id).exists());
    world.close().await;
}

/// C4.25: in memory, for the program alone, and gone with it.
#[tokio::test(flavor = "multi_thread")]
async fn values_as_files_are_read_by_the_program_and_by_nobody_else() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let script = "cd /run/secrets; cat TOKEN; echo; ls; env | grep -c planted; \
                  echo x > TOKEN || echo read-only; grep ' /run/secrets ' /proc/mounts | cut -d' ' -f3; sleep 600";
    for user in ["", "1000:1000"] {
        let image = world.image(|request| request.user = user.to_owned()).await;
        let files = [("TOKEN", "planted secret"), ("EMPTY", "")];
        let files = files.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let id = world
            .run_in(&image, script, |spec| spec.files.secrets = files.into())
            .await;
        world.said(id, "tmpfs").await;
        let said = world.lines(id).await;
        let said: Vec<&str> = said
            .iter()
            .map(String::as_str)
            .filter(|line| !line.starts_with("/bin/sh"))
            .collect();
        assert_eq!(said, ["planted secret", "EMPTY", "TOKEN", "0", "read-only", "tmpfs"]);
        // Outside, in the shim's absence from this mount namespace, there is an empty directory.
        let seen = std::fs::read_dir(world.home(id).join("values/run/secrets")).expect("a directory");
        assert_eq!(seen.count(), 0);
        world.engine.stop(id, Duration::ZERO).await.expect("stopped");
        world.exited(id).await;
        world.engine.remove(id).await.expect("removed");
        assert!(!world.home(id).exists());
    }
    world.close().await;
}

/// What a shim is told has a limit, and whoever is over it is told what to do.
#[tokio::test(flavor = "multi_thread")]
async fn values_beyond_the_limit_are_refused_with_their_size() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| ()).await;
    let mut spec = spec(&image);
    let value = "x".repeat(64 << 10);
    spec.files.configs = (0..130).map(|n| (format!("KEY_{n}"), value.clone())).collect();
    let refused = world.engine.start(&spec).await.expect_err("too much").to_string();
    assert!(
        refused.contains("8388608 is the most: make config or secrets smaller"),
        "{refused}"
    );
    assert!(!world.home(spec.id).exists(), "nothing is left of it");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_follows_the_output_across_rotation_and_the_oldest_is_dropped() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    // 24 MB, three times what one file holds.
    let id = world.run("seq 1 3000000; echo done").await;
    let mut cursor = None;
    let mut read: u64 = 0;
    let mut last = String::new();
    loop {
        let chunk = world.engine.logs(id, cursor.clone(), 0, 4 << 20).await.expect("a log");
        read += chunk.lines.len() as u64;
        last = chunk.lines.last().map(|line| line.text.clone()).unwrap_or(last);
        match chunk.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
        assert!(read < 4_000_000);
    }
    assert_eq!(last, "done");
    assert_eq!(world.exited(id).await.code, Some(0));
    let files = std::fs::read_dir(world.home(id)).expect("a directory").flatten();
    let logs: Vec<u64> = files
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("log."))
        .map(|entry| entry.metadata().expect("a file").len())
        .collect();
    assert_eq!(logs.len(), 2, "{logs:?}");
    assert!(logs.iter().all(|size| *size <= 8 << 20), "{logs:?}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_asks_by_the_images_own_signal_and_waits_for_the_end() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    // Busybox loses a signal that comes just before it begins to wait, so it never waits for long.
    let image = world.image(|request| request.stop_signal = "SIGQUIT".into()).await;
    let script = "trap 'echo quit; exit 7' QUIT; trap 'exit 1' TERM; echo ready; while :; do sleep 1 & wait $!; done";
    let id = world.run_in(&image, script, |_| {}).await;
    world.said(id, "ready").await;
    world.engine.stop(id, Duration::from_secs(20)).await.expect("stopped");
    let exit = world.exited(id).await;
    assert_eq!((exit.code, exit.asked), (Some(7), true));
    assert_eq!(exit.tail, ["ready", "quit"]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_know_the_signal_is_not_waited_for() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let id = world
        .run_in(&image, "", |spec| {
            spec.command = Some(vec!["sleep".into(), "1000".into()])
        })
        .await;
    world.running(id).await;
    let before = Instant::now();
    // As a container's first process it would never get the signal: the kernel withholds what has no handler.
    world.engine.stop(id, Duration::from_secs(60)).await.expect("stopped");
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    assert_eq!(world.exited(id).await.signal, Some(9));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_behind_a_shell_is_asked_in_the_shells_place() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let script =
        "(trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 1 & wait $!; done); echo after; exit 8";
    let id = world.run(script).await;
    world.said(id, "ready").await;
    world.engine.stop(id, Duration::from_secs(20)).await.expect("stopped");
    let exit = world.exited(id).await;
    assert_eq!((exit.code, exit.asked), (Some(8), true), "{exit:?}");
    assert!(
        exit.tail.contains(&"asked".to_owned()) && exit.tail.contains(&"after".to_owned()),
        "{:?}",
        exit.tail
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_hostile_program_started_ends_with_it() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    // A number that no other test process uses.
    let orphan = format!("sleep {}", 1_000_000 + std::process::id());
    let id = world
        .run(&format!(
            "trap '' TERM HUP INT; (trap '' TERM HUP; sleep 1000) & ({orphan} &) ; echo up; while :; do sleep 1; done"
        ))
        .await;
    world.said(id, "up").await;
    world
        .engine
        .stop(id, Duration::from_millis(100))
        .await
        .expect("stopped");
    let exit = world.exited(id).await;
    assert_eq!((exit.signal, exit.asked), (Some(9), true));
    assert_eq!(processes_named(&orphan), 0);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_starts_at_once_all_succeed() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let before = Instant::now();
    let mut ids = Vec::new();
    for _ in 0..5 {
        let starts = (0..8).map(|_| {
            let (engine, mut spec) = (world.engine.clone(), spec(&image));
            spec.command = Some(vec!["sleep".into(), "1000".into()]);
            tokio::spawn(async move {
                engine.start(&spec).await.expect("started");
                spec.id
            })
        });
        for start in starts.collect::<Vec<_>>() {
            ids.push(start.await.expect("no panic"));
        }
    }
    for id in &ids {
        world.running(*id).await;
    }
    println!("40 instances, 8 at a time: {:?}", before.elapsed());
    let list = world.engine.list().await.expect("a list");
    let addresses: HashSet<_> = list.iter().filter_map(|status| status.address).collect();
    assert_eq!((list.len(), addresses.len()), (40, 40));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_beyond_the_limit_is_recognised_as_the_reason_of_the_end() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let limit = Resources {
        memory_mb: Some(32),
        ..Resources::default()
    };
    let id = world
        .run_in(&image, "", |spec| {
            // One endless line: `tail` has to keep it all.
            spec.command = Some(vec![
                "/bin/sh".into(),
                "-c".into(),
                "head -c 300000000 /dev/zero | tail -n 1".into(),
            ]);
            spec.resources = limit.clone();
        })
        .await;
    let exit = world.exited(id).await;
    assert!(exit.out_of_memory, "{exit:?}");
    assert!(exit.describe().contains("out of memory"));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_memory_that_an_instance_had_is_known_while_it_runs_and_afterwards() {
    const HELD: u64 = 20_000_000;
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let engine = &world.engine;
    // `tail` has to keep one endless line, and is gone when the program sleeps.
    let id = world
        .run(&format!(
            "head -c {HELD} /dev/zero | tail -n 1 > /dev/null; exec sleep 1000"
        ))
        .await;
    world.running(id).await;
    if engine.memory_peak(id).await.is_none() {
        println!("SKIPPED: memory is not counted here");
        world.close().await;
        return;
    }
    eventually("it has held that much", async || {
        engine.memory_peak(id).await.filter(|most| *most > HELD)
    })
    .await;
    engine.stop(id, Duration::ZERO).await.expect("stops");
    let exit = world.exited(id).await;
    assert!(exit.memory_peak > Some(HELD), "{exit:?}");
    assert_eq!(engine.memory_peak(id).await, None, "its groups are gone");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_processes_than_allowed_are_made() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let script = "for i in $(seq 50); do sleep 1000 & done; echo made them all";
    let id = world
        .run_in(&image, script, |spec| {
            spec.resources = Resources {
                pids: Some(10),
                ..Resources::default()
            }
        })
        .await;
    let exit = world.exited(id).await;
    assert_ne!(exit.code, Some(0), "{exit:?}");
    assert!(exit.tail.iter().any(|line| line.contains("fork")), "{:?}", exit.tail);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_behind() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let ids = [
        world.run("sleep 1000").await,
        world.run("exit 1").await,
        world.run("sleep 1000").await,
    ];
    world.running(ids[0]).await;
    world.exited(ids[1]).await;
    let findings = world.engine.diagnose().await;
    let leftovers = findings
        .iter()
        .find(|finding| finding.subject == "leftovers")
        .expect("looked for");
    assert!(leftovers.message.starts_with("none"), "{leftovers:?}");
    let way_out = findings
        .iter()
        .find(|finding| finding.subject == "network")
        .expect("looked at");
    let device = way_out.message.split(' ').next_back().unwrap_or_default().to_owned();
    assert!(device.starts_with("hob-"), "{way_out:?}");
    assert!(std::path::Path::new("/sys/class/net").join(&device).exists());
    let dir = world.close().await;
    let path = dir.path().to_string_lossy().into_owned();
    // The kernel takes a moment to dismantle namespaces whose last process has gone.
    eventually("nothing is left", || async {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let device = std::path::Path::new("/sys/class/net").join(&device);
        let processes = processes_named(&path);
        println!(
            "mounts: {}, processes: {processes}, device: {}",
            mounts.contains(&path),
            device.exists()
        );
        let clean = !mounts.contains(&path) && processes == 0 && !device.exists();
        clean.then_some(())
    })
    .await;
    assert_eq!(
        std::fs::read_dir(dir.path().join("instances"))
            .expect("a directory")
            .count(),
        0
    );
    for id in ids {
        assert_eq!(groups_named(&id.to_string()), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_check_passes_while_the_process_lives() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let check = HealthCheck {
        kind: domain::spec::CheckKind::Process,
        ..HealthCheck::default()
    };
    let id = world.run("exit 4").await;
    world.exited(id).await;
    let failure = world.engine.probe(id, None, &check).await.expect_err("it has ended");
    assert_eq!(failure.0, "exit code 4");
    world.close().await;
}

fn processes_named(text: &str) -> usize {
    let processes = std::fs::read_dir("/proc").expect("proc").flatten();
    let command_lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let matching = command_lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    matching.filter(|line| line.contains(text)).count()
}

fn groups_named(name: &str) -> Vec<String> {
    fn walk(dir: &std::path::Path, name: &str, depth: u32, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy() == name {
                    found.push(entry.path().display().to_string());
                }
                if depth > 0 {
                    walk(&entry.path(), name, depth - 1, found);
                }
            }
        }
    }
    let mut found = Vec::new();
    walk("/sys/fs/cgroup".as_ref(), name, 3, &mut found);
    found
}
