//! What happens to a deployment on its way: steps, pauses, release commands, going back by itself.

use domain::{Advance, Behaviour, RolloutOptions, Stage, Step, Strategy, Template};
use uuid::Uuid;

use super::bed::{image, instance, message, stage, web};
use super::{World, both};
use crate::*;

fn canary(name: &str, steps: usize) -> NewService {
    let step = Step {
        weight: 10,
        traffic: None,
        then: Advance::Continue,
    };
    NewService {
        strategy: Strategy::Canary,
        options: RolloutOptions {
            steps: vec![step; steps],
            ..Default::default()
        },
        ..web(name)
    }
}

/// A service whose second version serves, after its first.
async fn grown(world: &World, me: &Scope) -> (Service, Deployment, Deployment) {
    let (service, first) = me.create_service(web("web")).await.unwrap();
    world.finish(&first, Stage::Succeeded).await;
    let (_, second) = me.patch_service(service.id, image("app:v2")).await.unwrap();
    let second = second.unwrap();
    world.finish(&second, Stage::Succeeded).await;
    (service, first, second)
}

fn roll_back(failed: &Deployment, to: &Deployment) -> Effect {
    Effect::RollBack {
        failed: failed.id,
        to: to.id,
        reason: "5 % of requests failed".into(),
    }
}

