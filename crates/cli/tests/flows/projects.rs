//! Projects, their members, and who did what.

use cli::Outcome;
use serde_json::json;

use super::{environment, run, says};
use crate::fake::{Fake, Script};

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
