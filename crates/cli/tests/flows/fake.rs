//! A server that answers like the platform, as far as the commands ask, and does what a test tells it to.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

pub const KEY: &str = "gob_good";

/// What becomes of every rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    Succeeds,
    Fails,
    /// Says that it waits, and nothing more.
    Hangs,
    /// The stream ends in the middle; the next one tells of a success.
    BreaksOnce,
    /// Reaches a step and waits there for somebody.
    WaitsAtAStep,
}

pub struct State {
    pub script: Script,
    /// Method, path with query, and body of every request.
    pub requests: Vec<(String, Value)>,
    /// Rows by list, `services`, `configs`, …; items by `configs/ID/items`.
    pub rows: HashMap<String, Vec<Value>>,
    pub deployments: Vec<Value>,
    pub uploads: Vec<Vec<u8>>,
    /// Uploads are refused before they are read.
    pub refuses_uploads: bool,
    pub throttles: bool,
    /// What each reading of the log gets, one after the other; then the service is gone.
    pub logs: VecDeque<Vec<Value>>,
    broken: bool,
    made: u32,
}

#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    pub address: Option<SocketAddr>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Fake {
    pub async fn start(script: Script) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let fake = Fake {
            address: listener.local_addr().ok(),
            ..Fake::new(script)
        };
        let server = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(stream, false));
            }
        });
        fake
    }

    /// On the control socket of a data directory.
    pub fn start_at(data_dir: &Path) -> Fake {
        let listener = UnixListener::bind(data_dir.join("control.sock")).expect("a socket");
        let fake = Fake::new(Script::Succeeds);
        let server = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(stream, true));
            }
        });
        fake
    }

    fn new(script: Script) -> Fake {
        let state = State {
            script,
            requests: Vec::new(),
            rows: HashMap::new(),
            deployments: Vec::new(),
            uploads: Vec::new(),
            refuses_uploads: false,
            throttles: false,
            logs: VecDeque::new(),
            broken: false,
            made: 0,
        };
        Fake {
            state: Arc::new(Mutex::new(state)),
            address: None,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address.expect("on the network"))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test holds it in a panic")
    }

    /// Requests that change something, without bodies.
    pub fn writes(&self) -> Vec<String> {
        let state = self.state();
        let lines = state.requests.iter().map(|(line, _)| line.clone());
        lines.filter(|line| !line.starts_with("GET")).collect()
    }

    /// The body of the first such request.
    pub fn body(&self, line: &str) -> Value {
        let state = self.state();
        let found = state.requests.iter().find(|(request, _)| request == line);
        found.unwrap_or_else(|| panic!("no {line}")).1.clone()
    }

    /// A service that has been deployed `versions` times.
    pub fn with_service(self, name: &str, versions: u32) -> Self {
        let mut state = self.state();
        let service = json!({ "name": name, "image": format!("{name}:{versions}"), "port": 8080 });
        state.create_service(service);
        (1..versions).for_each(|_| {
            state.deploy(0);
        });
        state.requests.clear();
        drop(state);
        self
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, local: bool) {
        let answer = service_fn(move |request| {
            let fake = self.clone();
            async move { Ok::<_, Infallible>(fake.answer(request, local).await) }
        });
        // A client that leaves is no failure of the fake's.
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), answer)
            .await;
    }

    async fn answer(&self, request: Request<Incoming>, local: bool) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        let key = parts.headers.get("authorization").and_then(|value| value.to_str().ok());
        let open = target == "/" || target.starts_with("/claim/");
        if !local && !open && key != Some(&format!("Bearer {KEY}")) {
            return whole(401, &json!({ "detail": "Invalid API key." }));
        }
        let is_upload = parts.method == Method::POST && target.starts_with("/api/images/");
        if is_upload && self.state().refuses_uploads {
            return whole(400, &json!({ "error": "no space left on the server" }));
        }
        let bytes = body.collect().await.map(|all| all.to_bytes()).unwrap_or_default();
        let document = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let mut state = self.state();
        state
            .requests
            .push((format!("{} {target}", parts.method), document.clone()));
        if is_upload {
            state.uploads.push(bytes.to_vec());
        }
        if state.throttles && parts.method != Method::GET {
            return whole(
                429,
                &json!({ "detail": "Request was throttled. Expected available in 7 seconds." }),
            );
        }
        if target.contains("/rollout/") {
            return state.rollout(target.contains("watch=1"));
        }
        if target.contains("/logs/") {
            return match state.logs.pop_front() {
                Some(documents) => lines(&documents, true),
                None => whole(404, &json!({ "detail": "Not found." })),
            };
        }
        let (status, answer) = state.act(
            &parts.method,
            parts.uri.path(),
            parts.uri.query().unwrap_or(""),
            document,
        );
        whole(status, &answer)
    }
}

