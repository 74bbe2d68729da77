//! What to send, where, how fast and for how long.

use std::net::SocketAddr;
use std::time::Duration;

use super::Kind;

/// A run of the generator. Always bounded: by time, by requests, and by those in flight.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    pub server: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// Path of short requests.
    pub path: String,
    /// Requests a second.
    pub rate: f64,
    /// Stop sending after this.
    pub lasts: Duration,
    /// Stop sending after so many.
    pub requests_max: u64,
    /// A request that is due while so many are in flight is not sent and counts as [`super::Outcome::NotSent`].
    pub in_flight_max: usize,
    /// How long an answer may take beyond what its kind asks for.
    pub timeout: Duration,
    pub mix: Vec<(Kind, u32)>,
    /// An answer to a short request must contain this.
    pub expect: String,
    pub slow: Duration,
    pub download_bytes: u64,
    pub download_lasts: Duration,
    pub websocket_messages: u32,
    pub websocket_gap: Duration,
    /// Decides the order of kinds.
    pub seed: u64,
}

impl LoadPlan {
    /// Short requests only, 100 a second, ten seconds.
    pub fn new(server: SocketAddr, host: impl Into<String>) -> Self {
        LoadPlan {
            server,
            host: host.into(),
            path: "/".to_owned(),
            rate: 100.0,
            lasts: Duration::from_secs(10),
            requests_max: 50_000_000,
            in_flight_max: 10_000,
            timeout: Duration::from_secs(10),
            mix: vec![(Kind::Short, 1)],
            expect: String::new(),
            slow: Duration::from_secs(1),
            download_bytes: 1_000_000,
            download_lasts: Duration::from_secs(5),
            websocket_messages: 5,
            websocket_gap: Duration::from_millis(300),
            seed: 1,
        }
    }

    pub fn rate(self, rate: f64) -> Self {
        LoadPlan { rate, ..self }
    }

    pub fn lasts(self, lasts: Duration) -> Self {
        LoadPlan { lasts, ..self }
    }

    pub fn mix(self, mix: Vec<(Kind, u32)>) -> Self {
        LoadPlan { mix, ..self }
    }

    /// All kinds, in the proportions of the rollout tests.
    pub fn mixed(self) -> Self {
        self.mix(mixed())
    }

    /// How long a good answer to this kind may take at most.
    pub(super) fn patience(&self, kind: Kind) -> Duration {
        let asked = match kind {
            Kind::Short | Kind::ShortClose | Kind::Post => Duration::ZERO,
            Kind::Slow => self.slow,
            Kind::Download => self.download_lasts,
            Kind::WebSocket => self.websocket_gap * self.websocket_messages,
        };
        asked + self.timeout
    }
}

fn mixed() -> Vec<(Kind, u32)> {
    use Kind::*;
    vec![
        (Short, 60),
        (ShortClose, 14),
        (Slow, 3),
        (Download, 1),
        (WebSocket, 2),
        (Post, 20),
    ]
}

/// Reads `mixed`, or kinds with weights such as `short=70,post=30`.
///
/// # Errors
/// A sentence for the user.
pub fn parse_mix(text: &str) -> Result<Vec<(Kind, u32)>, String> {
    if text == "mixed" {
        return Ok(mixed());
    }
    let part = |part: &str| {
        let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == name);
        let names = Kind::ALL.map(Kind::as_str).join(", ");
        let kind = kind.ok_or_else(|| format!("`{name}` is no kind of request: use mixed, or some of {names}"))?;
        let weight = weight
            .parse()
            .map_err(|_| format!("`{weight}` is no weight: use a whole number"))?;
        Ok((kind, weight))
    };
    let mix = text
        .split(',')
        .map(|text| part(text.trim()))
        .collect::<Result<Vec<_>, String>>()?;
    if mix.iter().all(|(_, weight)| *weight == 0) {
        return Err("all weights are 0: nothing would be sent".to_owned());
    }
    Ok(mix)
}
