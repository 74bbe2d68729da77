//! Deep pages: found by position, without counting off what lies before them (B9).

use domain::{AccountId, ConfigId, DeploymentId, DomainId, ProjectId, Stage};
use uuid::Uuid;

use super::bed::{message, web};
use super::{World, both, counters};
use crate::db::{Sql, args};
use crate::ledger::count;
use crate::position::{self, Rows, Window};
use crate::scope::{new_project, new_set};
use crate::*;

const ROWS: i64 = 1_500;
const PAGE: u32 = 20;
/// Rows of a list that is not counted off any more.
const MANY: i64 = 520;

/// Two projects of one account, and how many deployments of each are recorded over days, some at the same moment.
struct History {
    world: World,
    me: Scope,
    /// `(project, version, created_at_us)`, the newest first.
    rows: Vec<(ProjectId, i64, i64)>,
}

impl History {
    async fn new(world: World) -> History {
        let me = world.tenant("me").await;
        let other = me.create_project("other").await.unwrap().id;
        let (first, _) = me.create_service(web("web")).await.unwrap();
        let new = NewService {
            project: Some(other),
            ..web("shop")
        };
        let (second, _) = me.create_service(new).await.unwrap();
        let (mut rows, mut spec) = (Vec::new(), String::new());
        for service in [&first, &second] {
            let only = &me.list_deployments(&of(service.id)).await.unwrap().rows[0];
            rows.push((service.project, 1, only.created_at_us));
            world.finish(only, Stage::Failed).await;
            spec = crate::db::json(&only.spec).unwrap();
        }
        let start_us = world.now_us() + 1_000;
        let mut tx = world.store.db.write().await.unwrap();
        for n in 0..ROWS {
            // Bursts of seven, then a pause that grows.
            let at_us = start_us + (n / 7) * (n / 7) * 9_000_000;
            let service = if n % 3 == 0 { &second } else { &first };
            let id = DeploymentId(Uuid::now_v7());
            let by = AccountId(Uuid::nil());
            let none = None::<DeploymentId>;
            let values = args![
                id,
                service.id,
                service.project,
                n + 2,
                &spec,
                Some(80_u16),
                None::<String>,
                "t",
                None::<domain::SecretId>,
                none,
                "",
                by,
                at_us,
                false,
                0_i64,
            ];
            tx.run(sql::DEPLOYMENT_INSERT, values).await.unwrap();
            let values = args![id, service.id, Stage::Queued, Stage::Failed, "", at_us];
            tx.run(sql::DEPLOYMENT_SET_STAGE, values).await.unwrap();
            tx.place(service.project, count::DEPLOYMENTS, at_us, 1).await.unwrap();
            rows.push((service.project, n + 2, at_us));
        }
        tx.commit().await.unwrap();
        rows.sort_by_key(|(_, version, at_us)| std::cmp::Reverse((*at_us, *version)));
        History { world, me, rows }
    }

    /// The versions and times of every page, one after the other, by list.
    async fn listed(&self, who: &Scope, query: ListQuery) -> Vec<(i64, i64)> {
        let mut seen = Vec::new();
        for number in 1.. {
            let query = ListQuery {
                page: PageNumber::Number(number),
                page_size: PAGE,
                ..query.clone()
            };
            let page = who.list_deployments(&query).await.unwrap();
            seen.extend(page.rows.iter().map(|row| (row.version, row.created_at_us)));
            if number == page.pages {
                break;
            }
        }
        seen
    }
}

fn of(service: domain::ServiceId) -> ListQuery {
    ListQuery {
        service: Some(service),
        page_size: PAGE,
        ..ListQuery::default()
    }
}

fn by(field: &str, direction: Direction) -> ListQuery {
    ListQuery {
        ordering: vec![(field.to_owned(), direction)],
        ..ListQuery::default()
    }
}