both! {
    async fn steps_are_reached_and_passed_one_after_the_other(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(canary("web", 2)).await.unwrap();
        let (id, reach) = (first.id, Effect::ReachStep { deployment: first.id });
        let advance = |step| Effect::Advance { deployment: id, step };
        assert!(world.apply(service.id, vec![reach.clone()]).await.is_err(), "it is still queued");
        world.apply(service.id, vec![stage(id, Stage::Queued, Stage::Deploying), reach.clone()]).await.unwrap();
        let seen = me.deployment(id).await.unwrap();
        assert_eq!((seen.stage, seen.at_step, seen.step), (Stage::Paused, true, 0));
        assert!(message(me.resume(service.id).await, "").contains("waits at step 1; continue it"));

        for wrong in [0, 2] {
            assert!(world.apply(service.id, vec![advance(wrong)]).await.is_err(), "{wrong}");
        }
        let seen = me.continue_rollout(service.id).await.unwrap();
        assert_eq!((seen.stage, seen.at_step, seen.step), (Stage::Deploying, false, 1));
        assert!(message(me.continue_rollout(service.id).await, "").contains("is not paused but deploying"));

        world.apply(service.id, vec![reach.clone(), advance(2)]).await.unwrap();
        let seen = me.deployment(id).await.unwrap();
        assert_eq!((seen.stage, seen.at_step, seen.step), (Stage::Deploying, false, 2));
        assert!(world.apply(service.id, vec![reach]).await.is_err(), "no step is left");
        assert!(world.apply(service.id, vec![advance(3)]).await.is_err());
        let told: Vec<_> = me.journal(id, 0, 100).await.unwrap().into_iter().map(|line| line.reason).collect();
        let expected = ["step 1 of 2 reached", "step 1 of 2 passed", "step 2 of 2 reached", "step 2 of 2 passed"];
        assert_eq!(told[2..], expected);
    }

    async fn a_step_that_is_not_waited_at_is_passed_without_a_pause(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(canary("web", 1)).await.unwrap();
        let advance = Effect::Advance { deployment: first.id, step: 1 };
        assert!(world.apply(service.id, vec![advance.clone()]).await.is_err(), "it is still queued");
        let begun = stage(first.id, Stage::Queued, Stage::Deploying);
        world.apply(service.id, vec![begun, advance]).await.unwrap();
        assert_eq!(me.deployment(first.id).await.unwrap().step, 1);
    }

    async fn a_user_s_pause_holds_until_it_is_resumed_wherever_the_rollout_stands(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(canary("web", 1)).await.unwrap();
        let id = first.id;
        assert!(message(me.pause(service.id).await, "").contains("cannot be paused while it is queued"));
        world.apply(service.id, vec![stage(id, Stage::Queued, Stage::Deploying)]).await.unwrap();
        let held = me.pause(service.id).await.unwrap();
        assert_eq!((held.stage, held.at_step), (Stage::Paused, false));
        assert_eq!(me.pause(service.id).await.unwrap(), held);
        assert!(message(me.continue_rollout(service.id).await, "").contains("resume it instead"));
        assert!(world.apply(service.id, vec![Effect::Advance { deployment: id, step: 1 }]).await.is_err());
        assert_eq!(me.resume(service.id).await.unwrap().stage, Stage::Deploying);

        world.apply(service.id, vec![Effect::ReachStep { deployment: id }]).await.unwrap();
        let held = me.pause(service.id).await.unwrap();
        assert_eq!((held.stage, held.at_step, held.step), (Stage::Paused, false, 0));
        assert!(world.apply(service.id, vec![Effect::Advance { deployment: id, step: 1 }]).await.is_err());
        me.resume(service.id).await.unwrap();
        world.apply(service.id, vec![Effect::ReachStep { deployment: id }]).await.unwrap();
        assert!(me.deployment(id).await.unwrap().at_step);
        assert_eq!(me.cancel(service.id).await.unwrap().stage, Stage::Canceling);
        assert!(!me.deployment(id).await.unwrap().at_step);
    }

    async fn a_release_command_is_deployed_once_and_not_by_a_rollback(world: World) {
        let me = world.tenant("me").await;
        let release = Some(vec!["migrate".to_owned(), "--all".to_owned()]);
        let (service, first) = me.create_service(NewService { release: release.clone(), ..web("web") }).await.unwrap();
        assert_eq!((&service.release, &first.spec.release), (&release, &release));
        assert_eq!(me.service(service.id).await.unwrap().release, release);
        let released = Effect::Released { deployment: first.id };
        world.apply(service.id, vec![released.clone(), released]).await.unwrap();
        assert!(me.deployment(first.id).await.unwrap().released);
        let told = me.journal(first.id, 0, 100).await.unwrap();
        assert_eq!(told.iter().filter(|line| line.reason == "release command succeeded").count(), 1);
        world.finish(&first, Stage::Succeeded).await;

        let other = ServicePatch { release: Some(None), ..Default::default() };
        assert!(me.patch_service(service.id, other).await.unwrap().1.is_none(), "the next deployment has it");
        let rollback = me.rollback(first.id, RollbackRequest::default()).await.unwrap();
        assert_eq!((rollback.spec.release, rollback.template), (None, first.template));
        let blank = ServicePatch { release: Some(Some(vec![])), ..Default::default() };
        assert_eq!(message(me.patch_service(service.id, blank).await, "release"), "A command names a program");
    }

    async fn the_reconciler_goes_back_exactly_once(world: World) {
        let me = world.tenant("me").await;
        let (service, first, second) = grown(&world, &me).await;
        assert_eq!(me.deployment(second.id).await.unwrap().replaced, Some(first.id));
        let effects = vec![roll_back(&second, &first)];
        assert!(world.apply(service.id, vec![roll_back(&first, &second)]).await.is_err(), "the first does not serve");
        world.apply(service.id, effects.clone()).await.unwrap();
        let state = world.state(service.id).await;
        let third = state.active.unwrap();
        assert_eq!((third.version, third.rollback_from, third.automatic), (3, Some(first.id), true));
        assert_eq!((third.spec.image.as_str(), state.service.image.as_str()), ("app:v1", "app:v1"));
        assert_eq!(third.notes, "Rolled back automatically: 5 % of requests failed");
        assert!(me.deployment(second.id).await.unwrap().rolled_back);
        assert!(world.apply(service.id, effects.clone()).await.is_err(), "one is on its way");
        world.finish(&third, Stage::Failed).await;
        assert!(world.apply(service.id, effects).await.is_err(), "it was tried once");
        assert_eq!(me.outcomes(service.id).await.unwrap().rolled_back, 1);
        let journal = me.journal(third.id, 0, 10).await.unwrap();
        assert_eq!((journal[0].reason.as_str(), journal[0].actor.as_str()), ("automatic rollback", "reconciler:here"));
    }

    async fn a_rollback_never_triggers_a_rollback(world: World) {
        let me = world.tenant("me").await;
        let (service, first, second) = grown(&world, &me).await;
        world.apply(service.id, vec![roll_back(&second, &first)]).await.unwrap();
        let third = world.state(service.id).await.active.unwrap();
        world.finish(&third, Stage::Succeeded).await;
        assert_eq!(me.deployment(third.id).await.unwrap().replaced, None, "what was rolled back from is no way back");
        assert!(world.apply(service.id, vec![roll_back(&third, &first)]).await.is_err());
        let asked = me.rollback(first.id, RollbackRequest::default()).await.unwrap();
        assert!(!asked.automatic);
        world.finish(&asked, Stage::Succeeded).await;
        assert!(world.apply(service.id, vec![roll_back(&asked, &third)]).await.is_err());
        assert_eq!(me.outcomes(service.id).await.unwrap().rolled_back, 2);
    }

    async fn a_rollback_waits_at_no_step(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(canary("web", 2)).await.unwrap();
        world.finish(&first, Stage::Succeeded).await;
        let (_, second) = me.patch_service(service.id, image("app:v2")).await.unwrap();
        let second = second.unwrap();
        world.finish(&second, Stage::Succeeded).await;
        world.apply(service.id, vec![roll_back(&second, &first)]).await.unwrap();
        let state = world.state(service.id).await;
        let back = state.active.unwrap();
        assert_eq!((back.spec.strategy, back.automatic), (Strategy::Canary, true));
        assert_eq!(back.step as usize, back.spec.options.steps(Strategy::Canary).len());
    }

    async fn what_was_seen_of_a_version_outlives_its_instances(world: World) {
        let me = world.tenant("me").await;
        let (service, first) = me.create_service(web("web")).await.unwrap();
        let domain = me.create_domain("shop.example.com", None).await.unwrap();
        let route = |path: &str| NewRoute { domain: domain.id, path: path.into(), service: service.id, enabled: true };
        me.create_route(route("/")).await.unwrap();
        assert_eq!(me.observed(first.id).await.unwrap(), Observed::default());
        world.finish(&first, Stage::Succeeded).await;
        me.create_route(route("/api")).await.unwrap();
        let told = me.observed(first.id).await.unwrap();
        assert_eq!(told.routes, Some(vec!["shop.example.com/".to_owned()]), "those of when it began to serve");
        assert_eq!(told.memory_peak, None);
        for (bytes, most) in [(None, None), (Some(30), Some(30)), (Some(70), Some(70)), (Some(50), Some(70))] {
            let id = instance();
            let add = Effect::AddInstance { id, deployment: first.id, template: Template("t".into()) };
            let gone = Effect::Gone { id, crashed: false, exit: None, memory_peak: bytes };
            world.apply(service.id, vec![add, gone]).await.unwrap();
            assert_eq!(me.observed(first.id).await.unwrap().memory_peak, most);
        }
    }

    async fn behaviour_is_kept_for_each_life_of_the_edge_and_read_as_one(world: World) {
        let me = world.tenant("me").await;
        let (_, first) = me.create_service(web("web")).await.unwrap();
        let seen = |requests| {
            let mut behaviour = Behaviour { requests, failed: 1, ..Default::default() };
            behaviour.latency[3] = requests;
            behaviour
        };
        assert_eq!(me.observed(first.id).await.unwrap().behaviour, None);
        let (boot, next) = (Uuid::now_v7(), Uuid::now_v7());
        let unknown = domain::DeploymentId(Uuid::now_v7());
        for (boot, requests) in [(boot, 10), (boot, 30), (boot, 20), (next, 5)] {
            world.system().add_behaviours(boot, &[(unknown, seen(1)), (first.id, seen(requests))]).await.unwrap();
        }
        let all = me.observed(first.id).await.unwrap().behaviour.unwrap();
        assert_eq!((all.requests, all.failed, all.latency[3]), (35, 2, 35));
    }
}
