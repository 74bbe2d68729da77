//! A service's life with real containers, by command line, HTTP interface and edge.

use std::process::Command;
use std::time::Duration;

use testkit::system::{App, Hob, eventually};

const HOB: &str = env!("CARGO_BIN_EXE_hob");
const SOON: Duration = Duration::from_secs(30);

/// What `/` of the app says through the edge; empty when it does not answer 200.
fn page(hob: &Hob, host: &str) -> String {
    match hob.get(host, "/") {
        Ok(response) if response.status() == 200 => response.text(),
        _ => String::new(),
    }
}

fn deploy(hob: &Hob, image: &str, version: &str, more: &[&str]) {
    let version = format!("VERSION={version}");
    let mut arguments = vec![
        "deploy", "web", "--image", image, "--port", "8080", "--env", &version, "--wait",
    ];
    arguments.extend(more);
    hob.cli(&arguments).ok();
}

#[test]
fn a_service_is_deployed_routed_rolled_and_rolled_back() {
    let Some(hob) = Hob::start(HOB) else { return };
    App::pack(&hob, "web:1");
    App::pack(&hob, "web:2");

    deploy(&hob, "web:1", "one", &["--instances", "3"]);
    assert!(
        page(&hob, "web.localhost").contains("one"),
        "{}",
        page(&hob, "web.localhost")
    );
    let first = hob.serving("web");
    assert_eq!(first.len(), 3, "{first:?}");

    deploy(&hob, "web:2", "two", &[]);
    assert!(page(&hob, "web.localhost").contains("two"));
    let second = hob.serving("web");
    assert_eq!(second.len(), 3, "the number of instances is kept: {second:?}");
    assert!(
        second.iter().all(|new| first.iter().all(|old| old.id != new.id)),
        "an instance is never used again"
    );

    hob.cli(&["rollback", "web"]).ok();
    eventually(SOON, "version one serves again", || {
        page(&hob, "web.localhost").contains("one")
    });

    let deployments = hob.deployments("web");
    let versions: Vec<_> = deployments
        .iter()
        .filter_map(|d| d["version_number"].as_i64())
        .collect();
    assert_eq!(versions, [3, 2, 1]);
    assert_eq!(
        deployments[0]["rollback_from"], deployments[2]["id"],
        "S0.34: the target: {}",
        deployments[0]
    );
    assert_eq!(deployments[0]["digest"], deployments[2]["digest"], "the image of then");
    assert_eq!(deployments[1]["status"], "rolled_back");
    let history = hob.cli(&["history", "web"]).ok();
    for image in ["web:1", "web:2"] {
        assert!(history.stdout.contains(image), "{}", history.stdout);
    }
}

#[test]
fn two_versions_are_compared_by_what_was_seen_of_them() {
    let Some(hob) = Hob::start(HOB) else { return };
    App::pack(&hob, "web:1");
    App::pack(&hob, "web:2");
    deploy(&hob, "web:1", "one", &[]);
    hob.cli(&["route", "add", "shop.example.com/api", "web"]).ok();
    deploy(&hob, "web:2", "two", &[]);
    let told = hob.cli(&["diff", "web"]).ok().stdout;
    assert!(told.contains("+  route: shop.example.com/api"), "{told}");
    let diff: serde_json::Value = serde_json::from_str(&hob.cli(&["diff", "web", "--json"]).ok().stdout).expect("JSON");
    let counted = |path: &str| std::path::Path::new(path).exists();
    if !counted("/sys/fs/cgroup/memory") && !counted("/sys/fs/cgroup/memory.stat") {
        println!("SKIPPED: no control groups count memory here");
        return;
    }
    for side in ["before", "after"] {
        let most = diff[side]["memory_peak_bytes"].as_u64();
        assert!(most > Some(100_000), "the {side} version: {most:?}\n{told}");
    }
}

