//! `hob rollback`: back to an earlier version, with its settings of then.

use clap::Args;
use serde_json::json;

use super::Common;
use super::plan::{Plan, stale};
use super::report::Wait;
use crate::environment::Environment;
use crate::error::{Result, Trouble};
use crate::find::Found;
use crate::model::{self, Deployment};
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

/// Longest value that is shown of a setting that changes.
const VALUE_MAX: usize = 40;

#[derive(Args, Debug)]
#[command(after_help = "\
Brings back the image, port, number of instances and config values of then. Secrets stay as they are now: they may
have been changed for a reason. A rollback is a new version; nothing of the history is lost.

Examples:
  hob rollback web                 the last successful version before the one that serves
  hob rollback web --to 3
  hob rollback web --plan          says what would happen, and changes nothing")]
pub struct Rollback {
    /// Service
    name: String,
    /// Version to go back to [default: the last successful one before the one that serves]
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(i64).range(1..))]
    to: Option<i64>,
    /// A remark that is kept with the deployment
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    /// Say what would happen, and change nothing
    #[arg(long, conflicts_with = "apply")]
    plan: bool,
    /// Go back only if everything is still as in the plan with this hash
    #[arg(long, value_name = "HASH")]
    apply: Option<String>,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    pub common: Common,
}

impl Rollback {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
        let found = session.find(&self.name).await?;
        let all: Vec<Deployment> = session.deployments(&found).await?.into_iter().map(|(_, d)| d).collect();
        let running = running(&found, &all);
        let target = choose(&found, &all, running, self.to)?;
        let mut body = json!({ "notes": self.note });
        if self.plan {
            let path = format!("/api/deployments/{}/plan/", target.id);
            let document = session.client.post(&path, body).await?;
            let planned: Plan = model::read(&document)?;
            return session.screen.either(&document, || planned.text(&[]));
        }
        if let Some(hash) = &self.apply {
            body["apply_hash"] = json!(hash);
        }
        session.screen.remark(plan(found.name(), target, running));
        let path = format!("/api/deployments/{}/rollback/", target.id);
        let cannot = |t: Trouble| stale(t).within(format!("cannot go back to version {}", target.version_number));
        let document = session.client.post(&path, body).await.map_err(cannot)?;
        let deployment: Deployment = model::read(&document)?;
        session.see_through(&found, &deployment.id, &self.wait).await
    }
}

/// What serves; without that, the newest.
fn running<'a>(found: &Found, all: &'a [Deployment]) -> Option<&'a Deployment> {
    let serving = found.service.serving_deployment.as_ref();
    serving.and_then(|id| all.iter().find(|d| d.id == *id)).or(all.first())
}

/// `all` are newest first.
fn choose<'a>(
    found: &Found,
    all: &'a [Deployment],
    running: Option<&Deployment>,
    to: Option<i64>,
) -> Result<&'a Deployment> {
    let possible: Vec<String> = all
        .iter()
        .filter(|d| d.succeeded())
        .map(|d| d.version_number.to_string())
        .collect();
    let advice = match possible.as_slice() {
        [] => "No version of it has succeeded yet; `hob history` shows all".to_owned(),
        versions => format!("Versions that can be gone back to: {}", versions.join(", ")),
    };
    let name = found.name();
    if let Some(version) = to {
        let asked = all.iter().find(|d| d.version_number == version);
        let asked = asked.ok_or_else(|| Trouble::failed(format!("{name} has no version {version}")).advise(&advice))?;
        if !asked.succeeded() {
            let status = asked.status.replace('_', " ");
            return Err(Trouble::failed(format!(
                "version {version} of {name} cannot be gone back to: it is {status}"
            ))
            .advise(&advice));
        }
        return Ok(asked);
    }
    let before = running.map_or(i64::MAX, |d| d.version_number);
    // What the running one was itself rolled back to would change nothing.
    let same = running.and_then(|d| d.rollback_from.as_ref());
    let mut earlier = all
        .iter()
        .filter(|d| d.version_number < before && d.succeeded() && same != Some(&d.id));
    earlier.next().ok_or_else(|| {
        Trouble::failed(format!("{name} has no earlier successful version to go back to")).advise(&advice)
    })
}

