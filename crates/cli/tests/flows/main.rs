//! The commands against a server that follows a script: what is asked, what is shown, how it ends.

mod fake;
mod plans;

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use clap::{CommandFactory, Parser};
use cli::{ClientCommand, Environment, Outcome, Screen};
use fake::{Fake, KEY, Script};
use serde_json::{Value, json};

#[derive(Parser)]
#[command(name = "hob")]
struct Hob {
    #[command(subcommand)]
    command: ClientCommand,
}

/// What a command came to.
struct Ran {
    outcome: Outcome,
    out: String,
    err: String,
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("not poisoned").clone()).expect("text")
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn run(environment: &Environment, line: &str) -> Ran {
    let (out, err) = (Captured::default(), Captured::default());
    let hob = Hob::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
    let screen = Screen::plain(out.clone(), err.clone());
    let outcome = cli::run_on(hob.command, environment, screen, Hob::command()).await;
    Ran {
        outcome,
        out: out.text(),
        err: err.text(),
    }
}

fn environment(fake: &Fake) -> Environment {
    Environment {
        url: Some(fake.url()),
        api_key: Some(KEY.to_owned()),
        temp_dir: std::env::temp_dir(),
        ..Environment::default()
    }
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is missing:\n{text}");
    }
}

#[tokio::test]
async fn a_new_service_is_made_with_its_settings_and_routes_and_followed_to_its_end() {
    let fake = Fake::start(Script::Succeeds).await;
    let line = "hob deploy web --image web:1 --instances 2 --env A=1 --env B=x=y --route shop.example.com/api \
                --health-path /healthz --memory 64 --max-in-flight 1 --note first";
    let ran = run(&environment(&fake), line).await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    says(
        &ran.out,
        &["web version 1  deploying; new: 1 starting; old: 1 routed; waits: for its check"],
    );
    says(
        &ran.out,
        &[
            "web version 1 serves: web:1 with 2 instances",
            "http://shop.example.com:8080/api",
        ],
    );
    says(&ran.out, &["took 1.5 s; 12 requests ok, 0 failed"]);
    let expected = ["POST /api/services/", "POST /api/domains/", "POST /api/routes/"];
    assert_eq!(fake.writes(), expected);
    let service = fake.body("POST /api/services/");
    assert_eq!(
        service,
        json!({ "name": "web", "image": "web:1", "port": 8080, "replicas_target": 2, "env": { "A": "1", "B": "x=y" },
            "health_check": { "type": "http", "path": "/healthz" }, "resources": { "memory_mb": 64 },
            "options": { "max_in_flight": 1 }, "notes": "first" })
    );
}

#[tokio::test]
async fn a_change_makes_one_deployment_and_no_change_asks_for_one() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 1);
    let ran = run(&environment(&fake), "hob deploy web --image web:2").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    assert_eq!(fake.writes(), ["PATCH /api/services/services-1/"]);
    assert_eq!(
        fake.body("PATCH /api/services/services-1/"),
        json!({ "image": "web:2", "deploy": true })
    );

    fake.state().requests.clear();
    let ran = run(&environment(&fake), "hob deploy web --image web:2 --note again").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    says(&ran.out, &["web version 3 serves"]);
    assert_eq!(fake.writes(), ["PATCH /api/services/services-1/"]);
    let sent = fake.body("PATCH /api/services/services-1/");
    assert_eq!(sent, json!({ "image": "web:2", "deploy": true, "notes": "again" }));

    fake.state().requests.clear();
    let ran = run(&environment(&fake), "hob deploy web --note once-more").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    let posted = "POST /api/services/services-1/deployments/";
    assert_eq!(fake.writes(), [posted]);
    assert_eq!(fake.body(posted), json!({ "notes": "once-more" }));
}

#[tokio::test]
async fn a_failure_tells_why_what_serves_and_what_to_do() {
    let fake = Fake::start(Script::Fails).await.with_service("web", 1);
    let ran = run(&environment(&fake), "hob deploy web --image web:2").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    says(
        &ran.err,
        &[
            "web version 2 failed after 1.5 s: instances end at once: exit code 3",
            "| no database",
        ],
    );
    says(&ran.err, &["version 1 (web:1) still serves", "hob logs web"]);
}

#[tokio::test]
async fn waiting_ends_and_the_operation_goes_on() {
    let fake = Fake::start(Script::Hangs).await.with_service("web", 1);
    let ran = run(&environment(&fake), "hob deploy web --image web:2 --timeout 1s").await;
    assert_eq!(ran.outcome, Outcome::TimedOut);
    says(
        &ran.err,
        &["not over within 1 s", "the rollout of web goes on", "hob cancel web"],
    );
    let ran = run(&environment(&fake), "hob deploy web --image web:3 --no-wait").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
}

