//! Who reaches whom.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use domain::HealthCheck;
use domain::spec::CheckKind;
use engine::Engine;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::common::{World, can_run, eventually};

fn tcp() -> HealthCheck {
    HealthCheck {
        timeout_ms: 2000,
        ..HealthCheck::default()
    }
}

fn http(path: &str) -> HealthCheck {
    HealthCheck {
        kind: CheckKind::Http {
            path: path.into(),
            status: Some(200),
        },
        ..tcp()
    }
}

/// Serves `/srv` on port 8080 until it is killed.
const SERVE: &str = "mkdir -p /srv/www; echo $HOB_INSTANCE > /srv/www/index.html; exec httpd -f -p 8080 -h /srv/www";

/// A bridge without a hardware address of its own takes that of one of its ports, and another one when that port goes:
/// instances then answer into the void until they ask for the gateway's address again, seconds later.
#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_keeps_its_hardware_address_while_instances_come_and_go() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let hardware_address = || {
        let namespace = format!("--net={}", world.engine.network().enter_path().display());
        let shown = Command::new("nsenter")
            .arg(namespace)
            .args(["ip", "-o", "link", "show", "hob0"])
            .output();
        let shown = String::from_utf8(shown.expect("nsenter runs").stdout).expect("text");
        let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
        words.nth(1).expect("an ethernet device").to_owned()
    };
    let before = hardware_address();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(world.run_in(&image, SERVE, |_| {}).await);
        assert_eq!(hardware_address(), before, "one more instance");
    }
    for id in ids {
        world.engine.stop(id, std::time::Duration::ZERO).await.expect("stops");
        world.engine.remove(id).await.expect("goes");
        assert_eq!(hardware_address(), before, "one instance less");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_one_image_listen_on_one_port_side_by_side_and_are_checked_from_outside() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(world.run_in(&image, SERVE, |_| {}).await);
    }
    for id in &ids {
        eventually("it answers", || async {
            world.engine.probe(*id, Some(8080), &tcp()).await.ok()
        })
        .await;
        world
            .engine
            .probe(*id, Some(8080), &http("/index.html"))
            .await
            .expect("served");
        let failure = world
            .engine
            .probe(*id, Some(8080), &http("/none"))
            .await
            .expect_err("not there");
        assert_eq!(failure.0, "GET /none answered 404, expected 200");
        let failure = world
            .engine
            .probe(*id, Some(9), &tcp())
            .await
            .expect_err("nobody listens");
        assert_eq!(failure.0, "no answer on port 9: connection refused");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_privileges_may_listen_on_a_low_port() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|request| request.user = "app".into()).await;
    let id = world
        .run_in(&image, "exec httpd -f -p 80 -h /srv", |spec| spec.port = Some(80))
        .await;
    eventually("it answers", || async {
        world.engine.probe(id, Some(80), &tcp()).await.ok()
    })
    .await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_instance_reaches_another_one_or_the_host() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let other = world.run_in(&image, SERVE, |_| {}).await;
    eventually("it answers", || async {
        world.engine.probe(other, Some(8080), &tcp()).await.ok()
    })
    .await;
    let other = world.running(other).await.address.expect("an address");

    let host = TcpListener::bind("0.0.0.0:0").await.expect("a port");
    let port = host.local_addr().expect("an address").port();
    let mut targets = vec![(other, 8080), (IpAddr::V4(world.engine.network().gateway()), port)];
    targets.extend(
        addresses_of_this_host()
            .into_iter()
            .map(|address| (IpAddr::V4(address), port)),
    );
    assert!(targets.len() >= 4, "{targets:?}");
    let script: String = targets
        .iter()
        .map(|(address, port)| format!("echo x | nc -w 1 {address} {port} && echo REACHED {address} {port}\n"))
        .collect();
    let lines = world
        .output_of(&image, &format!("({script}) 2>/dev/null\necho tried"), |_| {})
        .await;
    assert_eq!(lines, ["tried"]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_finds_the_gateway_as_its_name_server_and_reaches_what_listens_there() {
    if !can_run() {
        return;
    }
    let world = World::new().await;
    let network = world.engine.network();
    let (path, gateway) = (network.enter_path().to_owned(), network.gateway());
    // As the edge does: bind inside, serve from anywhere.
    let listener = std::thread::spawn(move || {
        let namespace = std::fs::File::open(path).expect("the namespace");
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("entered");
        std::net::TcpListener::bind((gateway, 80)).expect("a port")
    });
    let listener = listener.join().expect("no panic");
    listener.set_nonblocking(true).expect("a socket");
    let listener = TcpListener::from_std(listener).expect("a listener");
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.write_all(b"hello from the edge\n").await;
        }
    });
    let image = world.image(|_| {}).await;
    let script = format!("cat /etc/resolv.conf; nc -w 5 {gateway} 80 </dev/null; grep -c $HOSTNAME /etc/hosts");
    let lines = world.output_of(&image, &script, |_| {}).await;
    assert_eq!(
        lines,
        [
            format!("nameserver {gateway}"),
            "hello from the edge".into(),
            "1".into()
        ]
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_reaches_the_world_by_nat() {
    if !can_run() {
        return;
    }
    let Some(outside) = Outside::new() else {
        println!("SKIPPED: `ip netns` is not to be had");
        return;
    };
    let world = World::new().await;
    let image = world.image(|_| {}).await;
    let script = format!("nc -w 5 {} 9000 </dev/null", outside.address);
    let lines = world.output_of(&image, &script, |_| {}).await;
    assert_eq!(lines, ["hello from outside"]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clash_with_a_route_of_the_host_is_found_and_named() {
    if !can_run() {
        return;
    }
    let outside = Outside::new();
    let Some(outside) = outside else {
        println!("SKIPPED: `ip netns` is not to be had");
        return;
    };
    let dir = tempfile::TempDir::new().expect("a directory");
    let images = images::ImageStore::open(dir.path().join("images"), images::Limits::default()).expect("a store");
    let clashing = format!("198.51.{}.0/24", outside.address.octets()[2]);
    let config = engine::embedded::Config {
        data_dir: dir.path().to_owned(),
        images,
        shim_command: vec![],
        instance_network: clashing.parse().expect("a network"),
    };
    let error = engine::embedded::Embedded::open(config)
        .await
        .err()
        .expect("a clash")
        .to_string();
    assert!(
        error.contains(&clashing) && error.contains("--instance-network"),
        "{error}"
    );
}

fn addresses_of_this_host() -> Vec<Ipv4Addr> {
    let output = Command::new("ip").args(["-4", "-o", "addr"]).output().expect("ip");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let fields = text.lines().filter_map(|line| line.split_whitespace().nth(3));
    fields
        .filter_map(|field| field.split('/').next()?.parse().ok())
        .collect()
}

/// A stand-in for the world: a namespace that the host routes to, in which something listens.
pub struct Outside {
    name: String,
    pub address: Ipv4Addr,
}

impl Outside {
    pub fn new() -> Option<Outside> {
        static NEXT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let third = ((std::process::id() % 25) * 10 + u32::from(n)) as u8;
        let name = format!("out{}x{n}", std::process::id());
        let ip = |args: &str| {
            let status = Command::new("ip").args(args.split(' ')).status();
            status.is_ok_and(|status| status.success()).then_some(())
        };
        ip(&format!("netns add {name}"))?;
        let inside = format!("-n {name}");
        ip(&format!("link add {name} type veth peer name eth0 netns {name}"))?;
        ip(&format!("addr add 198.51.{third}.1/30 dev {name}"))?;
        ip(&format!("link set {name} up"))?;
        ip(&format!("{inside} addr add 198.51.{third}.2/30 dev eth0"))?;
        ip(&format!("{inside} link set eth0 up"))?;
        let outside = Outside {
            name,
            address: Ipv4Addr::new(198, 51, third, 2),
        };
        let listener = outside.listen();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.write_all(b"hello from outside\n");
            }
        });
        Some(outside)
    }

    /// A socket belongs to the namespace that it was made in, wherever it is used.
    fn listen(&self) -> std::net::TcpListener {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.name)).expect("the namespace");
        let thread = std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("entered");
            std::net::TcpListener::bind(("0.0.0.0", 9000)).expect("a port")
        });
        thread.join().expect("no panic")
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.name]).status();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}
