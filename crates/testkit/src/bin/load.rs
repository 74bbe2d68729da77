//! `hob-load`: sends requests on an absolute schedule and says what became of each.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use testkit::load::{Kind, Load, LoadPlan, Report, parse_mix};
use tokio::signal::unix::{SignalKind, signal};

/// How often the end of the run is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Sends HTTP requests at a fixed rate, whatever the server does, and counts what became of each.
///
/// Ends after --seconds, on SIGINT or SIGTERM, or when the file of --until-file appears, whichever comes first, and
/// then waits for what is in flight. Exit code 0: every request ended well; 1: some did not.
#[derive(Parser)]
#[command(name = "hob-load", version)]
struct Arguments {
    /// Address to connect to, such as 127.0.0.1:8080
    #[arg(long)]
    connect: SocketAddr,
    /// Host header [default: the address]
    #[arg(long)]
    host: Option<String>,
    /// Requests a second
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Stop sending after so many seconds
    #[arg(long, default_value_t = 3600.0)]
    seconds: f64,
    /// Stop sending after so many requests
    #[arg(long, default_value_t = 50_000_000)]
    requests: u64,
    /// Stop sending when this file exists
    #[arg(long)]
    until_file: Option<PathBuf>,
    /// Kinds and weights: short, close, slow, download, websocket, post; or `mixed`
    #[arg(long, default_value = "short", value_parser = |text: &str| parse_mix(text).map(Mix))]
    mix: Mix,
    /// Path of short requests
    #[arg(long, default_value = "/")]
    path: String,
    /// What the body of an answer to a short request must contain
    #[arg(long, default_value = "")]
    expect: String,
    /// Seconds that an answer may take beyond what was asked of it
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
    /// Milliseconds of a slow answer
    #[arg(long, default_value_t = 1000)]
    slow_ms: u64,
    /// Milliseconds of a download
    #[arg(long, default_value_t = 5000)]
    download_ms: u64,
    /// Bytes of a download
    #[arg(long, default_value_t = 1_000_000)]
    download_bytes: u64,
    /// Decides the order of kinds
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
    /// Write the JSON document to this file as well
    #[arg(long)]
    report: Option<PathBuf>,
}

#[derive(Clone)]
struct Mix(Vec<(Kind, u32)>);

impl Arguments {
    fn plan(&self) -> anyhow::Result<LoadPlan> {
        anyhow::ensure!(self.rate.is_finite() && self.rate > 0.0, "--rate must be above 0");
        let seconds = |text: &str, value: f64| {
            Duration::try_from_secs_f64(value).with_context(|| format!("{text} must be a number of seconds"))
        };
        Ok(LoadPlan {
            path: self.path.clone(),
            requests_max: self.requests,
            timeout: seconds("--timeout", self.timeout)?,
            expect: self.expect.clone(),
            slow: Duration::from_millis(self.slow_ms),
            download_bytes: self.download_bytes,
            download_lasts: Duration::from_millis(self.download_ms),
            seed: self.seed,
            ..LoadPlan::new(
                self.connect,
                self.host.clone().unwrap_or_else(|| self.connect.to_string()),
            )
            .rate(self.rate)
            .lasts(seconds("--seconds", self.seconds)?)
            .mix(self.mix.0.clone())
        })
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let plan = arguments.plan()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let load = Load::start(plan);
    runtime.block_on(until_the_end(&load, arguments.until_file.as_deref()))?;
    tell(&arguments, &load.finish())
}

async fn until_the_end(load: &Load, file: Option<&std::path::Path>) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if load.is_over() || file.is_some_and(|file| file.exists()) {
            return Ok(());
        }
    }
}

fn tell(arguments: &Arguments, report: &Report) -> anyhow::Result<ExitCode> {
    let json = report.json();
    if let Some(path) = &arguments.report {
        std::fs::write(path, json.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if arguments.json {
        println!("{json}");
    } else {
        print!("{}", report.table());
    }
    Ok(if report.failed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