#[tokio::test]
async fn a_stream_that_breaks_is_opened_again() {
    let fake = Fake::start(Script::BreaksOnce).await.with_service("web", 1);
    let ran = run(&environment(&fake), "hob scale web 3").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    let watches = fake
        .state()
        .requests
        .iter()
        .filter(|(line, _)| line.contains("watch=1"))
        .count();
    assert_eq!(watches, 2);
    assert_eq!(
        ran.out.matches("deploying").count(),
        1,
        "what is known is not told again:\n{}",
        ran.out
    );
}

#[tokio::test]
async fn programs_get_one_object_a_line() {
    let fake = Fake::start(Script::Succeeds).await;
    let ran = run(&environment(&fake), "hob deploy web --image web:1 --json").await;
    let documents: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(
        documents.last().map(|d| (d["done"].clone(), d["stage"].clone())),
        Some((json!(true), json!("succeeded")))
    );
    assert!(ran.err.is_empty(), "{}", ran.err);

    let ran = run(&environment(&fake), "hob status nobody --json").await;
    let error: Value = serde_json::from_str(&ran.err).expect("JSON");
    assert_eq!(error["error"]["exit_code"], 1);
    for line in [
        "hob status --json",
        "hob status web --json",
        "hob ps --json",
        "hob history web --json",
    ] {
        let ran = run(&environment(&fake), line).await;
        assert_eq!(ran.outcome, Outcome::Done, "{line}: {}", ran.err);
        serde_json::from_str::<Value>(&ran.out).expect("one document");
    }
}

#[tokio::test]
async fn a_name_that_is_unknown_is_answered_with_the_nearest() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 1);
    for line in [
        "hob status wbe",
        "hob scale wbe 2",
        "hob logs wbe",
        "hob rm wbe --yes",
        "hob history wbe",
    ] {
        let ran = run(&environment(&fake), line).await;
        assert_eq!(ran.outcome, Outcome::Failed, "{line}");
        says(&ran.err, &["there is no service wbe", "Did you mean web?"]);
    }
    let ran = run(&environment(&fake), "hob deploy wbe --instances 2").await;
    assert_eq!(ran.outcome, Outcome::Usage);
    says(&ran.err, &["no service wbe yet", "hob deploy wbe --image"]);
}

#[tokio::test]
async fn going_back_tells_the_plan_and_names_the_target() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 2);
    let ran = run(&environment(&fake), "hob rollback web").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    says(
        &ran.err,
        &["web goes back to version 1", "secrets stay as they are now"],
    );
    assert_eq!(fake.writes(), ["POST /api/deployments/d1/rollback/"]);
    let ran = run(&environment(&fake), "hob rollback web --to 9").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    says(&ran.err, &["web has no version 9", "gone back to: 3, 2, 1"]);
}

#[tokio::test]
async fn a_route_of_another_service_is_taken_only_on_request() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 1);
    let environment = environment(&fake);
    run(&environment, "hob deploy api --image api:1 --route a.example.com").await;
    let ran = run(&environment, "hob route add a.example.com web").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    says(&ran.err, &["a.example.com/ leads to another service", "--move"]);
    fake.state().requests.clear();
    let ran = run(&environment, "hob deploy web --image web:9 --route a.example.com").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    assert!(
        fake.writes().is_empty(),
        "refused before anything moves: {:?}",
        fake.writes()
    );
    let ran = run(&environment, "hob route add a.example.com web --move").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
}

#[tokio::test]
async fn who_cannot_reach_it_or_may_not_is_told_how() {
    let fake = Fake::start(Script::Succeeds).await;
    let good = environment(&fake);
    let bad_key = Environment {
        api_key: Some("gob_bad".to_owned()),
        ..good.clone()
    };
    let no_key = Environment {
        api_key: None,
        ..good.clone()
    };
    let nobody = Environment {
        url: Some("http://127.0.0.1:1".to_owned()),
        ..good.clone()
    };
    let empty = tempfile::tempdir().expect("a directory");
    let no_server = Environment {
        url: None,
        api_key: None,
        data_dir: Some(empty.path().to_owned()),
        ..good.clone()
    };
    for (environment, words) in [
        (bad_key, ["does not accept the key", "hob keys create"]),
        (no_key, ["there is no key for", "hob login"]),
        (nobody, ["cannot reach http://127.0.0.1:1", "hob up"]),
        (no_server, ["no server runs on this machine", "hob up"]),
    ] {
        let ran = run(&environment, "hob status").await;
        assert_eq!(ran.outcome, Outcome::Refused, "{}", ran.err);
        says(&ran.err, &words);
        assert!(!ran.err.contains("gob_bad"), "{}", ran.err);
    }
    fake.state().throttles = true;
    let ran = run(&good, "hob deploy web --image a:1").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    says(&ran.err, &["cannot create web: Request was throttled", "in 7 seconds"]);
}

