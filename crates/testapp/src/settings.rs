//! What the environment asks of the app.

use std::time::Duration;

/// Longest drain unless told otherwise; shorter than the kill that follows a stop.
const DRAIN_MAX: Duration = Duration::from_secs(8);
/// How long a hostile app lives on.
const HOSTILE_EXIT: Duration = Duration::from_millis(50);

/// Read once, at the start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `PORT`, 8080 by default.
    pub port: u16,
    /// `VERSION`: what the pages say.
    pub version: String,
    /// `INSTANCE`, else the host name.
    pub instance: String,
    /// `CRASH_AT_START=CODE`: ends at once with this code.
    pub crash_at_start: Option<u8>,
    /// `HANG_AT_START=1` or `NOT_LISTEN=1`: lives and never listens.
    pub silent: bool,
    /// `START_DELAY_MS`: listens only after so long.
    pub start_delay: Duration,
    /// `FAIL_HEALTH=1`: `/healthz` answers 503.
    pub fail_health: bool,
    /// `EXIT_AFTER_TERM_MS=N`, or `HOSTILE=1` for 50: exits so long after SIGTERM, whatever it is doing.
    pub exit_after_term: Option<Duration>,
    /// `DRAIN_MS`: longest wait for requests in progress after SIGTERM.
    pub drain: Duration,
}

impl Settings {
    pub fn read(var: impl Fn(&str) -> Option<String>) -> Self {
        let on = |name: &str| var(name).is_some_and(|value| !matches!(value.as_str(), "" | "0"));
        let number = |name: &str| var(name).and_then(|value| value.parse::<u64>().ok());
        let hostile = on("HOSTILE").then_some(HOSTILE_EXIT);
        Settings {
            port: number("PORT").and_then(|port| u16::try_from(port).ok()).unwrap_or(8080),
            version: var("VERSION").unwrap_or_else(|| "0".to_owned()),
            instance: var("INSTANCE").unwrap_or_else(host_name),
            crash_at_start: number("CRASH_AT_START").map(|code| u8::try_from(code).unwrap_or(1)),
            silent: on("HANG_AT_START") || on("NOT_LISTEN"),
            start_delay: Duration::from_millis(number("START_DELAY_MS").unwrap_or(0)),
            fail_health: on("FAIL_HEALTH"),
            exit_after_term: number("EXIT_AFTER_TERM_MS").map(Duration::from_millis).or(hostile),
            drain: number("DRAIN_MS").map_or(DRAIN_MAX, Duration::from_millis),
        }
    }
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default()
}
