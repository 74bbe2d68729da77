//! `/api/schema/`, held against the router and against real answers.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use crate::world::{PUBLIC_URL, World};

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
const ID: &str = "123e4567-e89b-12d3-a456-426614174000";

/// Every path and method of the router is in the document, and nothing else is.
#[tokio::test]
async fn the_document_has_exactly_the_routers_operations() {
    let world = World::new().await;
    let operator = world.operator();
    let document = operator.get("/api/schema/").await.expect(200);
    let mut documented = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            documented.insert((path.clone(), method.to_ascii_uppercase()));
        }
    }
    let mut routed = BTreeSet::new();
    for pattern in api::platform::router::paths() {
        let path = pattern.replace("{id}", ID).replace("{item}", ID);
        let answer = operator.send(Method::OPTIONS, &path, axum::body::Body::empty()).await;
        assert_eq!(answer.status, 405);
        let allowed = answer
            .header("allow")
            .split(',')
            .filter(|method| METHODS.contains(method));
        routed.extend(allowed.map(|method| (pattern.clone(), method.to_owned())));
    }
    assert_eq!(documented, routed);
}

/// Answers have exactly the fields that the document gives them.
#[tokio::test]
async fn answers_have_the_documented_fields() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    let worker = alice.make("/api/workers/", json!({"name": "w", "image": "a"})).await;
    let deployment = alice.newest_deployment(&service).await;
    let domain = alice.make("/api/domains/", json!({"hostname": "a.example.com"})).await;
    let route = alice
        .make(
            "/api/routes/",
            json!({"path": "/", "domain": domain, "service": service}),
        )
        .await;
    let config = alice.make("/api/configs/", json!({"name": "c"})).await;
    let config_item = alice
        .make(
            &format!("/api/configs/{config}/items/"),
            json!({"key": "A", "value": "b"}),
        )
        .await;
    let secret = alice.make("/api/secrets/", json!({"name": "s"})).await;
    let secret_item = alice
        .make(
            &format!("/api/secrets/{secret}/items/"),
            json!({"key": "A", "value": "b"}),
        )
        .await;
    let project = alice.make("/api/projects/", json!({"name": "p"})).await;
    let key = alice.make("/api/api-keys/", json!({"name": "k"})).await;
    let document = api::platform::schema::document(PUBLIC_URL, "0");
    for (shape, path) in [
        ("Account", "/api/account/".to_owned()),
        ("Service", format!("/api/services/{service}/")),
        ("Worker", format!("/api/workers/{worker}/")),
        ("Deployment", format!("/api/deployments/{deployment}/")),
        ("Outcomes", format!("/api/services/{service}/outcomes/")),
        ("Receipt", format!("/api/deployments/{deployment}/receipt/")),
        ("Events", format!("/api/deployments/{deployment}/events/")),
        ("Instances", format!("/api/services/{service}/instances/")),
        ("Route", format!("/api/routes/{route}/")),
        ("Domain", format!("/api/domains/{domain}/")),
        ("Config", format!("/api/configs/{config}/")),
        ("ConfigItem", format!("/api/configs/{config}/items/{config_item}/")),
        ("Secret", format!("/api/secrets/{secret}/")),
        ("SecretItem", format!("/api/secrets/{secret}/items/{secret_item}/")),
        ("Project", format!("/api/projects/{project}/")),
        ("ApiKey", format!("/api/api-keys/{key}/")),
    ] {
        let answer = alice.get(&path).await;
        let fields: Vec<Value> = answer.field_order().into_iter().map(Value::from).collect();
        let documented = &document["components"]["schemas"][shape]["required"];
        assert_eq!(&json!(fields), documented, "{shape}");
    }
}

