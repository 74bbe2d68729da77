//! Edges as real processes: killed, restarted, adopted, replaced (issue paragraph "Survival", invariant 21).

mod rig;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use domain::routing::RoutingTable;
use edge::{EdgeArgs, EdgeClient, EdgeCommand, Limits, Supervision};
use rig::plane::{Plane, anywhere, kill};
use rig::{App, Conn, PATIENCE, get, service, wait_for};
use tokio::sync::watch;

fn one_app(app: &App) -> RoutingTable {
    RoutingTable {
        epoch: 1,
        services: vec![service("a.test", &[app])],
        ..RoutingTable::default()
    }
}

async fn ask(address: SocketAddr) -> Option<u16> {
    let mut conn = Conn::to(address).await;
    tokio::io::AsyncWriteExt::write_all(&mut conn.stream, get("a.test", "/").as_bytes())
        .await
        .ok()?;
    conn.answer().await.map(|answer| answer.status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_edge_is_back_with_its_table_and_nobody_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let app = App::says("hello").await;
    let mut plane = Plane::start(home.path(), anywhere());
    let address = plane.report(|report| !report.public.is_empty()).await.public[0];
    plane.publish(one_app(&app)).await;
    assert_eq!(ask(address).await, Some(200));

    let (stop, refused, wrong) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let load = tokio::spawn({
        let (stop, refused, wrong) = (Arc::clone(&stop), Arc::clone(&refused), Arc::clone(&wrong));
        async move {
            while !stop.load(Ordering::SeqCst) {
                let Ok(stream) = tokio::net::TcpStream::connect(address).await else {
                    refused.fetch_add(1, Ordering::SeqCst);
                    continue;
                };
                let mut conn = Conn::over(stream);
                let _ = tokio::io::AsyncWriteExt::write_all(&mut conn.stream, get("a.test", "/").as_bytes()).await;
                // Cut in the middle is what a kill does; a wrong answer is not.
                if conn.answer().await.is_some_and(|answer| answer.status != 200) {
                    wrong.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    });
    for round in 1..=5 {
        let before = plane.report(|report| report.pid.is_some()).await;
        kill(before.pid.unwrap(), libc::SIGKILL);
        let killed = Instant::now();
        while ask(address).await != Some(200) {
            assert!(killed.elapsed() < PATIENCE, "no answer after the kill");
        }
        let after = plane.report(|report| report.starts == round + 1).await;
        assert_ne!(before.pid, after.pid);
        // Deaths long apart are no crash loop.
        tokio::time::sleep(Duration::from_millis(100)).await;
        if round == 3 {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    load.await.unwrap();
    assert_eq!((refused.load(Ordering::SeqCst), wrong.load(Ordering::SeqCst)), (0, 0));
    let view = plane.client.watch().borrow().clone();
    assert_eq!(view.acked_epoch, 1);
    plane.end().await;
}

#[tokio::test]
async fn an_edge_outlives_its_control_plane_and_is_adopted_by_the_next_one() {
    let home = tempfile::tempdir().unwrap();
    let app = App::says("hello").await;
    let mut first = Plane::start(home.path(), anywhere());
    let before = first.report(|report| report.pid.is_some()).await;
    let address = before.public[0];
    first.publish(one_app(&app)).await;
    first.die();
    assert_eq!(ask(address).await, Some(200));

    let mut second = Plane::start(home.path(), address);
    let adopted = second.report(|report| report.pid.is_some()).await;
    assert_eq!((adopted.pid, adopted.adopted, adopted.starts), (before.pid, true, 0));
    assert_eq!(ask(address).await, Some(200));
    // The second one holds the sockets as the first did.
    kill(adopted.pid.unwrap(), libc::SIGKILL);
    assert!(tokio::net::TcpStream::connect(address).await.is_ok(), "refused");
    let next = second.report(|report| report.starts == 1).await;
    assert_eq!((next.public, next.adopted), (vec![address], false));
    assert_eq!(ask(address).await, Some(200));
    second.end().await;
}

#[tokio::test]
async fn an_edge_that_listens_elsewhere_makes_room() {
    let home = tempfile::tempdir().unwrap();
    let app = App::says("hello").await;
    let mut first = Plane::start(home.path(), anywhere());
    let before = first.report(|report| report.pid.is_some()).await;
    first.publish(one_app(&app)).await;
    first.die();
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], 0));
    let mut second = Plane::start(home.path(), elsewhere);
    let after = second.report(|report| report.starts == 1).await;
    assert_eq!(after.public[0].ip(), elsewhere.ip());
    assert_eq!(ask(after.public[0]).await, Some(200));
    wait_for("the old listener to close", || {
        std::net::TcpStream::connect(before.public[0]).is_err()
    })
    .await;
    second.end().await;
}

#[tokio::test]
async fn a_restarted_edge_serves_the_older_table_when_the_newest_file_is_torn() {
    let home = tempfile::tempdir().unwrap();
    let app = App::says("hello").await;
    let mut plane = Plane::start(home.path(), anywhere());
    let before = plane.report(|report| report.pid.is_some()).await;
    plane.publish(one_app(&app)).await;
    plane
        .publish(RoutingTable {
            epoch: 2,
            ..one_app(&app)
        })
        .await;
    // This control plane is gone, and will not send its table again.
    let Plane {
        client,
        supervisor: _,
        report: _,
        end: _end,
    } = plane;
    drop(client);
    // The two files are written in turns.
    let file = home.path().join("table.prev.json");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..100]).unwrap();
    kill(before.pid.unwrap(), libc::SIGKILL);
    let address = before.public[0];
    assert_eq!(ask(address).await.or(ask(address).await), Some(200));
    let client = EdgeClient::new(home.path().to_owned());
    let view = client.watch().wait_for(|view| view.connected).await.unwrap().clone();
    assert_eq!(view.acked_epoch, 1);
}

#[tokio::test]
async fn sigterm_lets_requests_finish_and_the_process_end() {
    let home = tempfile::tempdir().unwrap();
    let app = App::http(|_| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        hyper::Response::new(rig::text("slow"))
    })
    .await;
    let mut plane = Plane::start(home.path(), anywhere());
    let before = plane.report(|report| report.pid.is_some()).await;
    plane.publish(one_app(&app)).await;
    let mut conn = Conn::to(before.public[0]).await;
    conn.write(get("a.test", "/")).await;
    wait_for("the request to arrive", || app.seen() == 1).await;
    kill(before.pid.unwrap(), libc::SIGTERM);
    assert_eq!(conn.answer().await.expect("the answer").body, "slow");
    plane.report(|report| report.starts == 2).await;
    plane.end().await;
}