impl State {
    fn act(&mut self, method: &Method, path: &str, query: &str, body: Value) -> (u16, Value) {
        let words: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (method.as_str(), words.as_slice()) {
            ("GET", [""]) => (
                200,
                json!({ "edge": { "base_domain": "localhost", "http_port": 8080 } }),
            ),
            ("GET", ["api", "account"]) => (200, json!({ "id": "me", "name": "operator" })),
            ("POST", ["claim", _]) => (201, json!({ "key": KEY })),
            ("POST", ["local", "keys"]) => (201, json!({ "id": "k", "key": KEY, "name": body["name"] })),
            ("GET", ["local", "doctor"]) => {
                let finding =
                    json!({ "level": "error", "subject": "network", "message": "broken", "advice": "mend it" });
                (200, json!({ "results": [finding] }))
            }
            ("POST", ["api", "images"]) => {
                let image = json!({ "reference": "web:1", "digest": "sha256:00112233445566", "size_bytes": 2048,
                    "created_at": "1970-01-01T00:00:00Z", "in_use": false });
                (201, json!({ "results": [image] }))
            }
            ("POST", [.., "plan"]) => (200, plan(&body)),
            ("POST", ["api", "services", _, "continue" | "resume" | "pause"]) => {
                (200, self.deployments.last().cloned().unwrap_or_default())
            }
            ("GET", ["api", "deployments", a, "diff", b]) => {
                let side = |id: &str| {
                    json!({ "deployment": id, "version": id[1..].parse::<u32>().expect("a version"),
                    "image": "web", "digest": null, "size_bytes": null, "stage": "succeeded", "deployed_at": "",
                    "receipt": {}, "behaviour": null })
                };
                (200, json!({ "before": side(a), "after": side(b), "changes": [] }))
            }
            ("PATCH", ["api", "services", _]) if body["apply_hash"] == "stale" => (
                409,
                json!({ "error": "What this plan rests on has changed since it was made; look at the new plan",
                    "plan": plan(&body) }),
            ),
            ("POST", ["api", "services"]) if self.named("services", &body["name"]).is_some() => {
                (400, json!({ "name": ["service with this name already exists."] }))
            }
            ("POST", ["api", "services"]) => (201, self.create_service(body)),
            ("PATCH", ["api", "services", id]) => self.patch_service(id, &body),
            ("POST", ["api", "services", id, "deployments"]) => {
                let at = self.position("services", id);
                (201, self.deploy(at))
            }
            ("GET", ["api", "services", _, "deployments"]) => {
                let newest_first: Vec<&Value> = self.deployments.iter().rev().collect();
                (200, json!({ "count": 0, "next": null, "results": newest_first }))
            }
            ("GET", [.., "outcomes"]) => (
                200,
                json!({ "succeeded": 3, "failed": 1, "canceled": 0, "superseded": 0, "rolled_back": 0 }),
            ),
            ("GET", ["api", "services", _, "instances"]) => {
                let exit = json!({ "code": 3, "text": "exit code 3", "tail": ["no database"] });
                let last = self.deployments.last().cloned().unwrap_or_default();
                let instance = json!({ "id": "0190-0000000a", "deployment": last["id"], "version": 2, "state": "gone",
                    "crashed": true, "exit": exit });
                (200, json!({ "results": [instance] }))
            }
            ("GET", ["api", "deployments", id]) => match self.deployments.iter().find(|d| d["id"] == *id) {
                Some(deployment) => (200, deployment.clone()),
                None => (404, json!({ "detail": "Not found." })),
            },
            ("POST", ["api", "deployments", _, "rollback"]) => (201, self.deploy(0)),
            ("GET", ["api", list]) => (200, self.list(list, query)),
            ("GET", ["api", kind, id, of @ ("items" | "members")]) => {
                (200, self.list(&format!("{kind}/{id}/{of}"), ""))
            }
            ("POST", ["api", list]) => (201, self.add(list, body)),
            ("POST", ["api", kind, id, of @ ("items" | "members")]) => {
                (201, self.add(&format!("{kind}/{id}/{of}"), body))
            }
            ("GET", ["api", list, id]) => {
                let at = self.position(list, id);
                (200, self.rows[*list][at].clone())
            }
            ("GET", ["api", "secrets", _, "items", item, "accesses"]) => (
                200,
                json!({ "results": [{ "seq": 3, "at": "2024-10-15T12:00:01.000000Z", "account": "01a2-b",
                    "how": format!("api item {item}") }], "next_after": 3 }),
            ),
            ("DELETE", _) => (204, Value::Null),
            ("PATCH", _) => (200, body),
            _ => (404, json!({ "detail": "Not found." })),
        }
    }