#[tokio::test]
async fn the_control_socket_needs_no_key_and_a_key_is_printed_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let _fake = Fake::start_at(directory.path());
    let environment = Environment {
        // The keys command does not look at it.
        url: Some("http://127.0.0.1:1".to_owned()),
        data_dir: Some(directory.path().to_owned()),
        ..Environment::default()
    };
    let ran = run(&environment, "hob keys create laptop --expires 30d").await;
    assert_eq!(
        (ran.outcome, ran.out.as_str(), ran.err.as_str()),
        (Outcome::Done, "gob_good\n", "")
    );
    let local = Environment {
        url: None,
        ..environment
    };
    assert_eq!(run(&local, "hob status").await.outcome, Outcome::Done);
    let ran = run(&local, "hob doctor").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    says(&ran.out, &["error    network", "-> mend it"]);
}

#[tokio::test]
async fn a_login_is_kept_where_only_its_user_reads_it() {
    let fake = Fake::start(Script::Succeeds).await;
    let home = tempfile::tempdir().expect("a directory");
    let environment = Environment {
        config_home: Some(home.path().to_owned()),
        ..Environment::default()
    };
    let ran = run(&environment, &format!("hob login {}/claim/token", fake.url())).await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    let path = home.path().join("hob/login.toml");
    assert_eq!(
        std::fs::metadata(&path).expect("kept").permissions().mode() & 0o777,
        0o600
    );
    assert!(!ran.out.contains(KEY) && !ran.err.contains(KEY));
    let ran = run(&environment, "hob status").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);

    std::fs::write(&path, "key = gob_secret").expect("written");
    let ran = run(&environment, "hob status").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    assert!(
        ran.err.contains("hob login") && !ran.err.contains("gob_secret"),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn a_directory_is_sent_as_a_tar_and_a_binary_as_an_image() {
    let fake = Fake::start(Script::Succeeds).await;
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("index.json"), "{}").expect("written");
    std::fs::create_dir_all(directory.path().join("blobs/sha256")).expect("made");
    let path = directory.path().display().to_string();
    let ran = run(&environment(&fake), &format!("hob image import {path} --name web:1")).await;
    assert_eq!(
        (ran.outcome, ran.out.as_str()),
        (Outcome::Done, "web:1 001122334455 (2.0 KiB)\n"),
        "{}",
        ran.err
    );
    let binary = directory.path().join("app");
    std::fs::write(&binary, "no real program").expect("written");
    let line = format!("hob image pack {} --name web:1 --port 80 --cmd -v", binary.display());
    assert_eq!(run(&environment(&fake), &line).await.outcome, Outcome::Done);

    let uploads = std::mem::take(&mut fake.state().uploads);
    let names = |tar: &[u8]| -> Vec<String> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().expect("a tar");
        entries
            .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
            .collect()
    };
    assert!(
        names(&uploads[0])
            .iter()
            .any(|name| name.trim_start_matches("./") == "index.json")
    );
    assert!(names(&uploads[1]).contains(&"oci-layout".to_owned()));
    assert!(fake.writes().contains(&"POST /api/images/?name=web:1".to_owned()));
}

#[tokio::test]
async fn an_upload_that_is_refused_halfway_says_why() {
    let fake = Fake::start(Script::Succeeds).await;
    fake.state().refuses_uploads = true;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("big.tar");
    std::fs::File::create(&file)
        .and_then(|file| file.set_len(64 << 20))
        .expect("made");
    let ran = run(&environment(&fake), &format!("hob image import {}", file.display())).await;
    assert_ne!(ran.outcome, Outcome::Done);
    says(&ran.err, &["cannot import", "big.tar"]);
}

