//! Processes die at any moment, and what users see goes on.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use testkit::Dice;
use testkit::load::{Load, Report};
use testkit::system::{App, Hob, Options, Role, eventually, eventually_some, kill};

const HOB: &str = env!("CARGO_BIN_EXE_hob");
const KILLS: u64 = 5;
const SOON: Duration = Duration::from_secs(60);
/// What an outage of the edge may be on a busy machine with a debug build; `bin/bench` measures against 300 ms.
const EDGE_GAP_MAX: Duration = Duration::from_millis(1_500);

fn deploy(hob: &Hob, image: &str, wait: &str) {
    let arguments = [
        "deploy",
        "web",
        "--image",
        image,
        "--port",
        "8080",
        "--instances",
        "4",
        "--env",
        "DRAIN=1",
        wait,
    ];
    hob.cli(&arguments).ok();
}

fn deployed() -> Option<Hob> {
    let hob = Hob::start(HOB)?;
    App::pack(&hob, "web:0");
    App::pack(&hob, "web:1");
    deploy(&hob, "web:0", "--wait");
    Some(hob)
}

fn load(hob: &Hob) -> Load {
    let load = Load::start(hob.load("web.localhost").rate(100.0).lasts(Duration::from_secs(600)));
    eventually(SOON, "the load has begun", || load.ok() > 20);
    load
}

fn none_failed(report: &Report) {
    assert_eq!(report.failed(), 0, "{}", report.table());
}

/// All four wanted instances serve and nothing else is there.
fn settled(hob: &Hob) -> bool {
    let instances = hob.instances("web");
    instances.len() == 4
        && instances
            .iter()
            .all(|i| i.state == "serving" && i.version == instances[0].version)
}

/// Which processes serve, for seeing that none was restarted.
fn pids(hob: &Hob) -> Vec<(String, Option<u32>)> {
    let mut pids: Vec<_> = hob.serving("web").into_iter().map(|i| (i.id, i.pid)).collect();
    pids.sort();
    pids
}

#[test]
fn a_control_plane_killed_within_a_rollout_finishes_it_afterwards_and_no_request_fails() {
    let Some(mut hob) = deployed() else { return };
    let mut dice = Dice::new(std::process::id().into());
    let load = load(&hob);
    for round in 1..=KILLS {
        deploy(&hob, if round % 2 == 0 { "web:0" } else { "web:1" }, "--no-wait");
        let moment = Duration::from_millis(dice.below(1_500));
        println!("round {round}: killed {moment:?} after the deploy");
        // Not a wait for something: the fault's moment.
        std::thread::sleep(moment);
        hob.kill_control_plane();
        let ok = load.ok();
        eventually(SOON, "the edge serves alone", || load.ok() > ok + 20);
        hob.up();
        eventually(SOON, "the rollout is over and four instances serve", || {
            matches!(hob.stage("web").as_str(), "succeeded" | "failed") && settled(&hob)
        });
        assert_eq!(hob.stage("web"), "succeeded");
    }
    none_failed(&load.finish());
}

#[test]
fn a_control_plane_that_comes_back_restarts_nothing_that_is_healthy() {
    let Some(mut hob) = deployed() else { return };
    let before = pids(&hob);
    hob.kill_control_plane();
    hob.up();
    eventually(SOON, "the instances are adopted", || settled(&hob));
    assert_eq!(pids(&hob), before);
}

#[test]
fn a_control_plane_that_is_asked_to_stop_leaves_the_instances_and_the_edge_in_place() {
    let Some(mut hob) = Hob::start_with(
        HOB,
        Options {
            stop_instances: false,
            ..Options::default()
        },
    ) else {
        return;
    };
    App::pack(&hob, "web:0");
    deploy(&hob, "web:0", "--wait");
    let load = load(&hob);
    assert_eq!(hob.shut_down(), 0);
    let ok = load.ok();
    eventually(SOON, "the edge serves alone", || load.ok() > ok + 50);
    hob.set_stop_instances(true);
    hob.up();
    eventually(SOON, "the instances are adopted", || settled(&hob));
    none_failed(&load.finish());
}

