//! Services and their deployments, from creation to purge.

use domain::error::Kind;
use domain::{Stage, Template};

use super::bed::{image, instance, message, stage, web};
use super::both;
use crate::*;

both! {
    async fn creating_a_service_makes_version_one(world: World) {
        let me = world.tenant("me").await;
        let (service, deployment) = me.create_service(web("web")).await.unwrap();
        assert_eq!((deployment.version, deployment.stage), (1, Stage::Queued));
        assert_eq!((service.active, service.last, service.serving), (Some(deployment.id), Some(deployment.id), None));
        assert_eq!(service.status(), "pending");
        assert!(!service.deploy_successful());
        assert_eq!(me.service(service.id).await.unwrap(), service);
        assert_eq!(me.deployment(deployment.id).await.unwrap(), deployment);
        assert_eq!(me.service_by_name(ServiceKind::Service, "web", None).await.unwrap().id, service.id);
        assert_eq!(deployment.spec.image, "app:v1");
    }

    async fn all_bad_fields_are_named_at_once(world: World) {
        let me = world.tenant("me").await;
        let mut new = NewService::new(ServiceKind::Service, "Bad Name", "a b", None);
        new.instances = 13;
        let Err(error) = me.create_service(new).await else { panic!("accepted") };
        let Kind::Invalid(fields) = error.kind else { panic!("{error:?}") };
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["image", "name", "port", "replicas_target"]);
        assert_eq!(fields["replicas_target"], ["Ensure this value is between 1 and 12"]);
        let zero = NewService::new(ServiceKind::Service, "web", "a", Some(0));
        assert_eq!(message(me.create_service(zero).await, "port"), "Ensure this value is between 1 and 65535");
        assert_eq!(me.list_services(ServiceKind::Service, &ListQuery::default()).await.unwrap().count, 0);
    }

    async fn a_name_is_unique_per_account_and_kind_until_it_is_deleted(world: World) {
        let (me, other) = (world.tenant("me").await, world.tenant("other").await);
        let (first, _) = me.create_service(web("web")).await.unwrap();
        let taken = message(me.create_service(web("web")).await, "name");
        assert_eq!(taken, "service with this name already exists.");
        me.create_service(NewService::new(ServiceKind::Worker, "web", "app:v1", None)).await.unwrap();
        other.create_service(web("web")).await.unwrap();
        me.delete_service(first.id).await.unwrap();
        me.create_service(web("web")).await.unwrap();
    }

    async fn a_patch_deploys_once_exactly_when_something_that_is_deployed_changes(world: World) {
        let me = world.tenant("me").await;
        let (service, _) = me.create_service(web("web")).await.unwrap();
        let same = ServicePatch { image: Some("app:v1".into()), instances: Some(1), ..Default::default() };
        assert!(me.patch_service(service.id, same).await.unwrap().1.is_none());
        let renamed = ServicePatch { name: Some("shop".into()), ..Default::default() };
        let (service, deployment) = me.patch_service(service.id, renamed).await.unwrap();
        assert!(deployment.is_none() && service.name == "shop");
        let several = ServicePatch { instances: Some(3), port: Some(9090), ..image("app:v2") };
        let (service, deployment) = me.patch_service(service.id, several).await.unwrap();
        let deployment = deployment.unwrap();
        assert_eq!(deployment.version, 2);
        assert_eq!((deployment.spec.port, deployment.spec.instances), (Some(9090), 3));
        assert_eq!(service.active, Some(deployment.id));
        let restarted = ServicePatch { restart: true, ..Default::default() };
        let (_, third) = me.patch_service(service.id, restarted).await.unwrap();
        assert_ne!(third.unwrap().template, deployment.template);
    }

    async fn a_newer_deployment_supersedes_the_active_one_in_the_same_transaction(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        let (_, second) = me.patch_service(service.id, image("app:v2")).await.unwrap();
        let first = me.deployment(first.id).await.unwrap();
        assert_eq!(first.stage, Stage::Superseded);
        assert_eq!(first.error_message, "Superseded by version 2");
        assert_eq!(me.service(service.id).await.unwrap().active, second.map(|it| it.id));
        let journal = me.journal(first.id, 0, 100).await.unwrap();
        let stages: Vec<_> = journal.iter().map(|line| (line.from, line.to)).collect();
        assert_eq!(stages, [(None, Some(Stage::Queued)), (Some(Stage::Queued), Some(Stage::Superseded))]);
        assert!(journal.iter().all(|line| line.actor == format!("account:{}", me.principal().account)));
    }

    async fn a_success_serves_and_scaling_keeps_its_digest(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        let digest = Effect::SetDigest { deployment: first.id, digest: "sha256:aa".into() };
        world.apply(service.id, vec![digest.clone(), digest]).await.unwrap();
        let other = Effect::SetDigest { deployment: first.id, digest: "sha256:bb".into() };
        assert!(matches!(world.apply(service.id, vec![other]).await.unwrap_err().kind, Kind::Conflict(_)));
        world.finish(&first, Stage::Succeeded).await;
        let service = me.service(service.id).await.unwrap();
        assert_eq!((service.status(), service.serving, service.active), ("ready", Some(first.id), None));
        assert!(service.deploy_successful());
        let first = me.deployment(first.id).await.unwrap();
        assert_eq!(first.spec.digest.as_deref(), Some("sha256:aa"));
        assert!(first.finished_at_us.is_some());
        let more = ServicePatch { instances: Some(4), ..Default::default() };
        let (service, second) = me.patch_service(service.id, more).await.unwrap();
        let second = second.unwrap();
        assert_eq!(service.status(), "updating");
        assert_eq!((&second.spec.digest, &second.template), (&first.spec.digest, &first.template));
        assert_eq!(me.deploy_again(service.id, "").await.unwrap().spec.digest, None);
        assert_eq!(world.system().image_digests_in_use().await.unwrap().len(), 1);
    }

    async fn a_failure_leaves_the_old_version_serving(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        world.finish(&first, Stage::Succeeded).await;
        let (_, second) = me.patch_service(service.id, image("app:v2")).await.unwrap();
        let second = second.unwrap();
        world.finish(&second, Stage::Failed).await;
        let service = me.service(service.id).await.unwrap();
        assert_eq!((service.status(), service.serving), ("error", Some(first.id)));
        assert_eq!(me.deployment(second.id).await.unwrap().error_message, "it broke");
        let status = message(me.rollback(second.id, RollbackRequest::default()).await, "");
        assert_eq!(status, "Cannot rollback to deployment with status 'failed'");
    }

    async fn only_declared_transitions_from_the_present_stage_are_written(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        let fence = world.fence().await;
        let before = world.state(service.id).await;
        let added = Effect::AddInstance { id: instance(), deployment: first.id, template: first.template.clone() };
        for (from, to) in [(Stage::Deploying, Stage::Succeeded), (Stage::Queued, Stage::Succeeded)] {
            let effects = [added.clone(), stage(first.id, from, to)];
            assert!(world.system().apply(&fence, service.id, &effects).await.is_err(), "{from} to {to}");
        }
        assert_eq!(world.state(service.id).await, before);
        assert_eq!(me.journal(first.id, 0, 10).await.unwrap().len(), 1);
    }

    async fn a_rollback_is_a_new_deployment_of_what_was(world: World) {
        let me = world.tenant("me").await;
        let config = me.create_config("mine", None).await.unwrap();
        let item = me.create_config_item(config.id, "LEVEL", "info").await.unwrap();
        let (service, first) =
            me.create_service(NewService { config: Some(config.id), instances: 2, ..web("web") }).await.unwrap();
        let digest = Effect::SetDigest { deployment: first.id, digest: "sha256:aa".into() };
        world.apply(service.id, vec![digest]).await.unwrap();
        world.finish(&first, Stage::Succeeded).await;
        me.patch_config_item(config.id, item.id, None, Some("debug".into())).await.unwrap();
        let (_, second) =
            me.patch_service(service.id, ServicePatch { instances: Some(5), ..image("app:v2") }).await.unwrap();
        let second = second.unwrap();
        assert_eq!(second.spec.config["LEVEL"], "debug");
        world.finish(&second, Stage::Succeeded).await;

        let request = RollbackRequest { notes: "bad".into(), ..Default::default() };
        let third = me.rollback(first.id, request).await.unwrap();
        assert_eq!((third.version, third.rollback_from, third.notes.as_str()), (3, Some(first.id), "bad"));
        assert_eq!((third.spec.image.as_str(), third.spec.instances), ("app:v1", 2));
        assert_eq!(third.spec.digest.as_deref(), Some("sha256:aa"));
        assert_eq!(third.spec.config["LEVEL"], "info");
        let wanted = me.service(service.id).await.unwrap();
        assert_eq!((wanted.image.as_str(), wanted.instances), ("app:v1", 2));
        assert!(!me.deployment(second.id).await.unwrap().rolled_back, "only once the rollback has succeeded");

        world.finish(&third, Stage::Succeeded).await;
        assert!(me.deployment(second.id).await.unwrap().rolled_back);
        assert!(!me.deployment(first.id).await.unwrap().rolled_back);
        let refused = message(me.rollback(second.id, RollbackRequest::default()).await, "");
        assert_eq!(refused, "Cannot rollback to deployment with status 'rolled_back'");
        let outcomes = me.outcomes(service.id).await.unwrap();
        assert_eq!((outcomes.succeeded, outcomes.rolled_back), (3, 1));

        let current = RollbackRequest { config: Source::Current, ..Default::default() };
        assert_eq!(me.rollback(first.id, current).await.unwrap().spec.config["LEVEL"], "debug");
    }

    async fn cancel_and_resume_act_on_the_active_deployment_only(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        assert!(message(me.resume(service.id).await, "").contains("not paused"));
        let paused = vec![stage(first.id, Stage::Queued, Stage::Deploying), stage(first.id, Stage::Deploying, Stage::Paused)];
        world.apply(service.id, paused).await.unwrap();
        assert_eq!(me.resume(service.id).await.unwrap().stage, Stage::Deploying);
        assert_eq!(me.cancel(service.id).await.unwrap().stage, Stage::Canceling);
        assert_eq!(me.cancel(service.id).await.unwrap().stage, Stage::Canceling);
        world.apply(service.id, vec![stage(first.id, Stage::Canceling, Stage::Canceled)]).await.unwrap();
        assert!(message(me.cancel(service.id).await, "").contains("no deployment of web is under way"));
    }

    async fn ten_deployments_are_kept_and_the_serving_one(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        world.finish(&first, Stage::Succeeded).await;
        for round in 2..=14 {
            let (_, next) = me.patch_service(service.id, image(&format!("app:v{round}"))).await.unwrap();
            world.finish(&next.unwrap(), Stage::Failed).await;
        }
        let query = ListQuery { service: Some(service.id), page_size: 100, ..Default::default() };
        let page = me.list_deployments(&query).await.unwrap();
        let versions: Vec<i64> = page.rows.iter().map(|row| row.version).collect();
        assert_eq!(versions, [14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 1]);
        assert_eq!(page.count, 11);
        let outcomes = me.outcomes(service.id).await.unwrap();
        assert_eq!((outcomes.succeeded, outcomes.failed), (1, 13));

        let rollback = me.rollback(first.id, RollbackRequest::default()).await.unwrap();
        assert_eq!(me.deployment(rollback.id).await.unwrap().rollback_from, Some(first.id));
        world.finish(&rollback, Stage::Succeeded).await;
        assert!(matches!(me.deployment(first.id).await.unwrap_err().kind, Kind::NotFound));
        assert_eq!(me.deployment(rollback.id).await.unwrap().rollback_from, None);
        assert_eq!(me.service(service.id).await.unwrap().version_counter, 15);
    }

    async fn a_deleted_service_is_out_of_sight_at_once_and_purged_last(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        let live = instance();
        let added = Effect::AddInstance { id: live, deployment: first.id, template: first.template.clone() };
        world.apply(service.id, vec![added]).await.unwrap();
        assert!(matches!(world.apply(service.id, vec![Effect::Purge]).await.unwrap_err().kind, Kind::Conflict(_)));
        me.delete_service(service.id).await.unwrap();
        assert_eq!(me.service(service.id).await.unwrap_err().kind, Kind::NotFound);
        assert_eq!(me.deployment(first.id).await.unwrap_err().kind, Kind::NotFound);
        assert_eq!(me.delete_service(service.id).await.unwrap_err().kind, Kind::NotFound);
        assert_eq!(me.list_deployments(&ListQuery::default()).await.unwrap().count, 0);
        assert!(world.state(service.id).await.service.deleting);
        assert!(world.system().edge_entries().await.unwrap().is_empty());
        assert!(matches!(world.apply(service.id, vec![Effect::Purge]).await.unwrap_err().kind, Kind::Conflict(_)));
        let gone = Effect::Gone { id: live, crashed: false, exit: None, memory_peak: None };
        world.apply(service.id, vec![gone, Effect::Purge]).await.unwrap();
        assert!(world.system().load(&[service.id]).await.unwrap().is_empty());
        assert!(matches!(world.apply(service.id, vec![Effect::SetRunning { count: 0 }]).await.unwrap_err().kind, Kind::Conflict(_)));
    }

    async fn instances_are_wanted_then_retiring_then_gone(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        let ids: Vec<_> = (0..25).map(|_| instance()).collect();
        let add = |id: &domain::InstanceId| Effect::AddInstance {
            id: *id, deployment: first.id, template: Template("t".into()),
        };
        let mut effects: Vec<_> = ids.iter().map(add).collect();
        effects.push(effects[0].clone());
        effects.push(Effect::Healthy { id: ids[0] });
        effects.push(Effect::Retire { id: ids[0], reason: "scaled down".into() });
        effects.push(Effect::SetRunning { count: 7 });
        world.apply(service.id, effects).await.unwrap();
        let state = world.state(service.id).await;
        assert_eq!((state.instances.len(), state.service.instances_running), (25, 7));
        assert_eq!((state.instances[0].state, state.instances[0].healthy_once), (InstanceState::Retiring, true));
        assert_eq!(state.active.as_ref().map(|it| it.id), Some(first.id));
        let exit = serde_json::json!({ "code": 3, "tail": ["nul \u{0} and ünï"] });
        for id in &ids {
            let gone = Effect::Gone { id: *id, crashed: true, exit: Some(exit.clone()), memory_peak: None };
            world.apply(service.id, vec![gone.clone(), gone]).await.unwrap();
        }
        let state = world.state(service.id).await;
        assert_eq!((state.instances.len(), state.crashes.len()), (0, CRASHES_LOADED));
        assert_eq!(state.crashes[0].id, ids[24]);
        assert_eq!(state.crashes[0].exit, Some(exit));
        assert_eq!(me.instances(service.id).await.unwrap().len(), 10);
    }

    async fn many_services_are_loaded_in_the_order_asked_for(world: World) {
        let me = world.operator().await;
        let mut ids = Vec::new();
        for n in 0..(sql::CHUNK + 3) {
            ids.push(me.create_service(web(&format!("web-{n}"))).await.unwrap().0.id);
        }
        ids.reverse();
        let states = world.system().load(&ids).await.unwrap();
        assert_eq!(states.iter().map(|state| state.service.id).collect::<Vec<_>>(), ids);
        assert!(states.iter().all(|state| state.active.is_some()));
        let mut seen = Vec::new();
        let mut after = 0;
        loop {
            let some = world.system().services_changed_since(after, 10).await.unwrap();
            let Some((_, last)) = some.last() else { break };
            after = *last;
            seen.extend(some.into_iter().map(|(id, _)| id));
        }
        ids.reverse();
        assert_eq!(seen, ids);
        assert!(world.system().load(&[]).await.unwrap().is_empty());
    }
}
