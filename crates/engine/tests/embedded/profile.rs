//! What a program finds around itself, and what it cannot do.

use std::collections::BTreeMap;

use domain::Resources;

use crate::common::{World, can_run};

fn field<'a>(lines: &'a [String], name: &str) -> &'a str {
    let line = lines
        .iter()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_else(|| panic!("no {name} in {lines:?}"));
    line.trim()
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_user_and_directory_are_as_image_and_service_say() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world
        .image(|request| {
            request.user = "app".into();
            request.working_dir = "/srv/deep/er".into();
            request.env = vec![
                "FROM_IMAGE=1".into(),
                "BOTH=image".into(),
                "PORT=1".into(),
                "HOB_SERVICE=x".into(),
            ];
        })
        .await;
    let script =
        "env; echo id=$(id -u):$(id -g):$(id -G | tr ' ' ,); echo dir=$(pwd); touch /tmp/x && echo tmp=ok; hostname";
    let lines = world
        .output_of(&image, script, |spec| {
            spec.env = BTreeMap::from([
                ("BOTH".into(), "service".into()),
                ("SECRET".into(), "s p a c e\nline".into()),
            ]);
        })
        .await;
    for expected in [
        "FROM_IMAGE=1",
        "BOTH=service",
        "PORT=8080",
        "HOB_SERVICE=web",
        "HOB_VERSION=3",
        "HOME=/srv",
        "SECRET=s p a c e",
        "id=1000:1000:1000,77",
        "dir=/srv/deep/er",
        "tmp=ok",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} in {lines:?}");
    }
    let hostname = field(&lines, "HOSTNAME=");
    assert!(hostname.starts_with("web-"), "{hostname}");
    assert_eq!(lines.last().map(String::as_str), Some(hostname));
    assert!(lines.iter().any(|line| line.starts_with("HOB_INSTANCE=")));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_other_than_root_has_no_capability_and_gets_none() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|request| request.user = "1000:1000".into()).await;
    let lines = world.output_of(&image, "cat /proc/self/status", |_| {}).await;
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(&lines, set), "0000000000000000", "{set}");
    }
    assert_eq!(field(&lines, "NoNewPrivs:"), "1");
    assert_eq!(field(&lines, "Seccomp:"), "2");
    assert_eq!(field(&lines, "Groups:"), "", "no group of the host's root");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_in_a_container_has_seven_harmless_capabilities() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let lines = world.output_of(&image, "cat /proc/self/status", |_| {}).await;
    // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, KILL 5, SETGID 6, SETUID 7, NET_BIND_SERVICE 10.
    let seven = [0, 1, 3, 5, 6, 7, 10].iter().fold(0u64, |set, bit| set | 1 << bit);
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(field(&lines, set), format!("{seven:016x}"), "{set}");
    }
    for set in ["CapInh:", "CapAmb:"] {
        assert_eq!(field(&lines, set), "0000000000000000", "{set}");
    }
    assert_eq!((field(&lines, "NoNewPrivs:"), field(&lines, "Seccomp:")), ("1", "2"));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_begins_with_no_signal_ignored_or_blocked() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let command = vec!["cat".into(), "/proc/self/status".into()];
    let lines = world.output_of(&image, "", |spec| spec.command = Some(command)).await;
    // The two that belong to the C library itself, which every program sets for itself.
    let library = 1u64 << 31 | 1 << 32;
    for mask in ["SigBlk:", "SigIgn:", "SigCgt:"] {
        let signals = u64::from_str_radix(field(&lines, mask), 16).expect("a mask");
        assert_eq!(signals & !library, 0, "{mask} {signals:x}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reaches_the_machine_is_out_of_reach_even_for_root() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let attempts = [
        ("sysctl", "echo 1 > /proc/sys/vm/drop_caches"),
        ("sysrq", "echo h > /proc/sysrq-trigger && test -s /proc/sysrq-trigger"),
        ("kcore", "head -c 1 /proc/kcore | grep -q ."),
        ("keys", "grep -q . /proc/keys"),
        ("sys", "echo 1 > /sys/kernel/mm/ksm/run"),
        ("firmware", "ls /sys/firmware | grep -q ."),
        ("mount", "mount -t tmpfs none /srv"),
        ("namespace", "unshare -m true"),
        ("user namespace", "unshare -U true"),
        ("device", "mknod /srv/disk b 254 0 && head -c 1 /srv/disk"),
        ("host name", "hostname other"),
        ("network", "ip link set lo down"),
        ("clock", "date -s 2000-01-01; test $(date +%Y) = 2000"),
        ("cgroup", "mkdir /sys/fs/cgroup/memory/x || mkdir /sys/fs/cgroup/x"),
        (
            "memory limit",
            "cd /sys/fs/cgroup; echo 1g > memory/memory.limit_in_bytes || echo 1g > memory.max",
        ),
        (
            "pids limit",
            "cd /sys/fs/cgroup; echo 9999 > pids/pids.max || echo 9999 > pids.max",
        ),
        ("host processes", "test $(ls -d /proc/[0-9]* | wc -l) -gt 10"),
        ("host files", "ls /var/lib || ls /work"),
    ];
    let script: String = attempts
        .iter()
        .map(|(name, attempt)| format!("({attempt}) >/dev/null 2>&1 && echo 'REACHED {name}'\n"))
        .collect();
    let lines = world
        .output_of(&image, &format!("{script}\necho tried them all"), |_| {})
        .await;
    assert_eq!(lines, ["tried them all"]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_file_system_is_read_only_if_asked_for() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let script = "touch /srv/x && echo wrote; touch /dev/shm/x && echo shm; true";
    let asked = Resources {
        read_only_root: true,
        ..Resources::default()
    };
    assert_eq!(world.output_of(&image, script, |_| {}).await, ["wrote", "shm"]);
    let lines = world
        .output_of(&image, script, |spec| spec.resources = asked.clone())
        .await;
    assert!(
        lines.iter().all(|line| line != "wrote") && lines.contains(&"shm".to_owned()),
        "{lines:?}"
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_instance_writes_no_other_sees() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    world
        .output_of(&image, "echo x > /etc/passwd; echo x > /srv/mark", |_| {})
        .await;
    let lines = world.output_of(&image, "head -n 1 /etc/passwd; ls /srv", |_| {}).await;
    assert_eq!(lines, ["root:x:0:0::/root:/bin/sh"]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_finds_its_limits_where_language_runtimes_look() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    let limit = Resources {
        memory_mb: Some(64),
        ..Resources::default()
    };
    let lines = world
        .output_of(&image, script, |spec| spec.resources = limit.clone())
        .await;
    assert_eq!(lines, [(64u64 << 20).to_string()]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_any_file_or_command_line() {
    if !can_run() {
        return;
    }
    const SECRET: &str = "hunter2-planted-secret";
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let id = world
        .run_in(&image, "echo up; sleep 1000", |spec| {
            spec.env.insert("PASSWORD".into(), SECRET.into());
        })
        .await;
    world.said(id, "up").await;
    let mut looked_at = 0;
    let mut dirs = vec![world.home(id)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            if entry.file_type().expect("a type").is_dir() {
                dirs.push(entry.path());
            } else if let Ok(bytes) = std::fs::read(entry.path()) {
                looked_at += 1;
                assert!(
                    !String::from_utf8_lossy(&bytes).contains(SECRET),
                    "{}",
                    entry.path().display()
                );
            }
        }
    }
    assert!(looked_at >= 5, "{looked_at}");
    let shim = format!("/proc/{}", world.shim_pid(id));
    for file in ["cmdline", "environ"] {
        let text = std::fs::read(format!("{shim}/{file}")).expect("readable");
        assert!(!String::from_utf8_lossy(&text).contains(SECRET), "{file}");
    }
    world.close().await;
}
