//! A secret is planted, everything that can go wrong with it does, and then it is searched for wherever Hob writes
//! (invariant 25, C4.25, C6.19).

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::planted::{PLANTED, find};
use testkit::postgres::Server;
use testkit::system::{App, Hob, Options, eventually};

const HOB: &str = env!("CARGO_BIN_EXE_hob");
const SOON: Duration = Duration::from_secs(30);

/// Says everything that it can say.
fn talkative(flags: Vec<String>) -> Options {
    Options {
        flags,
        variables: vec![("HOB_LOG".to_owned(), "trace".to_owned())],
        ..Options::default()
    }
}

fn nowhere(what: &str, bytes: &[u8]) {
    if let Some(around) = find(bytes) {
        panic!("{what} holds the secret: …{around}…");
    }
}

/// A secret with the planted value; its id.
fn plant(hob: &Hob) -> String {
    let (status, secret) = hob.api("POST", "/api/secrets/", Some(json!({"name": "planted"})));
    assert_eq!(status, 201, "{secret}");
    let id = secret["id"].as_str().expect("an id").to_owned();
    let body = json!({"key": "PASSWORD", "value": PLANTED});
    let (status, item) = hob.api("POST", &format!("/api/secrets/{id}/items/"), Some(body));
    assert_eq!(status, 201, "{item}");
    id
}

/// A service whose instances got the secret, and one whose instances crash with it.
fn deploy_with(hob: &Hob, secret: &str) {
    App::pack(hob, "web:1");
    App::pack_with(hob, "broken:1", &["--env", "CRASH_AT_START=3"]).ok();
    for (name, image, status) in [("web", "web:1", "ready"), ("broken", "broken:1", "error")] {
        let body = json!({"name": name, "image": image, "port": 8080, "secret": secret});
        let (made, service) = hob.api("POST", "/api/services/", Some(body));
        assert_eq!(made, 201, "{service}");
        eventually(SOON, "the deployment is over", || hob.service(name)["status"] == status);
    }
}

/// Every refusal that the value can be part of; none of them repeats it.
fn force_errors(hob: &Hob, secret: &str) {
    let items = format!("/api/secrets/{secret}/items/");
    let bodies = [
        (items.as_str(), json!({"key": "PASSWORD", "value": PLANTED})),
        (&items, json!({"key": "OTHER", "value": [PLANTED]})),
        (&items, json!({"key": "OTHER", "value": format!("{PLANTED}\0")})),
        (&items, json!({"key": "OTHER", "value": PLANTED.repeat(100_000)})),
        ("/api/api-keys/", json!({"name": "x", "expires_at": PLANTED})),
        (
            "/local/users",
            json!({"name": "x", "password": PLANTED, "admin": "perhaps"}),
        ),
    ];
    for (path, body) in bodies {
        let (status, answer) = hob.api("POST", path, Some(body));
        assert!(status >= 400, "{path}: {status} {answer}");
        nowhere(path, answer.to_string().as_bytes());
    }
}

/// What any command prints, in both forms.
fn search_commands(hob: &Hob) {
    let commands: [&[&str]; 10] = [
        &["status"],
        &["status", "web"],
        &["ps"],
        &["ps", "web"],
        &["history", "web"],
        &["history", "broken"],
        &["logs", "broken"],
        &["secret", "ls", "web"],
        &["config", "ls", "web"],
        &["doctor"],
    ];
    for command in commands {
        for more in [&[][..], &["--json"]] {
            let ran = hob.cli(&[command, more].concat());
            nowhere(&format!("hob {command:?} {more:?}"), ran.text().as_bytes());
        }
    }
}

/// What the interface tells without being asked for values.
fn search_answers(hob: &Hob) {
    let mut paths: Vec<String> = [
        "/api/",
        "/api/services/",
        "/api/deployments/?detail=full",
        "/api/secrets/",
        "/api/audit/",
        "/api/schema/",
        "/metrics",
    ]
    .map(str::to_owned)
    .to_vec();
    for name in ["web", "broken"] {
        for deployment in hob.deployments(name) {
            let id = deployment["id"].as_str().expect("an id").to_owned();
            paths.extend(["", "events/", "receipt/"].map(|what| format!("/api/deployments/{id}/{what}")));
        }
    }
    for path in paths {
        let (_, answer): (u16, Value) = hob.api("GET", &path, None);
        nowhere(&path, answer.to_string().as_bytes());
    }
}

/// Arguments and environment of every process of Hob; instances' own are theirs.
fn search_processes(hob: &Hob) {
    let processes = hob.all_processes();
    assert!(processes.len() >= 3, "control plane, edge and a shim: {processes:?}");
    for pid in processes {
        for what in ["cmdline", "environ"] {
            let path = format!("/proc/{pid}/{what}");
            nowhere(&path, &fs::read(&path).unwrap_or_default());
        }
    }
}

/// Every file: database, its log, images, what instances were made of, and whatever lies beside them.
fn search_files(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            search_files(&path);
        } else if kind.is_file() && entry.metadata().is_ok_and(|file| file.len() < 8 << 20) {
            nowhere(&path.display().to_string(), &fs::read(&path).unwrap_or_default());
        }
    }
}

/// C6.19: outputs, answers, logs at the lowest level, database pages, files, arguments, environments.
#[test]
fn a_planted_secret_is_nowhere_but_in_its_instances() {
    let Some(hob) = Hob::start_with(HOB, talkative(Vec::new())) else {
        return;
    };
    let secret = plant(&hob);
    deploy_with(&hob, &secret);
    force_errors(&hob, &secret);
    search_commands(&hob);
    search_answers(&hob);
    search_processes(&hob);
    assert!(
        hob.log().contains("TRACE") || hob.log().contains("DEBUG"),
        "the log says all"
    );
    nowhere("the log", hob.log().as_bytes());
    assert!(
        hob.data_dir().join("hob.db").exists(),
        "the database is among the files"
    );
    search_files(&hob.data_dir());
}

