//! Looks for planted secrets in everything that anybody logs, at every level (invariant 25).

use std::io::{self, Write};
use std::sync::{Mutex, OnceLock};

pub use testkit::planted::PLANTED;

static LEAKS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From here on, every log line of this process is searched.
pub fn watch_all_logs() {
    static WATCHING: OnceLock<()> = OnceLock::new();
    WATCHING.get_or_init(|| {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(|| Searcher)
            .init();
    });
}

/// Leaks on purpose, to see that a leak would be seen.
pub fn canary() {
    tracing::trace!(canary = PLANTED, "the canary");
}

/// Log lines that held a piece of [`PLANTED`].
pub fn leaks() -> Vec<String> {
    LEAKS.lock().expect("nobody panics with the lock").clone()
}

/// Where a piece of [`PLANTED`] stands in a text, in whatever form.
pub fn find(text: &str) -> Option<String> {
    testkit::planted::find(text.as_bytes())
}

struct Searcher;

impl Write for Searcher {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if testkit::planted::find(line).is_some() {
            let text = String::from_utf8_lossy(line).into_owned();
            LEAKS.lock().expect("nobody panics with the lock").push(text);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
