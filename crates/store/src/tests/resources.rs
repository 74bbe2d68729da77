//! Projects, domains, routes, configs, keys: the rules of faces 3.3.

use domain::ConfigId;
use domain::error::Kind;

use super::bed::{message, named, web};
use super::both;
use crate::*;

fn route(domain: &Domain, service: &Service, path: &str) -> NewRoute {
    NewRoute {
        domain: domain.id,
        service: service.id,
        path: path.into(),
        enabled: true,
    }
}

both! {
    /// PostgreSQL knows no text with a null character.
    async fn what_cannot_be_a_name_is_found_nowhere(world: World) {
        let me = world.tenant("me").await;
        let not_found = |result: domain::Result<()>| result.is_err_and(|error| error.kind == Kind::NotFound);
        assert!(not_found(me.service_by_name(ServiceKind::Service, "a\0b", None).await.map(drop)));
        assert!(not_found(me.set_by_name::<ConfigId>("a\0b", None).await.map(drop)));
        assert!(not_found(me.project_by_name("a\0b").await.map(drop)));
        assert!(not_found(me.domain_by_hostname("a\0b").await.map(drop)));
    }

    async fn an_account_begins_with_a_project_a_config_and_a_secret(world: World) {
        let first = world.system().bootstrap().await.unwrap();
        assert_eq!(world.system().bootstrap().await.unwrap(), first);
        assert!(first.admin);
        let me = world.tenant("me").await;
        let query = ListQuery::default();
        let projects = me.list_projects(&query).await.unwrap();
        assert!(projects.count == 1 && projects.rows[0].is_default);
        let configs = me.list_configs(&query).await.unwrap();
        assert_eq!((configs.rows[0].name.as_str(), configs.rows[0].is_default), ("Default", true));
        let secrets = me.list_secrets(&query).await.unwrap();
        assert_eq!(message(me.delete_set(configs.rows[0].id).await, ""), "Cannot delete the default config");
        assert_eq!(message(me.delete_set(secrets.rows[0].id).await, ""), "Cannot delete the default secret");
        assert_eq!(message(me.delete_project(projects.rows[0].id).await, ""), "Cannot delete the default project");
        let again = world.system().create_account("me", false, None).await;
        assert_eq!(message(again, "name"), "account with this name already exists.");
        assert_eq!(world.system().accounts(None, 10).await.unwrap().len(), 2);
        assert_eq!(world.system().accounts(Some(first.id), 10).await.unwrap().len(), 1);
    }

    async fn a_project_goes_only_when_it_is_empty(world: World) {
        let me = world.tenant("me").await;
        let project = me.create_project("p").await.unwrap();
        assert_eq!(message(me.create_project("p").await, "name"), "project with this name already exists.");
        let config = me.create_config("c", Some(project.id)).await.unwrap();
        assert_eq!(message(me.delete_project(project.id).await, ""), "Project is not empty");
        me.delete_set(config.id).await.unwrap();
        me.patch_project(project.id, named("q")).await.unwrap();
        assert_eq!(me.project_by_name("q").await.unwrap().id, project.id);
        me.delete_project(project.id).await.unwrap();
        assert_eq!(me.project(project.id).await.unwrap_err().kind, Kind::NotFound);
        assert_eq!(me.list_projects(&ListQuery::default()).await.unwrap().count, 1);
    }

    async fn a_host_name_belongs_to_one_project_of_the_whole_system(world: World) {
        let (me, other) = (world.tenant("me").await, world.tenant("other").await);
        let domain = me.create_domain("App.Example.COM.", None).await.unwrap();
        assert_eq!(domain.hostname, "app.example.com");
        let taken = "domain with this hostname already exists.";
        assert_eq!(message(other.create_domain("APP.example.com", None).await, "hostname"), taken);
        let second = other.create_domain("b.example.com", None).await.unwrap();
        assert_eq!(message(other.patch_domain(second.id, Some("app.example.com".into())).await, "hostname"), taken);
        assert_eq!(other.patch_domain(second.id, None).await.unwrap(), second);
        for bad in ["", "127.0.0.1", "a b", "a..b", "*.example.com"] {
            assert!(!message(me.create_domain(bad, None).await, "hostname").is_empty(), "{bad}");
        }
        me.delete_domain(domain.id).await.unwrap();
        other.create_domain("app.example.com", None).await.unwrap();
    }

    async fn routes_lead_to_services_and_reach_the_edge_while_enabled(world: World) {
        let me = world.tenant("me").await;
        let (service, deployment) = me.create_service(web("web")).await.unwrap();
        let (second, _) = me.create_service(web("next")).await.unwrap();
        let worker = NewService::new(ServiceKind::Worker, "job", "app:v1", None);
        let (worker, _) = me.create_service(worker).await.unwrap();
        let domain = me.create_domain("a.example", None).await.unwrap();
        let refused = message(me.create_route(route(&domain, &worker, "/")).await, "service");
        assert_eq!(refused, format!("Invalid pk \"{}\" - object does not exist.", worker.id));
        let root = me.create_route(route(&domain, &service, "/")).await.unwrap();
        let api = me.create_route(route(&domain, &service, "/api")).await.unwrap();
        let unique = "The fields domain, path must make a unique set.";
        for twin in ["/", "/api", "/api/"] {
            let error = me.create_route(route(&domain, &second, twin)).await;
            assert_eq!(message(error, "non_field_errors"), unique, "{twin}");
        }
        let entries = world.system().edge_entries().await.unwrap();
        let entry = entries.iter().find(|entry| entry.service == service.id).unwrap();
        assert_eq!((entry.receipt, entry.port, entry.matches.len()), (deployment.id, Some(8080), 2));
        assert_eq!(entries.len(), 3);

        let patch = RoutePatch { service: Some(second.id), enabled: Some(false), ..Default::default() };
        let patched = me.patch_route(api.id, patch).await.unwrap();
        assert_eq!((patched.service, patched.enabled), (second.id, false));
        let entries = world.system().edge_entries().await.unwrap();
        let routed: usize = entries.iter().map(|entry| entry.matches.len()).sum();
        assert_eq!(routed, 1);
        let of_second = ListQuery { service: Some(second.id), ..Default::default() };
        assert_eq!(me.list_routes(&of_second).await.unwrap().count, 1);

        me.delete_service(service.id).await.unwrap();
        assert_eq!(me.route(root.id).await.unwrap_err().kind, Kind::NotFound);
        me.delete_domain(domain.id).await.unwrap();
        assert_eq!(me.list_routes(&ListQuery::default()).await.unwrap().count, 0);
    }

    async fn a_deleted_config_leaves_its_services_without_one(world: World) {
        let me = world.tenant("me").await;
        let config = me.create_config("c", None).await.unwrap();
        me.create_config_item(config.id, "A", "").await.unwrap();
        assert_eq!(message(me.create_config_item(config.id, "A", "x").await, "key"), "config item with this key already exists.");
        assert!(!message(me.create_config_item(config.id, "1A", "x").await, "key").is_empty());
        let long = "x".repeat(64 * 1024 + 1);
        assert!(message(me.create_config_item(config.id, "B", &long).await, "value").contains("65536"));
        me.create_config_item(config.id, "B", &long[1..]).await.unwrap();
        assert_eq!(message(me.create_config_item(config.id, "C", "a\0b").await, "value"), "Null characters are not allowed.");
        let (service, first) = me.create_service(NewService { config: Some(config.id), ..web("web") }).await.unwrap();
        assert_eq!(first.spec.config.keys().collect::<Vec<_>>(), ["A", "B"]);
        me.delete_set(config.id).await.unwrap();
        let after = me.service(service.id).await.unwrap();
        assert_eq!(after.config, None);
        assert!(after.revision > service.revision);
        assert_eq!(me.deployment(first.id).await.unwrap().spec, first.spec);
    }

    async fn keys_open_the_door_until_revoked_or_expired(world: World) {
        let me = world.tenant("me").await;
        let system = world.system();
        let (record, key) = me.create_api_key("ci", None).await.unwrap();
        assert!(key.expose().starts_with(&record.prefix));
        let principal = system.authenticate_key(key.expose()).await.unwrap();
        assert_eq!((principal.account, principal.admin), (me.principal().account, false));
        assert_eq!(principal.via, Via::Key(record.id));
        let used = me.api_key(record.id).await.unwrap().last_used_at_us;
        system.authenticate_key(key.expose()).await.unwrap();
        assert_eq!(me.api_key(record.id).await.unwrap().last_used_at_us, used, "written at most once a minute");
        world.advance(61_000_000);
        system.authenticate_key(key.expose()).await.unwrap();
        assert!(me.api_key(record.id).await.unwrap().last_used_at_us > used);

        let (_, short) = me.create_api_key("short", Some(world.now_us() + 1_000_000)).await.unwrap();
        system.authenticate_key(short.expose()).await.unwrap();
        world.advance(1_000_000);
        me.revoke_api_key(record.id).await.unwrap();
        me.revoke_api_key(record.id).await.unwrap();
        let mut almost = key.expose().to_owned();
        let last = almost.pop().unwrap();
        almost.push(if last == 'a' { 'b' } else { 'a' });
        for bad in [key.expose(), short.expose(), &almost, "", "gob_", "gob_ü"] {
            assert_eq!(message(system.authenticate_key(bad).await, ""), "Invalid API key.");
        }
        let past = me.create_api_key("past", Some(world.now_us() - 1)).await;
        assert_eq!(message(past, "expires_at"), "Use a time in the future");
    }

    async fn ten_active_keys_are_the_most(world: World) {
        let me = world.tenant("me").await;
        let mut keys = Vec::new();
        for n in 0..10 {
            keys.push(me.create_api_key(&format!("k{n}"), None).await.unwrap().0);
        }
        let full = "Maximum of 10 active API keys reached";
        assert_eq!(message(me.create_api_key("one more", None).await, ""), full);
        me.revoke_api_key(keys[0].id).await.unwrap();
        me.create_api_key("one more", None).await.unwrap();
        let account = me.principal().account;
        assert_eq!(message(world.system().create_api_key_for(account, "again", None).await, ""), full);
        let page = me.list_api_keys(&ListQuery::default()).await.unwrap();
        assert_eq!((page.count, page.rows.len()), (11, 11));
    }

    async fn lists_are_paged_ordered_and_counted(world: World) {
        let me = world.tenant("me").await;
        for name in ["b", "a", "d", "c", "B-is-no-name"] {
            let made = me.create_service(web(name)).await;
            assert_eq!(made.is_ok(), name.len() == 1);
        }
        let names = async |ordering: &[(&str, Direction)], page, page_size| {
            let ordering = ordering.iter().map(|(name, direction)| ((*name).to_owned(), *direction)).collect();
            let query = ListQuery { page, page_size, ordering, ..Default::default() };
            let page = me.list_services(ServiceKind::Service, &query).await?;
            assert_eq!(page.count, 4);
            domain::Result::Ok(page.rows.into_iter().map(|row| row.name).collect::<String>())
        };
        use Direction::{Ascending, Descending};
        use PageNumber::{Last, Number};
        assert_eq!(names(&[], Number(1), 20).await.unwrap(), "cdab");
        assert_eq!(names(&[("name", Ascending)], Number(1), 20).await.unwrap(), "abcd");
        assert_eq!(names(&[("name", Descending)], Number(2), 3).await.unwrap(), "a");
        assert_eq!(names(&[("status", Ascending), ("name", Descending)], Last, 2).await.unwrap(), "ba");
        assert_eq!(names(&[("secret", Ascending)], Number(1), 20).await.unwrap(), "cdab");
        assert!(is_invalid_page(&names(&[], Number(3), 2).await.unwrap_err()));
        assert!(is_invalid_page(&names(&[], Number(0), 2).await.unwrap_err()));
        assert_eq!(names(&[], Number(1), 0).await.unwrap().len(), 1);
    }

    async fn the_status_that_a_list_sorts_by_is_the_one_that_it_shows(world: World) {
        let me = world.tenant("me").await;
        for (name, ends) in [("a", vec![]), ("b", vec![domain::Stage::Succeeded]), ("c", vec![domain::Stage::Failed])] {
            let (_, deployment) = me.create_service(web(name)).await.unwrap();
            for end in ends {
                world.finish(&deployment, end).await;
            }
        }
        let (updating, first) = me.create_service(web("d")).await.unwrap();
        world.finish(&first, domain::Stage::Succeeded).await;
        me.deploy_again(updating.id, "").await.unwrap();
        let query = ListQuery { ordering: vec![("status".into(), Direction::Ascending)], ..Default::default() };
        let page = me.list_services(ServiceKind::Service, &query).await.unwrap();
        let shown: Vec<_> = page.rows.iter().map(Service::status).collect();
        assert_eq!(shown, ["error", "pending", "ready", "updating"]);
    }
}
