//! Who reaches a server, and with which key.

use std::os::unix::fs::PermissionsExt;

use cli::{Environment, Outcome};

use super::{environment, run, says};
use crate::fake::{Fake, KEY, Script};

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
