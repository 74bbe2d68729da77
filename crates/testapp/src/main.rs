//! `hob-testapp`: the example app of the quickstart and of the tests.
//!
//! A threaded HTTP/1.1 server that needs nothing of its image but itself. It behaves well by default and badly on
//! request: every misbehaviour that a rollout must survive is a switch in its environment ([`settings`]).

mod app;
mod drain;
mod fetch;
mod http;
mod serve;
mod settings;
mod sha1;
mod websocket;

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;

use app::App;
use drain::Drain;
use settings::Settings;

/// `app exit CODE` does nothing else: the release command of tests.
fn asked_to_exit(mut words: impl Iterator<Item = String>) -> Option<u8> {
    words.next().filter(|word| word == "exit")?;
    Some(words.next().and_then(|code| code.parse().ok()).unwrap_or(1))
}

fn main() -> ExitCode {
    let settings = Settings::read(|name| std::env::var(name).ok());
    // Before there is a second thread: each inherits the mask, so that only the drain takes the signal.
    let signals = drain::block_signals();
    if let Some(code) = asked_to_exit(std::env::args().skip(1)) {
        println!("exiting with code {code}, as commanded");
        return ExitCode::from(code);
    }
    if let Some(code) = settings.crash_at_start {
        eprintln!("crashing at the start with code {code}, as asked");
        return ExitCode::from(code);
    }
    std::thread::sleep(settings.start_delay);
    if settings.silent {
        println!("version {} hangs at the start, as asked", settings.version);
        drain::wait(&signals);
        return ExitCode::SUCCESS;
    }
    let listener = match TcpListener::bind(("0.0.0.0", settings.port)) {
        Ok(listener) => Arc::new(listener),
        Err(error) => {
            eprintln!("cannot listen on port {}: {error}", settings.port);
            return ExitCode::FAILURE;
        }
    };
    // Port 0 takes any that is free.
    let port = listener.local_addr().map_or(settings.port, |address| address.port());
    println!(
        "version {} of {} listens on port {port}",
        settings.version, settings.instance
    );
    let drain = Arc::new(Drain::default());
    let app = Arc::new(App::new(settings));
    serve::spawn(listener.clone(), app.clone(), drain.clone());
    drain::wait(&signals);
    drain.end(&listener, &app.settings);
    ExitCode::SUCCESS
}
