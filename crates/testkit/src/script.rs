//! How instances of one image behave in the [`crate::FakeEngine`].

use std::time::Duration;

use engine::Exit;

/// The life of every instance of one image, in durations of tokio's clock.
///
/// ```text
/// start() ── start ──▶ Running ── ready ──▶ probes pass ── … ── stop() ── stop ──▶ Exited
///                         └────── ends.after ──────▶ Exited by itself
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// From the accepted start call until the process runs.
    pub start: Duration,
    /// From the running process until health checks pass.
    pub ready: Duration,
    pub health: Health,
    /// How it ends without being asked, if it does.
    pub ends: Option<Ending>,
    /// From the stop signal until the process is gone; a longer one than the grace is killed at the grace.
    pub stop: Duration,
    /// The start call itself is refused for good with this text.
    pub refuse: Option<String>,
}

/// What health checks of a running instance see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// Passes from [`Script::ready`] on.
    #[default]
    Good,
    Never,
    /// From readiness on, passes for `good`, fails for `bad`, and so on.
    Flaps {
        good: Duration,
        bad: Duration,
    },
    /// Passes until so long after readiness, never again from then on.
    GoodUntil(Duration),
}

/// An end that nobody asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// From the running process (zero: it dies at start).
    pub after: Duration,
    pub exit: Exit,
}

impl Default for Script {
    /// Starts in 20 ms, is ready 30 ms later, lives on, stops within 10 ms.
    fn default() -> Self {
        Script {
            start: Duration::from_millis(20),
            ready: Duration::from_millis(30),
            health: Health::Good,
            ends: None,
            stop: Duration::from_millis(10),
            refuse: None,
        }
    }
}

impl Script {
    pub fn start_after(self, start: Duration) -> Self {
        Script { start, ..self }
    }

    pub fn ready_after(self, ready: Duration) -> Self {
        Script { ready, ..self }
    }

    pub fn health(self, health: Health) -> Self {
        Script { health, ..self }
    }

    /// Ends by itself with `code`, so long after it began to run.
    pub fn crash_after(self, after: Duration, code: i32) -> Self {
        let exit = Exit {
            code: Some(code),
            tail: vec![format!("fatal: exiting with {code}")],
            ..Exit::default()
        };
        Script {
            ends: Some(Ending { after, exit }),
            ..self
        }
    }

    pub fn crash_at_start(self, code: i32) -> Self {
        self.crash_after(Duration::ZERO, code)
    }

    pub fn never_healthy(self) -> Self {
        self.health(Health::Never)
    }

    pub fn stop_after(self, stop: Duration) -> Self {
        Script { stop, ..self }
    }

    pub fn refused(self, why: &str) -> Self {
        Script {
            refuse: Some(why.to_owned()),
            ..self
        }
    }

    /// Whether a health check passes so long after the process began to run.
    pub(crate) fn passes(&self, running_for: Duration) -> bool {
        let Some(ready_for) = running_for.checked_sub(self.ready) else {
            return false;
        };
        match self.health {
            Health::Good => true,
            Health::Never => false,
            Health::GoodUntil(end) => ready_for < end,
            Health::Flaps { good, bad } => {
                let period = (good + bad).as_nanos().max(1);
                ready_for.as_nanos() % period < good.as_nanos()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_follows_the_script() {
        let ms = Duration::from_millis;
        let script = Script::default().ready_after(ms(100));
        assert!(!script.passes(ms(99)));
        assert!(script.passes(ms(100)));
        assert!(!script.clone().never_healthy().passes(ms(10_000)));
        let flaps = script.clone().health(Health::Flaps {
            good: ms(10),
            bad: ms(5),
        });
        assert!(flaps.passes(ms(109)) && !flaps.passes(ms(110)) && !flaps.passes(ms(114)) && flaps.passes(ms(115)));
        let fades = script.health(Health::GoodUntil(ms(50)));
        assert!(fades.passes(ms(149)) && !fades.passes(ms(150)));
    }
}
