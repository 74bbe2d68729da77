//! Leases, group commits, receipts, epochs, wake-ups, the journal.

use domain::error::Kind;
use domain::routing::Receipt;
use domain::{ServiceId, Stage};
use uuid::Uuid;

use super::bed::{image, instance, message, stage, web};
use super::both;
use crate::db::{Sql, args};
use crate::*;

both! {
    async fn a_stale_fence_writes_nothing(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        let system = world.system();
        let old = system.acquire_lease("reconcile", "a", 1_000_000).await.unwrap().unwrap();
        assert_eq!(system.acquire_lease("reconcile", "b", 1_000_000).await.unwrap(), None);
        assert!(system.renew_lease(&old, 1_000_000).await.unwrap());
        world.advance(2_000_000);
        let new = system.acquire_lease("reconcile", "b", 1_000_000).await.unwrap().unwrap();
        assert!(new.number > old.number);
        assert!(!system.renew_lease(&old, 1_000_000).await.unwrap());
        let effects = [stage(first.id, Stage::Queued, Stage::Deploying)];
        let before = world.state(service.id).await;
        assert!(matches!(system.apply(&old, service.id, &effects).await.unwrap_err().kind, Kind::Conflict(_)));
        let decided = world.decided(service.id, effects.to_vec()).await;
        let many = system.apply_many(&old, &[decided]).await;
        assert!(matches!(&many[0].as_ref().unwrap_err().kind, Kind::Conflict(_)));
        assert_eq!(world.state(service.id).await, before);
        system.apply(&new, service.id, &effects).await.unwrap();
        // Its holder takes it anew at once, and its own older fence is then stale.
        let newer = system.acquire_lease("reconcile", "b", 1_000_000).await.unwrap().unwrap();
        assert!(newer.number > new.number && !system.renew_lease(&new, 1).await.unwrap());
    }

    async fn in_a_group_commit_each_service_succeeds_or_fails_alone(world: World) {
        let me = world.tenant("me").await;
        let mut batch = Vec::new();
        for n in 0..6 {
            let (service, first) = me.create_service(web(&format!("web-{n}"))).await.unwrap();
            let wrong = stage(first.id, Stage::Deploying, Stage::Succeeded);
            let right = stage(first.id, Stage::Queued, Stage::Deploying);
            let running = Effect::SetRunning { count: 9 };
            let effects = if n % 2 == 0 { vec![running, right] } else { vec![running, right, wrong.clone(), wrong] };
            batch.push(world.decided(service.id, effects).await);
        }
        let nobody = ServiceId(Uuid::now_v7());
        batch.push(Decided { service: nobody, revision: 1, effects: vec![Effect::SetRunning { count: 1 }] });
        let results = world.system().apply_many(&world.fence().await, &batch).await;
        let done: Vec<bool> = results.iter().map(Result::is_ok).collect();
        assert_eq!(done, [true, false, true, false, true, false, false]);
        for (decided, done) in batch.iter().zip(&done).take(6) {
            let state = world.state(decided.service).await;
            let expected = if *done { (9, Some(Stage::Deploying)) } else { (0, Some(Stage::Queued)) };
            assert_eq!((state.service.instances_running, state.service.last_stage), expected);
        }
        journal_is_whole(&world).await;
    }

    async fn a_decision_is_written_to_the_record_that_it_was_made_on_and_to_no_other(world: World) {
        let me = world.tenant("me").await;
        let mut decided = Vec::new();
        for name in ["alone", "moved", "quiet"] {
            let (service, first) = me.create_service(web(name)).await.unwrap();
            world.apply(service.id, vec![stage(first.id, Stage::Queued, Stage::Deploying)]).await.unwrap();
            let add = Effect::AddInstance { id: instance(), deployment: first.id, template: first.template };
            decided.push(world.decided(service.id, vec![add]).await);
        }
        for paused in &decided[..2] {
            me.pause(paused.service).await.unwrap();
        }
        let (system, fence) = (world.system(), world.fence().await);
        let conflicts = |results: Vec<Result<()>>| -> Vec<bool> {
            results.iter().map(|result| matches!(result, Err(error) if matches!(error.kind, Kind::Conflict(_)))).collect()
        };
        assert_eq!(conflicts(system.apply_many(&fence, &decided[..1]).await), [true]);
        assert_eq!(conflicts(system.apply_many(&fence, &decided[1..]).await), [true, false]);
        for (decided, instances) in decided.iter().zip([0, 0, 1]) {
            assert_eq!(world.state(decided.service).await.instances.len(), instances);
        }
        // Made anew on what is there now, it is taken.
        let anew = world.decided(decided[0].service, vec![Effect::SetRunning { count: 1 }]).await;
        assert_eq!(conflicts(system.apply_many(&fence, &[anew]).await), [false]);
    }

    async fn the_journal_can_be_neither_changed_nor_deleted(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        let attacks = [
            "update journal set reason = 'x'".to_owned(),
            "delete from journal".to_owned(),
            "delete from secret_access where seq = 1".to_owned(),
            format!("update deployment set spec = '{{}}' where id = '{}'", first.id),
            format!("update deployment set version = 7 where id = '{}'", first.id),
        ];
        let secret = me.create_secret("s", None).await.unwrap();
        let item = me.create_secret_item(secret.id, "A", SecretString::new("x".into())).await.unwrap();
        me.secret_value(item.id, "test").await.unwrap();
        let before = me.journal(first.id, 0, 10).await.unwrap();
        for attack in attacks {
            let mut tx = world.store.db.write().await.unwrap();
            assert!(tx.run(Sql::composed(attack.clone()), args![]).await.is_err(), "{attack}");
        }
        assert_eq!(me.journal(first.id, 0, 10).await.unwrap(), before);
        me.delete_service(service.id).await.unwrap();
        world.apply(service.id, vec![Effect::Purge]).await.unwrap();
        assert_eq!(journal_is_whole(&world).await, 3, "asked for, deleted, purged");
    }

    async fn receipts_count_once_however_often_they_are_reported(world: World) {
        let me = world.tenant("me").await;
        let (_, first) = me.create_service(web("web")).await.unwrap();
        let system = world.system();
        let (boot, next) = (Uuid::now_v7(), Uuid::now_v7());
        let receipt = |ok, drained| Receipt { ok, drained, ..Default::default() };
        let unknown = domain::DeploymentId(Uuid::now_v7());
        for (boot, ok, drained) in [(boot, 5, 0), (boot, 5, 0), (boot, 9, 1), (boot, 7, 2), (next, 3, 0), (boot, 9, 2)] {
            system.add_receipts(boot, &[(unknown, receipt(1, 1)), (first.id, receipt(ok, drained))]).await.unwrap();
        }
        assert_eq!(me.deployment(first.id).await.unwrap().receipt, receipt(12, 2));
    }

    async fn epochs_only_grow_and_claims_are_taken_once(world: World) {
        let system = world.system();
        for (raise, floor) in [(5, 5), (3, 5), (9, 9)] {
            system.raise_edge_epoch(raise).await.unwrap();
            assert_eq!(system.edge_epoch_floor().await.unwrap(), floor);
        }
        system.put_claim("a", world.now_us() + 1_000_000).await.unwrap();
        assert!(!system.take_claim("b").await.unwrap());
        assert!(system.take_claim("a").await.unwrap());
        assert!(!system.take_claim("a").await.unwrap());
        system.put_claim("c", world.now_us() + 1_000_000).await.unwrap();
        world.advance(1_000_001);
        assert!(!system.take_claim("c").await.unwrap());
    }

    async fn waiters_are_woken_by_commits_and_not_by_refusals(world: World) {
        let me = world.tenant("me").await;
        let mut wake = world.store.wake();
        wake.mark_unchanged();
        let (service, first) = me.create_service(web("web")).await.unwrap();
        assert!(wake.has_changed().unwrap());
        let seen = *wake.borrow_and_update();
        assert!(me.create_service(web("web")).await.is_err());
        assert!(message(me.resume(service.id).await, "").contains("Nothing"));
        assert!(!wake.has_changed().unwrap());
        world.apply(service.id, vec![stage(first.id, Stage::Queued, Stage::Deploying)]).await.unwrap();
        assert!(*wake.borrow_and_update() > seen);
        me.patch_service(service.id, image("app:v2")).await.unwrap();
        let changed = world.system().services_changed_since(0, 10).await.unwrap();
        assert_eq!(changed, [(service.id, *wake.borrow_and_update() as i64)]);
    }

    async fn a_frozen_service_says_why(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        let waiting = Effect::SetWaiting { deployment: first.id, text: "for the image\0".into() };
        world.apply(service.id, vec![Effect::Freeze { reason: "surge".into() }, waiting]).await.unwrap();
        assert_eq!(me.service(service.id).await.unwrap().frozen.as_deref(), Some("surge"));
        assert_eq!(me.deployment(first.id).await.unwrap().waiting, "for the image");
    }
}

