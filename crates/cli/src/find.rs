//! From the names that people use to the ids that the interface uses.

use serde_json::Value;
use uuid::Uuid;

use crate::client::query;
use crate::error::{Result, Trouble};
use crate::model::{self, Deployment, Domain, Route, Service, Settings};
use crate::session::Session;
use crate::text;

/// The two halves of what can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Service,
    Worker,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Service, Kind::Worker];

    pub fn path(self) -> &'static str {
        match self {
            Kind::Service => "/api/services/",
            Kind::Worker => "/api/workers/",
        }
    }

    pub fn noun(self) -> &'static str {
        match self {
            Kind::Service => "service",
            Kind::Worker => "worker",
        }
    }
}

/// A service or worker, and how the server described it.
#[derive(Debug, Clone)]
pub struct Found {
    pub kind: Kind,
    pub service: Service,
    pub document: Value,
}

impl Found {
    pub fn new(kind: Kind, document: Value) -> Result<Found> {
        Ok(Found {
            kind,
            service: model::read(&document)?,
            document,
        })
    }

    /// `/api/services/ID/` and what follows.
    pub fn path(&self, tail: &str) -> String {
        format!("{}{}/{tail}", self.kind.path(), self.service.id)
    }

    pub fn name(&self) -> &str {
        &self.service.name
    }
}

impl Session<'_> {
    /// The id of `--project`, if it was given.
    pub async fn project_id(&self) -> Result<Option<String>> {
        let Some(project) = &self.project else {
            return Ok(None);
        };
        if Uuid::try_parse(project).is_ok() {
            return Ok(Some(project.clone()));
        }
        let rows = self.client.rows("/api/projects/", &[("name", project)]).await?;
        match rows
            .iter()
            .find(|row| row["name"] == project.as_str())
            .and_then(|row| row["id"].as_str())
        {
            Some(id) => Ok(Some(id.to_owned())),
            None => {
                let all = self.client.rows("/api/projects/", &[]).await?;
                Err(unknown(
                    "project",
                    project,
                    names(&all),
                    "The interface lists them at /api/projects/",
                ))
            }
        }
    }

    /// All services and workers of the project.
    pub async fn workloads(&self) -> Result<Vec<Found>> {
        let project = self.project_id().await?;
        let mut all = Vec::new();
        for kind in Kind::ALL {
            let mut filter = vec![("ordering", "name")];
            filter.extend(project.as_deref().map(|id| ("project", id)));
            for row in self.client.rows(kind.path(), &filter).await? {
                all.push(Found::new(kind, row)?);
            }
        }
        Ok(all)
    }

    /// The service or worker of that name, if there is one.
    pub async fn look_up(&self, kind: Kind, name: &str) -> Result<Option<Found>> {
        let project = self.project_id().await?;
        let mut filter = vec![("name", name)];
        filter.extend(project.as_deref().map(|id| ("project", id)));
        let mut document = self.client.get(&query(kind.path(), &filter)).await?;
        match document
            .pointer_mut("/results/0")
            .map(serde_json::Value::take)
            .unwrap_or_default()
        {
            Value::Null => Ok(None),
            row => Found::new(kind, row).map(Some),
        }
    }

    /// The service or worker of that name.
    ///
    /// # Errors
    /// Names the one that was probably meant.
    pub async fn find(&self, name: &str) -> Result<Found> {
        for kind in Kind::ALL {
            if let Some(found) = self.look_up(kind, name).await? {
                return Ok(found);
            }
        }
        let all = self.workloads().await?;
        let names = all.iter().map(Found::name);
        Err(unknown(
            "service",
            name,
            names,
            "`hob status` lists all; `hob deploy NAME --image REF` makes one",
        ))
    }

    pub async fn reload(&self, found: &Found) -> Result<Found> {
        Found::new(found.kind, self.client.get(&found.path("")).await?)
    }

    /// All kept deployments, newest first, as documents and as values.
    pub async fn deployments(&self, found: &Found) -> Result<Vec<(Value, Deployment)>> {
        let filter = [("detail", "full"), ("ordering", "-version_number")];
        let rows = self.client.rows(&found.path("deployments/"), &filter).await?;
        rows.into_iter()
            .map(|row| model::read(&row).map(|deployment| (row, deployment)))
            .collect()
    }

    pub async fn deployment(&self, id: &str) -> Result<Deployment> {
        let document = self.client.get(&format!("/api/deployments/{id}/?detail=full")).await?;
        model::read(&document)
    }

    pub async fn routes(&self, service: Option<&str>) -> Result<Vec<Route>> {
        let project = self.project_id().await?;
        let mut filter = vec![("ordering", "path")];
        filter.extend(service.map(|id| ("service", id)));
        if service.is_none() {
            filter.extend(project.as_deref().map(|id| ("project", id)));
        }
        let rows = self.client.rows("/api/routes/", &filter).await?;
        rows.iter().map(model::read).collect()
    }

    pub async fn domain(&self, hostname: &str) -> Result<Option<Domain>> {
        let document = self
            .client
            .get(&query("/api/domains/", &[("hostname", hostname)]))
            .await?;
        let row = document["results"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|row| row["hostname"] == hostname);
        row.map(model::read).transpose()
    }

    /// The config or secret of that name; `path` tells which.
    pub async fn settings(&self, path: &str, name: &str) -> Result<Option<Settings>> {
        let rows = self.client.rows(path, &[]).await?;
        rows.iter().find(|row| row["name"] == name).map(model::read).transpose()
    }
}

/// Names of rows.
fn names(rows: &[Value]) -> impl Iterator<Item = &str> {
    rows.iter().filter_map(|row| row["name"].as_str())
}

/// Nothing has that name.
pub fn unknown<'a>(noun: &str, name: &str, names: impl IntoIterator<Item = &'a str>, advice: &str) -> Trouble {
    let trouble = Trouble::failed(format!("there is no {noun} {name}"));
    match text::nearest(name, names) {
        Some(near) => trouble.advise(format!("Did you mean {near}? {advice}")),
        None => trouble.advise(advice),
    }
}