/// C4.25, C6.19: as files, values are in the program's reach alone: not in its environment, and not on the disk. So it
/// is after a restart of the control plane, and with the next instance.
#[test]
fn values_as_files_are_read_by_the_program_and_are_nowhere_else() {
    let Some(mut hob) = Hob::start_with(HOB, talkative(Vec::new())) else {
        return;
    };
    let secret = plant(&hob);
    let (status, config) = hob.api("POST", "/api/configs/", Some(json!({"name": "c"})));
    assert_eq!(status, 201, "{config}");
    let config = config["id"].as_str().expect("an id").to_owned();
    let level = json!({"key": "LEVEL", "value": "info"});
    let (status, item) = hob.api("POST", &format!("/api/configs/{config}/items/"), Some(level));
    assert_eq!(status, 201, "{item}");
    App::pack(&hob, "web:1");
    let body =
        json!({"name": "web", "image": "web:1", "port": 8080, "delivery": "files", "secret": secret, "config": config});
    let (made, service) = hob.api("POST", "/api/services/", Some(body));
    assert_eq!(made, 201, "{service}");
    eventually(SOON, "it is ready", || hob.service("web")["status"] == "ready");

    let shows_its_files = |hob: &Hob| {
        let said = |path: &str| hob.get("web.localhost", path).expect("an answer").text();
        assert_eq!(said("/file?path=/run/secrets/PASSWORD"), PLANTED);
        assert_eq!(said("/file?path=/run/configs/LEVEL"), "info");
        assert_eq!(
            (said("/env?name=PASSWORD"), said("/env?name=LEVEL")),
            ("\n".into(), "\n".into())
        );
        assert!(said("/file?path=/proc/mounts").contains("tmpfs /run/secrets tmpfs ro,"));
    };
    shows_its_files(&hob);
    let first = hob.serving("web").remove(0).id;
    hob.kill_control_plane();
    hob.up();
    shows_its_files(&hob);
    let restart = format!("/api/services/{}/restart/", service["id"].as_str().expect("an id"));
    let (status, answer) = hob.api("POST", &restart, None);
    assert!(status < 300, "{status} {answer}");
    eventually(SOON, "another instance serves", || {
        let serving = hob.serving("web");
        !serving.is_empty() && serving.iter().all(|instance| instance.id != first)
    });
    shows_its_files(&hob);
    search_processes(&hob);
    search_files(&hob.data_dir());
    nowhere("the log", hob.log().as_bytes());
}

/// The same record in PostgreSQL: a dump of everything holds nothing of it; nor does a log a URL's password.
#[test]
fn a_planted_secret_is_sealed_in_postgresql_too() {
    let server = match Server::of_this_process() {
        Ok(server) => server,
        Err(reason) => {
            println!("SKIPPED: {reason}");
            return;
        }
    };
    let url = server.create("leaks", None).expect("a database is made");
    let Some(hob) = Hob::start_with(HOB, talkative(vec!["--database-url".to_owned(), url])) else {
        return;
    };
    let secret = plant(&hob);
    deploy_with(&hob, &secret);
    let dump = server.dump("leaks").expect("pg_dump runs");
    let text = String::from_utf8_lossy(&dump);
    assert!(text.contains("PASSWORD"), "the dump holds the key of the secret");
    nowhere("the dump", &dump);
    nowhere("the log", hob.log().as_bytes());
}

#[test]
fn the_password_of_a_database_that_is_not_there_is_not_repeated() {
    let url = "postgres://hob:zX9-qLm2-vT7-kP4@127.0.0.1:1/hob";
    let options = Options {
        variables: vec![
            ("HOB_DATABASE_URL".to_owned(), url.to_owned()),
            ("HOB_LOG".to_owned(), "trace".to_owned()),
        ],
        ..Options::default()
    };
    let Some(mut hob) = Hob::prepare(HOB, options) else {
        return;
    };
    let (code, said) = hob.up_fails();
    assert_ne!(code, 0);
    assert!(said.contains("cannot be reached"), "{said}");
    assert!(!said.contains("qLm2"), "{said}");
}

/// A process that holds the root key and values in plain text leaves no core file, however it ends, and however the
/// machine is set up.
#[test]
fn a_crash_of_the_control_plane_leaves_no_core_file() {
    let Some(mut hob) = Hob::start(HOB) else { return };
    for pid in hob.all_processes() {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("a living process");
        let core = limits.lines().find(|line| line.starts_with("Max core file size"));
        let words: Vec<&str> = core.unwrap_or_default().split_whitespace().collect();
        assert_eq!(
            words,
            ["Max", "core", "file", "size", "1", "1", "bytes"],
            "process {pid}"
        );
    }
    let aborted = Command::new("kill")
        .args(["-ABRT", &hob.pid().to_string()])
        .stdout(Stdio::null())
        .status();
    assert!(aborted.is_ok_and(|status| status.success()));
    hob.kill_control_plane();
    let names = fs::read_dir(hob.scratch()).expect("the scratch directory").flatten();
    let cores: Vec<_> = names
        .filter(|file| file.file_name().to_string_lossy().starts_with("core"))
        .collect();
    assert!(cores.is_empty(), "{cores:?}");
    hob.up();
}
