//! `hob status`: services at a glance, or one in detail.

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Common;
use super::ps;
use crate::environment::Environment;
use crate::error::Result;
use crate::find::{Found, Kind};
use crate::model::{self, Deployment, Instance, Outcomes, Rollout};
use crate::progress;
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

/// Longest reason that is shown; `hob history --json` has all of it.
const WHY_MAX: usize = 160;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hob status
  hob status web
  hob status web --json | jq -r .service.status")]
pub struct Status {
    /// Service; without it all are listed
    name: Option<String>,
    #[command(flatten)]
    pub common: Common,
}

impl Status {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
        match self.name {
            Some(name) => session.show_one(&name).await,
            None => session.show_all().await,
        }
    }
}

/// All that is told of one service.
struct Detail {
    found: Found,
    urls: Vec<String>,
    serving: Option<Deployment>,
    last: Option<Deployment>,
    rollout: Option<Rollout>,
    outcomes: Outcomes,
    instances: Vec<Instance>,
}

impl Session<'_> {
    async fn show_all(&mut self) -> Result<()> {
        let all = self.workloads().await?;
        if self.screen.is_json() {
            let documents: Vec<&Value> = all.iter().map(|found| &found.document).collect();
            return self.screen.document(&json!({ "results": documents }));
        }
        let text = listing(&all, Timestamp::now());
        self.screen.line(text)
    }

    async fn show_one(&mut self, name: &str) -> Result<()> {
        let found = self.find(name).await?;
        let urls = self.urls(&found).await?;
        let instances = self.client.get(&found.path("instances/")).await?;
        let rollout = match &found.service.active_deployment {
            Some(_) => self.client.get(&found.path("rollout/")).await?,
            None => Value::Null,
        };
        let outcomes = self.client.get(&found.path("outcomes/")).await?;
        if self.screen.is_json() {
            return self.screen.document(&json!({
                "service": found.document, "urls": urls, "instances": instances["results"], "rollout": rollout,
                "outcomes": outcomes,
            }));
        }
        let detail = Detail {
            urls,
            serving: self
                .deployment_if_any(found.service.serving_deployment.as_deref())
                .await?,
            last: self.deployment_if_any(found.service.last_deployment.as_deref()).await?,
            rollout: if rollout.is_null() {
                None
            } else {
                Some(model::read(&rollout)?)
            },
            outcomes: model::read(&outcomes)?,
            instances: instances["results"]
                .as_array()
                .into_iter()
                .flatten()
                .map(model::read)
                .collect::<Result<_>>()?,
            found,
        };
        let text = detail.text(Timestamp::now());
        self.screen.line(text)
    }

    async fn deployment_if_any(&self, id: Option<&str>) -> Result<Option<Deployment>> {
        match id {
            Some(id) => self.deployment(id).await.map(Some),
            None => Ok(None),
        }
    }
}

fn listing(all: &[Found], now: Timestamp) -> String {
    if all.is_empty() {
        return "there are no services; `hob deploy NAME --image REF` makes one".to_owned();
    }
    let row = |found: &Found| {
        let service = &found.service;
        let name = match found.kind {
            Kind::Service => service.name.clone(),
            Kind::Worker => format!("{} (worker)", service.name),
        };
        let instances = format!("{}/{}", service.replicas_running, service.replicas_target);
        let age = text::age(&service.updated_at, now);
        [name, status(found), service.image.clone(), instances, age]
    };
    text::table(
        ["NAME", "STATUS", "IMAGE", ">INSTANCES", ">CHANGED"],
        all.iter().map(row),
    )
}

fn status(found: &Found) -> String {
    if found.service.frozen.is_some() {
        "frozen".to_owned()
    } else {
        found.service.status.clone()
    }
}