    fn named(&self, list: &str, name: &Value) -> Option<&Value> {
        self.rows.get(list)?.iter().find(|row| row["name"] == *name)
    }

    fn position(&self, list: &str, id: &str) -> usize {
        let found = self
            .rows
            .get(list)
            .and_then(|rows| rows.iter().position(|row| row["id"] == id));
        found.unwrap_or_else(|| panic!("no {id} in {list}"))
    }

    /// The exact filters of the interface, and no pages.
    fn list(&self, list: &str, query: &str) -> Value {
        let pairs: Vec<(&str, &str)> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let fits = |row: &&Value| {
            let fits = |(key, value): &(&str, &str)| match *key {
                "name" | "hostname" | "service" => row[*key] == *value,
                _ => true,
            };
            pairs.iter().all(fits)
        };
        let rows: Vec<&Value> = self.rows.get(list).into_iter().flatten().filter(fits).collect();
        json!({ "count": rows.len(), "next": null, "previous": null, "results": rows })
    }

    fn add(&mut self, list: &str, mut row: Value) -> Value {
        self.made += 1;
        let id = format!("{list}-{}", self.made);
        if list == "routes" {
            let domain = row["domain"].as_str().unwrap_or_default().to_owned();
            let at = self.position("domains", &domain);
            row["hostname"] = self.rows["domains"][at]["hostname"].clone();
            row["enabled"] = json!(true);
        }
        row["id"] = json!(id.replace('/', "-"));
        row["created_at"] = json!("2026-01-02T03:04:05Z");
        self.rows.entry(list.to_owned()).or_default().push(row.clone());
        row
    }

    fn create_service(&mut self, body: Value) -> Value {
        let mut service = json!({
            "replicas_target": 1, "replicas_running": 1, "status": "ready", "config": null, "secret": null,
            "updated_at": "2026-01-02T03:04:05Z", "active_deployment": null, "serving_deployment": null,
            "last_deployment": null,
        });
        merge(&mut service, &body);
        self.set_env(&mut service, &body);
        self.add("services", service);
        let at = self.rows["services"].len() - 1;
        self.deploy(at);
        self.rows["services"][at].clone()
    }

    /// Attaches a config where values come with a change.
    fn set_env(&mut self, service: &mut Value, body: &Value) {
        if body["env"].is_object() && service["config"].is_null() {
            self.add("configs", json!({ "name": service["name"] }));
            let made = self.rows["configs"].last().expect("it was added");
            service["config"] = made["id"].clone();
        }
    }

    fn patch_service(&mut self, id: &str, body: &Value) -> (u16, Value) {
        let at = self.position("services", id);
        let before = self.rows["services"][at].clone();
        let mut service = before.clone();
        merge(&mut service, body);
        self.set_env(&mut service, body);
        self.rows.get_mut("services").expect("it is there")[at] = service.clone();
        if service != before || body["deploy"] == true {
            self.deploy(at);
        }
        (200, self.rows["services"][at].clone())
    }

    fn deploy(&mut self, at: usize) -> Value {
        let version = self.deployments.len() + 1;
        let service = self
            .rows
            .get_mut("services")
            .map(|rows| &mut rows[at])
            .expect("it is there");
        let deployment = json!({
            "id": format!("d{version}"), "version_number": version, "image": service["image"], "port": 8080,
            "replicas": service["replicas_target"], "status": "success", "stage": "succeeded", "deployed_at": "",
            "deployed_by": "me", "rollback_from": null, "notes": "", "error_message": "",
        });
        service["last_deployment"] = deployment["id"].clone();
        if self.script != Script::Fails || version == 1 {
            service["serving_deployment"] = deployment["id"].clone();
        }
        self.deployments.push(deployment.clone());
        deployment
    }