both! {
    /// S2.32, S2.33: all pages together are the list, whoever asks and in whichever direction.
    async fn pages_found_by_position_are_those_that_counting_off_would_give(world: World) {
        let history = History::new(world).await;
        let operator = history.world.operator().await;
        let times = |project: Option<ProjectId>| -> Vec<i64> {
            let rows = history.rows.iter().filter(|(of, _, _)| project.is_none_or(|it| it == *of));
            rows.map(|(_, _, at_us)| *at_us).collect()
        };
        let project = history.rows[0].0;
        for who in [&history.me, &operator] {
            for only in [None, Some(project)] {
                let query = ListQuery { project: only, ..ListQuery::default() };
                let seen: Vec<i64> = history.listed(who, query).await.iter().map(|row| row.1).collect();
                assert_eq!(seen, times(only));

                let query = ListQuery { project: only, ..by("deployed_at", Direction::Ascending) };
                let mut seen: Vec<i64> = history.listed(who, query).await.iter().map(|row| row.1).collect();
                seen.reverse();
                assert_eq!(seen, times(only));
            }
            // Orderings without positions are still right.
            let versions = history.listed(who, by("version_number", Direction::Ascending)).await;
            assert!(versions.is_sorted_by_key(|row| row.0));
            assert_eq!(versions.len(), history.rows.len());
        }
        let nobody = history.world.tenant("nobody").await;
        assert!(nobody.list_deployments(&ListQuery { page_size: PAGE, ..ListQuery::default() }).await.unwrap().rows.is_empty());
    }

    /// Every list, not only those that are long as a rule.
    async fn every_list_is_paged_by_position(world: World) {
        let me = world.tenant("me").await;
        let operator = world.operator().await;
        let query = ListQuery { page_size: PAGE, ..ListQuery::default() };
        let project = me.list_projects(&query).await.unwrap().rows[0].id;
        let mut tx = world.store.db.write().await.unwrap();
        for n in 0..MANY {
            let at_us = world.now_us() + n * n * 1_000_000;
            let account = me.principal().account;
            let values = args![DomainId(Uuid::now_v7()), project, account, format!("h{n}.example"), at_us];
            tx.run(sql::DOMAIN_INSERT, values).await.unwrap();
            tx.place(project, count::DOMAINS, at_us, 1).await.unwrap();
            let name = format!("n{n}");
            let id = ConfigId(Uuid::now_v7());
            new_set(&mut tx, &Set { id, project, name: name.clone(), is_default: false, created_at_us: at_us }, account)
                .await
                .unwrap();
            let id = ProjectId(Uuid::now_v7());
            let made = Project { id, name, is_default: false, environment: None, created_at_us: at_us, updated_at_us: at_us };
            new_project(&world.store, &mut tx, &made, account).await.unwrap();
        }
        tx.commit().await.unwrap();
        for direction in [Direction::Ascending, Direction::Descending] {
            for who in [&me, &operator] {
                let mut seen: [Vec<i64>; 3] = Default::default();
                let pages = (MANY as u64 + 1).div_ceil(u64::from(PAGE));
                for number in 1..=pages {
                    let page = PageNumber::Number(number);
                    let query = ListQuery { page, page_size: PAGE, ..by("created_at", direction) };
                    // Of domains there is none by default, so that their last page may not be there.
                    let domains = who.list_domains(&query).await.map(|page| page.rows).unwrap_or_default();
                    seen[0].extend(domains.iter().map(|row| row.created_at_us));
                    seen[1].extend(who.list_configs(&query).await.unwrap().rows.iter().map(|row| row.created_at_us));
                    seen[2].extend(who.list_projects(&query).await.unwrap().rows.iter().map(|row| row.created_at_us));
                }
                for times in seen {
                    assert!(times.len() as i64 >= MANY);
                    let sorted = match direction {
                        Direction::Ascending => times.is_sorted(),
                        Direction::Descending => times.is_sorted_by(|a, b| a >= b),
                    };
                    assert!(sorted);
                }
            }
        }
    }

    /// The migration gives an older database the positions that it would have kept.
    async fn an_older_database_gets_the_positions_that_it_would_have_kept(world: World) {
        let me = world.tenant("me").await;
        let project = me.create_project("p").await.unwrap().id;
        for (n, project) in [(1, None), (2, Some(project)), (3, Some(project))] {
            world.advance(5_000_000_000);
            me.create_domain(&format!("h{n}.example"), project).await.unwrap();
            me.create_set::<ConfigId>(&format!("c{n}"), project).await.unwrap();
        }
        let (service, _) = me.create_service(web("web")).await.unwrap();
        let domain = me.domain_by_hostname("h1.example").await.unwrap().id;
        me.create_route(NewRoute { domain, service: service.id, path: "/".into(), enabled: true }).await.unwrap();
        counters::check(&world).await;
        let mut tx = world.store.db.write().await.unwrap();
        let younger = "delete from position where kind in ('routes', 'domains', 'configs', 'secrets', 'projects')";
        tx.run(younger, args![]).await.unwrap();
        let migration = include_str!("../../migrations/0011_positions_of_all.sql");
        for statement in migration.split(';').filter(|statement| statement.contains("insert into")) {
            tx.run(Sql::composed(statement.to_owned()), args![]).await.unwrap();
        }
        tx.commit().await.unwrap();
        counters::check(&world).await;
    }

    /// What is counted off is short: by a limit of its own, or because a longer list is not ordered so.
    async fn what_has_no_positions_is_short(world: World) {
        let me = world.tenant("me").await;
        let query = ListQuery { page_size: PAGE, ..ListQuery::default() };
        let project = me.list_projects(&query).await.unwrap().rows[0].id;
        let domain = me.create_domain("a.example", None).await.unwrap();
        let (service, _) = me.create_service(web("web")).await.unwrap();
        let account = me.principal().account;
        let old = me.create_api_key("old", None).await.unwrap().0;
        me.revoke_api_key(old.id).await.unwrap();
        let mut tx = world.store.db.write().await.unwrap();
        let many = list::COUNTED_OFF_MAX as i64;
        for (owner, kind) in [
            (project.to_string(), count::DOMAINS),
            (service.id.to_string(), count::SERVICE_ROUTES),
            (account.to_string(), count::MEMBERSHIPS),
            (account.to_string(), count::API_KEYS),
        ] {
            tx.count(owner, kind, many).await.unwrap();
        }
        tx.commit().await.unwrap();

        let by_name = by("hostname", Direction::Ascending);
        let refused = me.list_domains(&by_name).await;
        assert!(message(refused, "ordering").contains("more than 10000 rows can be ordered by created_at only"));
        for time in [Direction::Ascending, Direction::Descending] {
            assert_eq!(me.list_domains(&by("created_at", time)).await.unwrap().rows.len(), 1);
        }
        let new = NewRoute { domain: domain.id, service: service.id, path: "/".into(), enabled: true };
        assert_eq!(message(me.create_route(new).await, ""), "Maximum of 1000 routes to one service reached");
        assert_eq!(message(me.create_project("p").await, ""), "Maximum of 10000 projects of one account reached");
        me.create_api_key("new", None).await.unwrap();
        let keys = me.list_api_keys(&query).await.unwrap().rows;
        assert!(keys.iter().all(|key| key.id != old.id) && !keys.is_empty(), "the oldest of no use is gone");
    }

    /// What a deep page reads: its own rows and at most the rest of two of the narrowest buckets.
    async fn the_span_of_a_page_holds_few_rows_at_any_depth(world: World) {
        let history = History::new(world).await;
        let count = history.rows.len() as i64;
        for direction in [Direction::Ascending, Direction::Descending] {
            for offset in (0..count).step_by(PAGE as usize) {
                let limit = i64::from(PAGE).min(count - offset);
                let who = history.me.principal().clone();
                let rows = Rows { who: &who, project: "", kind: count::DEPLOYMENTS, direction };
                let mut tx = history.world.store.db.read().await.unwrap();
                let Window { from_us, before_us, skip } =
                    position::window(&mut tx, &rows, offset, limit).await.unwrap().expect("a page of the list");
                let inside = history.rows.iter().filter(|row| (from_us..before_us).contains(&row.2)).count() as i64;
                // A bucket holds one burst; the first one of all holds the services' first deployments, too.
                assert!((0..10).contains(&skip), "{offset}: {skip}");
                assert!(inside >= skip + limit && inside <= limit + 20, "{offset}: {inside}");
            }
        }
    }
}