/// The API listens before edge and engine stand: whoever stops it then finds it in the middle of its start.
#[test]
fn a_control_plane_that_is_asked_to_stop_while_it_starts_stops_in_order() {
    let Some(mut hob) = Hob::prepare(HOB, Options::default()) else {
        return;
    };
    hob.launch();
    let listens = || TcpStream::connect(hob.api_address()).is_ok();
    eventually(SOON, "the API listens", listens);
    assert_eq!(hob.shut_down(), 0, "{}", hob.log());
    assert!(hob.all_processes().is_empty(), "an edge was left behind");
}

#[test]
fn a_killed_edge_is_back_at_once_with_the_same_table() {
    let Some(hob) = deployed() else { return };
    for round in 1..=KILLS {
        let load = load(&hob);
        let edge = eventually_some(SOON, "an edge runs", || hob.processes(Role::Edge).first().copied());
        let ok = load.ok();
        kill(edge);
        eventually(SOON, "another edge serves", || {
            !hob.processes(Role::Edge).contains(&edge) && load.ok() > ok + 50
        });
        let report = load.finish();
        let outage = report.longest_outage(EDGE_GAP_MAX);
        println!("round {round}: {} failed within {outage:?}", report.failed());
        assert!(outage <= EDGE_GAP_MAX, "{outage:?}\n{}", report.table());
        assert!(settled(&hob), "the instances are none of the edge's business");
    }
}

#[test]
fn a_killed_instance_is_noticed_at_once_and_replaced() {
    let Some(hob) = deployed() else { return };
    for _ in 0..KILLS {
        let victim = eventually_some(SOON, "an instance with a process", || {
            hob.serving("web").into_iter().find(|i| i.pid.is_some())
        });
        kill(victim.pid.unwrap_or_default());
        let killed = Instant::now();
        eventually(SOON, "it is noticed", || {
            hob.serving("web").iter().all(|i| i.id != victim.id)
        });
        assert!(
            killed.elapsed() < Duration::from_secs(3),
            "noticed after {:?}",
            killed.elapsed()
        );
        eventually(SOON, "it is replaced", || settled(&hob));
    }
}

#[test]
fn a_killed_shim_is_noticed_and_its_instance_replaced() {
    let Some(hob) = deployed() else { return };
    let shims = hob.processes(Role::Shim);
    assert!(shims.len() >= 4, "one for each instance: {shims:?}");
    kill(shims[0]);
    eventually(SOON, "four instances serve again", || {
        hob.processes(Role::Shim).iter().all(|shim| *shim != shims[0])
            && hob.processes(Role::Shim).len() >= 4
            && settled(&hob)
    });
}

/// A power failure cuts the newest routing table short: the edge begins from the one before, and is told the newest as
/// soon as there is a control plane (the edge's own tests try every byte).
#[test]
fn a_routing_table_cut_short_is_mended_by_the_next_start() {
    let Some(mut hob) = deployed() else { return };
    let before = pids(&hob);
    let table = hob.data_dir().join("edge/table.json");
    let whole = std::fs::metadata(&table).expect("the table is written").len();
    for length in [0, 1, whole / 2, whole - 1] {
        hob.kill_control_plane();
        hob.processes(Role::Edge).into_iter().for_each(kill);
        eventually(SOON, "the edge is gone", || hob.processes(Role::Edge).is_empty());
        let file = std::fs::File::options().write(true).open(&table).expect("opens");
        file.set_len(length).expect("is cut");
        hob.up();
        eventually(SOON, "the service answers", || {
            hob.get("web.localhost", "/").is_ok_and(|r| r.status() == 200)
        });
        eventually(SOON, "four instances serve", || settled(&hob));
        assert_eq!(pids(&hob), before, "no instance was restarted for it");
    }
}
