//! `hob diff`: what differs between two versions, and how each behaved.

use clap::Args;
use serde::Deserialize;

use super::Common;
use super::plan::{Change, differences};
use crate::environment::Environment;
use crate::error::{Result, Trouble};
use crate::find::Found;
use crate::model::{self, Behaviour, Deployment, Receipt};
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

#[derive(Args, Debug)]
#[command(after_help = "\
Values of secrets are never compared, only which version of each key the deployments have.
Marks: + new, - gone, ~ another; ! instances were replaced for it.

Examples:
  hob diff web                     the version that serves, and the successful one before it
  hob diff web 3 7
  hob diff web 3 7 --json | jq .changes")]
pub struct Diff {
    /// Service
    name: String,
    /// Version to compare from [default: the last successful one before B]
    #[arg(value_name = "A", value_parser = clap::value_parser!(i64).range(1..))]
    a: Option<i64>,
    /// Version to compare to [default: the one that serves]
    #[arg(value_name = "B", value_parser = clap::value_parser!(i64).range(1..))]
    b: Option<i64>,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Deserialize)]
struct Document {
    before: Side,
    after: Side,
    changes: Vec<Change>,
}

#[derive(Debug, Deserialize)]
struct Side {
    version: i64,
    image: String,
    digest: Option<String>,
    size_bytes: Option<u64>,
    stage: String,
    deployed_at: String,
    #[serde(default)]
    receipt: Receipt,
    behaviour: Option<Behaviour>,
    #[serde(default)]
    memory_peak_bytes: Option<u64>,
    #[serde(default)]
    routes: Option<Vec<String>>,
}

impl Diff {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let session = Session::open(environment, &self.common, screen)?;
        let found = session.find(&self.name).await?;
        let all: Vec<Deployment> = session.deployments(&found).await?.into_iter().map(|(_, d)| d).collect();
        let (a, b) = choose(&found, &all, self.a, self.b)?;
        let document = session
            .client
            .get(&format!("/api/deployments/{}/diff/{}/", a.id, b.id))
            .await?;
        let read: Document = model::read(&document)?;
        session.screen.either(&document, || told(found.name(), &read))
    }
}

/// `all` are newest first.
fn choose<'a>(
    found: &Found,
    all: &'a [Deployment],
    a: Option<i64>,
    b: Option<i64>,
) -> Result<(&'a Deployment, &'a Deployment)> {
    let name = found.name();
    let kept = all.iter().map(|d| d.version_number.to_string()).collect::<Vec<_>>();
    let advice = format!("Kept versions: {}", kept.join(", "));
    let version = |version: i64| {
        let one = all.iter().find(|d| d.version_number == version);
        one.ok_or_else(|| Trouble::failed(format!("{name} has no version {version}")).advise(&advice))
    };
    let serving = found.service.serving_deployment.as_ref();
    let b = match b {
        Some(b) => version(b)?,
        None => serving
            .and_then(|id| all.iter().find(|d| d.id == *id))
            .ok_or_else(|| Trouble::failed(format!("no version of {name} serves")).advise("hob diff NAME A B"))?,
    };
    let a = match a {
        Some(a) => version(a)?,
        None => all
            .iter()
            .find(|d| d.version_number < b.version_number && d.status != "failed" && d.status != "pending")
            .ok_or_else(|| Trouble::failed(format!("{name} has no earlier successful version")).advise(&advice))?,
    };
    Ok((a, b))
}

fn told(name: &str, document: &Document) -> String {
    let (before, after) = (&document.before, &document.after);
    let mut lines = vec![format!("{name} version {} -> {}", before.version, after.version)];
    let changes = differences(&document.changes);
    if changes.is_empty() {
        lines.push("  nothing differs".to_owned());
    }
    lines.extend(changes.iter().map(|line| format!("  {line}")));
    lines.push(String::new());
    let row = |label: &str, of: fn(&Side) -> String| [label.to_owned(), of(before), of(after)];
    let quantile = |ms: Option<f64>| ms.map_or_else(String::new, |ms| format!("{ms:.1} ms"));
    let rows = [
        row("image", |side| side.image.clone()),
        row("digest", |side| {
            text::short_digest(side.digest.as_deref().unwrap_or_default()).to_owned()
        }),
        row("size", |side| side.size_bytes.map(text::size).unwrap_or_default()),
        row("deployed", |side| text::moment(&side.deployed_at)),
        row("stage", |side| side.stage.clone()),
        row("requests ok", |side| side.receipt.ok.to_string()),
        row("failed", |side| side.receipt.failed().to_string()),
        row("error rate", |side| {
            let rate = side.behaviour.as_ref().map(|seen| seen.error_rate);
            rate.map_or_else(String::new, |rate| format!("{:.2} %", rate * 100.0))
        }),
        [
            "p50".to_owned(),
            quantile(before.behaviour.as_ref().and_then(|seen| seen.p50_ms)),
            quantile(after.behaviour.as_ref().and_then(|seen| seen.p50_ms)),
        ],
        [
            "p95".to_owned(),
            quantile(before.behaviour.as_ref().and_then(|seen| seen.p95_ms)),
            quantile(after.behaviour.as_ref().and_then(|seen| seen.p95_ms)),
        ],
        row("most memory", |side| {
            side.memory_peak_bytes.map(text::size).unwrap_or_default()
        }),
        row("routes", |side| {
            let routes = side.routes.as_ref().map(|routes| routes.len().to_string());
            routes.unwrap_or_default()
        }),
    ];
    let (a, b) = (
        format!("VERSION {}", before.version),
        format!("VERSION {}", after.version),
    );
    lines.push(text::table(["", &a, &b], rows));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::text::tests_support::check;

    #[test]
    fn two_versions_are_compared() {
        let side = |version: i64, size: Value, behaviour: Value| {
            json!({
                "deployment": "d", "version": version, "image": format!("web:{version}"), "size_bytes": size,
                "digest": format!("sha256:{}", format!("{version:02x}").repeat(32)), "stage": "succeeded",
                "deployed_at": "2026-01-02T03:04:05Z", "behaviour": behaviour,
                "memory_peak_bytes": if version == 7 { json!(9_437_184) } else { Value::Null },
                "routes": if version == 7 { json!(["shop.example.com/"]) } else { Value::Null },
                "receipt": { "ok": 1_000 * version, "failed_by_hob": 0, "failed_by_app": version },
            })
        };
        let seen = json!({ "requests": 7_007, "failed": 7, "error_rate": 0.001, "p50_ms": 1.25, "p95_ms": 20.0 });
        let document: Document = model::read(&json!({
            "service": "s", "before": side(3, Value::Null, Value::Null), "after": side(7, json!(2_048), seen),
            "changes": [{ "what": "port", "before": 8080, "after": 9000, "replaces": true }],
        }))
        .unwrap();
        check("diff.txt", &told("web", &document));
    }
}
