//! The edge inside the instances' network: listeners outside, instances, callers and names inside.

mod rig;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use domain::routing::{Pool, RouteMatch, RoutingTable, ServiceEntry, Target};
use edge::{EdgeArgs, EdgeClient, EdgeCommand, Supervision, supervise};
use rig::{Conn, EndWithTest, PATIENCE, get};
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, Question, TYPE};
use tokio::sync::watch;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 7, 1);
const INSTANCE: Ipv4Addr = Ipv4Addr::new(10, 213, 7, 2);
/// No machine sends a question there, as a machine without a network sends none anywhere.
const UNREACHABLE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::BROADCAST), 53);

/// A network namespace with two addresses on its loopback device, removed at the end.
struct Namespace {
    name: String,
}

impl Namespace {
    fn make() -> Option<Namespace> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: needs root, to make a network namespace");
            return None;
        }
        let name = format!("hobtest{}", std::process::id());
        if !ip(&["netns", "add", &name]) {
            println!("SKIPPED: this machine makes no network namespace");
            return None;
        }
        let namespace = Namespace { name };
        for address in [GATEWAY, INSTANCE] {
            assert!(ip(&[
                "-n",
                &namespace.name,
                "address",
                "add",
                &format!("{address}/24"),
                "dev",
                "lo"
            ]));
        }
        assert!(ip(&["-n", &namespace.name, "link", "set", "lo", "up"]));
        Some(namespace)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs something in the namespace, on a thread of its own.
    fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let path = self.path();
        let thread = std::thread::spawn(move || {
            let namespace = std::fs::File::open(path).expect("the namespace is there");
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("enters it");
            work()
        });
        thread.join().expect("no panic")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "delete", &self.name]);
    }
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip")
        .args(args)
        .status()
        .is_ok_and(|status| status.success())
}

/// A resolver outside that knows one name.
fn resolver() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = socket.local_addr().expect("bound");
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a deadline");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let query = Packet::parse(&buffer[..len]).expect("a query");
            let mut reply = Packet::new_reply(query.id());
            reply.questions = query.questions.clone();
            let record = simple_dns::rdata::A {
                address: Ipv4Addr::new(192, 0, 2, 55).into(),
            };
            let name = query.questions[0].qname.clone();
            reply
                .answers
                .push(simple_dns::ResourceRecord::new(name, CLASS::IN, 60, RData::A(record)));
            let _ = socket.send_to(&reply.build_bytes_vec().expect("a reply"), from);
        }
    });
    address
}

/// Asks the gateway's DNS from where it runs.
fn look_up(name: &'static str) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((INSTANCE, 0)).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut packet = Packet::new_query(4711);
    packet.questions.push(Question::new(
        Name::new(name).ok()?,
        TYPE::A.into(),
        CLASS::IN.into(),
        false,
    ));
    socket.send_to(&packet.build_bytes_vec().ok()?, (GATEWAY, 53)).ok()?;
    let mut buffer = [0; 512];
    let len = socket.recv(&mut buffer).ok()?;
    let reply = Packet::parse(&buffer[..len]).ok()?;
    assert_eq!(reply.id(), 4711);
    match reply.answers.first()?.rdata {
        RData::A(ref a) => Some(Ipv4Addr::from(a.address)),
        _ => None,
    }
}

/// An app that listens where it is told and says who asked.
fn app(listener: std::net::TcpListener) {
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    let head = String::from_utf8_lossy(&buffer[..len]).into_owned();
                    let who = head
                        .lines()
                        .find(|line| line.starts_with("x-forwarded-for"))
                        .unwrap_or("nobody")
                        .to_owned();
                    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{who}", who.len());
                }
            });
        }
    });
}

