//! `hob deploy`: from what the user wants to a rollout that is over.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::Common;
use super::config::parse_pair;
use super::report::Wait;
use super::route::RouteTarget;
use crate::environment::Environment;
use crate::error::{Outcome, Result, Trouble};
use crate::find::{Found, Kind};
use crate::model;
use crate::screen::Screen;
use crate::session::Session;

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
  hob deploy web --image registry.example.com/app:3 --no-wait")]
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
    /// Instances that may be replaced at once [default: 1, or a quarter above four]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: Option<u32>,
    /// Lead requests for this host and path here; may be repeated
    #[arg(long = "route", value_name = "HOST/PATH")]
    routes: Vec<RouteTarget>,
    /// Set an environment variable; may be repeated
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
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
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Strategy {
    /// Start new, wait until ready, route, drain old, stop old; a few at a time
    Rolling,
    /// Stop, then start; for apps that may run only once
    Recreate,
}

/// Takes a reference as it was typed; the server would refuse the same ones, but later.
fn parse_image(text: &str) -> Result<String, String> {
    text.parse::<images::Reference>().map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

impl Deploy {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let mut session = Session::open(environment, &self.common, screen)?;
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
        let config = self.settings(session, found.as_ref()).await?;
        let (found, deployment) = match found {
            None => self.create(session, config).await?,
            Some(found) => self.change(session, found, config).await?,
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

    /// Puts the values of `--env` where the service reads them. Answers the config to attach, if there is any to
    /// attach.
    async fn settings(&self, session: &mut Session<'_>, found: Option<&Found>) -> Result<Option<String>> {
        if self.env.is_empty() {
            return Ok(None);
        }
        let config = session.config_of(&self.name, found).await?;
        session.set_items("/api/configs/", &config, &self.env).await?;
        Ok(Some(config))
    }

    async fn create(&self, session: &mut Session<'_>, config: Option<String>) -> Result<(Found, String)> {
        let kind = if self.worker { Kind::Worker } else { Kind::Service };
        let mut fields = self.fields(config);
        fields.insert("name".to_owned(), json!(self.name));
        if kind == Kind::Service {
            fields.entry("port").or_insert(json!(DEFAULT_PORT));
        }
        if let Some(project) = session.project_id().await? {
            fields.insert("project".to_owned(), json!(project));
        }
        let document = session.client.post(kind.path(), Value::Object(fields)).await;
        let found = Found::new(
            kind,
            document.map_err(|t| t.within(format!("cannot create {}", self.name)))?,
        )?;
        // A service is born with its first deployment.
        let first = found.service.last_deployment.clone();
        match first.or(found.service.active_deployment.clone()) {
            Some(deployment) => Ok((found, deployment)),
            None => Err(Trouble::failed(format!(
                "{} was created, and the server names no deployment of it",
                self.name
            ))
            .advise(format!("`hob status {}` shows what became of it", self.name))),
        }
    }

    /// A change makes a deployment by itself; without one the deployment is asked for.
    async fn change(&self, session: &mut Session<'_>, found: Found, config: Option<String>) -> Result<(Found, String)> {
        let cannot = |trouble: Trouble| trouble.within(format!("cannot deploy {}", self.name));
        let before = found.service.last_deployment.clone();
        let fields = self.fields(config);
        let found = if fields.is_empty() {
            found
        } else {
            let document = session.client.patch(&found.path(""), Value::Object(fields)).await;
            Found::new(found.kind, document.map_err(cannot)?)?
        };
        if let Some(made) = found
            .service
            .last_deployment
            .clone()
            .filter(|last| before.as_ref() != Some(last))
        {
            return Ok((found, made));
        }
        let body = self
            .note
            .as_ref()
            .map_or_else(|| json!({}), |note| json!({ "notes": note }));
        let document = session
            .client
            .post(&found.path("deployments/"), body)
            .await
            .map_err(cannot)?;
        let deployment: model::Deployment = model::read(&document)?;
        Ok((found, deployment.id))
    }

    /// The fields that were asked for, as the interface names them.
    fn fields(&self, config: Option<String>) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        put("image", self.image.as_ref().map(|image| json!(image)));
        put("port", self.port.map(|port| json!(port)));
        put("replicas_target", self.instances.map(|n| json!(n)));
        put("config", config.map(|id| json!(id)));
        put(
            "health_check",
            self.health_path
                .as_ref()
                .map(|path| json!({ "type": "http", "path": path })),
        );
        put("resources", self.memory.map(|mb| json!({ "memory_mb": mb })));
        put("options", self.max_in_flight.map(|n| json!({ "max_in_flight": n })));
        let strategy = |strategy| match strategy {
            Strategy::Rolling => json!("rolling"),
            Strategy::Recreate => json!("recreate"),
        };
        put("strategy", self.strategy.map(strategy));
        if !fields.is_empty() {
            fields.extend(self.note.as_ref().map(|note| ("notes".to_owned(), json!(note))));
        }
        fields
    }
}