/// The whole document, a line for each operation and shape, as it was last looked at. After a change that is meant:
/// `HOB_ACCEPT=1 cargo test -p api the_document`, and the lines that differ are part of the change.
#[test]
fn the_document_is_the_one_that_was_reviewed() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi.txt");
    let document = api::platform::schema::document(PUBLIC_URL, "0");
    let mut lines = Vec::new();
    flatten(&document, String::new(), &mut lines);
    if std::env::var_os("HOB_ACCEPT").is_some() {
        std::fs::write(&path, lines.join("\n") + "\n").expect("the snapshot is written");
    }
    let reviewed = std::fs::read_to_string(&path).expect("the snapshot is there");
    let reviewed: BTreeSet<&str> = reviewed.lines().collect();
    let now: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
    let (new, gone) = (now.difference(&reviewed), reviewed.difference(&now));
    assert!(
        now == reviewed,
        "new: {:#?}\ngone: {:#?}",
        new.collect::<Vec<_>>(),
        gone.collect::<Vec<_>>()
    );
}

/// One line for each thing that is two or three names deep.
fn flatten(value: &Value, name: String, lines: &mut Vec<String>) {
    let deep = name.matches(' ').count();
    match value {
        Value::Object(map) if deep < 3 => {
            for (key, value) in map {
                flatten(value, format!("{name}{key} "), lines);
            }
        }
        _ => lines.push(format!("{name}{value}")),
    }
}

/// S2.32 to S2.35: what narrows a list is in the document, with the fields that order it.
#[test]
fn every_query_parameter_that_is_read_is_in_the_document() {
    let document = api::platform::schema::document(PUBLIC_URL, "0");
    let asked = |path: &str| -> BTreeSet<String> {
        let parameters = document["paths"][path]["get"]["parameters"]
            .as_array()
            .expect("parameters")
            .iter();
        let query = parameters.filter(|parameter| parameter["in"] == "query");
        query
            .map(|parameter| parameter["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    for (path, own) in [
        ("/api/services/", &["name"][..]),
        ("/api/workers/", &["name"]),
        ("/api/services/{id}/deployments/", &["detail", "version"]),
        ("/api/deployments/", &["detail", "service"]),
        ("/api/routes/", &["service"]),
        ("/api/domains/", &["hostname"]),
        ("/api/configs/", &["name"]),
        ("/api/configs/{id}/items/", &[]),
        ("/api/secrets/", &["name"]),
        ("/api/secrets/{id}/items/", &["keys"]),
        ("/api/projects/", &["name"]),
        ("/api/projects/{id}/members/", &[]),
        ("/api/api-keys/", &[]),
    ] {
        let all = ["ordering", "page", "page_size", "project"].iter().chain(own);
        assert_eq!(asked(path), all.map(|name| (*name).to_owned()).collect(), "{path}");
    }
    let ordering = &document["paths"]["/api/services/"]["get"]["parameters"][2]["schema"]["description"];
    assert!(
        ordering
            .as_str()
            .is_some_and(|text| text.contains("name, created_at, updated_at, status")),
        "{ordering}"
    );

    // What the sources read from a query is somewhere in the document.
    let documented: BTreeSet<String> = document["paths"]
        .as_object()
        .expect("paths")
        .values()
        .flat_map(|methods| methods.as_object().expect("methods").values())
        .flat_map(|operation| operation["parameters"].as_array().into_iter().flatten())
        .filter(|parameter| parameter["in"] == "query")
        .map(|parameter| parameter["name"].as_str().expect("a name").to_owned())
        .collect();
    let mut read = BTreeSet::new();
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/platform");
    for file in std::fs::read_dir(sources)
        .expect("sources")
        .flatten()
        .filter(|file| file.path().is_file())
    {
        let text = std::fs::read_to_string(file.path()).expect("a source");
        for reader in [
            "params.get(\"",
            "params.flag(\"",
            "params.uuid(\"",
            "params.number(\"",
            "self.get(\"",
            "self.uuid(\"",
        ] {
            let names = text.split(reader).skip(1).filter_map(|rest| rest.split('"').next());
            read.extend(names.map(str::to_owned));
        }
    }
    assert!(read.len() > 10, "{read:?}");
    assert_eq!(read.difference(&documented).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// Nothing in the document points at nothing.
#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn check(value: &Value, document: &Value, seen: &mut usize) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    let pointer = reference.strip_prefix('#').expect("a local reference");
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                    *seen += 1;
                }
                map.values().for_each(|value| check(value, document, seen));
            }
            Value::Array(values) => values.iter().for_each(|value| check(value, document, seen)),
            _ => {}
        }
    }
    let document = api::platform::schema::document(PUBLIC_URL, "0");
    let mut seen = 0;
    check(&document, &document, &mut seen);
    assert!(seen > 100, "{seen}");
    let ids: Vec<&Value> = document["paths"]
        .as_object()
        .expect("paths")
        .values()
        .flat_map(|methods| methods.as_object().expect("methods").values())
        .map(|operation| &operation["operationId"])
        .collect();
    let unique: BTreeSet<String> = ids.iter().map(|id| id.to_string()).collect();
    assert_eq!(unique.len(), ids.len());
}