/// A blocking request from inside.
fn ask_inside(host: &'static str) -> String {
    use std::io::{Read, Write};
    // From the instance's address, as the table knows it.
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )
    .expect("a socket");
    let address = |ip: Ipv4Addr, port| nix::sys::socket::SockaddrIn::from(std::net::SocketAddrV4::new(ip, port));
    use std::os::fd::AsRawFd;
    nix::sys::socket::bind(socket.as_raw_fd(), &address(INSTANCE, 0)).expect("binds");
    nix::sys::socket::connect(socket.as_raw_fd(), &address(GATEWAY, 80)).expect("the gateway listens");
    let mut stream = std::net::TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("writes");
    let mut back = String::new();
    stream.read_to_string(&mut back).expect("an answer");
    back
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_serves_outside_and_inside_of_the_instances_network() {
    let Some(namespace) = Namespace::make() else { return };
    let listener = namespace.within(|| std::net::TcpListener::bind((INSTANCE, 8080)).expect("the app listens"));
    app(listener);
    let home = tempfile::tempdir().unwrap();
    let args = EdgeArgs {
        dir: home.path().to_owned(),
        netns: Some(namespace.path()),
        gateway: Some(GATEWAY),
        upstream_dns: vec![UNREACHABLE, resolver()],
        user: Some((65_534, 65_534)),
        workers: 2,
        ..EdgeArgs::default()
    };
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let command = EdgeCommand {
        program: env!("CARGO_BIN_EXE_hob-edge").into(),
        leading: vec![],
        listen,
        args,
    };
    let (report, mut reports) = watch::channel(Supervision::default());
    let supervisor = tokio::spawn(supervise(command, report));
    let _end = EndWithTest {
        supervisor: supervisor.abort_handle(),
        report: reports.clone(),
    };
    let client = EdgeClient::new(home.path().to_owned());
    let project = uuid::Uuid::new_v4().into();
    let target = Target {
        instance: uuid::Uuid::new_v4().into(),
        address: INSTANCE.into(),
        port: 8080,
    };
    let service = ServiceEntry {
        service: uuid::Uuid::new_v4().into(),
        project,
        name: "web".to_owned(),
        receipt: uuid::Uuid::new_v4().into(),
        matches: vec![RouteMatch {
            host: "a.test".to_owned(),
            path: "/".to_owned(),
        }],
        pools: vec![Pool::new(uuid::Uuid::new_v4().into(), 1, vec![target])],
        sticky: false,
        hold: None,
    };
    let callers = [(INSTANCE.into(), project)].into();
    client.publish(RoutingTable {
        epoch: 1,
        services: vec![service],
        callers,
    });
    let mut views = client.watch();
    tokio::time::timeout(PATIENCE, views.wait_for(|view| view.acked_epoch == 1))
        .await
        .expect("in time")
        .expect("alive");

    // Outside: the instance is reached through the edge.
    let public = reports.borrow().public[0];
    let answer = Conn::to(public).await.ask(&get("a.test", "/")).await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "x-forwarded-for: 127.0.0.1")
    );

    // Inside: by name, through the gateway; before and after a death of the edge.
    for round in 1..=2 {
        assert_eq!(namespace.within(|| look_up("web.hob.internal")), Some(GATEWAY));
        assert_eq!(
            namespace.within(|| look_up("example.com")),
            Some(Ipv4Addr::new(192, 0, 2, 55))
        );
        let inside = namespace.within(|| ask_inside("web.hob.internal"));
        assert!(
            inside.starts_with("HTTP/1.1 200 ") && inside.ends_with(&format!("x-forwarded-for: {INSTANCE}")),
            "{inside}"
        );
        assert!(
            namespace
                .within(|| ask_inside("db.hob.internal"))
                .starts_with("HTTP/1.1 404 ")
        );
        // The supervisor has had the time to collect the sockets inside: they are held over the death, too.
        let running = reports
            .wait_for(|report| report.pid.is_some())
            .await
            .expect("alive")
            .pid
            .expect("a pid");
        tokio::time::sleep(Duration::from_millis(200)).await;
        if round == 2 {
            return;
        }
        // SAFETY: takes numbers. The process is the edge that this test has started.
        assert_eq!(unsafe { libc::kill(running, libc::SIGKILL) }, 0);
    }
}
