//! One binary, four roles: `up` (the control plane), `edge` (the data plane), `shim` (one per instance), and the client
//! commands. Environment, current directory and configuration are read here, once, and passed down.

mod config;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use config::{Host, UpArgs};

/// Deploys containers on your own machine with zero failed requests.
#[derive(Parser)]
#[command(
    name = "hob",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Hob {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Run the platform: API, edge and engine
    Up(UpArgs),
    #[command(flatten)]
    Client(cli::ClientCommand),
}

fn main() -> ExitCode {
    // The two roles that must not share a process with threads are looked at first, before any is made.
    let mut args = std::env::args_os();
    let program = args.next();
    match args.next().as_deref().and_then(|role| role.to_str()) {
        #[cfg(feature = "embedded")]
        Some("shim") => return engine::embedded::shim_main(args.collect()),
        Some("edge") => {
            up::start_logging(config::LogFormat::Json, log_filter().as_deref());
            return edge::edge_main(args);
        }
        _ => {}
    }
    drop(program);
    match Hob::parse().role {
        Role::Up(args) => up::run(args, &host()),
        Role::Client(command) => client(command),
    }
}

/// One thread is enough for a client.
fn client(command: cli::ClientCommand) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("hob: no event loop to work with: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(cli::run(command, cli::Environment::of_process(), Hob::command()));
    // A read of standard input that nobody needs any more must not hold up the end.
    runtime.shutdown_background();
    code
}

/// `HOB_LOG`: which log lines are wanted, such as `info,reconcile=debug`.
fn log_filter() -> Option<String> {
    std::env::var("HOB_LOG").ok().filter(|filter| !filter.is_empty())
}

fn host() -> Host {
    let var = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(std::path::PathBuf::from)
    };
    Host {
        is_root: nix::unistd::geteuid().is_root(),
        stderr_is_terminal: std::io::IsTerminal::is_terminal(&std::io::stderr()),
        log_filter: log_filter(),
        home: var("HOME"),
        xdg_data_home: var("XDG_DATA_HOME"),
        xdg_config_home: var("XDG_CONFIG_HOME"),
    }
}
