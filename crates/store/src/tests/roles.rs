//! What members of a project may do there (C6.2).

use domain::ProjectId;
use domain::error::Kind;

use super::bed::{image, message, named, web};
use super::both;
use crate::*;

fn kind<T>(result: domain::Result<T>) -> Option<Kind> {
    result.err().map(|error| error.kind)
}

async fn home(me: &Scope) -> ProjectId {
    me.project_by_name("default").await.unwrap().id
}

both! {
    async fn a_viewer_sees_and_changes_nothing(world: World) {
        let (me, other) = (world.tenant("me").await, world.tenant("viewer").await);
        let (service, _) = me.create_service(web("web")).await.unwrap();
        let secret = me.create_secret("s", None).await.unwrap();
        let item = me.create_secret_item(secret.id, "K", SecretString::new("v".into())).await.unwrap();
        let project = home(&me).await;
        assert_eq!(kind(other.clone().needing(Role::Viewer).service(service.id).await), Some(Kind::NotFound));
        me.add_member(project, "viewer", Role::Viewer).await.unwrap();

        let viewer = other.clone().needing(Role::Viewer);
        assert_eq!(viewer.service(service.id).await.unwrap().id, service.id);
        assert_eq!(viewer.list_services(ServiceKind::Service, &ListQuery::default()).await.unwrap().count, 1);
        assert_eq!(viewer.list_projects(&ListQuery::default()).await.unwrap().count, 2);
        for writer in [viewer, other.clone().needing(Role::Developer), other.clone()] {
            assert_eq!(kind(writer.patch_service(service.id, image("app:v2")).await), Some(Kind::Forbidden));
            assert_eq!(kind(writer.delete_service(service.id).await), Some(Kind::Forbidden));
            assert_eq!(kind(writer.secret_value(item.id, "test").await), Some(Kind::Forbidden));
            let new = NewService { project: Some(project), ..web("x") };
            assert_eq!(kind(writer.create_service(new).await), Some(Kind::Forbidden));
        }
    }

    async fn a_developer_changes_what_runs_and_not_who_may(world: World) {
        let (me, other) = (world.tenant("me").await, world.tenant("developer").await);
        world.tenant("third").await;
        let project = home(&me).await;
        let member = me.add_member(project, "developer", Role::Developer).await.unwrap();
        let developer = other.clone().needing(Role::Developer);
        let new = NewService { project: Some(project), ..web("web") };
        let (service, _) = developer.create_service(new).await.unwrap();
        assert_eq!(me.service(service.id).await.unwrap().id, service.id);
        assert_eq!(kind(other.add_member(project, "third", Role::Viewer).await), Some(Kind::Forbidden));
        assert_eq!(kind(other.set_member_role(project, member.account, Role::Owner).await), Some(Kind::Forbidden));
        assert_eq!(kind(other.patch_project(project, named("x")).await), Some(Kind::Forbidden));

        me.set_member_role(project, member.account, Role::Owner).await.unwrap();
        other.add_member(project, "third", Role::Viewer).await.unwrap();
        assert_eq!(me.list_members(project, &ListQuery::default()).await.unwrap().count, 3);
        me.remove_member(project, member.account).await.unwrap();
        assert_eq!(kind(developer.service(service.id).await), Some(Kind::NotFound));
        assert_eq!(developer.list_projects(&ListQuery::default()).await.unwrap().count, 1);
    }

    async fn whoever_made_a_project_stays_its_owner(world: World) {
        let (me, other) = (world.tenant("me").await, world.tenant("other").await);
        let project = home(&me).await;
        me.add_member(project, "other", Role::Owner).await.unwrap();
        let founder = me.principal().account;
        let stays = "The account that made a project stays its owner";
        assert_eq!(message(other.remove_member(project, founder).await, ""), stays);
        assert_eq!(message(other.set_member_role(project, founder, Role::Viewer).await, ""), stays);
        let nobody = message(me.add_member(project, "nobody", Role::Viewer).await, "name");
        assert_eq!(nobody, "There is no account of this name.");
        let twice = message(me.add_member(project, "other", Role::Viewer).await, "name");
        assert_eq!(twice, "member with this name already exists.");
    }
}