/// S2.1, S2.44: the documentation has a name of its own, says what each resource is for, and announces nothing that it
/// does not have.
#[test]
fn the_document_introduces_every_resource_that_it_has_and_no_other() {
    let document = api::platform::schema::document(PUBLIC_URL, "0");
    assert_eq!(document["info"]["title"], "Hob Platform Documentation");
    let operations = document["paths"].as_object().expect("paths").values();
    let used: BTreeSet<&str> = operations
        .flat_map(|methods| methods.as_object().expect("methods").values())
        .flat_map(|operation| operation["tags"].as_array().expect("tags"))
        .map(|tag| tag.as_str().expect("a name"))
        .collect();
    let tags = document["tags"].as_array().expect("tags");
    let introduced: BTreeSet<&str> = tags
        .iter()
        .filter(|tag| tag["description"].as_str().is_some_and(|text| !text.is_empty()))
        .map(|tag| tag["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(introduced, used);
    assert_eq!(introduced.len(), tags.len());
}

/// Names the program of PyPI's `schemathesis`.
const SCHEMATHESIS: &str = "HOB_SCHEMATHESIS";
/// Ends the run, however it goes.
const SCHEMATHESIS_LIMIT: std::time::Duration = std::time::Duration::from_secs(300);

/// Thousands of requests made from the document, right and wrong ones: no 5xx, no undocumented status, no answer of
/// another shape, no wrong input accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_nothing() {
    let Ok(program) = std::env::var(SCHEMATHESIS) else {
        println!("SKIPPED: {SCHEMATHESIS} does not name the schemathesis program");
        return;
    };
    let world = World::new().await;
    let alice = world.alice().await;
    let key = alice.headers()[http::header::AUTHORIZATION]
        .to_str()
        .expect("ASCII")
        .to_owned();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("schema.json");
    let document = alice.get("/api/schema/").await.text;
    std::fs::write(&file, document).expect("written");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (end, shutdown) = tokio::sync::watch::channel(false);
    let server = tokio::spawn(api::serve(listener, world.router.clone(), shutdown));

    let mut command = tokio::process::Command::new(program);
    command
        .arg("run")
        .arg(&file)
        .args(["--url", &url, "--header", &format!("Authorization: {key}")])
        // Logs and watched rollouts end when they end. A random id is a good UUID of nothing, so that good input is often refused for good reasons; keys that the
        // run makes and revokes would be its own.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args([
            "--exclude-path-regex",
            "^/api/(api-keys|images|schema)/|/(logs|rollout)/$",
        ])
        .args([
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            "5",
            "--seed",
            "7",
            "--no-color",
        ])
        .current_dir(directory.path())
        .kill_on_drop(true);
    let output = tokio::time::timeout(SCHEMATHESIS_LIMIT, command.output()).await;
    let output = output.expect("it ends in time").expect("it runs");
    end.send_replace(true);
    server.await.expect("the server ends well");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}");
}