/// What will change, before it does.
fn plan(name: &str, target: &Deployment, running: Option<&Deployment>) -> String {
    let port = target.port.map(|port| format!(", port {port}")).unwrap_or_default();
    let mut lines = vec![format!(
        "{name} goes back to version {}: {}{port}, {}",
        target.version_number,
        target.image,
        text::count(target.replicas, "instance")
    )];
    let now = running.map(|d| &d.config_snapshot);
    let then = &target.config_snapshot;
    let keys: std::collections::BTreeSet<&String> = now.into_iter().flatten().chain(then).map(|(key, _)| key).collect();
    for key in keys {
        let (old, new) = (now.and_then(|now| now.get(key)), then.get(key));
        if old != new {
            lines.push(format!("  {key}: {} becomes {}", value(old), value(new)));
        }
    }
    lines.push("  secrets stay as they are now".to_owned());
    lines.join("\n")
}

fn value(value: Option<&String>) -> String {
    value.map_or("(not set)".to_owned(), |value| {
        format!("{:?}", text::first_line(value, VALUE_MAX))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::find::Kind;
    use crate::text::tests_support::check;

    fn deployment(version: i64, status: &str, rollback_from: Value, config: Value) -> Deployment {
        model::read(&json!({
            "id": format!("d{version}"), "version_number": version, "image": format!("web:{version}"), "port": 8080,
            "replicas": 4, "status": status, "deployed_at": "", "deployed_by": "", "rollback_from": rollback_from,
            "config_snapshot": config,
        }))
        .unwrap()
    }

    fn service(serving: &str) -> Found {
        let document = json!({
            "id": "s", "name": "web", "image": "web:1", "port": 8080, "replicas_target": 4, "replicas_running": 4,
            "status": "ready", "config": null, "secret": null, "updated_at": "", "serving_deployment": serving,
        });
        Found::new(Kind::Service, document).unwrap()
    }

    /// Statuses of versions 1, 2, …; which serves; what is chosen, or a word of the error.
    fn check_choice(statuses: &[&str], serving: i64, to: Option<i64>, expected: Result<i64, &str>) {
        let versions = statuses.iter().zip(1..);
        let mut all: Vec<Deployment> = versions
            .map(|(status, n)| deployment(n, status, Value::Null, json!({})))
            .collect();
        all.reverse();
        let found = service(&format!("d{serving}"));
        let chosen = choose(&found, &all, running(&found, &all), to);
        match (chosen, expected) {
            (Ok(chosen), Ok(version)) => assert_eq!(chosen.version_number, version),
            (Err(trouble), Err(word)) => assert!(format!("{} {}", trouble.message, trouble.advice).contains(word)),
            (chosen, expected) => panic!("{chosen:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn the_last_success_before_the_running_one_is_chosen() {
        check_choice(&["success", "success"], 2, None, Ok(1));
        check_choice(&["success", "success", "failed"], 2, None, Ok(1));
        check_choice(&["success", "failed", "success"], 3, None, Ok(1));
        check_choice(&["success", "rolled_back", "success"], 3, None, Ok(1));
        check_choice(&["success"], 1, None, Err("no earlier"));
        check_choice(&["success", "success", "success"], 3, Some(1), Ok(1));
        check_choice(&["success", "failed"], 1, Some(2), Err("it is failed"));
        check_choice(&["success", "success"], 2, Some(9), Err("2, 1"));
    }

    #[test]
    fn going_back_twice_does_not_stay_where_it_is() {
        let none = || Value::Null;
        let all = [
            deployment(4, "success", json!("d2"), json!({})),
            deployment(3, "rolled_back", none(), json!({})),
            deployment(2, "success", none(), json!({})),
            deployment(1, "success", none(), json!({})),
        ];
        let found = service("d4");
        assert_eq!(
            choose(&found, &all, running(&found, &all), None)
                .unwrap()
                .version_number,
            1
        );
    }

    #[test]
    fn the_plan_tells_what_changes() {
        let target = deployment(1, "success", Value::Null, json!({ "A": "1", "B": "same" }));
        let running = deployment(
            2,
            "success",
            Value::Null,
            json!({ "A": "2", "B": "same", "C": "x\u{1b}y" }),
        );
        check("rollback_plan.txt", &plan("web", &target, Some(&running)));
    }
}