/// Edits wait for a deployment, and say so; a rollback brings back the settings of then, and secrets only where they
/// are asked for (OPEN-3).
#[test]
fn edited_settings_wait_for_a_deployment_and_go_back_with_a_rollback() {
    let Some(hob) = Hob::start(HOB) else { return };
    App::pack(&hob, "web:1");
    deploy(&hob, "web:1", "one", &["--env", "LEVEL=then"]);
    let set_secret = |value: &str| {
        let file = hob.scratch().join("secret.env");
        std::fs::write(&file, format!("TOKEN={value}\n")).expect("a file");
        hob.cli(&["secret", "set", "web", "--env-file", &file.display().to_string()])
            .ok();
    };
    let told = |name: &str| {
        let answer = hob.get("web.localhost", &format!("/env?name={name}"));
        answer.map(|answer| answer.text().trim().to_owned()).unwrap_or_default()
    };
    let waiting = || hob.service("web")["pending_changes"].as_array().map(Vec::len);
    set_secret("one");
    hob.cli(&["deploy", "web", "--wait"]).ok();
    assert_eq!((told("LEVEL"), told("TOKEN")), ("then".to_owned(), "one".to_owned()));
    let good = hob.deployments("web").remove(0);
    let before = hob.serving("web").remove(0).id;

    hob.cli(&["config", "set", "web", "LEVEL=now"]).ok();
    set_secret("two");
    assert_eq!(waiting(), Some(2), "{}", hob.service("web")["pending_changes"]);
    assert_eq!((told("LEVEL"), told("TOKEN")), ("then".to_owned(), "one".to_owned()));
    assert_eq!(
        hob.serving("web").remove(0).id,
        before,
        "nothing is restarted by an edit"
    );
    hob.cli(&["deploy", "web", "--wait"]).ok();
    assert_eq!((told("LEVEL"), told("TOKEN")), ("now".to_owned(), "two".to_owned()));
    assert_eq!(waiting(), Some(0));

    let rollback = format!("/api/deployments/{}/rollback/", good["id"].as_str().expect("an id"));
    for (body, level, token) in [
        (serde_json::json!({}), "then", "two"),
        (serde_json::json!({"config": "current"}), "now", "two"),
        (serde_json::json!({"secrets": "snapshot"}), "then", "one"),
    ] {
        let (status, answer) = hob.api("POST", &rollback, Some(body));
        assert_eq!(status, 201, "{answer}");
        eventually(SOON, "the rollback is over", || hob.service("web")["status"] == "ready");
        assert_eq!((told("LEVEL"), told("TOKEN")), (level.to_owned(), token.to_owned()));
    }
}

#[test]
fn instances_are_added_and_removed_and_the_service_goes_without_a_trace() {
    let Some(hob) = Hob::start(HOB) else { return };
    App::pack(&hob, "web:1");
    deploy(&hob, "web:1", "one", &["--instances", "2"]);
    let before = hob.serving("web");

    hob.cli(&["scale", "web", "5"]).ok();
    eventually(SOON, "five instances serve", || hob.serving("web").len() == 5);
    let grown = hob.serving("web");
    assert!(
        before.iter().all(|old| grown.iter().any(|new| new.id == old.id)),
        "scaling restarts nothing"
    );

    hob.cli(&["scale", "web", "1"]).ok();
    eventually(SOON, "one instance is left", || hob.instances("web").len() == 1);

    hob.cli(&["rm", "web", "--yes"]).ok();
    eventually(SOON, "the route is gone", || {
        hob.get("web.localhost", "/").is_ok_and(|r| r.status() == 404)
    });
    eventually(SOON, "the containers are gone", || {
        std::fs::read_dir(hob.data_dir().join("instances")).map_or(true, |mut entries| entries.next().is_none())
    });
}

