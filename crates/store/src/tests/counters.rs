//! Whatever happens in whatever order: counters equal counts, the journal is whole, and the record keeps its
//! invariants.

use domain::error::Kind;
use domain::{Stage, Template};
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};

use super::bed::{image, instance, stage, web};
use super::reconcilers::journal_is_whole;
use super::{Engine, World};
use crate::db::args;
use crate::*;

/// A step that a user or a reconciler takes; numbers choose among what there is.
#[derive(Debug, Clone, Copy)]
enum Step {
    CreateService(u8),
    CreateWorker(u8),
    Patch(u8, u8),
    DeployAgain(u8),
    Advance(u8),
    Fail(u8),
    Rollback(u8, u8),
    Cancel(u8),
    Delete(u8),
    Purge(u8),
    AddInstance(u8),
    CreateRoute(u8, u8),
    MoveRoute(u8, u8),
    DeleteRoute(u8),
    CreateDomain(u8),
    DeleteDomain(u8),
    CreateConfig(u8),
    AddConfigItem(u8, u8),
    DeleteConfigItem(u8),
    DeleteConfig(u8),
    CreateSecret(u8),
    AddSecretItem(u8, u8),
    RotateSecretItem(u8),
    DeleteSecretItem(u8),
    DeleteSecret(u8),
    Attach(u8, u8),
    CreateProject(u8),
    DeleteProject(u8),
    CreateKey,
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    let n = any::<u8>;
    prop_oneof![
        4 => n().prop_map(CreateService),
        1 => n().prop_map(CreateWorker),
        6 => (n(), n()).prop_map(|(a, b)| Patch(a, b)),
        2 => n().prop_map(DeployAgain),
        12 => n().prop_map(Advance),
        3 => n().prop_map(Fail),
        4 => (n(), n()).prop_map(|(a, b)| Rollback(a, b)),
        1 => n().prop_map(Cancel),
        1 => n().prop_map(Delete),
        2 => n().prop_map(Purge),
        2 => n().prop_map(AddInstance),
        3 => (n(), n()).prop_map(|(a, b)| CreateRoute(a, b)),
        2 => (n(), n()).prop_map(|(a, b)| MoveRoute(a, b)),
        1 => n().prop_map(DeleteRoute),
        2 => n().prop_map(CreateDomain),
        1 => n().prop_map(DeleteDomain),
        1 => n().prop_map(CreateConfig),
        2 => (n(), n()).prop_map(|(a, b)| AddConfigItem(a, b)),
        1 => n().prop_map(DeleteConfigItem),
        1 => n().prop_map(DeleteConfig),
        1 => n().prop_map(CreateSecret),
        2 => (n(), n()).prop_map(|(a, b)| AddSecretItem(a, b)),
        2 => n().prop_map(RotateSecretItem),
        1 => n().prop_map(DeleteSecretItem),
        1 => n().prop_map(DeleteSecret),
        3 => (n(), n()).prop_map(|(a, b)| Attach(a, b)),
        1 => n().prop_map(CreateProject),
        1 => n().prop_map(DeleteProject),
        1 => Just(CreateKey),
    ]
}

fn pick<T: Clone>(rows: &[T], n: u8) -> Option<T> {
    rows.get(usize::from(n) % rows.len().max(1)).cloned()
}

fn all() -> ListQuery {
    ListQuery {
        page_size: PAGE_SIZE_MAX,
        ..Default::default()
    }
}

/// A person who takes steps, and the reconcilers who follow.
struct Actor<'a> {
    world: &'a World,
    scope: Scope,
}

