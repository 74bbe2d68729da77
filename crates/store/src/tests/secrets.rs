//! Sealed values: what a deployment keeps, what the log remembers, what a thief of the database gets.

use domain::{Delivery, DeploymentId, Stage};

use super::bed::{image, web};
use super::both;
use crate::db::{Sql, args};
use crate::*;

fn value(text: &str) -> SecretString {
    SecretString::new(text.to_owned())
}

async fn env(world: &super::World, deployment: DeploymentId) -> String {
    let env = world.system().instance_secrets(deployment).await.unwrap();
    env.into_iter().map(|(key, value)| format!("{key}={value} ")).collect()
}

async fn sealed_values(world: &super::World) -> i64 {
    let mut tx = world.store.db.read().await.unwrap();
    tx.one("select count(*) as n from secret_value", args![])
        .await
        .unwrap()
        .int("n")
        .unwrap()
}

both! {
    async fn a_deployment_runs_the_values_that_it_recorded(world: World) {
        let me = world.tenant("me").await;
        let secret = me.create_secret("s", None).await.unwrap();
        let item = me.create_secret_item(secret.id, "TOKEN", value("one")).await.unwrap();
        let (service, first) = me.create_service(NewService { secret: Some(secret.id), ..web("web") }).await.unwrap();
        world.finish(&first, Stage::Succeeded).await;
        let rotated = me.patch_secret_item(secret.id, item.id, None, Some(value("two"))).await.unwrap();
        assert_eq!((item.value_version, rotated.value_version), (1, 2));
        let second = me.deploy_again(service.id, "").await.unwrap();
        assert_ne!(first.template, second.template, "a rotated secret needs new instances");
        world.finish(&second, Stage::Succeeded).await;
        assert_eq!(env(&world, first.id).await, "TOKEN=one ");
        assert_eq!(env(&world, second.id).await, "TOKEN=two ");

        let now = me.rollback(first.id, RollbackRequest::default()).await.unwrap();
        assert_eq!(env(&world, now.id).await, "TOKEN=two ");
        let then = RollbackRequest { secrets: Source::Snapshot, ..Default::default() };
        let then = me.rollback(first.id, then).await.unwrap();
        assert_eq!(env(&world, then.id).await, "TOKEN=one ");

        let renamed = me.patch_secret_item(secret.id, item.id, Some("KEY".into()), None).await.unwrap();
        assert_eq!((renamed.key.as_str(), renamed.value_version), ("KEY", 3));
        assert_eq!(me.secret_value(item.id, "test").await.unwrap().expose(), "two");
        me.delete_set(secret.id).await.unwrap();
        assert_eq!(me.service(service.id).await.unwrap().secret, None);
        assert_eq!(env(&world, second.id).await, "TOKEN=two ", "kept while a kept deployment needs it");
    }

    async fn how_secrets_arrive_is_part_of_what_runs(world: World) {
        let me = world.tenant("me").await;
        let secret = me.create_secret("s", None).await.unwrap();
        me.create_secret_item(secret.id, "TOKEN", value("one")).await.unwrap();
        let (service, first) = me.create_service(NewService { secret: Some(secret.id), ..web("web") }).await.unwrap();
        assert_eq!((service.delivery, first.spec.delivery), (Delivery::Env, Delivery::Env));
        world.finish(&first, Stage::Succeeded).await;
        let patch = ServicePatch { delivery: Some(Delivery::SecretFiles), ..Default::default() };
        let (service, second) = me.patch_service(service.id, patch.clone()).await.unwrap();
        let second = second.unwrap();
        assert_eq!((service.delivery, second.spec.delivery), (Delivery::SecretFiles, Delivery::SecretFiles));
        assert_ne!(first.template, second.template);
        assert_eq!(me.patch_service(service.id, patch).await.unwrap().1, None);
        world.finish(&second, Stage::Succeeded).await;
        assert_eq!(world.system().instance_secrets(second.id).await.unwrap()["TOKEN"], "one");
        me.rollback(first.id, RollbackRequest::default()).await.unwrap();
        assert_eq!(me.service(service.id).await.unwrap().delivery, Delivery::Env);
    }

    async fn values_go_with_the_last_deployment_that_needs_them(world: World) {
        let me = world.tenant("me").await;
        let secret = me.create_secret("s", None).await.unwrap();
        let item = me.create_secret_item(secret.id, "TOKEN", value("0")).await.unwrap();
        let (service, mut last) = me.create_service(NewService { secret: Some(secret.id), ..web("web") }).await.unwrap();
        for round in 1..=20 {
            world.finish(&last, Stage::Succeeded).await;
            me.patch_secret_item(secret.id, item.id, None, Some(value(&round.to_string()))).await.unwrap();
            last = me.patch_service(service.id, image(&format!("app:r{round}"))).await.unwrap().1.unwrap();
        }
        // Ten deployments, one of them the newest, and the serving one among them.
        assert_eq!(sealed_values(&world).await, 10);
        me.delete_secret_item(secret.id, item.id).await.unwrap();
        assert_eq!(sealed_values(&world).await, 10);
        me.delete_service(service.id).await.unwrap();
        world.apply(service.id, vec![Effect::Purge]).await.unwrap();
        assert_eq!(sealed_values(&world).await, 0);
    }

    async fn every_read_of_a_value_is_logged_and_none_of_a_key(world: World) {
        let me = world.tenant("me").await;
        let secret = me.create_secret("s", None).await.unwrap();
        let item = me.create_secret_item(secret.id, "A", value("x")).await.unwrap();
        me.create_secret_item(secret.id, "B", value("")).await.unwrap();
        let query = ListQuery::default();
        assert_eq!(me.list_secret_items(secret.id, &query).await.unwrap().rows[1].last_accessed_at_us, None);
        let page = me.list_secret_values(secret.id, &query, "api list").await.unwrap();
        assert_eq!(page.rows.iter().map(|(_, value)| value.expose()).collect::<Vec<_>>(), ["", "x"]);
        assert_eq!(me.secret_value(item.id, "api get").await.unwrap().expose(), "x");
        let shown = me.secret_item(secret.id, item.id).await.unwrap();
        assert_eq!(shown.last_accessed_by, Some(me.principal().account));
        let log = me.secret_accesses(item.id, 0, 10).await.unwrap();
        assert_eq!(log.iter().map(|line| line.how.as_str()).collect::<Vec<_>>(), ["api list", "api get"]);
        assert_eq!(me.secret_accesses(item.id, log[0].seq, 10).await.unwrap().len(), 1);
    }

    async fn a_sealed_value_that_is_moved_to_another_row_does_not_open(world: World) {
        let me = world.tenant("me").await;
        let secret = me.create_secret("s", None).await.unwrap();
        let item = me.create_secret_item(secret.id, "A", value("mine")).await.unwrap();
        let other = me.create_secret_item(secret.id, "B", value("of-B")).await.unwrap();
        let mut tx = world.store.db.write().await.unwrap();
        let swap = "update secret_value set sealed = (select sealed from secret_value where item = $2) where item = $1";
        tx.run(swap, args![item.id, other.id]).await.unwrap();
        tx.commit().await.unwrap();
        let error = me.secret_value(item.id, "test").await.err().unwrap();
        assert_eq!(error.kind, domain::error::Kind::Internal);
        assert!(!format!("{error:?}").contains("of-B"));
        assert_eq!(me.secret_value(other.id, "test").await.unwrap().expose(), "of-B");
    }

    async fn no_planted_value_stands_anywhere_in_the_tables(world: World) {
        let me = world.tenant("me").await;
        let planted = "planted-secret-value-0123456789";
        let secret = me.create_secret("s", None).await.unwrap();
        let item = me.create_secret_item(secret.id, "TOKEN", value(planted)).await.unwrap();
        let (service, first) = me.create_service(NewService { secret: Some(secret.id), ..web("web") }).await.unwrap();
        me.secret_value(item.id, "test").await.unwrap();
        let (_, key) = me.create_api_key("k", None).await.unwrap();
        assert_eq!(env(&world, first.id).await, format!("TOKEN={planted} "));
        let mut texts = vec![format!("{service:?} {first:?} {:?}", me.journal(first.id, 0, 100).await.unwrap())];
        let mut tx = world.store.db.read().await.unwrap();
        let columns = [
            ("secret_value", "sealed"), ("secret_item", "key"), ("deployment", "spec"), ("journal", "details"),
            ("secret_access", "how"), ("api_key", "hash"), ("api_key", "prefix"), ("project", "data_key"),
        ];
        for (table, column) in columns {
            let cast = format!("select {column} as it from {table}");
            for row in tx.all(Sql::composed(cast), args![]).await.unwrap() {
                let bytes = row.bytes("it").or_else(|_| row.text("it").map(String::into_bytes)).unwrap();
                texts.push(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        for text in texts {
            for window in planted.as_bytes().windows(8) {
                assert!(!text.contains(std::str::from_utf8(window).unwrap()), "{text}");
            }
            assert!(!text.contains(&key.expose()[12..20]), "{text}");
        }
    }
}