    fn rollout(&mut self, watched: bool) -> Response<Body> {
        let deployment = self.deployments.last().cloned().unwrap_or_default();
        let state = |stage: &str, done: bool, instances: Value| {
            json!({
                "deployment": deployment["id"], "service": "services-1", "name": "web",
                "version": deployment["version_number"], "image": deployment["image"], "stage": stage, "done": done,
                "waiting": if done { "" } else { "for its check" },
                "error_message": if stage == "failed" { "instances end at once: exit code 3" } else { "" },
                "replicas": deployment["replicas"], "instances": instances, "elapsed_ms": 1_500,
                "receipt": { "ok": 12, "failed_by_hob": 0, "failed_by_app": 0 },
            })
        };
        let begun = state(
            "deploying",
            false,
            json!({ "new": { "starting": 1 }, "old": { "serving": 1 } }),
        );
        if !watched {
            return whole(200, &begun);
        }
        let ended = |stage: &str| state(stage, true, json!({ "new": { "serving": 1 }, "old": {} }));
        match self.script {
            Script::Succeeds => lines(&[begun, json!({}), ended("succeeded")], true),
            Script::Fails => lines(&[begun, ended("failed")], true),
            Script::Hangs => lines(&[begun], false),
            Script::WaitsAtAStep => {
                let mut waits = state(
                    "paused",
                    false,
                    json!({ "new": { "serving": 1 }, "old": { "serving": 1 } }),
                );
                let more = json!({ "waiting": "", "strategy": "canary", "step": 0, "steps": [{ "text": "10% traffic 5%" }],
                    "at_step": true, "ends": "for `continue`", "share": 5, "outcome": "needs_you",
                    "next_command": "hob continue web", "preview_host": "next.example" });
                merge(&mut waits, &more);
                lines(&[begun, waits], false)
            }
            Script::BreaksOnce if !std::mem::replace(&mut self.broken, true) => lines(&[begun], true),
            Script::BreaksOnce => lines(&[begun, ended("succeeded")], true),
        }
    }
}

/// Of any change.
fn plan(body: &Value) -> Value {
    let mut changes = vec![json!({ "what": "image", "before": "web:1", "after": body["image"], "replaces": true })];
    for (key, value) in body["env"].as_object().into_iter().flatten() {
        changes.push(json!({ "what": "config", "key": key, "before": null, "after": value, "replaces": true }));
    }
    json!({
        "service": null, "name": "web", "deploys": true, "version": 2, "running_version": 1, "supersedes": null,
        "image": { "reference": body["image"], "digest": null, "local": false, "size_bytes": null },
        "changes": changes,
        "replaces": true, "routes": [], "downtime": { "class": "hold", "why": "recreate stops the old instances first" },
        "memory": { "needed_mb": 512, "running_mb": 512, "free_mb": 4_000, "fits": true }, "expected_ms": null,
        "way_back": { "exists": false, "version": null, "why": "no version has succeeded yet" }, "hash": "0123abcd",
    })
}

fn merge(into: &mut Value, from: &Value) {
    // Notes are the deployment's.
    let fields = from
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !["notes", "apply_hash", "deploy", "env"].contains(&key.as_str()));
    for (key, value) in fields {
        into[key] = value.clone();
    }
}

fn whole(status: u16, document: &Value) -> Response<Body> {
    let text = if document.is_null() {
        String::new()
    } else {
        document.to_string()
    };
    let body = Full::new(Bytes::from(text)).boxed_unsync();
    Response::builder()
        .status(status)
        .header("retry-after", "7")
        .body(body)
        .expect("a response")
}

fn lines(documents: &[Value], ends: bool) -> Response<Body> {
    let frames: Vec<_> = documents
        .iter()
        .map(|d| Ok(Frame::data(Bytes::from(format!("{d}\n")))))
        .collect();
    let rest = if ends {
        stream::empty().boxed()
    } else {
        stream::pending().boxed()
    };
    Response::new(StreamBody::new(stream::iter(frames).chain(rest)).boxed_unsync())
}