impl Actor<'_> {
    async fn services(&self) -> Vec<Service> {
        let mut services = self
            .scope
            .list_services(ServiceKind::Service, &all())
            .await
            .unwrap()
            .rows;
        services.extend(
            self.scope
                .list_services(ServiceKind::Worker, &all())
                .await
                .unwrap()
                .rows,
        );
        services
    }

    async fn project(&self, n: u8) -> Option<domain::ProjectId> {
        pick(&self.scope.list_projects(&all()).await.unwrap().rows, n).map(|project| project.id)
    }

    async fn config_item(&self, n: u8) -> Option<ConfigItem> {
        let config = pick(&self.scope.list_configs(&all()).await.unwrap().rows, n)?;
        pick(
            &self.scope.list_config_items(config.id, &all()).await.unwrap().rows,
            n / 7,
        )
    }

    async fn secret_item(&self, n: u8) -> Option<SecretItem> {
        let secret = pick(&self.scope.list_secrets(&all()).await.unwrap().rows, n)?;
        pick(
            &self.scope.list_secret_items(secret.id, &all()).await.unwrap().rows,
            n / 7,
        )
    }

    /// `None`: there is nothing to do it to.
    async fn take(&self, step: Step) -> Option<domain::Result<()>> {
        let scope = &self.scope;
        Some(match step {
            Step::CreateService(n) => {
                let new = NewService {
                    project: self.project(n).await,
                    ..web(&format!("web-{}", n % 8))
                };
                scope.create_service(new).await.map(drop)
            }
            Step::CreateWorker(n) => {
                let new = NewService::new(ServiceKind::Worker, format!("job-{}", n % 4), "app:v1", None);
                scope.create_service(new).await.map(drop)
            }
            Step::Patch(a, b) => {
                let id = pick(&self.services().await, a)?.id;
                scope
                    .patch_service(id, image(&format!("app:v{}", b % 4)))
                    .await
                    .map(drop)
            }
            Step::DeployAgain(n) => scope
                .deploy_again(pick(&self.services().await, n)?.id, "")
                .await
                .map(drop),
            Step::Advance(n) => self.advance(n, false).await?,
            Step::Fail(n) => self.advance(n, true).await?,
            Step::Rollback(a, b) => {
                let id = pick(&self.services().await, a)?.id;
                let query = ListQuery {
                    service: Some(id),
                    ..all()
                };
                let target = pick(&scope.list_deployments(&query).await.unwrap().rows, b)?;
                let secrets = if b % 2 == 0 { Source::Snapshot } else { Source::Current };
                let request = RollbackRequest {
                    secrets,
                    ..Default::default()
                };
                scope.rollback(target.id, request).await.map(drop)
            }
            Step::Cancel(n) => scope.cancel(pick(&self.services().await, n)?.id).await.map(drop),
            Step::Delete(n) => scope.delete_service(pick(&self.services().await, n)?.id).await,
            Step::Purge(n) => self.purge(n).await?,
            Step::AddInstance(n) => {
                let service = pick(&self.services().await, n)?;
                let (id, deployment, template) = (instance(), service.last?, Template("t".into()));
                self.world
                    .apply(
                        service.id,
                        vec![Effect::AddInstance {
                            id,
                            deployment,
                            template,
                        }],
                    )
                    .await
            }
            Step::CreateRoute(a, b) => {
                let domain = pick(&scope.list_domains(&all()).await.unwrap().rows, b)?.id;
                let service = pick(&self.services().await, a)?.id;
                let path = format!("/{}", b % 3);
                scope
                    .create_route(NewRoute {
                        domain,
                        service,
                        path,
                        enabled: b % 2 == 0,
                    })
                    .await
                    .map(drop)
            }
            Step::MoveRoute(a, b) => {
                let route = pick(&scope.list_routes(&all()).await.unwrap().rows, a)?.id;
                let service = Some(pick(&self.services().await, b)?.id);
                scope
                    .patch_route(
                        route,
                        RoutePatch {
                            service,
                            ..Default::default()
                        },
                    )
                    .await
                    .map(drop)
            }
            Step::DeleteRoute(n) => {
                scope
                    .delete_route(pick(&scope.list_routes(&all()).await.unwrap().rows, n)?.id)
                    .await
            }
            Step::CreateDomain(n) => scope
                .create_domain(&format!("d{}.example", n % 6), self.project(n).await)
                .await
                .map(drop),
            Step::DeleteDomain(n) => {
                scope
                    .delete_domain(pick(&scope.list_domains(&all()).await.unwrap().rows, n)?.id)
                    .await
            }
            Step::CreateConfig(n) => scope
                .create_config(&format!("c{}", n % 4), self.project(n).await)
                .await
                .map(drop),
            Step::AddConfigItem(a, b) => {
                let config = pick(&scope.list_configs(&all()).await.unwrap().rows, a)?.id;
                scope
                    .create_config_item(config, &format!("K{}", b % 5), "v")
                    .await
                    .map(drop)
            }
            Step::DeleteConfigItem(n) => {
                let item = self.config_item(n).await?;
                scope.delete_config_item(item.config, item.id).await
            }
            Step::DeleteConfig(n) => {
                scope
                    .delete_set(pick(&scope.list_configs(&all()).await.unwrap().rows, n)?.id)
                    .await
            }
            Step::CreateSecret(n) => scope
                .create_secret(&format!("s{}", n % 4), self.project(n).await)
                .await
                .map(drop),
            Step::AddSecretItem(a, b) => {
                let secret = pick(&scope.list_secrets(&all()).await.unwrap().rows, a)?.id;
                let value = SecretString::new(format!("v{b}"));
                scope
                    .create_secret_item(secret, &format!("S{}", b % 5), value)
                    .await
                    .map(drop)
            }
            Step::RotateSecretItem(n) => {
                let item = self.secret_item(n).await?;
                let value = Some(SecretString::new(format!("r{n}")));
                scope
                    .patch_secret_item(item.secret, item.id, None, value)
                    .await
                    .map(drop)
            }
            Step::DeleteSecretItem(n) => {
                let item = self.secret_item(n).await?;
                scope.delete_secret_item(item.secret, item.id).await
            }
            Step::DeleteSecret(n) => {
                scope
                    .delete_set(pick(&scope.list_secrets(&all()).await.unwrap().rows, n)?.id)
                    .await
            }
            Step::Attach(a, b) => {
                let id = pick(&self.services().await, a)?.id;
                let config = pick(&scope.list_configs(&all()).await.unwrap().rows, b).map(|it| it.id);
                let secret = pick(&scope.list_secrets(&all()).await.unwrap().rows, b).map(|it| it.id);
                let patch = ServicePatch {
                    config: Some(config),
                    secret: Some(secret),
                    ..Default::default()
                };
                scope.patch_service(id, patch).await.map(drop)
            }
            Step::CreateProject(n) => scope.create_project(format!("p{}", n % 3).as_str()).await.map(drop),
            Step::DeleteProject(n) => scope.delete_project(self.project(n).await?).await,
            Step::CreateKey => scope.create_api_key("k", None).await.map(drop),
        })
    }

    /// One step of the rollout that is on its way.
    async fn advance(&self, n: u8, fail: bool) -> Option<domain::Result<()>> {
        let service = pick(&self.services().await, n)?;
        let active = self.world.state(service.id).await.active?;
        let next = match active.stage {
            _ if fail => Stage::Failed,
            Stage::Queued | Stage::Paused => Stage::Deploying,
            Stage::Canceling => Stage::Canceled,
            _ => Stage::Succeeded,
        };
        Some(
            self.world
                .apply(service.id, vec![stage(active.id, active.stage, next)])
                .await,
        )
    }

    /// Reconcilers take down what is deleted.
    async fn purge(&self, n: u8) -> Option<domain::Result<()>> {
        let ids: Vec<_> = self.world.system().services_changed_since(0, 1000).await.unwrap();
        let ids: Vec<_> = ids.into_iter().map(|(id, _)| id).collect();
        let states = self.world.system().load(&ids).await.unwrap();
        let deleting: Vec<_> = states.into_iter().filter(|state| state.service.deleting).collect();
        let state = pick(&deleting, n)?;
        let gone = |row: &InstanceRow| Effect::Gone {
            id: row.id,
            crashed: false,
            exit: None,
            memory_peak: None,
        };
        let mut effects: Vec<_> = state.instances.iter().map(gone).collect();
        effects.push(Effect::Purge);
        Some(self.world.apply(state.service.id, effects).await)
    }
}

