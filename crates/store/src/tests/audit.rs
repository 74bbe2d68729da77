//! The audit log: with its change or not at all, and not to be rewritten unseen (C6.24).

use std::sync::Arc;

use super::bed::{image, web};
use super::both;
use crate::db::{Sql, args};
use crate::*;

fn acting(scope: &Scope, action: &str) -> (Scope, Arc<Act>) {
    let act = Act::new(
        scope.principal().clone(),
        action.to_owned(),
        "/path/",
        "request".to_owned(),
    );
    let act = Arc::new(act);
    (scope.clone().recorded_as(act.clone()), act)
}

/// A hand in the database. `Err`: the engine refused.
async fn tamper(world: &super::World, sql: &str) -> domain::Result<()> {
    let mut tx = world.store.db.write().await?;
    tx.run(Sql::composed(sql.to_owned()), args![]).await?;
    tx.commit().await
}

/// Somebody who owns the database takes the guards away first.
async fn take_guards_away(world: &super::World) {
    let sqlite = ["drop trigger audit_no_update", "drop trigger audit_no_delete"];
    let postgres = ["drop trigger audit_append_only on audit"];
    let mut gone = false;
    for sql in sqlite.iter().chain(&postgres) {
        gone |= tamper(world, sql).await.is_ok();
    }
    assert!(gone);
}

async fn five_lines(world: &super::World) -> Scope {
    let me = world.tenant("me").await;
    for n in 0..5 {
        let (scope, act) = acting(&me, &format!("POST {n}"));
        act.count(Bucket::Resources);
        scope.create_config(&format!("c{n}"), None).await.unwrap();
        assert!(act.is_recorded());
    }
    assert_eq!(world.system().check_audit().await.unwrap(), None);
    me
}

both! {
    async fn a_change_and_its_line_are_one(world: World) {
        let me = world.tenant("me").await;
        let (scope, act) = acting(&me, "POST /api/services/");
        let (service, first) = scope.create_service(web("web")).await.unwrap();
        assert!(act.is_recorded());
        let (scope, act) = acting(&me, "PATCH /api/services/{id}/");
        assert!(scope.patch_service(service.id, image("not an image")).await.is_err());
        assert!(!act.is_recorded());
        world.system().audit(&act, Outcome::Refused).await.unwrap();

        let lines = me.audit_lines(None, From::Before(i64::MAX), 10).await.unwrap();
        let seen: Vec<_> = lines.iter().map(|line| (line.seq, line.action.as_str(), line.outcome)).collect();
        assert_eq!(seen, [
            (2, "PATCH /api/services/{id}/", Outcome::Refused),
            (1, "POST /api/services/", Outcome::Done),
        ]);
        assert_eq!(lines[1].subject, Some(first.id.to_string()));
        assert!(lines.iter().all(|line| line.project == Some(service.project) && line.via == "session"));
    }

    async fn what_cannot_be_recorded_does_not_happen(world: World) {
        let me = five_lines(&world).await;
        take_guards_away(&world).await;
        tamper(&world, "delete from audit where seq = 5").await.unwrap();
        let (scope, act) = acting(&me, "POST 5");
        assert!(scope.create_config("c5", None).await.is_err());
        assert!(!act.is_recorded());
        let names = me.list_configs(&ListQuery::default()).await.unwrap();
        assert!(names.rows.iter().all(|config| config.name != "c5"));
    }

    async fn no_statement_changes_or_deletes_a_line(world: World) {
        five_lines(&world).await;
        for sql in ["update audit set account = 'x'", "delete from audit where seq = 5"] {
            assert!(tamper(&world, sql).await.is_err(), "{sql}");
        }
        assert_eq!(world.system().check_audit().await.unwrap(), None);
    }

    async fn an_edited_line_breaks_the_chain(world: World) {
        five_lines(&world).await;
        take_guards_away(&world).await;
        tamper(&world, "update audit set outcome = 'denied' where seq = 3").await.unwrap();
        assert_eq!(world.system().check_audit().await.unwrap().map(|it| it.seq), Some(3));
    }

    async fn a_removed_or_reordered_line_breaks_the_chain(world: World) {
        five_lines(&world).await;
        take_guards_away(&world).await;
        tamper(&world, "update audit set seq = seq + 100 where seq = 2").await.unwrap();
        assert_eq!(world.system().check_audit().await.unwrap().map(|it| it.seq), Some(2));
    }

    async fn a_cut_off_end_is_missed(world: World) {
        five_lines(&world).await;
        take_guards_away(&world).await;
        tamper(&world, "delete from audit where seq > 3").await.unwrap();
        assert_eq!(world.system().check_audit().await.unwrap().map(|it| it.seq), Some(4));
    }

    async fn only_owners_read_a_projects_lines(world: World) {
        let me = five_lines(&world).await;
        let other = world.tenant("other").await;
        let project = me.project_by_name("default").await.unwrap().id;
        let all = From::After(0);
        assert_eq!(me.audit_lines(Some(project), all, 10).await.unwrap().len(), 5);
        assert_eq!(other.audit_lines(None, all, 10).await.unwrap(), []);
        assert!(other.audit_lines(Some(project), all, 10).await.is_err());
        me.add_member(project, "other", Role::Developer).await.unwrap();
        assert!(other.audit_lines(Some(project), all, 10).await.is_err());
        assert_eq!(world.operator().await.audit_lines(None, all, 3).await.unwrap().len(), 3);
        let page = me.audit_lines(Some(project), From::Before(4), 2).await.unwrap();
        assert_eq!(page.iter().map(|line| line.seq).collect::<Vec<_>>(), [3, 2]);
    }

    async fn counted_acts_are_remembered_newest_first(world: World) {
        let me = five_lines(&world).await;
        let account = me.principal().account;
        let times = world.system().counted(account, Bucket::Resources, 3).await.unwrap();
        assert_eq!(times.len(), 3);
        assert!(times.is_sorted_by(|a, b| a > b));
        assert!(world.system().counted(account, Bucket::Secrets, 3).await.unwrap().is_empty());
    }
}
