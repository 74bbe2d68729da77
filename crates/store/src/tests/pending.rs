//! Edits of a config or a secret wait for the deployment that somebody asks for.

use domain::Stage;

use super::bed::{image, web};
use super::both;
use crate::*;

fn words(changes: &[PendingChange]) -> Vec<String> {
    let word = |it: &PendingChange| format!("{:?} {} {:?}", it.of, it.key, it.change);
    changes.iter().map(word).collect()
}

async fn pending(me: &Scope, service: &Service) -> Vec<String> {
    let service = me.service(service.id).await.unwrap();
    words(&me.pending(&[service]).await.unwrap().remove(0))
}

fn value(text: &str) -> SecretString {
    SecretString::new(text.to_owned())
}

fn scaled(instances: u32) -> ServicePatch {
    ServicePatch {
        instances: Some(instances),
        ..Default::default()
    }
}

both! {
    async fn an_edit_is_pending_until_it_is_deployed(world: World) {
        let me = world.tenant("me").await;
        let config = me.create_config("c", None).await.unwrap();
        let secret = me.create_secret("s", None).await.unwrap();
        let kept = me.create_config_item(config.id, "KEPT", "1").await.unwrap();
        let level = me.create_config_item(config.id, "LEVEL", "info").await.unwrap();
        let token = me.create_secret_item(secret.id, "TOKEN", value("one")).await.unwrap();
        let new = NewService { config: Some(config.id), secret: Some(secret.id), ..web("web") };
        let (service, first) = me.create_service(new).await.unwrap();
        assert_eq!(pending(&me, &service).await, [""; 0]);
        world.finish(&first, Stage::Succeeded).await;

        me.patch_config_item(config.id, level.id, None, Some("debug".into())).await.unwrap();
        me.patch_config_item(config.id, kept.id, None, Some("1".into())).await.unwrap();
        me.create_config_item(config.id, "NEW", "").await.unwrap();
        me.patch_secret_item(secret.id, token.id, None, Some(value("two"))).await.unwrap();
        let edited = ["Config LEVEL Changed", "Config NEW Added", "Secret TOKEN Changed"];
        assert_eq!(pending(&me, &service).await, edited);

        let second = me.deploy_again(service.id, "").await.unwrap();
        assert_eq!(pending(&me, &service).await, [""; 0], "it is on its way");
        world.finish(&second, Stage::Failed).await;
        assert_eq!(pending(&me, &service).await, edited, "what runs was not told");
        me.delete_set(secret.id).await.unwrap();
        assert_eq!(pending(&me, &service).await[2..], ["Secret TOKEN Removed"]);
    }

    async fn many_services_are_compared_in_their_order(world: World) {
        let me = world.tenant("me").await;
        let config = me.create_config("c", None).await.unwrap();
        let mut services = Vec::new();
        for n in 0..(sql::CHUNK + 3) {
            let config = (n % 2 == 1).then_some(config.id);
            services.push(me.create_service(NewService { config, ..web(&format!("web-{n}")) }).await.unwrap().0);
        }
        me.create_config_item(config.id, "NEW", "").await.unwrap();
        let pending = me.pending(&services).await.unwrap();
        assert_eq!(pending.len(), services.len());
        for (n, pending) in pending.iter().enumerate() {
            assert_eq!(pending.len(), n % 2, "{n}");
        }
    }

    async fn scaling_and_restarting_keep_what_instances_were_told(world: World) {
        let me = world.tenant("me").await;
        let config = me.create_config("c", None).await.unwrap();
        let secret = me.create_secret("s", None).await.unwrap();
        let level = me.create_config_item(config.id, "LEVEL", "info").await.unwrap();
        let token = me.create_secret_item(secret.id, "TOKEN", value("one")).await.unwrap();
        let new = NewService { config: Some(config.id), secret: Some(secret.id), ..web("web") };
        let (service, first) = me.create_service(new).await.unwrap();
        world.finish(&first, Stage::Succeeded).await;
        me.patch_config_item(config.id, level.id, None, Some("debug".into())).await.unwrap();
        me.patch_secret_item(secret.id, token.id, None, Some(value("two"))).await.unwrap();

        let more = me.patch_service(service.id, scaled(3)).await.unwrap().1.unwrap();
        assert_eq!((more.spec.instances, &more.template), (3, &first.template));
        let again = ServicePatch { restart: true, ..Default::default() };
        let again = me.patch_service(service.id, again).await.unwrap().1.unwrap();
        for kept in [&more, &again] {
            assert_eq!(kept.spec.config["LEVEL"], "info");
            assert_eq!(world.system().instance_secrets(kept.id).await.unwrap()["TOKEN"], "one");
        }
        assert_eq!(pending(&me, &service).await, ["Config LEVEL Changed", "Secret TOKEN Changed"]);

        let both = ServicePatch { deploy: true, ..scaled(4) };
        let asked = me.patch_service(service.id, both).await.unwrap().1.unwrap();
        let newer = me.patch_service(service.id, image("app:v2")).await.unwrap().1.unwrap();
        for now in [asked, newer] {
            assert_eq!(now.spec.config["LEVEL"], "debug");
            assert_eq!(world.system().instance_secrets(now.id).await.unwrap()["TOKEN"], "two");
        }
    }

    async fn scaling_after_a_rollback_keeps_the_values_of_then(world: World) {
        let me = world.tenant("me").await;
        let config = me.create_config("c", None).await.unwrap();
        let level = me.create_config_item(config.id, "LEVEL", "then").await.unwrap();
        let (service, first) = me.create_service(NewService { config: Some(config.id), ..web("web") }).await.unwrap();
        world.finish(&first, Stage::Succeeded).await;
        me.patch_config_item(config.id, level.id, None, Some("now".into())).await.unwrap();
        let second = me.patch_service(service.id, image("app:v2")).await.unwrap().1.unwrap();
        world.finish(&second, Stage::Succeeded).await;
        let back = me.rollback(first.id, RollbackRequest::default()).await.unwrap();
        world.finish(&back, Stage::Succeeded).await;
        assert_eq!(pending(&me, &service).await, ["Config LEVEL Changed"]);
        let more = me.patch_service(service.id, scaled(3)).await.unwrap().1.unwrap();
        assert_eq!(more.spec.config["LEVEL"], "then");
    }
}