/// Counters as they should be, by counting.
const COUNTED: &str = "
    select project as owner, 'services' as kind, count(*) as n from service
        where kind = 'service' and not deleting group by project
    union all select project, 'workers', count(*) from service where kind = 'worker' and not deleting group by project
    union all select d.project, 'deployments', count(*) from deployment d join service s on s.id = d.service
        where s.kind = 'service' and not s.deleting group by d.project
    union all select service, 'service_deployments', count(*) from deployment group by service
    union all select project, 'routes', count(*) from route group by project
    union all select service, 'service_routes', count(*) from route group by service
    union all select project, 'domains', count(*) from domain group by project
    union all select project, 'configs', count(*) from config group by project
    union all select project, 'secrets', count(*) from secret group by project
    union all select config, 'config_items', count(*) from config_item group by config
    union all select secret, 'secret_items', count(*) from secret_item group by secret
    union all select account, 'projects', count(*) from project group by account
    union all select account, 'memberships', count(*) from member group by account
    union all select project, 'members', count(*) from member group by project
    union all select account, 'api_keys', count(*) from api_key group by account";

/// Positions as they should be, by counting. Empty buckets are not kept.
const PLACED: &str = "
    with row_of (project, kind, at_us) as (
        select d.project, 'deployments', d.created_at_us from deployment d join service s on s.id = d.service
            where s.kind = 'service' and not s.deleting
        union all select s.project, s.kind || 's', s.created_at_us from service s where not s.deleting
        union all select r.project, 'routes', r.created_at_us from route r
        union all select o.project, 'domains', o.created_at_us from domain o
        union all select c.project, 'configs', c.created_at_us from config c
        union all select x.project, 'secrets', x.created_at_us from secret x
        union all select p.id, 'projects', p.created_at_us from project p),
    owned (owner, kind, at_us) as (
        select project, kind, at_us from row_of union all select '', kind, at_us from row_of)
    select o.owner, o.kind || ' ' || w.level || ' ' || (o.at_us / w.width) as kind, count(*) as n
    from owned o cross join
        (select 22 as level, 4194304 as width union all select 31, 2147483648 union all select 40, 1099511627776) w
    group by o.owner, o.kind || ' ' || w.level || ' ' || (o.at_us / w.width)";