impl Detail {
    fn text(&self, now: Timestamp) -> String {
        let service = &self.found.service;
        let mut lines = vec![format!(
            "{} {}: {}",
            self.found.kind.noun(),
            service.name,
            status(&self.found)
        )];
        let mut add = |label: &str, value: String| lines.push(format!("  {label:<11}{}", text::printable(&value)));
        match &self.serving {
            Some(d) => add("serving", format!("version {}, {}", d.version_number, d.image)),
            None => add("serving", "nothing yet".to_owned()),
        }
        add(
            "instances",
            format!("{} of {} wanted", service.replicas_running, service.replicas_target),
        );
        if let Some(port) = service.port {
            add("port", port.to_string());
        }
        self.urls.iter().for_each(|url| add("url", url.clone()));
        match (&self.rollout, &self.last) {
            (Some(rollout), _) => {
                let elapsed = text::duration(rollout.elapsed_ms);
                add(
                    "rollout",
                    format!(
                        "version {}, since {elapsed}: {}",
                        rollout.version,
                        progress::describe(rollout)
                    ),
                );
                if let Some(figures) = progress::trial(rollout) {
                    add("seen", figures);
                }
                if let Some(command) = &rollout.next_command {
                    add("needs you", format!("`{command}`"));
                }
            }
            (None, Some(last)) if last.stage == "failed" && self.serving.is_none() => {
                let why = text::first_line(&last.error_message, WHY_MAX);
                add("last", format!("version {} failed: {why}", last.version_number));
                add(
                    "needs you",
                    format!("`hob logs {0}`, then `hob deploy {0}`", service.name),
                );
            }
            (None, Some(last)) if !last.succeeded() && !last.error_message.is_empty() => {
                add(
                    "last",
                    format!(
                        "version {} {}: {}",
                        last.version_number,
                        last.stage,
                        text::first_line(&last.error_message, WHY_MAX)
                    ),
                );
            }
            _ => {}
        }
        if let Some(ends) = self.outcomes.told() {
            add("so far", ends);
        }
        if let Some(why) = &service.frozen {
            add(
                "frozen",
                format!(
                    "{why}; it serves on and is not acted on, `hob deploy {}` thaws it",
                    service.name
                ),
            );
        }
        if !self.instances.is_empty() {
            lines.push(String::new());
            lines.push(ps::listing(self.instances.iter().map(|instance| ("", instance)), now));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tests_support::{check, now};

    fn service(name: &str, status: &str) -> Value {
        json!({
            "id": format!("id-{name}"), "name": name, "image": format!("{name}:2"), "port": 8080, "replicas_target": 4,
            "replicas_running": 3, "status": status, "config": null, "secret": null, "frozen": null,
            "updated_at": "2026-01-02T03:00:00Z", "active_deployment": "d", "serving_deployment": "e",
        })
    }

    #[test]
    fn services_are_listed() {
        let worker = Found::new(Kind::Worker, service("mailer", "error")).unwrap();
        let all = [Found::new(Kind::Service, service("web", "updating")).unwrap(), worker];
        check("status.txt", &listing(&all, now()));
        assert!(listing(&[], now()).contains("hob deploy"));
    }

    #[test]
    fn a_service_is_told_in_detail() {
        let deployment = json!({
            "id": "e", "version_number": 3, "image": "web:1", "port": 8080, "replicas": 4, "status": "success",
            "deployed_at": "2026-01-02T03:00:00Z", "deployed_by": "a", "rollback_from": null,
        });
        let rollout = json!({
            "deployment": "d", "name": "web", "version": 4, "image": "web:2", "stage": "deploying", "done": false,
            "waiting": "for its check", "replicas": 4, "elapsed_ms": 9_100,
            "instances": { "new": { "starting": 1 }, "old": { "serving": 3 } },
        });
        let instance = json!({
            "id": "0190b6a2-0000-7000-8000-00000000000a", "deployment": "e", "version": 3, "state": "serving",
            "health": "passing", "address": "10.213.0.5", "started_at": "2026-01-02T02:59:00Z",
        });
        let detail = Detail {
            found: Found::new(Kind::Service, service("web", "updating")).unwrap(),
            urls: vec!["http://web.localhost:8080/".to_owned()],
            serving: Some(model::read(&deployment).unwrap()),
            last: None,
            rollout: Some(model::read(&rollout).unwrap()),
            outcomes: Outcomes {
                succeeded: 41,
                failed: 2,
                ..Outcomes::default()
            },
            instances: vec![model::read(&instance).unwrap()],
        };
        check("status_of_one.txt", &detail.text(now()));
    }
}
