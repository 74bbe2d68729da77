//! Routes.

use domain::{Error, ProjectId, Result, RouteId, ServiceId};
use uuid::Uuid;

use super::{Scope, ended};
use crate::db::{Row, Serial, Tx, args};
use crate::input::{ListQuery, NewRoute, Page, RoutePatch};
use crate::ledger::count;
use crate::list::{self, Count};
use crate::rows::{Domain, Route, ServiceKind};
use crate::{check, read, sql};

/// Routes to one service.
const ROUTES_MAX: u64 = 1000;

impl Scope {
    /// Leads a domain and a path to a service of the same owner.
    pub async fn create_route(&self, new: NewRoute) -> Result<Route> {
        check::route_path(&new.path)?;
        let mut tx = self.write().await?;
        let target = self.target(&mut tx, new.service, None).await?;
        let domain = self.route_domain(&mut tx, &new, target.owner).await?;
        let now_us = tx.now_us();
        let route = Route {
            id: RouteId(Uuid::now_v7()),
            project: target.project,
            domain: domain.id,
            hostname: domain.hostname,
            service: new.service,
            path: new.path,
            enabled: new.enabled,
            created_at_us: now_us,
            updated_at_us: now_us,
        };
        self.refuse_taken_route(&mut tx, &route).await?;
        let values = args![
            route.id,
            route.project,
            target.owner,
            route.domain,
            route.service,
            &route.path,
            route.enabled,
            now_us,
        ];
        tx.run(sql::ROUTE_INSERT, values).await?;
        tx.about(route.id);
        counted(&mut tx, route.project, route.service, now_us, 1).await?;
        touch(&mut tx, route.service).await?;
        tx.commit().await?;
        Ok(route)
    }

    pub async fn route(&self, id: RouteId) -> Result<Route> {
        let mut tx = self.read().await?;
        let row = self.visible(&mut tx, sql::ROUTE, "route", id).await?;
        ended(tx, read::route(&row)?).await
    }

    pub async fn list_routes(&self, query: &ListQuery) -> Result<Page<Route>> {
        let mut tx = self.read().await?;
        let parent = self.listed_service(&mut tx, query).await?;
        let count = match query.service {
            Some(_) => Count::Of(&parent, count::SERVICE_ROUTES),
            None => Count::InProjects(count::ROUTES),
        };
        let page = list::ROUTES
            .page(&mut tx, &self.who, query, &parent, count, read::route)
            .await?;
        ended(tx, page).await
    }

    /// Re-points, moves or switches a route (S0.50). It takes effect with the edge's next table.
    pub async fn patch_route(&self, id: RouteId, patch: RoutePatch) -> Result<Route> {
        let mut tx = self.write().await?;
        let row = self.visible(&mut tx, sql::ROUTE, "route", id).await?;
        let (before, owner) = (read::route(&row)?, read::owner(&row)?);
        let mut after = before.clone();
        if let Some(path) = patch.path {
            check::route_path(&path)?;
            after.path = path;
        }
        if let Some(service) = patch.service {
            after.project = self.target(&mut tx, service, Some(owner)).await?.project;
            after.service = service;
        }
        if let Some(domain) = patch.domain {
            let row = self.chosen(&mut tx, sql::DOMAIN, "domain", domain, owner).await?;
            let domain = read::domain(&row)?;
            (after.domain, after.hostname) = (domain.id, domain.hostname);
        }
        after.enabled = patch.enabled.unwrap_or(after.enabled);
        if after == before {
            return ended(tx, before).await;
        }
        self.refuse_taken_route(&mut tx, &after).await?;
        after.updated_at_us = tx.now_us();
        let values = args![
            id,
            after.project,
            after.domain,
            after.service,
            &after.path,
            after.enabled,
            after.updated_at_us,
        ];
        tx.run(sql::ROUTE_UPDATE, values).await?;
        counted(&mut tx, before.project, before.service, before.created_at_us, -1).await?;
        counted(&mut tx, after.project, after.service, before.created_at_us, 1).await?;
        touch(&mut tx, before.service).await?;
        touch(&mut tx, after.service).await?;
        tx.commit().await?;
        Ok(after)
    }

    pub async fn delete_route(&self, id: RouteId) -> Result<()> {
        let mut tx = self.write().await?;
        let row = self.visible(&mut tx, sql::ROUTE, "route", id).await?;
        remove(&mut tx, &row).await?;
        tx.commit().await
    }

    /// The service that a route may lead to: never a worker, never another owner's.
    async fn target(&self, tx: &mut Tx, id: ServiceId, owner: Option<domain::AccountId>) -> Result<Target> {
        let row = tx.first(sql::SERVICE, self.bound([id.into()])).await?;
        let row = self.choice(row, "service", &id)?;
        let found = read::owner(&row)?;
        let fits = read::kind(&row)? == ServiceKind::Service && owner.is_none_or(|owner| owner == found);
        if !fits {
            return Err(check::no_such("service", id));
        }
        Ok(Target {
            project: row.parse("project")?,
            owner: found,
        })
    }

    async fn route_domain(&self, tx: &mut Tx, new: &NewRoute, owner: domain::AccountId) -> Result<Domain> {
        let row = self.chosen(tx, sql::DOMAIN, "domain", new.domain, owner).await?;
        read::domain(&row)
    }

    /// `/api` and `/api/` match the same requests and count as one.
    async fn refuse_taken_route(&self, tx: &mut Tx, route: &Route) -> Result<()> {
        let bare = route
            .path
            .strip_suffix('/')
            .filter(|bare| !bare.is_empty())
            .unwrap_or(&route.path);
        let values = args![route.domain, bare, route.id, format!("{}/", bare.trim_end_matches('/'))];
        let error = Error::invalid("non_field_errors", "The fields domain, path must make a unique set.");
        self.refuse_taken(tx, sql::ROUTE_TAKEN, values, error).await
    }
}

struct Target {
    project: ProjectId,
    owner: domain::AccountId,
}

/// One route more or less. Refuses one beyond [`ROUTES_MAX`].
async fn counted(tx: &mut Tx, project: ProjectId, service: ServiceId, created_at_us: i64, n: i64) -> Result<()> {
    if n > 0 && list::counter(tx, &service.to_string(), count::SERVICE_ROUTES).await? >= ROUTES_MAX {
        return Err(Error::refused(format!(
            "Maximum of {ROUTES_MAX} routes to one service reached"
        )));
    }
    tx.place(project, count::ROUTES, created_at_us, n).await?;
    tx.count(service, count::SERVICE_ROUTES, n).await
}

/// Makes reconcilers look at a service again.
pub(super) async fn touch(tx: &mut Tx, service: ServiceId) -> Result<()> {
    let revision = tx.next(Serial::Revision).await?;
    tx.run(sql::SERVICE_TOUCH, args![service, revision]).await.map(drop)
}

/// Deletes the route in a row that has its `id`, `project` and `service`.
pub(super) async fn remove(tx: &mut Tx, row: &Row) -> Result<()> {
    let service: ServiceId = row.parse("service")?;
    tx.run(sql::ROUTE_DELETE, args![row.parse::<RouteId>("id")?]).await?;
    counted(tx, row.parse("project")?, service, row.int("created_at_us")?, -1).await?;
    touch(tx, service).await
}
