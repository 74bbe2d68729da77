//! Names inside: `http://<service>.hob.internal` from one instance to another service of its project.

use std::time::Duration;

use testkit::system::{App, Hob, eventually};

const HOB: &str = env!("CARGO_BIN_EXE_hob");
const SOON: Duration = Duration::from_secs(30);

fn deploy(hob: &Hob, name: &str, more: &[&str]) {
    let version = format!("VERSION={name}");
    let fixed = [
        "deploy",
        name,
        "--image",
        "web:1",
        "--port",
        "8080",
        "--instances",
        "1",
        "--env",
        &version,
        "--wait",
    ];
    hob.cli(&[&fixed[..], more].concat()).ok();
}

/// What the instance of `host` gets from `url`: the app's `/fetch` answers with the other's status and body, or 502.
fn fetch(hob: &Hob, host: &str, url: &str) -> (u16, String) {
    match hob.get(host, &format!("/fetch?url={url}")) {
        Ok(response) => (response.status(), response.text()),
        Err(error) => (0, error.to_string()),
    }
}

#[test]
fn a_service_reaches_another_of_its_project_by_name_and_none_of_another_project() {
    let Some(hob) = Hob::start(HOB) else { return };
    App::pack(&hob, "web:1");
    let made = hob.api("POST", "/api/projects/", Some(serde_json::json!({ "name": "other" })));
    assert_eq!(made.0, 201, "{}", made.1);
    deploy(&hob, "front", &[]);
    deploy(&hob, "back", &[]);
    deploy(&hob, "stranger", &["--project", "other"]);

    eventually(SOON, "front reaches back", || {
        let (status, body) = fetch(&hob, "front.localhost", "http://back.hob.internal/");
        status == 200 && body.contains("back")
    });
    let (status, body) = fetch(&hob, "front.localhost", "http://stranger.hob.internal/");
    assert!(status != 200 && !body.contains("stranger"), "{status} {body}");
    let (status, body) = fetch(&hob, "stranger.localhost", "http://back.hob.internal/");
    assert!(status != 200, "{status} {body}");
    assert_eq!(
        hob.get("back.hob.internal", "/").expect("answers").status(),
        404,
        "inside names are for insiders"
    );
}

#[test]
fn no_instance_reaches_the_control_plane_or_another_instance_past_the_edge() {
    let Some(hob) = Hob::start(HOB) else { return };
    App::pack(&hob, "web:1");
    deploy(&hob, "front", &[]);
    let port = hob.api_address().port();
    for host in ["127.0.0.1", "localhost"] {
        let (status, body) = fetch(&hob, "front.localhost", &format!("http://{host}:{port}/healthz"));
        assert!(status != 200, "the control plane answered: {body}");
    }
}