#[tokio::test]
async fn a_log_is_followed_across_a_break_and_no_line_is_told_twice() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 1);
    let line = |second: u32, text: &str| {
        json!({ "at": format!("2026-01-02T03:04:{second:02}.000000Z"), "instance": "i-0000000a", "version": 1,
            "stream": "stdout", "text": text })
    };
    let first = vec![line(1, "one"), json!({}), line(2, "two"), line(2, "two again")];
    let second = vec![line(1, "one"), line(2, "two"), line(2, "two again"), line(3, "three")];
    fake.state().logs.extend([first, second]);
    let ran = run(&environment(&fake), "hob logs web -f").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    says(&ran.err, &["web has been removed"]);
    let texts: Vec<&str> = ran.out.lines().filter_map(|line| line.split(" | ").nth(1)).collect();
    assert_eq!(texts, ["one", "two", "two again", "three"]);
    assert!(ran.out.starts_with("v1 0000000a | "), "{}", ran.out);
}

#[tokio::test]
async fn settings_are_set_listed_and_removed() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 1);
    let environment = environment(&fake);
    let ran = run(&environment, "hob config set web A=1 B=2").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    says(&ran.out, &["web: A, B set", "is being deployed"]);
    assert_eq!(fake.body("PATCH /api/services/services-1/")["config"], "configs-2");
    let ran = run(&environment, "hob config list web").await;
    says(&ran.out, &["KEY", "A    1", "B    2"]);
    let ran = run(&environment, "hob config unset web AA").await;
    says(&ran.err, &["no variable AA", "Nothing was removed"]);
    let ran = run(&environment, "hob config unset web A").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
}

#[tokio::test]
async fn a_service_goes_with_the_settings_that_are_its_own() {
    let fake = Fake::start(Script::Succeeds).await;
    let environment = environment(&fake);
    run(&environment, "hob deploy web --image web:1 --env A=1").await;
    let ran = run(&environment, "hob rm web").await;
    assert_eq!(ran.outcome, Outcome::Usage, "nobody is there to confirm it");
    fake.state().requests.clear();
    let ran = run(&environment, "hob rm web --yes").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    let service = "DELETE /api/services/services-2/";
    assert_eq!(fake.writes(), [service, "DELETE /api/configs/configs-1/"]);
}

