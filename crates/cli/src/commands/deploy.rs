//! `hob deploy`: from what the user wants to a rollout that is over.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::Common;
use super::config::parse_pair;
use super::plan::{Plan, stale};
use super::report::Wait;
use super::route::RouteTarget;
use crate::environment::Environment;
use crate::error::{Outcome, Result, Trouble};
use crate::find::{Found, Kind};
use crate::model;
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

/// What an app listens on, unless told otherwise.
const DEFAULT_PORT: u16 = 8080;

#[derive(Args, Debug)]
#[command(after_help = "\
What is not given stays as it is; a new service needs --image, listens on 8080 and has one instance.
Deploying always makes a deployment: with nothing changed it resolves the image's tag anew and takes the
settings of now. Settings given by --env are kept in the service's config, see `hob config list NAME`.

Examples:
  hob deploy web --image app:1 --instances 4
  hob deploy web --image app:2 --env GREETING=hello
  hob deploy web --route shop.example.com/ --health-path /healthz
  hob deploy web --image registry.example.com/app:3 --no-wait
  hob deploy web --image app:4 --plan               says what would happen, and changes nothing
  hob deploy web --image app:4 --apply 0123456789abcdef
  hob deploy web --image app:4 --release ./migrate --all

Steps of a canary, one after the other, with commas between them:
  10,50                    10 % of the instances, then 50 %; each waits to be continued
  10% for 5m, 50% for 10m  goes on by itself after a time
  10 traffic 5             10 % of the instances get 5 % of the requests
  10 gate                  goes on when the new version has answered enough requests no worse than the old one,
                           and fails when it does worse; too few requests decide nothing
  10 gate requests 500 for 2m errors 1 p95 150
                           the gate's terms: least requests, least time, percentage points of failed requests above
                           the old version's, percent of the old version's 95th percentile of latency
