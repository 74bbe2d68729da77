//! The platform with PostgreSQL as its record: the same as with SQLite, and the same again after a crash.

use std::time::Duration;

use testkit::postgres::Server;
use testkit::system::{App, Hob, Options, eventually};

const HOB: &str = env!("CARGO_BIN_EXE_hob");
const SOON: Duration = Duration::from_secs(30);

/// A platform on a fresh database, not started yet; `None`, and a printed reason, where that cannot be.
fn on_postgres(database: &str) -> Option<(Hob, &'static Server)> {
    let server = match Server::of_this_process() {
        Ok(server) => server,
        Err(reason) => {
            println!("SKIPPED: {reason}");
            return None;
        }
    };
    let url = server.create(database, None).expect("a database is made");
    let flags = vec!["--database-url".to_owned(), url];
    let hob = Hob::prepare(
        HOB,
        Options {
            flags,
            ..Options::default()
        },
    )?;
    Some((hob, server))
}

fn deploy(hob: &Hob, image: &str, version: &str) {
    let version = format!("VERSION={version}");
    let arguments = [
        "deploy",
        "web",
        "--image",
        image,
        "--port",
        "8080",
        "--instances",
        "2",
        "--env",
        &version,
        "--wait",
    ];
    hob.cli(&arguments).ok();
}

fn says(hob: &Hob, version: &str) -> bool {
    hob.get("web.localhost", "/")
        .is_ok_and(|page| page.text().contains(version))
}

#[test]
fn a_service_is_deployed_rolled_back_and_removed_on_postgresql() {
    let Some((mut hob, _)) = on_postgres("life") else {
        return;
    };
    hob.up();
    App::pack(&hob, "web:1");
    App::pack(&hob, "web:2");
    deploy(&hob, "web:1", "one");
    assert!(says(&hob, "one"));
    deploy(&hob, "web:2", "two");
    assert!(says(&hob, "two"));
    hob.cli(&["rollback", "web"]).ok();
    eventually(SOON, "version one serves again", || says(&hob, "one"));

    let deployments = hob.deployments("web");
    assert_eq!(deployments[0]["rollback_from"], deployments[2]["id"]);
    hob.cli(&["rm", "web", "--yes"]).ok();
    eventually(SOON, "the route is gone", || {
        hob.get("web.localhost", "/").is_ok_and(|r| r.status() == 404)
    });
    assert!(
        !hob.data_dir().join("hob.db").exists(),
        "nothing is recorded beside the database"
    );
}

/// C4.20, C4.21: what a killed control plane left in PostgreSQL is enough to go on, with the same instances.
#[test]
fn a_killed_control_plane_goes_on_from_postgresql() {
    let Some((mut hob, _)) = on_postgres("crash") else {
        return;
    };
    hob.up();
    App::pack(&hob, "web:1");
    deploy(&hob, "web:1", "one");
    let before = hob.serving("web");
    hob.kill_control_plane();
    assert!(says(&hob, "one"), "the edge serves on");
    hob.up();
    eventually(SOON, "the same instances serve: nothing healthy is restarted", || {
        hob.serving("web") == before
    });
    hob.cli(&["scale", "web", "3"]).ok();
    eventually(SOON, "a third instance serves", || hob.serving("web").len() == 3);
}

/// C4.20: a database that was mixed up is no reason to stop everything.
#[test]
fn another_empty_database_is_refused_and_instances_live_on() {
    let Some((mut hob, server)) = on_postgres("mine") else {
        return;
    };
    hob.up();
    App::pack(&hob, "web:1");
    deploy(&hob, "web:1", "one");
    hob.kill_control_plane();
    let other = server.create("other", None).expect("a database is made");
    let right = hob.set_flags(vec!["--database-url".to_owned(), other]);
    let (code, said) = hob.up_fails();
    assert_ne!(code, 0);
    assert!(said.contains("holds nothing of Hob's"), "{said}");
    assert!(says(&hob, "one"), "the edge serves on");
    hob.set_flags(right);
    hob.up();
    eventually(SOON, "the instances are adopted", || hob.serving("web").len() == 2);
}