#[test]
fn values_out_of_range_and_nonsense_are_usage_errors() {
    for line in [
        "hob deploy web --port 0",
        "hob deploy web --port 65536",
        "hob deploy web --instances 0",
        "hob deploy web --instances 13",
        "hob deploy web --image UPPER:1",
        "hob deploy web --env novalue",
        "hob deploy web --route http://a/b",
        "hob deploy web --timeout soon",
        "hob deploy web --worker --port 80",
        "hob deploy",
        "hob scale web 13",
        "hob secret set web",
        "hob image pack dir --name UPPER:1",
    ] {
        let error = Hob::try_parse_from(line.split(' '))
            .err()
            .unwrap_or_else(|| panic!("{line} was taken"));
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

/// Every example of every help page can be typed.
#[test]
fn all_examples_parse() {
    fn examples(command: &clap::Command, found: &mut Vec<String>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        found.extend(help.lines().filter(|line| line.starts_with("  ")).map(str::to_owned));
        command.get_subcommands().for_each(|sub| examples(sub, found));
    }
    let root = Hob::command();
    root.clone().debug_assert();
    let mut found = Vec::new();
    examples(&root, &mut found);
    let typed = |line: &str| {
        let line = &line[line.find("hob ")?..];
        // A command within is typed on its own elsewhere.
        let line = line
            .split_once("$(")
            .map_or(line.to_owned(), |(start, _)| format!("{start}x"));
        let marks = ["  ", " |", " <", " >", " &&"];
        let end = marks.iter().filter_map(|mark| line.find(mark)).min();
        Some(line[..end.unwrap_or(line.len())].to_owned())
    };
    let lines: Vec<String> = found.iter().filter_map(|line| typed(line)).collect();
    assert!(lines.len() > 40, "{lines:#?}");
    for line in lines {
        if let Err(error) = Hob::try_parse_from(line.split(' ')) {
            panic!("{line}: {error}");
        }
    }
}

#[tokio::test]
async fn completions_are_made_for_the_whole_program() {
    let ran = run(&Environment::default(), "hob completions bash").await;
    assert_eq!(ran.outcome, Outcome::Done);
    says(&ran.out, &["_hob()", "deploy", "rollback"]);
}

#[tokio::test]
async fn projects_are_made_renamed_listed_and_removed() {
    let fake = Fake::start(Script::Succeeds).await;
    let environment = environment(&fake);
    run(&environment, "hob projects add shop").await;
    says(&run(&environment, "hob projects").await.out, &["NAME", "shop"]);
    let ran = run(&environment, "hob projects rename shop store").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    let ran = run(&environment, "hob projects rm shopp").await;
    says(&ran.err, &["there is no project shopp", "Did you mean shop?"]);
    run(&environment, "hob projects rm shop").await;
    let expected = [
        "POST /api/projects/",
        "PATCH /api/projects/projects-1/",
        "DELETE /api/projects/projects-1/",
    ];
    assert_eq!(fake.writes(), expected);
}

#[tokio::test]
async fn members_are_let_in_get_another_role_and_leave() {
    let fake = Fake::start(Script::Succeeds).await;
    let environment = environment(&fake);
    run(&environment, "hob projects add shop").await;
    let ran = run(&environment, "hob members add shop carol --role developer").await;
    says(&ran.out, &["carol is a developer of shop"]);
    let list = "/api/projects/projects-1/members/";
    assert_eq!(
        fake.body(&format!("POST {list}")),
        json!({"name": "carol", "role": "developer"})
    );
    let ran = run(&environment, "hob members list shop").await;
    says(&ran.out, &["ACCOUNT", "carol", "developer"]);
    let ran = run(&environment, "hob members set shop carl --role viewer").await;
    says(&ran.err, &["there is no member carl", "Did you mean carol?"]);
    run(&environment, "hob members set shop carol --role viewer").await;
    let ran = run(&environment, "hob members rm shop carol").await;
    says(&ran.out, &["carol does not work on shop any more"]);
    let writes = fake.writes();
    let (patched, removed) = (&writes[writes.len() - 2], &writes[writes.len() - 1]);
    assert!(
        patched.starts_with(&format!("PATCH {list}")) && removed.starts_with(&format!("DELETE {list}")),
        "{writes:?}"
    );
}

#[tokio::test]
async fn the_audit_log_is_read_from_its_end_or_from_a_number() {
    let fake = Fake::start(Script::Succeeds).await;
    let environment = environment(&fake);
    says(
        &run(&environment, "hob audit").await.out,
        &["nothing is recorded there"],
    );
    let line = json!({"seq": 7, "at": "2024-10-15T12:00:01.000000Z", "account": "01a2-b", "via": "session",
        "action": "POST /api/domains/", "object": "/api/domains/", "outcome": "done"});
    fake.state().rows.insert("audit".to_owned(), vec![line]);
    let ran = run(&environment, "hob audit --before 9 --limit 5").await;
    says(&ran.out, &["NUMBER", "7", "session", "done", "POST /api/domains/"]);
    let asked = fake.state().requests.last().expect("a request").0.clone();
    assert!(asked.ends_with("/api/audit/?limit=5&before=9"), "{asked}");
}

#[tokio::test]
async fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().expect("a directory");
    let pages = dir.path().join("man1");
    let ran = run(&Environment::default(), &format!("hob man {}", pages.display())).await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    for page in [
        "hob.1",
        "hob-deploy.1",
        "hob-route-add.1",
        "hob-secret-set.1",
        "hob-diff.1",
    ] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
    }
    let deploy = std::fs::read_to_string(pages.join("hob-deploy.1")).expect("a page");
    says(&deploy, &["hob\\-deploy", "10% for 5m"]);
}

#[tokio::test]
async fn a_rotated_secret_is_deployed_and_never_shown() {
    let fake = Fake::start(Script::Succeeds).await.with_service("web", 1);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("secrets.env");
    std::fs::write(&file, "TOKEN=hunter2hunter2").expect("a file");
    run(
        &environment(&fake),
        &format!("hob secret set web --env-file {}", file.display()),
    )
    .await;
    let ran = run(&environment(&fake), "hob secret rotate web TOKEM --generate").await;
    assert_eq!(ran.outcome, Outcome::Failed);
    says(&ran.err, &["there is no secret TOKEM", "Did you mean TOKEN?"]);
    let before = fake.writes().len();
    let ran = run(&environment(&fake), "hob secret rotate web TOKEN --generate").await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    let writes = fake.writes();
    let changed = fake.body(&writes[before]);
    let value = changed["value"].as_str().expect("a value");
    assert_eq!(value.len(), 64);
    assert!(!ran.out.contains(value) && !ran.err.contains(value));
    assert_eq!(writes[before + 1], "POST /api/services/services-1/deployments/");
    let ran = run(&environment(&fake), "hob secret reads web TOKEN").await;
    says(&ran.out, &["WHEN (UTC)", "01a2", "api item"]);
    let ran = run(&environment(&fake), "hob secret reads web TOKEM").await;
    says(&ran.err, &["there is no secret TOKEM"]);
}