Of blue-green only what ends its first step counts: --strategy blue-green --steps '100 for 10m'.
Steps stay for later deployments, until others are given or the strategy changes.")]
pub struct Deploy {
    /// Name of the service: lower-case letters, digits, hyphens
    name: String,
    /// Image, as NAME:TAG in the local store or in a registry, or with a digest
    #[arg(long, value_name = "REF", value_parser = parse_image)]
    image: Option<String>,
    /// Port that the app listens on [default for a new service: 8080]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Number of instances, 1 to 12 [default for a new service: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=12))]
    instances: Option<u32>,
    /// How to replace instances
    #[arg(long, value_enum)]
    strategy: Option<Strategy>,
    /// Steps of a canary, such as 10,50 or '10% for 5m, 50 gate'; see below
    #[arg(long, value_name = "STEPS", value_parser = parse_steps)]
    steps: Option<Steps>,
    /// A client of a canary that has met one version stays with it; --sticky=false takes that back
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sticky: Option<bool>,
    /// Host at which the new version of blue-green is reached before the switch
    #[arg(long, value_name = "HOST")]
    preview_host: Option<String>,
    /// How long blue-green keeps the old version after the switch, such as 5m
    #[arg(long, value_name = "DURATION", value_parser = text::parse_duration)]
    keep_warm: Option<Duration>,
    /// How long the edge holds requests while recreate has no instance, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = text::parse_duration)]
    hold: Option<Duration>,
    /// After a success watch for so long and go back if the new version fails where the old one did not; 0s: never
    #[arg(long, value_name = "DURATION", value_parser = text::parse_duration)]
    watch: Option<Duration>,
    /// Run this once in the new image before any instance of it starts; the rest of the line is its arguments, up to a
    /// `;`. No shell. Without words after it: none any more
    #[arg(long, value_name = "CMD", num_args = 0.., allow_hyphen_values = true, value_terminator = ";")]
    release: Option<Vec<String>>,
    /// Instances that may be replaced at once [default: 1, or a quarter above four]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: Option<u32>,
    /// Lead requests for this host and path here; may be repeated
    #[arg(long = "route", value_name = "HOST/PATH")]
    routes: Vec<RouteTarget>,
    /// Set an environment variable; may be repeated
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    /// How config and secret values reach the program
    #[arg(long, value_enum)]
    delivery: Option<Delivery>,
    /// Check health by GET on this path instead of a TCP connection
    #[arg(long, value_name = "/PATH")]
    health_path: Option<String>,
    /// Memory of one instance in MiB
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..))]
    memory: Option<u64>,
    /// A worker: no port, no routes
    #[arg(long, conflicts_with_all = ["port", "routes", "health_path"])]
    worker: bool,
    /// A remark that is kept with the deployment
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Say what would happen, and change nothing
    #[arg(long, conflicts_with = "apply")]
    plan: bool,
    /// Deploy only if everything is still as in the plan with this hash
    #[arg(long, value_name = "HASH")]
    apply: Option<String>,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Delivery {
    /// All as environment variables
    Env,
    /// Secrets as files in /run/secrets, in memory only
    SecretFiles,
    /// Config as files too, in /run/configs
    Files,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Strategy {
    /// Start new, wait until ready, route, drain old, stop old; a few at a time
    Rolling,
    /// A part of the instances or requests first, step by step
    Canary,
    /// The new version whole beside the old one, then one switch
    BlueGreen,
    /// Stop, then start; for apps that may run only once
    Recreate,
}

/// Checked steps; one value for the command line, which would take a list for a repeated option.
#[derive(Debug, Clone)]
struct Steps(Vec<domain::Step>);

fn parse_steps(text: &str) -> Result<Steps, String> {
    domain::steps::parse(text).map(Steps)
}

/// Takes a reference as it was typed; the server would refuse the same ones, but later.
fn parse_image(text: &str) -> Result<String, String> {
    text.parse::<images::Reference>().map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

impl Deploy {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
        if self.plan {
            return self.show_plan(&mut session).await;
        }
        let (found, deployment) = self.apply(&mut session).await?;
        let ended = session.see_through(&found, &deployment, &self.wait).await;
        ended.map_err(|trouble| self.remind_of_settings(trouble))
    }

    /// Whoever tries a setting and fails should know that it is still there.
    fn remind_of_settings(&self, trouble: Trouble) -> Trouble {
        if self.env.is_empty() || trouble.outcome != Outcome::Failed {
            return trouble;
        }
        let name = &self.name;
        let advice = format!(
            "{}\nWhat --env has set stays in `hob config list {name}` until `hob config unset {name} KEY`",
            trouble.advice
        );
        trouble.advise(advice)
    }

    async fn show_plan(&self, session: &mut Session<'_>) -> Result<()> {
        let found = self.existing(session).await?;
        let (path, body) = match &found {
            Some(found) => {
                let mut fields = self.fields();
                fields.insert("deploy".to_owned(), json!(true));
                (found.path("plan/"), fields)
            }
            None => {
                let kind = self.kind();
                (format!("{}plan/", kind.path()), self.new_fields(session).await?)
            }
        };
        let document = session.client.post(&path, Value::Object(body)).await?;
        let plan: Plan = model::read(&document)?;
        let mut extra = Vec::new();
        for route in &self.routes {
            session.route_is_free(route, found.as_ref()).await?;
            extra.push(format!("+  route {}", route));
        }
        session.screen.either(&document, || plan.text(&extra))
    }

    /// Everything up to the deployment. Whatever can be refused without a trace is asked first.
    async fn apply(&self, session: &mut Session<'_>) -> Result<(Found, String)> {
        let found = self.existing(session).await?;
        if found.is_none() && self.image.is_none() {
            return Err(Trouble::usage(format!(
                "there is no service {} yet, and a new one needs an image",
                self.name
            ))
            .advise(format!("hob deploy {} --image NAME:TAG", self.name)));
        }
        for route in &self.routes {
            session.route_is_free(route, found.as_ref()).await?;
        }
        let (found, deployment) = match found {
            None => self.create(session).await?,
            Some(found) => self.change(session, found).await?,
        };
        for route in &self.routes {
            session.route_to(route, &found, false).await?;
        }
        Ok((found, deployment))
    }

    async fn existing(&self, session: &Session<'_>) -> Result<Option<Found>> {
        let (wanted, other) = if self.worker {
            (Kind::Worker, Kind::Service)
        } else {
            (Kind::Service, Kind::Worker)
        };
        let found = session.look_up(wanted, &self.name).await?;
        if found.is_none() && !self.worker {
            return session.look_up(other, &self.name).await;
        }
        Ok(found)
    }

    fn kind(&self) -> Kind {
        if self.worker { Kind::Worker } else { Kind::Service }
    }

    /// Of a service that is to be made.
    async fn new_fields(&self, session: &Session<'_>) -> Result<Map<String, Value>> {
        let mut fields = self.fields();
        fields.insert("name".to_owned(), json!(self.name));
        if self.kind() == Kind::Service {
            fields.entry("port").or_insert(json!(DEFAULT_PORT));
        }
        if let Some(project) = session.project_id().await? {
            fields.insert("project".to_owned(), json!(project));
        }
        Ok(fields)
    }

    async fn create(&self, session: &mut Session<'_>) -> Result<(Found, String)> {
        let kind = self.kind();
        let mut fields = self.new_fields(session).await?;
        fields.extend(self.bound());
        let document = session.client.post(kind.path(), Value::Object(fields)).await;
        let found = Found::new(
            kind,
            document.map_err(|t| stale(t).within(format!("cannot create {}", self.name)))?,
        )?;
        // A service is born with its first deployment.
        let first = found.service.last_deployment.clone();
        match first.or(found.service.active_deployment.clone()) {
            Some(deployment) => Ok((found, deployment)),
            None => Err(self.nothing_deployed("created")),
        }
    }

    /// A change is deployed with the settings of now, also where it is one of numbers only or none at all; without any
    /// the deployment is asked for.
    async fn change(&self, session: &mut Session<'_>, found: Found) -> Result<(Found, String)> {
        let cannot = |trouble: Trouble| stale(trouble).within(format!("cannot deploy {}", self.name));
        let note = self.note.as_ref().map(|note| ("notes".to_owned(), json!(note)));
        let mut fields = self.fields();
        fields.extend(self.bound());
        if fields.is_empty() {
            let body = Value::Object(note.into_iter().collect());
            let document = session.client.post(&found.path("deployments/"), body).await;
            let deployment: model::Deployment = model::read(&document.map_err(cannot)?)?;
            return Ok((found, deployment.id));
        }
        fields.extend(note);
        fields.insert("deploy".to_owned(), json!(true));
        let document = session.client.patch(&found.path(""), Value::Object(fields)).await;
        let found = Found::new(found.kind, document.map_err(cannot)?)?;
        match found.service.last_deployment.clone() {
            Some(deployment) => Ok((found, deployment)),
            None => Err(self.nothing_deployed("changed")),
        }
    }

    fn nothing_deployed(&self, what: &str) -> Trouble {
        let trouble = format!("{} was {what}, and the server names no deployment of it", self.name);
        Trouble::failed(trouble).advise(format!("`hob status {}` shows what became of it", self.name))
    }

    /// Binds the change to a plan.
    fn bound(&self) -> Option<(String, Value)> {
        let hash = self.apply.as_ref()?;
        Some(("apply_hash".to_owned(), json!(hash)))
    }

    fn options(&self) -> Map<String, Value> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let all = [
            ("max_in_flight", self.max_in_flight.map(|n| json!(n))),
            ("steps", self.steps.as_ref().map(|Steps(steps)| json!(steps))),
            ("sticky", self.sticky.map(|sticky| json!(sticky))),
            ("preview_host", self.preview_host.as_ref().map(|host| json!(host))),
            ("keep_warm_ms", self.keep_warm.map(|time| json!(ms(time)))),
            ("hold_ms", self.hold.map(|time| json!(ms(time)))),
            ("watch_ms", self.watch.map(|time| json!(ms(time)))),
        ];
        let given = all
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        given.collect()
    }

    /// The fields that were asked for, as the interface names them.
    fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        put("image", self.image.as_ref().map(|image| json!(image)));
        put("port", self.port.map(|port| json!(port)));
        put("replicas_target", self.instances.map(|n| json!(n)));
        let env: BTreeMap<_, _> = self.env.iter().map(|(key, value)| (key, value)).collect();
        put("env", (!env.is_empty()).then(|| json!(env)));
        put(
            "health_check",
            self.health_path
                .as_ref()
                .map(|path| json!({ "type": "http", "path": path })),
        );
        put("resources", self.memory.map(|mb| json!({ "memory_mb": mb })));
        let options = self.options();
        put("options", (!options.is_empty()).then_some(Value::Object(options)));
        let words = |words: &Vec<String>| if words.is_empty() { Value::Null } else { json!(words) };
        put("release", self.release.as_ref().map(words));
        let strategy = |strategy| match strategy {
            Strategy::Rolling => json!("rolling"),
            Strategy::Canary => json!("canary"),
            Strategy::BlueGreen => json!("blue_green"),
            Strategy::Recreate => json!("recreate"),
        };
        put("strategy", self.strategy.map(strategy));
        let delivery = |delivery| match delivery {
            Delivery::Env => json!("env"),
            Delivery::SecretFiles => json!("secret_files"),
            Delivery::Files => json!("files"),
        };
        put("delivery", self.delivery.map(delivery));
        if !fields.is_empty() {
            fields.extend(self.note.as_ref().map(|note| ("notes".to_owned(), json!(note))));
        }
        fields
    }
}