/// Read from an index, bounded at both ends: nothing is scanned, and nothing before the span is visited.
#[tokio::test]
async fn a_deep_page_is_a_range_of_an_index() {
    let history = History::new(World::new(super::Engine::Sqlite).await.unwrap()).await;
    let mut tx = history.world.store.db.read().await.unwrap();
    let deep: Vec<String> = list::all()
        .into_iter()
        .filter(|text| text.ends_with("limit $7 offset $8"))
        .collect();
    let by_time = |text: &str| {
        let order = text.split_once(" order by ").map_or("", |(_, order)| order);
        order.get(2..).is_some_and(|column| column.starts_with("created_at_us"))
    };
    // Members count off their projects: nobody has many.
    let members_projects =
        |text: &str| text.contains("from project p") && text.contains("from member m where m.account = $1 and not $2");
    let deep = deep.into_iter().filter(|text| by_time(text) && !members_projects(text));
    let mut plans = 0;
    for text in deep {
        let explain = || Sql::composed(format!("explain query plan {text}"));
        let kind = if text.contains("s.kind = $4") { "service" } else { "" };
        let admin = text.contains("cast($1 as text)");
        for project in [String::new(), history.rows[0].0.to_string()] {
            let values = args![
                history.me.principal().account,
                admin,
                project,
                kind,
                0_i64,
                1_i64,
                20_i64,
                3_i64
            ];
            let rows = tx.all(explain(), values).await.unwrap();
            let plan: Vec<String> = rows.iter().map(|row| row.text("detail").unwrap()).collect();
            let ranged = plan
                .iter()
                .any(|line| line.contains("created_at_us>? AND created_at_us<?"));
            assert!(ranged, "{text}\n{plan:#?}");
            assert!(!plan.iter().any(|line| line.starts_with("SCAN")), "{text}\n{plan:#?}");
            plans += 1;
        }
    }
    assert!(plans >= 50, "{plans}");
}
