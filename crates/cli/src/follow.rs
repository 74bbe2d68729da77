//! Waits for the end of a rollout and shows how far it is.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use crate::client::{Lines, query};
use crate::error::{Outcome, Result, Trouble};
use crate::find::Found;
use crate::model::{self, Rollout};
use crate::progress;
use crate::session::Session;
use crate::text;

/// A server that is away for so long is given up. Restarts take seconds.
const ABSENCE_MAX: Duration = Duration::from_secs(60);
/// Pause before a broken stream is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(300);

/// What the user wants of the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    pub waits: bool,
    pub limit: Duration,
}

impl Session<'_> {
    /// Shows a rollout until its end, or until it needs somebody to go on, and answers where it is then. Without
    /// patience: shows it once.
    ///
    /// # Guarantees
    /// A server that goes away and comes back is waited for: the rollout is the server's, and survives it.
    ///
    /// # Errors
    /// `TimedOut` after the limit and on an interrupt, with what goes on; never because the rollout failed.
    pub async fn follow(&mut self, found: &Found, deployment: &str, patience: Patience) -> Result<Rollout> {
        let deadline = Instant::now() + patience.limit;
        let mut watch = Watch::new(found, deployment);
        let bar = self.screen.live("{spinner} {elapsed:>4}  {prefix}\n        {wide_msg}");
        // One for the whole wait: an interrupt between two states would be lost to a new one.
        let interrupt = tokio::signal::ctrl_c();
        tokio::pin!(interrupt);
        loop {
            let next = tokio::select! {
                next = timeout_at(deadline, watch.next(self)) => next,
                _ = &mut interrupt => return Err(goes_on("stopped waiting", found.name())),
            };
            let document = match next {
                Ok(document) => document?,
                Err(_) => {
                    return Err(goes_on(
                        &format!("not over within {} s", patience.limit.as_secs()),
                        found.name(),
                    ));
                }
            };
            let rollout: Rollout = model::read(&document)?;
            let words = progress::describe(&rollout);
            let head = format!(
                "{} version {}  {}",
                rollout.name,
                rollout.version,
                progress::states(&rollout)
            );
            bar.set_prefix(text::printable(&head));
            let reason = progress::trial(&rollout).unwrap_or_else(|| progress::reason(&rollout));
            bar.set_message(reason);
            if self.screen.is_json() {
                self.screen.document(&document)?;
            } else if !self.screen.is_live() && watch.shown.as_ref() != Some(&words) {
                self.screen.line(progress::line(&rollout))?;
            }
            watch.shown = Some(words);
            if rollout.done || rollout.needs_you() || !patience.waits {
                bar.finish_and_clear();
                return Ok(rollout);
            }
        }
    }
}

fn goes_on(what: &str, name: &str) -> Trouble {
    Trouble::new(Outcome::TimedOut, format!("{what}; the rollout of {name} goes on")).advise(format!(
        "`hob status {name}` shows it, `hob cancel {name}` takes it back"
    ))
}

/// The stream of one rollout's states, opened again when it breaks.
struct Watch {
    target: String,
    lines: Option<Lines>,
    heard: Instant,
    /// The last words that were shown.
    shown: Option<String>,
}

impl Watch {
    fn new(found: &Found, deployment: &str) -> Self {
        Watch {
            target: query(&found.path("rollout/"), &[("watch", "1"), ("deployment", deployment)]),
            lines: None,
            heard: Instant::now(),
            shown: None,
        }
    }

    async fn next(&mut self, session: &Session<'_>) -> Result<Value> {
        loop {
            if let Some(lines) = &mut self.lines {
                if let Some(document) = lines.next().await {
                    self.heard = Instant::now();
                    return Ok(document);
                }
                self.lines = None;
                if self.heard.elapsed() >= ABSENCE_MAX {
                    return Err(
                        Trouble::new(Outcome::Refused, "the server answers and says nothing of the rollout")
                            .advise("`hob status` may say more; the rollout goes on"),
                    );
                }
                sleep(RECONNECT_PAUSE).await;
            }
            match session.client.lines(&self.target).await {
                Ok(lines) => self.lines = Some(lines),
                Err(trouble) if self.may_come_back(&trouble) => sleep(RECONNECT_PAUSE).await,
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// It has been there a moment ago.
    fn may_come_back(&self, trouble: &Trouble) -> bool {
        trouble.is_absence() && self.heard.elapsed() < ABSENCE_MAX
    }
}