#[tokio::test]
async fn an_edge_can_be_stopped_for_good() {
    let home = tempfile::tempdir().unwrap();
    assert!(edge::stop(home.path()).await.is_err(), "there was none");
    let app = App::says("hello").await;
    let mut plane = Plane::start(home.path(), anywhere());
    let address = plane.report(|report| report.pid.is_some()).await.public[0];
    plane.publish(one_app(&app)).await;
    plane.die();
    edge::stop(home.path()).await.expect("stops");
    assert!(
        tokio::net::TcpStream::connect(address).await.is_err(),
        "somebody still listens"
    );
}

#[tokio::test]
async fn a_second_edge_on_the_same_directory_gives_up() {
    let home = tempfile::tempdir().unwrap();
    let mut plane = Plane::start(home.path(), anywhere());
    plane.report(|report| report.pid.is_some()).await;
    plane
        .publish(RoutingTable {
            epoch: 1,
            ..RoutingTable::default()
        })
        .await;
    let args = EdgeArgs {
        dir: home.path().to_owned(),
        ..EdgeArgs::default()
    };
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_hob-edge"))
        .args(args.to_args())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(i32::from(edge::EXIT_LOCKED)));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another edge"));
    plane.end().await;
}

/// C6.18: what an edge process still is and has after its start as root.
#[tokio::test]
async fn an_edge_that_was_started_as_root_keeps_no_right_of_root() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root, to give it up");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let app = App::says("hello").await;
    let program = env!("CARGO_BIN_EXE_hob-edge").into();
    let limits = Limits {
        tick_ms: 500,
        ..Limits::default()
    };
    let args = EdgeArgs {
        dir: home.path().to_owned(),
        user: Some((65_534, 65_534)),
        limits,
        ..EdgeArgs::default()
    };
    let command = EdgeCommand {
        program,
        leading: vec![],
        listen: vec![anywhere()],
        args,
    };
    let (report, watch) = watch::channel(Supervision::default());
    // Something that must not be inherited.
    let secret = std::fs::File::open("/etc/passwd").unwrap();
    nix::fcntl::fcntl(&secret, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let mut plane = Plane::supervising(command, report, watch);
    // Twice, since the second table needs the rights to replace the first.
    plane.publish(one_app(&app)).await;
    plane
        .publish(RoutingTable {
            epoch: 2,
            ..one_app(&app)
        })
        .await;
    let found = plane.report(|report| report.pid.is_some()).await;
    assert_eq!(ask(found.public[0]).await, Some(200));
    let pid = found.pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(field("Uid:").split_whitespace().collect::<Vec<_>>(), ["65534"; 4]);
    assert_eq!(field("Gid:").split_whitespace().collect::<Vec<_>>(), ["65534"; 4]);
    assert_eq!((field("Groups:").as_str(), field("NoNewPrivs:").as_str()), ("", "1"));
    for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let files: Vec<_> = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()).collect();
    assert!(!files.iter().any(|file| file == Path::new("/etc/passwd")), "{files:?}");
    // After a kill it starts from what the unprivileged one has written.
    kill(pid, libc::SIGKILL);
    plane.report(|report| report.starts == 2).await;
    assert_eq!(ask(found.public[0]).await, Some(200));
    plane.end().await;
}
