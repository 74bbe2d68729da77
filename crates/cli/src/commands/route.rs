//! `hob route`: which host and path lead where.

use std::fmt;
use std::str::FromStr;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Common;
use crate::environment::Environment;
use crate::error::{Result, Trouble};
use crate::find::{Found, Kind, unknown};
use crate::model::{self, Domain, Route};
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

#[derive(Args, Debug)]
#[command(after_help = "\
A path matches whole segments: /api leads /api and /api/users, not /apix. The longest path wins.
A service without a route answers at NAME and the server's base domain.

Examples:
  hob route add shop.example.com web
  hob route add shop.example.com/api api
  hob route add shop.example.com web-v2 --move      from the service that has it
  hob route list
  hob route rm shop.example.com/api")]
pub struct RouteCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Lead a host and path to a service
    Add {
        #[arg(value_name = "HOST/PATH")]
        target: RouteTarget,
        /// Service
        name: String,
        /// Take it from the service that has it now
        #[arg(long = "move")]
        takes: bool,
    },
    /// Remove a route
    Rm {
        #[arg(value_name = "HOST/PATH")]
        target: RouteTarget,
    },
    /// Show routes
    List {
        /// Only those of this service
        name: Option<String>,
    },
}

/// `HOST/PATH`, as in `shop.example.com/api`. Without a path it is `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTarget {
    pub host: String,
    pub path: String,
}

impl FromStr for RouteTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("://") || text.contains(['?', '#', ' ']) {
            return Err("use HOST/PATH such as shop.example.com/api, without http:// and query".to_owned());
        }
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        if host.is_empty() || host.contains(':') {
            return Err("use HOST/PATH such as shop.example.com/api, without a port".to_owned());
        }
        Ok(RouteTarget {
            host: host.to_ascii_lowercase(),
            path: format!("/{path}"),
        })
    }
}

impl fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host, self.path)
    }
}

impl RouteCommand {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
        match self.action {
            Action::Add { target, name, takes } => {
                let found = session.find(&name).await?;
                let document = session.route_to(&target, &found, takes).await?;
                session.screen.either(&document, || format!("{target} leads to {name}"))
            }
            Action::Rm { target } => {
                let route = session.route(&target).await?;
                let Some(route) = route else {
                    let all = session.routes(None).await?;
                    let names: Vec<String> = all.iter().map(|r| format!("{}{}", r.hostname, r.path)).collect();
                    let names = names.iter().map(String::as_str);
                    return Err(unknown(
                        "route",
                        &target.to_string(),
                        names,
                        "`hob route list` shows all",
                    ));
                };
                session.client.delete(&format!("/api/routes/{}/", route.id)).await?;
                session.screen.either(&json!({ "removed": target.to_string() }), || {
                    format!("{target} is removed")
                })
            }
            Action::List { name } => session.list_routes(name).await,
        }
    }
}

impl Session<'_> {
    async fn list_routes(&mut self, name: Option<String>) -> Result<()> {
        let all = self.workloads().await?;
        let service = match &name {
            Some(name) => Some(self.find(name).await?.service.id),
            None => None,
        };
        let mut routes = self.routes(service.as_deref()).await?;
        routes.sort_by(|a, b| (&a.hostname, &a.path).cmp(&(&b.hostname, &b.path)));
        let service_name = |id: &str| {
            all.iter()
                .find(|f| f.service.id == id)
                .map_or(id, Found::name)
                .to_owned()
        };
        if self.screen.is_json() {
            let row = |r: &Route| {
                json!({ "id": r.id, "host": r.hostname, "path": r.path, "service": service_name(&r.service),
                    "enabled": r.enabled, "status": r.status })
            };
            let rows: Vec<_> = routes.iter().map(row).collect();
            return self.screen.document(&json!({ "results": rows }));
        }
        if routes.is_empty() {
            return self
                .screen
                .line("there are no routes; `hob route add HOST/PATH SERVICE` makes one");
        }
        let row = |r: &Route| {
            let state = if r.enabled {
                r.status.clone()
            } else {
                "disabled".to_owned()
            };
            [format!("{}{}", r.hostname, r.path), service_name(&r.service), state]
        };
        self.screen
            .line(text::table(["ROUTE", "SERVICE", "STATUS"], routes.iter().map(row)))
    }

    async fn route(&self, target: &RouteTarget) -> Result<Option<Route>> {
        let routes = self.routes(None).await?;
        Ok(routes
            .into_iter()
            .find(|route| route.hostname == target.host && route.path == target.path))
    }

    /// Refuses a route that leads elsewhere, before anything is changed for it.
    pub async fn route_is_free(&self, target: &RouteTarget, for_service: Option<&Found>) -> Result<()> {
        let Some(route) = self.route(target).await? else {
            return Ok(());
        };
        if for_service.is_some_and(|found| found.service.id == route.service) {
            return Ok(());
        }
        Err(
            Trouble::failed(format!("{target} leads to another service already")).advise(format!(
                "`hob route list` shows which; `hob route add {target} SERVICE --move` takes it over"
            )),
        )
    }

    /// Makes host and path lead to the service. What leads there already stays.
    pub async fn route_to(&mut self, target: &RouteTarget, found: &Found, takes: bool) -> Result<serde_json::Value> {
        if found.kind == Kind::Worker {
            return Err(Trouble::usage(format!(
                "{} is a worker, and workers have no routes",
                found.name()
            )));
        }
        let cannot = |trouble: Trouble| trouble.within(format!("cannot route {target} to {}", found.name()));
        if !takes {
            self.route_is_free(target, Some(found)).await?;
        }
        if let Some(route) = self.route(target).await? {
            let body = json!({ "service": found.service.id, "enabled": true });
            return self
                .client
                .patch(&format!("/api/routes/{}/", route.id), body)
                .await
                .map_err(cannot);
        }
        let domain = self.domain_or_new(&target.host).await.map_err(cannot)?;
        let body = json!({ "path": target.path, "domain": domain.id, "service": found.service.id });
        self.client.post("/api/routes/", body).await.map_err(cannot)
    }

    pub async fn domain_or_new(&mut self, hostname: &str) -> Result<Domain> {
        if let Some(domain) = self.domain(hostname).await? {
            return Ok(domain);
        }
        let mut body = json!({ "hostname": hostname });
        if let Some(project) = self.project_id().await? {
            body["project"] = json!(project);
        }
        model::read(&self.client.post("/api/domains/", body).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_and_a_path() {
        let target = |text: &str| text.parse::<RouteTarget>().map(|t| (t.host, t.path));
        let pair = |host: &str, path: &str| Ok((host.to_owned(), path.to_owned()));
        assert_eq!(target("Shop.example.com"), pair("shop.example.com", "/"));
        assert_eq!(target("a.b/"), pair("a.b", "/"));
        assert_eq!(target("a.b/c/d"), pair("a.b", "/c/d"));
        for bad in ["", "/api", "http://a.b/c", "a.b:80/c", "a.b/c?d"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
