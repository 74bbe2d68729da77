//! The documents' workflows, word for word, as their readers run them: bash, curl and jq against a real platform that
//! runs real containers. Only the documents' host is replaced by ours.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::load::{Load, Report};
use testkit::system::{App, Cli, Hob, eventually};

const HOB: &str = env!("CARGO_BIN_EXE_hob");
const SOON: Duration = Duration::from_secs(60);
/// The documents' host, which their scripts name.
const DOCUMENTED: &str = "https://api.example.com";

/// S0.45.
const HISTORY: &str = r#"
# Get all deployments for a service
curl -H "Authorization: Bearer $API_KEY" \
  https://api.example.com/api/services/$SERVICE_ID/deployments/
"#;

/// S0.46.
const ROLL_BACK_AFTER_FAILURE: &str = r#"
# 1. List deployments to find last successful
DEPLOYMENTS=$(curl -s -H "Authorization: Bearer $API_KEY" \
  https://api.example.com/api/services/$SERVICE_ID/deployments/)

# 2. Find last successful deployment
LAST_GOOD=$(echo $DEPLOYMENTS | jq -r '.results[] | select(.status=="success") | .id' | head -1)

# 3. Roll back
curl -X POST https://api.example.com/api/deployments/$LAST_GOOD/rollback/ \
  -H "Authorization: Bearer $API_KEY" \
  -H "Content-Type: application/json" \
  -d '{"notes": "Automatic rollback after failed deployment"}'
"#;

/// S0.47.
const MONITOR: &str = r#"
# After updating a service, poll for deployment status
while true; do
  STATUS=$(curl -s -H "Authorization: Bearer $API_KEY" \
    https://api.example.com/api/services/$SERVICE_ID/ | jq -r '.status')

  if [ "$STATUS" = "ready" ]; then
    echo "Deployment successful!"
    break
  elif [ "$STATUS" = "error" ]; then
    echo "Deployment failed!"
    exit 1
  fi

  echo "Status: $STATUS - waiting..."
  sleep 5
done
"#;

/// S0.49.
const GREEN: &str = r#"
# Create new service with new version
curl -X POST https://api.example.com/api/services/ \
  -H "Authorization: Bearer $API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "name": "my-app-v2",
    "image": "myapp:v2.0.0",
    "port": 8080,
    "config": "'$CONFIG_ID'",
    "secret": "'$SECRET_ID'"
  }'
"#;

/// S0.50; `new-service-id` is the reader's to fill in.
const SWITCH: &str = r#"
# After testing, update route
curl -X PATCH https://api.example.com/api/routes/$ROUTE_ID/ \
  -H "Authorization: Bearer $API_KEY" \
  -H "Content-Type: application/json" \
  -d '{"service": "new-service-id"}'
"#;

/// S0.51.
const ROLLING_UPDATE: &str = r#"
curl -X PATCH https://api.example.com/api/services/$SERVICE_ID/ \
  -H "Authorization: Bearer $API_KEY" \
  -H "Content-Type: application/json" \
  -d '{"image": "myapp:v2.0.0"}'
"#;

/// A platform and a reader of the documents with a key to it.
struct Desk {
    hob: Hob,
}

impl Desk {
    /// `None`, and a printed reason, where this machine lacks a tool or cannot run containers.
    fn open() -> Option<Desk> {
        for tool in ["bash", "curl", "jq"] {
            let asked = Command::new(tool).arg("--version").stdout(Stdio::null()).status();
            if !asked.is_ok_and(|status| status.success()) {
                println!("SKIPPED: {tool} is not installed");
                return None;
            }
        }
        let hob = Hob::start(HOB)?;
        Some(Desk { hob })
    }

    /// An image whose instances say `version`.
    fn pack(&self, image: &str, version: &str) {
        let version = format!("VERSION={version}");
        App::pack_with(&self.hob, image, &["--env", &version]).ok();
    }

    /// An image whose instances end at once.
    fn pack_broken(&self, image: &str) {
        App::pack_with(&self.hob, image, &["--env", "CRASH_AT_START=3"]).ok();
    }

    /// Makes something with S2.15's or S0.49's body, and tells its id.
    fn make(&self, path: &str, body: Value) -> String {
        let (status, made) = self.hob.api("POST", path, Some(body));
        assert_eq!(status, 201, "{path}: {made}");
        made["id"].as_str().expect("what is made has an id").to_owned()
    }

    /// A service that is ready.
    fn service(&self, name: &str, image: &str) -> String {
        let body = json!({"name": name, "image": image, "port": 8080});
        let id = self.make("/api/services/", body);
        self.run(MONITOR, &[("SERVICE_ID", &id)]).ok();
        id
    }

    fn update(&self, service: &str, body: Value) {
        let (status, answer) = self.hob.api("PATCH", &format!("/api/services/{service}/"), Some(body));
        assert_eq!(status, 200, "{answer}");
    }

    /// Runs a script of the documents to its end, which is bounded.
    fn run(&self, script: &str, variables: &[(&str, &str)]) -> Cli {
        let script = script.replace(DOCUMENTED, &format!("http://{}", self.hob.api_address()));
        let output = Command::new("timeout")
            .args(["120", "bash", "-c", &script])
            .env("API_KEY", self.hob.key())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .expect("timeout and bash run");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Cli {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Likewise, for a script that prints a document.
    fn document(&self, script: &str, variables: &[(&str, &str)]) -> Value {
        let ran = self.run(script, variables).ok();
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.text()))
    }

    fn says(&self, host: &str, version: &str) -> bool {
        self.hob.get(host, "/").is_ok_and(|page| page.text().contains(version))
    }

    fn load(&self, host: &str) -> Load {
        let plan = self.hob.load(host).rate(50.0).lasts(Duration::from_secs(300));
        let load = Load::start(plan);
        eventually(SOON, "the load has begun", || load.ok() > 20);
        load
    }
}

fn none_failed(report: &Report) {
    assert_eq!(report.failed(), 0, "{}", report.table());
}

/// S0.45, S0.26 to S0.29: newest first, failed ones among them.
#[test]
fn the_history_of_a_service_is_read() {
    let Some(desk) = Desk::open() else { return };
    desk.pack("myapp:v1.0.2", "one");
    desk.pack_broken("myapp:v1.1.0");
    let service = desk.service("web", "myapp:v1.0.2");
    desk.update(&service, json!({"image": "myapp:v1.1.0"}));
    assert_eq!(desk.run(MONITOR, &[("SERVICE_ID", &service)]).code, 1);

    let history = desk.document(HISTORY, &[("SERVICE_ID", &service)]);
    assert_eq!(
        (&history["count"], &history["next"], &history["previous"]),
        (&json!(2), &json!(null), &json!(null))
    );
    let seen: Vec<_> = history["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|d| (d["version_number"].clone(), d["status"].clone(), d["image"].clone()))
        .collect();
    assert_eq!(
        seen,
        [
            (json!(2), json!("failed"), json!("myapp:v1.1.0")),
            (json!(1), json!("success"), json!("myapp:v1.0.2"))
        ]
    );
}

/// S0.46, S0.33, S0.34, S0.38, S0.52: that very line of jq finds the last good one, and the new deployment of it serves.
#[test]
fn a_failed_deployment_is_rolled_back_by_that_very_line_of_jq() {
    let Some(desk) = Desk::open() else { return };
    desk.pack("myapp:v1.0.2", "one");
    desk.pack("myapp:v1.2.0", "two");
    desk.pack_broken("myapp:v1.3.0");
    let service = desk.service("web", "myapp:v1.0.2");
    desk.update(&service, json!({"image": "myapp:v1.2.0"}));
    desk.run(MONITOR, &[("SERVICE_ID", &service)]).ok();
    let good = desk.hob.deployments("web")[0]["id"].clone();
    desk.update(&service, json!({"image": "myapp:v1.3.0"}));
    assert_eq!(desk.run(MONITOR, &[("SERVICE_ID", &service)]).code, 1);
    assert!(
        desk.says("web.localhost", "two"),
        "the failed version took nothing from users"
    );

    let made = desk.document(ROLL_BACK_AFTER_FAILURE, &[("SERVICE_ID", &service)]);
    assert_eq!(made["status"], "pending");
    assert_eq!(
        (&made["rollback_from"], &made["version_number"], &made["image"]),
        (&good, &json!(4), &json!("myapp:v1.2.0"))
    );
    assert_eq!(made["notes"], "Automatic rollback after failed deployment");
    desk.run(MONITOR, &[("SERVICE_ID", &service)]).ok();
    assert!(desk.says("web.localhost", "two"));
    let newest = &desk.hob.deployments("web")[0];
    assert_eq!((&newest["id"], &newest["status"]), (&made["id"], &json!("success")));
}

/// S0.47: the loop ends well with a good version and with 1 after a bad one.
#[test]
fn the_monitoring_loop_ends_as_the_deployment_does() {
    let Some(desk) = Desk::open() else { return };
    desk.pack("myapp:v1.0.0", "one");
    desk.pack_broken("myapp:v1.1.0");
    let service = desk.service("web", "myapp:v1.0.0");
    let variables = [("SERVICE_ID", service.as_str())];
    let good = desk.run(MONITOR, &variables).ok();
    assert_eq!(good.stdout, "Deployment successful!\n");

    desk.update(&service, json!({"image": "myapp:v1.1.0"}));
    let bad = desk.run(MONITOR, &variables);
    assert_eq!(bad.code, 1, "{}", bad.text());
    assert!(bad.stdout.ends_with("Deployment failed!\n"), "{}", bad.stdout);
    for line in bad.stdout.lines().filter(|line| line.starts_with("Status: ")) {
        assert_eq!(line, "Status: updating - waiting...");
    }
}

/// S0.48 to S0.50: the new version beside the old one, tried, then given the route; no request of a user fails.
#[test]
fn blue_becomes_green_by_a_change_of_route() {
    let Some(desk) = Desk::open() else { return };
    desk.pack("myapp:v1.0.0", "blue");
    desk.pack("myapp:v2.0.0", "green");
    let blue = desk.service("my-app-v1", "myapp:v1.0.0");
    let domain = desk.make("/api/domains/", json!({"hostname": "app.example.com"}));
    let route = desk.make("/api/routes/", json!({"path": "/", "domain": domain, "service": blue}));
    eventually(SOON, "blue has the route", || desk.says("app.example.com", "blue"));
    let config = desk.make("/api/configs/", json!({"name": "c"}));
    let secret = desk.make("/api/secrets/", json!({"name": "s"}));
    let load = desk.load("app.example.com");

    let made = desk.document(GREEN, &[("CONFIG_ID", &config), ("SECRET_ID", &secret)]);
    assert_eq!((&made["config"], &made["secret"]), (&json!(config), &json!(secret)));
    let green = made["id"].as_str().expect("an id");
    desk.run(MONITOR, &[("SERVICE_ID", green)]).ok();
    assert!(
        desk.says("my-app-v2.localhost", "green"),
        "it can be tried by its own name"
    );
    assert!(desk.says("app.example.com", "blue"), "users do not see it yet");

    let switch = SWITCH.replace("new-service-id", green);
    let moved = desk.document(&switch, &[("ROUTE_ID", &route)]);
    assert_eq!(moved["service"], green);
    eventually(SOON, "green has the route", || desk.says("app.example.com", "green"));
    let (status, _) = desk.hob.api("DELETE", &format!("/api/services/{blue}/"), None);
    assert_eq!(status, 204);
    eventually(SOON, "blue is gone", || desk.hob.instances("my-app-v1").is_empty());
    assert!(desk.says("app.example.com", "green"));
    none_failed(&load.finish());
}

/// S0.51, S0.42, S2.41: a PATCH of the image is a rolling update, and no request of a user fails.
#[test]
fn a_new_image_is_a_rolling_update() {
    let Some(desk) = Desk::open() else { return };
    desk.pack("myapp:v1.0.0", "one");
    desk.pack("myapp:v2.0.0", "two");
    let service = desk.service("web", "myapp:v1.0.0");
    desk.update(&service, json!({"replicas_target": 3}));
    desk.run(MONITOR, &[("SERVICE_ID", &service)]).ok();
    let load = desk.load("web.localhost");

    let patched = desk.document(ROLLING_UPDATE, &[("SERVICE_ID", &service)]);
    assert_eq!(patched["image"], "myapp:v2.0.0");
    desk.run(MONITOR, &[("SERVICE_ID", &service)]).ok();
    assert!(desk.says("web.localhost", "two"));
    let serving = desk.hob.serving("web");
    assert_eq!(serving.len(), 3, "{serving:?}");
    assert!(serving.iter().all(|instance| instance.version == 3), "{serving:?}");
    none_failed(&load.finish());
}
