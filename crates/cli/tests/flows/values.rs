//! Variables and secrets.

use cli::Outcome;

use super::{environment, run, says};
use crate::fake::{Fake, Script};

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