/// Numbers run from 1 to the end without a gap; answers how many there are.
pub(super) async fn journal_is_whole(world: &super::World) -> i64 {
    let mut tx = world.store.db.read().await.unwrap();
    let row = tx
        .one(
            "select count(*) as n, coalesce(max(seq), 0) as last from journal",
            args![],
        )
        .await
        .unwrap();
    let meta = tx.one(sql::META, args!["journal"]).await.unwrap().int("value").unwrap();
    let (count, last) = (row.int("n").unwrap(), row.int("last").unwrap());
    assert_eq!((count, last), (meta, meta));
    count
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_commit_of_another_process_wakes_through_postgresql() {
    let Some(url) = super::postgres::database().await else {
        return;
    };
    let here = super::World::at(&url, true).await.unwrap();
    let there = super::World::at(&url, false).await.unwrap();
    let mut wake = there.store.wake();
    let me = here.tenant("me").await;
    // Listening begins a moment after opening, so the change is repeated until it is heard.
    let (service, _) = me.create_service(web("web")).await.unwrap();
    let heard = tokio::time::timeout(std::time::Duration::from_secs(30), async {
        loop {
            me.deploy_again(service.id, "").await.unwrap();
            let soon = std::time::Duration::from_millis(200);
            if tokio::time::timeout(soon, wake.changed())
                .await
                .is_ok_and(|changed| changed.is_ok())
            {
                return *wake.borrow();
            }
        }
    });
    assert!(heard.await.unwrap() > 0);
}
