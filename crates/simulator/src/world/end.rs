//! The end of a run: faults are over, everything gets done, and then nothing is done.

use std::time::Duration;

use domain::ServiceId;
use tokio::time::Instant;

use super::World;

/// Virtual time after the last command and fault within which everything must be done (invariant 15).
const CONVERGES_WITHIN: Duration = Duration::from_secs(2 * 3_600);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// What is done must stay so for this long.
const STAYS_FOR: Duration = Duration::from_secs(600);

impl World {
    /// Somebody looks after what waits for somebody.
    async fn go_on(&self, service: ServiceId) {
        let paused = |state: &store::ServiceState| {
            let active = state
                .active
                .as_ref()
                .filter(|active| active.stage == domain::Stage::Paused)?;
            Some((active.id, active.at_step))
        };
        let waits = self
            .book
            .pages()
            .services
            .get(&service)
            .and_then(|known| paused(known.state.as_ref()?));
        let answer = match waits {
            Some((_, true)) => self.let_go_on(service).await,
            Some((_, false)) => self.scope.resume(service).await.map(drop),
            None => return,
        };
        if answer.is_ok() {
            self.book.say("* somebody lets it go on");
        }
    }

    /// Invariant 15: everything is done after a bounded time, and then nothing is done any more.
    pub(super) async fn converge(&self, services: &[ServiceId]) {
        let healed = Instant::now();
        let missing = loop {
            tokio::time::sleep(LOOK).await;
            self.turn(0, 0).await;
            if self.book.is_violated() {
                return;
            }
            for id in services {
                self.go_on(*id).await;
            }
            let nobody = (!self.is_ruled()).then(|| "not exactly one control plane is at work".to_owned());
            let missing = services.iter().find_map(|id| self.book.pages().whole(*id).err());
            let missing = missing.or(nobody);
            match missing {
                Some(_) if healed.elapsed() < CONVERGES_WITHIN => {}
                missing => break missing,
            }
        };
        if let Some(missing) = missing {
            let what = format!("{} s after the last fault {missing}", healed.elapsed().as_secs());
            return self.book.violate(15, what);
        }
        self.book.say("* everything is done");
        self.book.missed_regrets();
        tokio::time::sleep(LOOK).await;
        self.turn(0, 0).await;
        let steady: Vec<ServiceId> = services
            .iter()
            .copied()
            .filter(|id| self.book.pages().is_steady(*id))
            .collect();
        let stillness = || {
            steady
                .iter()
                .map(|id| self.book.pages().stillness(*id))
                .collect::<Vec<_>>()
        };
        let published = || {
            if steady.len() == services.len() {
                self.edge.published()
            } else {
                0
            }
        };
        let before = (stillness(), published());
        tokio::time::sleep(STAYS_FOR).await;
        self.turn(0, 0).await;
        let after = (stillness(), published());
        if before != after {
            let what = format!("it was done, and then something was done: {before:?}, then {after:?}");
            self.book.violate(15, what);
        }
    }
}
