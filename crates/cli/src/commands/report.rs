//! How a rollout ended, told to the user.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::error::{Outcome, Result, Trouble};
use crate::find::Found;
use crate::follow::Patience;
use crate::model::{self, Exit, Instance, Rollout, Route};
use crate::progress;
use crate::session::Session;
use crate::text;

/// Lines of a dead instance's output that are shown.
const TAIL_LINES: usize = 10;
/// Instances whose end is told.
const INSTANCES_TOLD: usize = 2;
const HTTP_PORT: u16 = 80;

/// Whether to wait for the end of what was asked for.
#[derive(Args, Debug, Clone, Copy)]
pub struct Wait {
    /// Wait until the rollout is over (the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Only ask for it
    #[arg(long)]
    no_wait: bool,
    /// Give up waiting after so long, such as 90s or 10m; the rollout goes on
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = text::parse_duration)]
    timeout: Duration,
}

impl Wait {
    pub fn patience(&self) -> Patience {
        Patience {
            waits: self.wait || !self.no_wait,
            limit: self.timeout,
        }
    }
}

impl Session<'_> {
    /// Follows a deployment to its end and reports it.
    ///
    /// # Errors
    /// When the deployment did not succeed: why, what serves now, and what to type next.
    pub async fn see_through(&mut self, found: &Found, deployment: &str, wait: &Wait) -> Result<()> {
        let patience = wait.patience();
        let rollout = self.follow(found, deployment, patience).await?;
        match rollout.stage.as_str() {
            "succeeded" => self.report_success(found, &rollout).await,
            _ if rollout.needs_you() => self.told_to_act(&rollout).await,
            _ if !rollout.done && !patience.waits => {
                self.screen
                    .remark(format!("`hob status {}` shows how far it is", found.name()));
                Ok(())
            }
            _ => Err(self.explain(found, &rollout).await),
        }
    }

    /// It is no failure that a rollout waits where it was told to.
    async fn told_to_act(&mut self, rollout: &Rollout) -> Result<()> {
        if self.screen.is_json() {
            return Ok(());
        }
        let edge = self.edge().await;
        self.screen.line(waiting_for_you(rollout, &edge))
    }

    /// What the server says of its edge; null where it says nothing.
    async fn edge(&self) -> Value {
        let landing = self.client.get("/").await;
        landing.map(|mut landing| landing["edge"].take()).unwrap_or_default()
    }

    async fn report_success(&mut self, found: &Found, rollout: &Rollout) -> Result<()> {
        if self.screen.is_json() {
            return Ok(());
        }
        let urls = self.urls(found).await?;
        let text = success(rollout, &urls);
        self.screen.line(text)
    }

    /// Where users reach it.
    pub async fn urls(&self, found: &Found) -> Result<Vec<String>> {
        if found.kind == crate::find::Kind::Worker {
            return Ok(Vec::new());
        }
        let routes = self.routes(Some(&found.service.id)).await?;
        Ok(urls(found.name(), &routes, &self.edge().await))
    }

    async fn explain(&self, found: &Found, rollout: &Rollout) -> Trouble {
        // What cannot be asked for is left out: the failure itself is what counts.
        let instances = self
            .client
            .get(&found.path("instances/?all=1"))
            .await
            .unwrap_or_default();
        let instances = instances["results"].as_array().into_iter().flatten();
        let instances: Vec<Instance> = instances.filter_map(|row| model::read(row).ok()).collect();
        let serving = self.serving(found).await.unwrap_or_default();
        failure(rollout, &instances, &serving)
    }

    /// What serves now, in a sentence.
    async fn serving(&self, found: &Found) -> Result<String> {
        let service = self.reload(found).await?.service;
        let Some(id) = service.serving_deployment else {
            return Ok("nothing serves: no version of it has ever succeeded".to_owned());
        };
        let deployment = self.deployment(&id).await?;
        let instances = text::count(service.replicas_running, "instance");
        let (version, image) = (deployment.version_number, deployment.image);
        Ok(format!("version {version} ({image}) still serves with {instances}"))
    }
}

