//! Changes that are looked at before they are made.

use domain::Stage;

use super::bed::{image, message, web};
use super::both;
use crate::*;

fn bound(foreseen: &Foreseen, image: Option<&str>) -> Bound {
    Bound {
        fingerprint: foreseen.fingerprint.clone(),
        image: image.map(str::to_owned),
    }
}

both! {
    async fn what_is_foreseen_is_not_written_and_is_what_happens_then(world: World) {
        let me = world.tenant("me").await;
        let create = Intent::Create(web("web"));
        let seen = me.foresee(create.clone(), None).await.unwrap();
        assert!(seen.before.is_none() && seen.deployment.is_some());
        assert_eq!(me.list_services(ServiceKind::Service, &ListQuery::default()).await.unwrap().count, 0);
        let made = me.carry_out(create, Some(&bound(&seen, None))).await.unwrap();
        let first = made.deployment.unwrap();
        assert_eq!(first.spec, seen.deployment.unwrap().spec);
        world.finish(&first, Stage::Succeeded).await;

        let id = made.after.id;
        let patch = Intent::Patch(id, image("app:v2"));
        let before = world.state(id).await;
        let seen = me.foresee(patch.clone(), Some("sha256:aa")).await.unwrap();
        assert_eq!(world.state(id).await, before);
        assert_eq!(seen.serving.as_ref().map(|it| it.id), Some(first.id));
        let again = me.foresee(patch.clone(), Some("sha256:aa")).await.unwrap();
        assert_eq!(again.fingerprint, seen.fingerprint, "a plan that rests on the same is the same");
        let done = me.carry_out(patch, Some(&bound(&seen, Some("sha256:aa")))).await.unwrap();
        assert_eq!(done.deployment.unwrap().version, 2);
    }

    async fn whatever_a_plan_rests_on_may_not_change_before_it_is_applied(world: World) {
        let me = world.tenant("me").await;
        let config = me.create_config("mine", None).await.unwrap();
        let item = me.create_config_item(config.id, "LEVEL", "info").await.unwrap();
        let secret = me.create_secret("mine", None).await.unwrap();
        let value = |text: &str| SecretString::new(text.to_owned());
        let key = me.create_secret_item(secret.id, "TOKEN", value("one")).await.unwrap();
        let new = NewService { config: Some(config.id), secret: Some(secret.id), ..web("web") };
        let (service, first) = me.create_service(new).await.unwrap();
        world.finish(&first, Stage::Succeeded).await;
        let patch = Intent::Patch(service.id, image("app:v2"));

        let seen = me.foresee(patch.clone(), Some("sha256:aa")).await.unwrap();
        let moved = me.carry_out(patch.clone(), Some(&bound(&seen, Some("sha256:bb")))).await;
        assert!(message(moved, "").contains("has changed since"), "the tag has moved");

        me.patch_config_item(config.id, item.id, None, Some("debug".into())).await.unwrap();
        assert!(me.carry_out(patch.clone(), Some(&bound(&seen, Some("sha256:aa")))).await.is_err(), "a config value");

        let seen = me.foresee(patch.clone(), None).await.unwrap();
        me.patch_secret_item(secret.id, key.id, None, Some(value("two"))).await.unwrap();
        assert!(me.carry_out(patch.clone(), Some(&bound(&seen, None))).await.is_err(), "a secret's version");

        let seen = me.foresee(patch.clone(), None).await.unwrap();
        me.patch_service(service.id, ServicePatch { name: Some("shop".into()), ..Default::default() }).await.unwrap();
        assert!(me.carry_out(patch.clone(), Some(&bound(&seen, None))).await.is_err(), "the service");

        let seen = me.foresee(patch.clone(), None).await.unwrap();
        let again = me.deploy_again(service.id, "").await.unwrap();
        assert!(me.carry_out(patch.clone(), Some(&bound(&seen, None))).await.is_err(), "what is on its way");

        let seen = me.foresee(patch.clone(), None).await.unwrap();
        world.finish(&again, Stage::Succeeded).await;
        assert!(me.carry_out(patch.clone(), Some(&bound(&seen, None))).await.is_err(), "what serves");

        let seen = me.foresee(patch.clone(), None).await.unwrap();
        me.carry_out(patch, Some(&bound(&seen, None))).await.unwrap();
    }

    async fn values_that_come_with_a_change_are_foreseen_and_set_with_it_or_not_at_all(world: World) {
        let me = world.tenant("me").await;
        let env = |level: &str| Env::from([("LEVEL".to_owned(), level.to_owned())]);
        let create = Intent::Create(NewService { env: env("info"), ..web("web") });
        let seen = me.foresee(create.clone(), None).await.unwrap();
        assert_eq!(seen.deployment.as_ref().unwrap().spec.config, env("info"));
        let nothing = me.set_by_name::<domain::ConfigId>("web", None).await;
        assert!(nothing.is_err(), "a plan makes no config");
        let made = me.carry_out(create, Some(&bound(&seen, None))).await.unwrap();
        let (service, first) = (made.after, made.deployment.unwrap());
        assert_eq!(first.spec.config, env("info"));
        let config = me.set_by_name::<domain::ConfigId>("web", None).await.unwrap();
        assert_eq!(service.config, Some(config.id));
        world.finish(&first, Stage::Succeeded).await;

        let same = ServicePatch { env: env("info"), ..Default::default() };
        assert!(me.patch_service(service.id, same).await.unwrap().1.is_none(), "nothing differs");
        let patch = Intent::Patch(service.id, ServicePatch { env: env("debug"), ..Default::default() });
        let seen = me.foresee(patch.clone(), None).await.unwrap();
        let items = me.list_config_items(config.id, &ListQuery::default()).await.unwrap();
        assert_eq!((items.count, items.rows[0].value.as_str()), (1, "info"));
        let done = me.carry_out(patch, Some(&bound(&seen, None))).await.unwrap();
        assert_eq!(done.deployment.unwrap().spec.config, env("debug"));
        let items = me.list_config_items(config.id, &ListQuery::default()).await.unwrap();
        assert_eq!((items.count, items.rows[0].value.as_str()), (1, "debug"));

        let wrong = ServicePatch { env: env("trace"), image: Some("no image".into()), ..Default::default() };
        assert!(me.patch_service(service.id, wrong).await.is_err());
        let bad = Env::from([("A".to_owned(), "1".to_owned()), ("not a key".to_owned(), "2".to_owned())]);
        let half = ServicePatch { env: bad, ..Default::default() };
        assert!(me.patch_service(service.id, half).await.is_err());
        let items = me.list_config_items(config.id, &ListQuery::default()).await.unwrap();
        assert_eq!((items.count, items.rows[0].value.as_str()), (1, "debug"), "nothing is half done");
    }

    async fn a_config_of_the_services_name_is_taken_from_its_own_project_only(world: World) {
        let me = world.tenant("me").await;
        let env = Env::from([("LEVEL".to_owned(), "info".to_owned())]);
        let config = me.create_config("web", None).await.unwrap();
        me.create_config_item(config.id, "OTHER", "1").await.unwrap();
        let (service, first) = me.create_service(NewService { env: env.clone(), ..web("web") }).await.unwrap();
        assert_eq!((service.config, first.spec.config.len()), (Some(config.id), 2));

        let project = me.create_project("elsewhere").await.unwrap();
        me.create_config("api", Some(project.id)).await.unwrap();
        let refused = me.create_service(NewService { env, ..web("api") }).await;
        assert!(message(refused, "env").contains("another project's"));
    }

    async fn going_back_can_be_foreseen(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        world.finish(&first, Stage::Succeeded).await;
        let (_, second) = me.patch_service(service.id, image("app:v2")).await.unwrap();
        world.finish(&second.unwrap(), Stage::Succeeded).await;
        let back = Intent::Rollback(first.id, RollbackRequest::default());
        let seen = me.foresee(back.clone(), None).await.unwrap();
        assert_eq!(seen.deployment.as_ref().unwrap().spec.image, "app:v1");
        assert_eq!(me.service(service.id).await.unwrap().active, None);
        me.carry_out(back, Some(&bound(&seen, None))).await.unwrap();
    }

    async fn a_patch_may_deploy_in_any_case(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        world.finish(&first, Stage::Succeeded).await;
        let anyway = ServicePatch { deploy: true, notes: "again".into(), ..Default::default() };
        let (_, second) = me.patch_service(service.id, anyway).await.unwrap();
        let second = second.unwrap();
        assert_eq!((second.version, second.notes.as_str()), (2, "again"));
    }

    async fn a_command_for_one_deployment_is_for_no_other(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        let (_, second) = me.patch_service(service.id, image("app:v2")).await.unwrap();
        let refused = me.cancel(first.id).await;
        assert_eq!(message(refused, ""), "Nothing to cancel: version 1 is over, it is superseded");
        assert_eq!(me.cancel(second.unwrap().id).await.unwrap().version, 2);
    }

    async fn a_preview_host_leads_to_one_place(world: World) {
        let (me, other) = (world.tenant("me").await, world.tenant("other").await);
        let preview = |host: &str| domain::RolloutOptions { preview_host: Some(host.into()), ..Default::default() };
        let named = |name: &str, host: &str| NewService { options: preview(host), ..web(name) };
        let field = "options.preview_host";
        let (first, _) = me.create_service(named("web", "next.example")).await.unwrap();
        assert!(message(other.create_service(named("web", "next.example")).await, field).contains("somewhere else"));
        assert!(message(other.create_domain("next.example", None).await, "hostname").contains("already exists"));
        other.create_domain("shop.example", None).await.unwrap();
        assert!(message(me.create_service(named("shop", "shop.example")).await, field).contains("somewhere else"));
        assert!(message(me.create_service(named("shop", "No Host")).await, field).contains("valid host name"));
        let same = ServicePatch { options: Some(preview("next.example")), instances: Some(2), ..Default::default() };
        me.patch_service(first.id, same).await.unwrap();
        me.delete_service(first.id).await.unwrap();
        other.create_service(named("web", "next.example")).await.unwrap();
    }
}
