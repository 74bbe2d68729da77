//! Invariant 24: nobody reads or writes another's rows, whatever id they name.

use domain::error::Kind;

use super::bed::{image, message, named, web};
use super::both;
use crate::*;

/// The kind of an error, where there is one.
fn kind<T>(result: domain::Result<T>) -> Option<Kind> {
    result.err().map(|error| error.kind)
}

/// Everything that a scope can list, as one text.
async fn everything(scope: &Scope) -> String {
    let query = ListQuery {
        page_size: 100,
        ..Default::default()
    };
    let services = scope.list_services(ServiceKind::Service, &query).await.unwrap();
    let workers = scope.list_services(ServiceKind::Worker, &query).await.unwrap();
    let deployments = scope.list_deployments(&query).await.unwrap();
    let routes = scope.list_routes(&query).await.unwrap();
    let domains = scope.list_domains(&query).await.unwrap();
    let configs = scope.list_configs(&query).await.unwrap();
    let secrets = scope.list_secrets(&query).await.unwrap();
    let projects = scope.list_projects(&query).await.unwrap();
    let mut items = Vec::new();
    for config in &configs.rows {
        items.push(format!(
            "{:?}",
            scope.list_config_items(config.id, &query).await.unwrap()
        ));
    }
    for secret in &secrets.rows {
        items.push(format!(
            "{:?}",
            scope.list_secret_items(secret.id, &query).await.unwrap()
        ));
    }
    format!(
        "{services:?} {workers:?} {deployments:?} {routes:?} {domains:?} {configs:?} {secrets:?} {projects:?} {items:?}"
    )
}