/// What must never be found. Each counts violations.
const VIOLATIONS: &[(&str, &str)] = &[
    (
        "a sealed value that nobody needs",
        "select count(*) as n from secret_value v
        where not exists (select 1 from secret_item i where i.secret = v.secret and i.key = v.key
            and i.value_version = v.version)
        and not exists (select 1 from deployment_secret d where d.secret = v.secret and d.key = v.key
            and d.version = v.version)",
    ),
    (
        "a kept deployment whose sealed value is gone",
        "select count(*) as n from deployment_secret d
        where not exists (select 1 from secret_value v where v.secret = d.secret and v.key = d.key
            and v.version = d.version)",
    ),
    (
        "an item whose sealed value is gone",
        "select count(*) as n from secret_item i
        where not exists (select 1 from secret_value v where v.secret = i.secret and v.key = i.key
            and v.version = i.value_version)",
    ),
    (
        "a service whose stand contradicts its deployments",
        "select count(*) as n from service s
        where coalesce(s.active, '') <> coalesce((select d.id from deployment d where d.service = s.id and d.stage
                in ('queued', 'deploying', 'paused', 'finalizing', 'canceling')), '')
            or s.last <> (select d.id from deployment d where d.service = s.id order by d.version desc limit 1)
            or s.last_stage <> (select d.stage from deployment d where d.service = s.id order by d.version desc limit 1)
            or s.version_counter <> (select max(d.version) from deployment d where d.service = s.id)
            or coalesce(s.serving, '') <> coalesce((select d.id from deployment d where d.service = s.id
                and d.stage = 'succeeded' and not d.rolled_back order by d.version desc limit 1), '')",
    ),
    (
        "too many kept deployments",
        "select count(*) as n from (select d.service from deployment d
        group by d.service having count(*) > 12) it",
    ),
    (
        "a resource of two owners",
        "select count(*) as n from route r join service s on s.id = r.service
        join domain o on o.id = r.domain where s.account <> o.account or r.project <> s.project",
    ),
];

async fn table(world: &World, sql: &'static str) -> Vec<String> {
    let mut tx = world.store.db.read().await.unwrap();
    let rows = tx.all(sql, args![]).await.unwrap();
    let line = |row: &db::Row| {
        format!(
            "{} {} {}",
            row.text("owner").unwrap(),
            row.text("kind").unwrap(),
            row.int("n").unwrap()
        )
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    lines.sort();
    lines
}

pub(super) async fn check(world: &World) {
    let kept = table(
        world,
        "select owner, kind, n from counter where n <> 0 and kind not like 'outcome%'",
    )
    .await;
    assert_eq!(kept, table(world, COUNTED).await);
    let kept = "select owner, kind || ' ' || level || ' ' || bucket as kind, n from position";
    assert_eq!(table(world, kept).await, table(world, PLACED).await);
    for (violation, sql) in VIOLATIONS {
        let mut tx = world.store.db.read().await.unwrap();
        assert_eq!(tx.one(sql, args![]).await.unwrap().int("n").unwrap(), 0, "{violation}");
    }
    journal_is_whole(world).await;
}

fn hold_on(engine: Engine, cases: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Runs {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Runs::default()
    });
    let steps = proptest::collection::vec((any::<bool>(), step()), 1..80);
    let result = runner.run(&steps, |steps| {
        runtime.block_on(async {
            let Some(world) = World::new(engine).await else { return };
            let actors = [world.tenant("me").await, world.tenant("them").await];
            let actors = actors.map(|scope| Actor { world: &world, scope });
            for (second, step) in steps {
                let result = actors[usize::from(second)].take(step).await;
                // Whatever is refused is refused as the caller's mistake, never as an accident of ours.
                if let Some(Err(error)) = result {
                    let fine = matches!(error.kind, Kind::Invalid(_) | Kind::Refused(_) | Kind::Conflict(_));
                    assert!(fine && !error.context.contains("in `"), "{step:?}: {error:?}");
                }
            }
            check(&world).await;
        });
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn counters_equal_counts_after_any_steps_on_sqlite() {
    hold_on(Engine::Sqlite, 60);
}

#[cfg(feature = "postgres")]
#[test]
fn counters_equal_counts_after_any_steps_on_postgres() {
    hold_on(Engine::Postgres, 12);
}
