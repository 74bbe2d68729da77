//! The client commands: what a user types, what is asked of the server, and what is shown.
//!
//! `main` flattens [`ClientCommand`] into its own subcommands, reads the [`Environment`] once, and hands both to
//! [`run`]. Nothing here reads the process's environment or current directory by itself.
//!
//! Exit codes: 0 done, 1 the operation failed, 2 usage, 3 cannot reach or not allowed, 4 timed out while waiting (the
//! operation goes on).

mod client;
mod commands;
mod environment;
mod error;
mod find;
mod follow;
mod model;
mod progress;
mod screen;
mod session;
mod text;

pub use commands::{ClientCommand, Common};
pub use environment::Environment;
pub use error::{Outcome, Trouble};
pub use screen::Screen;

use std::process::ExitCode;

/// Runs one command to its end on the process's own output. `root` is the whole program's command line, for shell
/// completions.
pub async fn run(command: ClientCommand, environment: Environment, root: clap::Command) -> ExitCode {
    let screen = Screen::of_process(&environment);
    run_on(command, &environment, screen, root).await.into()
}

/// Likewise, on any output.
pub async fn run_on(command: ClientCommand, environment: &Environment, screen: Screen, root: clap::Command) -> Outcome {
    let mut screen = screen.json(command.common().json);
    match command.run(environment, &mut screen, root).await {
        Ok(()) => Outcome::Done,
        Err(trouble) => {
            screen.trouble(&trouble);
            trouble.outcome
        }
    }
}