both! {
    async fn another_account_can_do_nothing_to_any_row_and_changes_none(world: World) {
        let (mine, theirs) = (world.tenant("me").await, world.tenant("them").await);
        let (service, deployment) = mine.create_service(web("web")).await.unwrap();
        let domain = mine.create_domain("a.example", None).await.unwrap();
        let new_route = NewRoute { domain: domain.id, service: service.id, path: "/".into(), enabled: true };
        let route = mine.create_route(new_route.clone()).await.unwrap();
        let config = mine.create_config("c", None).await.unwrap();
        let config_item = mine.create_config_item(config.id, "K", "v").await.unwrap();
        let secret = mine.create_secret("s", None).await.unwrap();
        let value = || SecretString::new("value".into());
        let secret_item = mine.create_secret_item(secret.id, "K", value()).await.unwrap();
        let project = mine.create_project("p").await.unwrap();
        let (key, _) = mine.create_api_key("k", None).await.unwrap();
        let before = everything(&mine).await;
        let query = ListQuery::default();

        let attempts = [
            ("service", kind(theirs.service(service.id).await)),
            ("patch", kind(theirs.patch_service(service.id, image("evil:v1")).await)),
            ("deploy", kind(theirs.deploy_again(service.id, "").await)),
            ("delete", kind(theirs.delete_service(service.id).await)),
            ("instances", kind(theirs.instances(service.id).await)),
            ("outcomes", kind(theirs.outcomes(service.id).await)),
            ("cancel", kind(theirs.cancel(service.id).await)),
            ("continue", kind(theirs.continue_rollout(service.id).await)),
            ("pause", kind(theirs.pause(service.id).await)),
            ("resume", kind(theirs.resume(service.id).await)),
            ("observed", kind(theirs.observed(deployment.id).await)),
            ("deployment", kind(theirs.deployment(deployment.id).await)),
            ("version", kind(theirs.deployment_by_version(service.id, 1).await)),
            ("rollback", kind(theirs.rollback(deployment.id, RollbackRequest::default()).await)),
            ("journal", kind(theirs.journal(deployment.id, 0, 10).await)),
            ("list", kind(theirs.list_deployments(&ListQuery { service: Some(service.id), ..query.clone() }).await)),
            ("routes", kind(theirs.list_routes(&ListQuery { service: Some(service.id), ..query.clone() }).await)),
            ("route", kind(theirs.route(route.id).await)),
            ("patch route", kind(theirs.patch_route(route.id, RoutePatch::default()).await)),
            ("delete route", kind(theirs.delete_route(route.id).await)),
            ("domain", kind(theirs.domain(domain.id).await)),
            ("hostname", kind(theirs.domain_by_hostname("a.example").await)),
            ("patch domain", kind(theirs.patch_domain(domain.id, Some("b.example".into())).await)),
            ("delete domain", kind(theirs.delete_domain(domain.id).await)),
            ("config", kind(theirs.set(config.id).await)),
            ("patch config", kind(theirs.patch_set(config.id, Some("x".into())).await)),
            ("delete config", kind(theirs.delete_set(config.id).await)),
            ("add item", kind(theirs.create_config_item(config.id, "X", "").await)),
            ("item", kind(theirs.config_item(config.id, config_item.id).await)),
            ("items", kind(theirs.list_config_items(config.id, &query).await)),
            ("patch item", kind(theirs.patch_config_item(config.id, config_item.id, None, Some("x".into())).await)),
            ("delete item", kind(theirs.delete_config_item(config.id, config_item.id).await)),
            ("secret", kind(theirs.set(secret.id).await)),
            ("patch secret", kind(theirs.patch_set(secret.id, Some("x".into())).await)),
            ("delete secret", kind(theirs.delete_set(secret.id).await)),
            ("add secret item", kind(theirs.create_secret_item(secret.id, "X", value()).await)),
            ("secret item", kind(theirs.secret_item(secret.id, secret_item.id).await)),
            ("secret items", kind(theirs.list_secret_items(secret.id, &query).await)),
            ("values", kind(theirs.list_secret_values(secret.id, &query, "test").await)),
            ("value", kind(theirs.secret_value(secret_item.id, "test").await)),
            ("accesses", kind(theirs.secret_accesses(secret_item.id, 0, 10).await)),
            ("patch value", kind(theirs.patch_secret_item(secret.id, secret_item.id, None, Some(value())).await)),
            ("delete value", kind(theirs.delete_secret_item(secret.id, secret_item.id).await)),
            ("project", kind(theirs.project(project.id).await)),
            ("patch project", kind(theirs.patch_project(project.id, named("x")).await)),
            ("delete project", kind(theirs.delete_project(project.id).await)),
        ];
        for (attempt, kind) in attempts {
            assert_eq!(kind, Some(Kind::NotFound), "{attempt}");
        }
        assert_eq!(kind(theirs.revoke_api_key(key.id).await), Some(Kind::NotFound));
        assert_eq!(kind(theirs.service_by_name(ServiceKind::Service, "web", None).await), Some(Kind::NotFound));
        assert_eq!(kind(theirs.project_by_name("p").await), Some(Kind::NotFound));
        assert_eq!(everything(&mine).await, before);
        assert!(!everything(&theirs).await.contains(&service.id.to_string()));
    }

    async fn an_id_of_another_account_in_a_body_looks_like_an_absent_one(world: World) {
        let (mine, theirs) = (world.tenant("me").await, world.tenant("them").await);
        let config = mine.create_config("c", None).await.unwrap();
        let secret = mine.create_secret("s", None).await.unwrap();
        let domain = mine.create_domain("a.example", None).await.unwrap();
        let project = mine.create_project("p").await.unwrap();
        let (my_service, _) = mine.create_service(web("web")).await.unwrap();
        let (service, _) = theirs.create_service(web("web")).await.unwrap();
        let theirs_domain = theirs.create_domain("b.example", None).await.unwrap();

        let with = |patch| theirs.patch_service(service.id, patch);
        let said = |id: &dyn std::fmt::Display| format!("Invalid pk \"{id}\" - object does not exist.");
        let patch = ServicePatch { config: Some(Some(config.id)), ..Default::default() };
        assert_eq!(message(with(patch).await, "config"), said(&config.id));
        let patch = ServicePatch { secret: Some(Some(secret.id)), ..Default::default() };
        assert_eq!(message(with(patch).await, "secret"), said(&secret.id));
        let new = NewService { project: Some(project.id), ..web("x") };
        assert_eq!(message(theirs.create_service(new).await, "project"), said(&project.id));
        let route = |domain, service| NewRoute { domain, service, path: "/".into(), enabled: true };
        assert_eq!(message(theirs.create_route(route(domain.id, service.id)).await, "domain"), said(&domain.id));
        let stolen = theirs.create_route(route(theirs_domain.id, my_service.id)).await;
        assert_eq!(message(stolen, "service"), said(&my_service.id));
        // Not even an administrator mixes the resources of two owners.
        let mixed = world.operator().await.create_route(route(theirs_domain.id, my_service.id)).await;
        assert_eq!(message(mixed, "domain"), said(&theirs_domain.id));
    }

    async fn an_administrator_sees_and_changes_everything(world: World) {
        let (mine, operator) = (world.tenant("me").await, world.operator().await);
        let (service, _) = mine.create_service(web("web")).await.unwrap();
        let query = ListQuery::default();
        assert_eq!(operator.list_services(ServiceKind::Service, &query).await.unwrap().count, 1);
        assert_eq!(operator.list_projects(&query).await.unwrap().count, 2);
        assert_eq!(operator.list_configs(&query).await.unwrap().rows.len(), 2);
        let (_, deployment) = operator.patch_service(service.id, image("app:v2")).await.unwrap();
        assert_eq!(deployment.unwrap().created_by, operator.principal().account);
        let taken = message(mine.create_service(web("web")).await, "name");
        assert_eq!(taken, "service with this name already exists.");
    }

    async fn a_project_filter_for_a_foreign_project_gives_an_empty_page(world: World) {
        let (mine, theirs) = (world.tenant("me").await, world.tenant("them").await);
        let project = mine.create_project("p").await.unwrap();
        mine.create_service(NewService { project: Some(project.id), ..web("web") }).await.unwrap();
        let query = ListQuery { project: Some(project.id), ..Default::default() };
        let count = async |scope: &Scope| scope.list_services(ServiceKind::Service, &query).await.unwrap().count;
        assert_eq!((count(&mine).await, count(&theirs).await, count(&world.operator().await).await), (1, 0, 1));
        assert_eq!(theirs.list_projects(&query).await.unwrap().count, 0);
    }
}