/// Where it stands and what to type.
fn waiting_for_you(rollout: &Rollout, edge: &Value) -> String {
    let name = &rollout.name;
    let mut lines = vec![format!(
        "{name} version {}  {}",
        rollout.version,
        progress::states(rollout)
    )];
    if let Some(host) = rollout.preview_host.as_ref().filter(|_| rollout.at_step) {
        lines.push(format!("  the new version alone: {}/", origin(host, edge)));
    }
    if let Some(command) = &rollout.next_command {
        lines.push(format!("  `{command}` goes on, `hob cancel {name}` takes it back"));
    }
    lines.join("\n")
}

fn success(rollout: &Rollout, urls: &[String]) -> String {
    let instances = text::count(rollout.replicas, "instance");
    let mut lines = vec![format!(
        "{} version {} serves: {} with {instances}",
        rollout.name, rollout.version, rollout.image
    )];
    lines.extend(urls.iter().map(|url| format!("  {url}")));
    let receipt = &rollout.receipt;
    let requests = match (receipt.ok, receipt.failed()) {
        // The edge reports about once a second: a quick rollout is over before its first requests are known.
        (0, 0) => format!("`hob history {}` counts its requests", rollout.name),
        (ok, failed) => format!("{} ok, {failed} failed", text::count(ok, "request")),
    };
    lines.push(format!("  took {}; {requests}", text::duration(rollout.elapsed_ms)));
    lines.join("\n")
}

fn failure(rollout: &Rollout, instances: &[Instance], serving: &str) -> Trouble {
    let Rollout { name, version, .. } = rollout;
    let elapsed = text::duration(rollout.elapsed_ms);
    let ended = match rollout.stage.as_str() {
        "superseded" => format!("{name} version {version} was overtaken by a newer deployment after {elapsed}"),
        "canceled" => format!("{name} version {version} was cancelled after {elapsed}"),
        "paused" => format!("{name} version {version} is paused"),
        stage => format!("{name} version {version} {stage} after {elapsed}"),
    };
    let mut lines = vec![match rollout.error_message.trim() {
        "" => ended,
        why => format!("{ended}: {}", text::printable_lines(why)),
    }];
    let ours: Vec<&Instance> = instances
        .iter()
        .filter(|i| i.deployment == rollout.deployment)
        .collect();
    if rollout.stage == "failed" {
        lines.extend(ends(&ours, &rollout.error_message));
    }
    if !serving.is_empty() {
        lines.push(serving.to_owned());
    }
    Trouble::new(Outcome::Failed, lines.join("\n")).advise(format!(
        "`hob logs {name}` shows more output, `hob history {name}` what happened before; deploy again when it is mended"
    ))
}

/// How instances ended, or why they are not healthy, as far as `told` does not say it already.
fn ends(instances: &[&Instance], told: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let is_news = |exit: &Exit| !told.contains(&exit.text) || exit.tail.iter().any(|line| !told.contains(line.trim()));
    let crashed = instances.iter().rev().filter(|instance| instance.crashed);
    let dead = crashed.filter_map(|instance| Some((instance, instance.exit.as_ref()?)));
    for (instance, exit) in dead.filter(|(_, exit)| is_news(exit)).take(INSTANCES_TOLD) {
        lines.push(format!(
            "instance {} ended: {}",
            text::short_id(&instance.id),
            exit.text
        ));
        let skipped = exit.tail.len().saturating_sub(TAIL_LINES);
        let tail = exit.tail[skipped..].iter();
        lines.extend(tail.map(|line| format!("  | {}", text::printable(line))));
    }
    let ill = instances
        .iter()
        .filter(|i| i.health == "failing" && !told.contains(&i.health_message));
    for instance in ill.take(INSTANCES_TOLD) {
        let why = text::printable(&instance.health_message);
        lines.push(format!(
            "instance {} is not healthy: {why}",
            text::short_id(&instance.id)
        ));
    }
    lines
}