#[test]
fn routes_lead_by_host_and_longest_path() {
    let Some(hob) = Hob::start(HOB) else { return };
    App::pack(&hob, "web:1");
    deploy(
        &hob,
        "web:1",
        "front",
        &["--instances", "1", "--route", "shop.example.com/"],
    );
    let api = [
        "deploy",
        "api",
        "--image",
        "web:1",
        "--port",
        "8080",
        "--instances",
        "1",
        "--env",
        "VERSION=back",
    ];
    hob.cli(&[&api[..], &["--route", "shop.example.com/api", "--wait"]].concat())
        .ok();
    let version = |path: &str| hob.get("shop.example.com", path).map(|r| r.text()).unwrap_or_default();
    eventually(SOON, "both routes lead to their services", || {
        version("/").contains("front") && version("/api").contains("back")
    });
    assert!(
        !version("/apix").contains("back"),
        "a prefix matches whole segments only"
    );
    assert_eq!(hob.get("nobody.example.com", "/").expect("answers").status(), 404);
}

#[test]
fn what_an_instance_prints_can_be_read() {
    let Some(hob) = Hob::start(HOB) else { return };
    App::pack(&hob, "web:1");
    deploy(&hob, "web:1", "one", &["--instances", "1"]);
    let id = "00000000-0000-4000-8000-00000000abcd";
    let headers = [("X-Load-Id", id), ("Connection", "close")];
    let request = testkit::http1::request("POST", "web.localhost", "/echo", &headers, b"hello");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let answer = runtime
        .block_on(testkit::http1::fetch(hob.edge_address(), &request, 1_000))
        .expect("answers");
    assert_eq!(answer.text(), "hello");
    eventually(SOON, "the line is in the log", || {
        hob.cli(&["logs", "web"]).stdout.contains(&format!("delivered {id}"))
    });
}

/// An image made by other tools: an OCI layout of umoci, and the same as a `docker save` archive of skopeo.
#[test]
fn images_of_other_tools_are_imported_and_run() {
    for tool in ["umoci", "skopeo"] {
        if Command::new(tool).arg("--version").output().is_err() {
            println!("SKIPPED: {tool} is not installed");
            return;
        }
    }
    let Some(hob) = Hob::start(HOB) else { return };
    let layout = hob.scratch().join("layout");
    let layer = hob.scratch().join("layer.tar");
    std::fs::copy(App::binary(), hob.scratch().join("app")).expect("the app is copied");
    let layer = layer.to_str().expect("a plain path");
    let scratch = hob.scratch().to_str().expect("a plain path");
    let path = layout.to_str().expect("a plain path");
    let image = format!("{path}:first");
    let archive = hob.scratch().join("image.tar");
    let archive = archive.to_str().expect("a plain path");
    let (from, to) = (format!("oci:{image}"), format!("docker-archive:{archive}:saved:1"));
    let steps: [(&str, &[&str]); 6] = [
        ("umoci", &["init", "--layout", path]),
        ("umoci", &["new", "--image", &image]),
        ("tar", &["-C", scratch, "-cf", layer, "app"]),
        ("umoci", &["raw", "add-layer", "--image", &image, layer]),
        (
            "umoci",
            &[
                "config",
                "--image",
                &image,
                "--config.entrypoint",
                "/app",
                "--config.exposedports",
                "8080",
            ],
        ),
        ("skopeo", &["--insecure-policy", "copy", &from, &to]),
    ];
    for (tool, arguments) in steps {
        let output = Command::new(tool).args(arguments).output().expect("the tool runs");
        assert!(
            output.status.success(),
            "{tool} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    hob.cli(&["image", "import", path, "--name", "layout:1"]).ok();
    hob.cli(&["image", "import", archive]).ok();
    let images = hob.cli(&["image", "ls"]).ok().stdout;
    assert!(images.contains("layout:1") && images.contains("saved:1"), "{images}");
    for (name, reference) in [("layout", "layout:1"), ("saved", "saved:1")] {
        hob.cli(&[
            "deploy",
            name,
            "--image",
            reference,
            "--port",
            "8080",
            "--instances",
            "1",
            "--wait",
        ])
        .ok();
        assert_eq!(
            hob.get(&format!("{name}.localhost"), "/").expect("answers").status(),
            200
        );
    }
}
