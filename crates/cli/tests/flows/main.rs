//! The commands against a server that follows a script: what is asked, what is shown, how it ends.

mod access;
mod deploys;
mod fake;
mod images;
mod manuals;
mod plans;
mod projects;
mod services;
mod values;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use clap::{CommandFactory, Parser};
use cli::{ClientCommand, Environment, Outcome, Screen};
use fake::{Fake, KEY};

#[derive(Parser)]
#[command(name = "hob")]
struct Hob {
    #[command(subcommand)]
    command: ClientCommand,
}

/// What a command came to.
struct Ran {
    outcome: Outcome,
    out: String,
    err: String,
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("not poisoned").clone()).expect("text")
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn run(environment: &Environment, line: &str) -> Ran {
    let (out, err) = (Captured::default(), Captured::default());
    let hob = Hob::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
    let screen = Screen::plain(out.clone(), err.clone());
    let outcome = cli::run_on(hob.command, environment, screen, Hob::command()).await;
    Ran {
        outcome,
        out: out.text(),
        err: err.text(),
    }
}

fn environment(fake: &Fake) -> Environment {
    Environment {
        url: Some(fake.url()),
        api_key: Some(KEY.to_owned()),
        temp_dir: std::env::temp_dir(),
        ..Environment::default()
    }
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is missing:\n{text}");
    }
}