/// `edge` is what the server says of its edge: `{"base_domain", "http_port", "https_port"}`, or null.
fn urls(name: &str, routes: &[Route], edge: &Value) -> Vec<String> {
    let routed = routes
        .iter()
        .filter(|route| route.enabled && !route.hostname.is_empty());
    let mut urls: Vec<String> = routed
        .map(|route| format!("{}{}", origin(&route.hostname, edge), route.path))
        .collect();
    if let Some(base) = edge["base_domain"].as_str().filter(|_| urls.is_empty()) {
        urls.push(format!("{}/", origin(&format!("{name}.{base}"), edge)));
    }
    urls
}

/// Scheme, host, and port where it is not the usual one.
fn origin(host: &str, edge: &Value) -> String {
    match (port(&edge["https_port"]), port(&edge["http_port"])) {
        (Some(443), _) => format!("https://{host}"),
        (Some(port), _) => format!("https://{host}:{port}"),
        (None, Some(HTTP_PORT) | None) => format!("http://{host}"),
        (None, Some(port)) => format!("http://{host}:{port}"),
    }
}

fn port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|port| u16::try_from(port).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rollout(stage: &str, error: &str) -> Rollout {
        let receipt = json!({ "ok": 1204, "failed_by_hob": 0, "failed_by_app": 2 });
        model::read(&json!({
            "deployment": "d2", "name": "web", "version": 2, "image": "web:2", "stage": stage, "done": true,
            "error_message": error, "replicas": 4, "elapsed_ms": 3_210, "receipt": receipt,
        }))
        .unwrap()
    }

    fn route(path: &str, enabled: bool) -> Route {
        let document = json!({ "id": "r", "path": path, "enabled": enabled, "service": "s", "hostname": "a.example" });
        model::read(&document).unwrap()
    }

    #[test]
    fn urls_come_from_the_routes_or_else_from_the_base_domain() {
        let edge = json!({ "base_domain": "localhost", "http_port": 8080, "https_port": null });
        assert_eq!(urls("web", &[], &edge), ["http://web.localhost:8080/"]);
        assert_eq!(
            urls("web", &[route("/api", true), route("/x", false)], &edge),
            ["http://a.example:8080/api"]
        );
        let tls = json!({ "base_domain": "example.com", "http_port": 80, "https_port": 443 });
        assert_eq!(urls("web", &[], &tls), ["https://web.example.com/"]);
        assert!(urls("web", &[], &Value::Null).is_empty());
    }

    #[test]
    fn a_success_says_where_how_long_and_at_what_cost() {
        let text = success(&rollout("succeeded", ""), &["http://web.localhost:8080/".to_owned()]);
        crate::text::tests_support::check("success.txt", &text);
    }

    #[test]
    fn a_failure_says_why_what_serves_and_what_to_do() {
        let instances: Vec<Instance> = [
            json!({ "id": "0190b6a2-0000-7000-8000-00000000000a", "deployment": "d2", "version": 2, "state": "gone",
                "crashed": true, "exit": { "text": "exit code 3", "tail": ["starting\u{1b}[2J", "panic: no database"] } }),
            json!({ "id": "0190b6a2-0000-7000-8000-00000000000b", "deployment": "d2", "version": 2, "state": "starting",
                "health": "failing", "health_message": "no answer on port 8080: connection refused" }),
            json!({ "id": "0190b6a2-0000-7000-8000-00000000000c", "deployment": "d1", "version": 1, "state": "serving",
                "crashed": true, "exit": { "text": "an older one" } }),
        ]
        .iter()
        .map(|document| model::read(document).unwrap())
        .collect();
        let trouble = failure(
            &rollout("failed", "instances end at once: exit code 3"),
            &instances,
            "version 1 (web:1) still serves with 4 instances",
        );
        crate::text::tests_support::check("failure.txt", &format!("{}\n{}", trouble.message, trouble.advice));
        assert_eq!(trouble.outcome, Outcome::Failed);
    }
}
