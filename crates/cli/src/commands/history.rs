//! `hob history`: the deployments of a service.

use clap::Args;
use serde_json::json;

use super::Common;
use crate::environment::Environment;
use crate::error::Result;
use crate::model::Deployment;
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

/// Longest remark in the table.
const NOTE_MAX: usize = 60;

#[derive(Args, Debug)]
#[command(after_help = "\
The version that serves is marked with *. Requests are those that the edge counted for the version.

Examples:
  hob history web
  hob history web --json | jq '.results[] | select(.status==\"failed\") | .error_message'")]
pub struct History {
    /// Service
    name: String,
    #[command(flatten)]
    pub common: Common,
}

impl History {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let session = Session::open(environment, &self.common, screen)?;
        let found = session.find(&self.name).await?;
        let (documents, deployments): (Vec<_>, Vec<_>) = session.deployments(&found).await?.into_iter().unzip();
        if session.screen.is_json() {
            return session.screen.document(&json!({ "results": documents }));
        }
        let me = session.client.get("/api/account/").await?;
        let who = |id: &str| match (me["id"].as_str(), me["name"].as_str()) {
            (Some(mine), Some(name)) if mine == id => name.to_owned(),
            _ => text::short_id(id).to_owned(),
        };
        let text = listing(&deployments, found.service.serving_deployment.as_deref(), who);
        session.screen.line(text)
    }
}

fn listing(deployments: &[Deployment], serving: Option<&str>, who: impl Fn(&str) -> String) -> String {
    if deployments.is_empty() {
        return "there are no deployments yet".to_owned();
    }
    let row = |deployment: &Deployment| {
        let receipt = deployment.receipt.unwrap_or_default();
        let mark = if serving == Some(deployment.id.as_str()) {
            "*"
        } else {
            " "
        };
        [
            format!("{}{mark}", deployment.version_number),
            stage(deployment),
            strategy(deployment),
            deployment.image.clone(),
            text::moment(&deployment.deployed_at),
            who(&deployment.deployed_by),
            deployment.duration_ms.map(text::duration).unwrap_or_default(),
            receipt.ok.to_string(),
            receipt.failed().to_string(),
            note(deployment, deployments),
        ]
    };
    let headers = [
        ">VERSION",
        "STAGE",
        "STRATEGY",
        "IMAGE",
        "WHEN (UTC)",
        "BY",
        ">TOOK",
        ">OK",
        ">FAILED",
        "NOTE",
    ];
    text::table(headers, deployments.iter().map(row))
}

/// A mark on a success is shown instead of it.
fn stage(deployment: &Deployment) -> String {
    if deployment.status == "rolled_back" {
        "rolled back".to_owned()
    } else {
        deployment.stage.clone()
    }
}

/// With the steps that were passed, where it has any.
fn strategy(deployment: &Deployment) -> String {
    match (deployment.strategy.as_str(), deployment.steps) {
        (strategy, 0) => strategy.replace('_', "-"),
        (strategy, steps) => format!("{} {}/{steps}", strategy.replace('_', "-"), deployment.step),
    }
}

fn note(deployment: &Deployment, all: &[Deployment]) -> String {
    let target = deployment
        .rollback_from
        .as_ref()
        .and_then(|id| all.iter().find(|other| other.id == *id));
    let waits = match (deployment.stage.as_str(), deployment.at_step) {
        ("paused", true) => "NEEDS YOU: `hob continue`",
        ("paused", false) => "NEEDS YOU: `hob resume`",
        _ => "",
    };
    let automatic = if deployment.automatic { "by itself" } else { "" };
    let parts = [
        waits.to_owned(),
        automatic.to_owned(),
        target
            .map(|target| format!("back to {}", target.version_number))
            .unwrap_or_default(),
        deployment.notes.clone(),
        deployment.error_message.clone(),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    text::first_line(&parts.join("; "), NOTE_MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::model;
    use crate::text::tests_support::check;

    #[test]
    fn deployments_are_listed_with_their_receipts() {
        let deployment = |version: i64, status: &str, stage: &str, more: Value| {
            let mut document = json!({
                "id": format!("d{version}"), "version_number": version, "image": format!("web:{version}"), "port": 8080,
                "replicas": 4, "status": status, "stage": stage, "deployed_at": "2026-01-02T03:04:05Z",
                "deployed_by": "operator-id", "rollback_from": null, "notes": "", "error_message": "",
                "duration_ms": 3_200, "receipt": { "ok": 1204, "failed_by_hob": 0, "failed_by_app": 2 },
            });
            more.as_object()
                .unwrap()
                .iter()
                .for_each(|(key, value)| document[key] = value.clone());
            model::read::<Deployment>(&document).unwrap()
        };
        let all = [
            deployment(
                5,
                "pending",
                "paused",
                json!({ "strategy": "canary", "step": 1, "steps": 2, "at_step": true }),
            ),
            deployment(
                4,
                "success",
                "succeeded",
                json!({ "rollback_from": "d1", "notes": "too slow", "strategy": "rolling" }),
            ),
            deployment(
                3,
                "failed",
                "failed",
                json!({ "error_message": "instances end at once: exit code 3\nmore" }),
            ),
            deployment(2, "rolled_back", "succeeded", json!({})),
            deployment(
                1,
                "success",
                "succeeded",
                json!({ "deployed_by": "0190b6a2-0000-7000-8000-00000000000a" }),
            ),
        ];
        let who = |id: &str| {
            if id == "operator-id" {
                "operator".to_owned()
            } else {
                text::short_id(id).to_owned()
            }
        };
        check("history.txt", &listing(&all, Some("d4"), who));
    }
}
