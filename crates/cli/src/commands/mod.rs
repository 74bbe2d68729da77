//! The commands, one file for each noun or verb.

mod access;
mod audit;
mod cancel;
mod completions;
mod config;
mod control;
mod deploy;
mod diff;
mod doctor;
mod domain;
mod history;
mod image;
mod login;
mod logs;
mod man;
mod members;
mod plan;
mod projects;
mod ps;
mod report;
mod rm;
mod rollback;
mod route;
mod scale;
mod secret;
mod settings;
mod status;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::environment::Environment;
use crate::error::Result;
use crate::screen::Screen;

/// What every command takes.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Everywhere")]
pub struct Common {
    /// Print JSON: one document, or one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Look only into this project, given by name or id
    #[arg(long, global = true, value_name = "PROJECT")]
    pub project: Option<String>,
    /// Use the control socket of the server with this data directory [env: HOB_DATA_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Everything that `hob` does beside running the platform.
#[derive(Subcommand, Debug)]
pub enum ClientCommand {
    /// Create a service or change it, and follow the rollout to its end
    Deploy(deploy::Deploy),
    /// Show services, or one in detail
    Status(status::Status),
    /// Show instances
    Ps(ps::Ps),
    /// Show what instances print
    Logs(logs::Logs),
    /// Show the deployments of a service
    History(history::History),
    /// Go back to an earlier version
    Rollback(rollback::Rollback),
    /// Change the number of instances
    Scale(scale::Scale),
    /// Let a rollout pass the step that it waits at
    Continue(control::Continue),
    /// Keep the rollout that is on its way where it is
    Pause(control::Pause),
    /// Let a paused rollout go on
    Resume(control::Resume),
    /// Take back the rollout that is on its way
    Cancel(cancel::Cancel),
    /// Show what differs between two versions
    Diff(diff::Diff),
    /// Remove a service
    Rm(rm::Rm),
    /// Bring images to the server and look at them
    Image(image::ImageCommand),
    /// Lead requests to services
    Route(route::RouteCommand),
    /// Host names for routes
    Domain(domain::DomainCommand),
    /// Settings of a service, as environment variables
    Config(config::ConfigCommand),
    /// Secret settings of a service, as environment variables
    Secret(secret::SecretCommand),
    /// Sets of services that see each other
    Projects(projects::Projects),
    /// Who else works on a project
    Members(members::MembersCommand),
    /// Who did what
    Audit(audit::Audit),
    /// Keys for the interface (on the server's machine)
    Keys(access::Keys),
    /// Accounts (on the server's machine)
    Users(access::Users),
    /// Print a new one-time link that gives an operator's key (on the server's machine)
    Claim(access::Claim),
    /// Keep a server's URL and key for later commands
    Login(login::LoginCommand),
    /// Say what works and what does not on the server's machine
    Doctor(doctor::Doctor),
    /// Print a completion script for a shell
    Completions(completions::Completions),
    /// Write manual pages into a directory
    Man(man::Man),
}

impl ClientCommand {
    pub(crate) fn common(&self) -> &Common {
        match self {
            ClientCommand::Deploy(c) => &c.common,
            ClientCommand::Status(c) => &c.common,
            ClientCommand::Ps(c) => &c.common,
            ClientCommand::Logs(c) => &c.common,
            ClientCommand::History(c) => &c.common,
            ClientCommand::Rollback(c) => &c.common,
            ClientCommand::Scale(c) => &c.common,
            ClientCommand::Continue(c) => &c.common,
            ClientCommand::Pause(c) => &c.common,
            ClientCommand::Resume(c) => &c.common,
            ClientCommand::Cancel(c) => &c.common,
            ClientCommand::Diff(c) => &c.common,
            ClientCommand::Projects(c) => &c.common,
            ClientCommand::Members(c) => &c.common,
            ClientCommand::Audit(c) => &c.common,
            ClientCommand::Rm(c) => &c.common,
            ClientCommand::Image(c) => &c.common,
            ClientCommand::Route(c) => &c.common,
            ClientCommand::Domain(c) => &c.common,
            ClientCommand::Config(c) => &c.common,
            ClientCommand::Secret(c) => &c.common,
            ClientCommand::Keys(c) => &c.common,
            ClientCommand::Users(c) => &c.common,
            ClientCommand::Claim(c) => &c.common,
            ClientCommand::Login(c) => &c.common,
            ClientCommand::Doctor(c) => &c.common,
            ClientCommand::Completions(c) => &c.common,
            ClientCommand::Man(c) => &c.common,
        }
    }

    pub(crate) async fn run(self, environment: &Environment, screen: &mut Screen, root: clap::Command) -> Result<()> {
        match self {
            ClientCommand::Deploy(c) => c.run(environment, screen).await,
            ClientCommand::Status(c) => c.run(environment, screen).await,
            ClientCommand::Ps(c) => c.run(environment, screen).await,
            ClientCommand::Logs(c) => c.run(environment, screen).await,
            ClientCommand::History(c) => c.run(environment, screen).await,
            ClientCommand::Rollback(c) => c.run(environment, screen).await,
            ClientCommand::Scale(c) => c.run(environment, screen).await,
            ClientCommand::Continue(c) => c.run(environment, screen).await,
            ClientCommand::Pause(c) => c.run(environment, screen).await,
            ClientCommand::Resume(c) => c.run(environment, screen).await,
            ClientCommand::Cancel(c) => c.run(environment, screen).await,
            ClientCommand::Diff(c) => c.run(environment, screen).await,
            ClientCommand::Projects(c) => c.run(environment, screen).await,
            ClientCommand::Members(c) => c.run(environment, screen).await,
            ClientCommand::Audit(c) => c.run(environment, screen).await,
            ClientCommand::Rm(c) => c.run(environment, screen).await,
            ClientCommand::Image(c) => c.run(environment, screen).await,
            ClientCommand::Route(c) => c.run(environment, screen).await,
            ClientCommand::Domain(c) => c.run(environment, screen).await,
            ClientCommand::Config(c) => c.run(environment, screen).await,
            ClientCommand::Secret(c) => c.run(environment, screen).await,
            ClientCommand::Keys(c) => c.run(environment, screen).await,
            ClientCommand::Users(c) => c.run(environment, screen).await,
            ClientCommand::Claim(c) => c.run(environment, screen).await,
            ClientCommand::Login(c) => c.run(environment, screen).await,
            ClientCommand::Doctor(c) => c.run(environment, screen).await,
            ClientCommand::Completions(c) => c.run(screen, root),
            ClientCommand::Man(c) => c.run(screen, root),
        }
    }
}
