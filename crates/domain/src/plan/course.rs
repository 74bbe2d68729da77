//! Where a service stands on the way that its strategy takes, and what that leg of the way wants.

use std::time::Duration;

use super::inputs::{Desired, Goal, Rollout, Trial};
use crate::rollout::Sizes;
use crate::{Stage, Step, Strategy, Template};

/// The goal, how it is being reached, and what stands beside it meanwhile.
pub(super) struct Course<'a> {
    pub goal: &'a Goal,
    /// The rollout that leads to the goal. `None`: the goal serves already, or is gone back to.
    pub rollout: Option<&'a Rollout>,
    /// What serves until the rollout has succeeded, where that is another version.
    pub original: Option<&'a Goal>,
    pub leg: Leg,
    warm_for: Duration,
}

/// One part of the way.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Leg {
    /// The release command runs as an instance of this template; nothing of the goal is started before it succeeds.
    Release(Template),
    /// To a step, or at it.
    Step {
        step: Step,
        /// Percent of the requests until the instances of the step are there.
        traffic_before: Option<u32>,
        /// Counted from 1.
        number: u32,
        of: u32,
    },
    /// All the way.
    Through,
}

impl Desired {
    /// What should run now: nothing, the active deployment, or what serves.
    ///
    /// A queued deployment does not count yet (its image may not even exist), a cancelled one not any more.
    pub fn goal(&self) -> Option<&Goal> {
        match &self.rollout {
            _ if self.deleting => None,
            Some(rollout) if matches!(rollout.stage, Stage::Deploying | Stage::Paused | Stage::Finalizing) => {
                Some(&rollout.goal)
            }
            _ => self.serving.as_ref(),
        }
    }
}

impl<'a> Course<'a> {
    /// `None` where nothing is wanted.
    pub fn of(desired: &'a Desired) -> Option<Self> {
        let goal = desired.goal()?;
        let rollout = desired.rollout.as_ref().filter(|rollout| goal == &rollout.goal);
        let serving = desired.serving.as_ref();
        let original = serving.filter(|serving| rollout.is_some() && serving.template != goal.template);
        let leg = match rollout {
            // The version serves already: only numbers change.
            Some(_) if original.is_none() && serving.is_some() => Leg::Through,
            Some(rollout) => leg(rollout, original.is_some()),
            None => Leg::Through,
        };
        Some(Course {
            goal,
            rollout,
            original,
            leg,
            warm_for: desired.warm_for,
        })
    }

    /// How many instances of the goal and of the original are wanted on this leg.
    pub fn wanted(&self) -> Sizes {
        let before = self.original.map_or(0, |original| original.instances);
        match &self.leg {
            Leg::Release(_) => Sizes {
                canary: 0,
                original: before,
            },
            Leg::Step { .. } if self.goal.strategy == Strategy::BlueGreen => Sizes {
                canary: self.goal.instances,
                original: before,
            },
            Leg::Step { step, .. } => self.canary_sizes(step),
            Leg::Through => Sizes {
                canary: self.goal.instances,
                original: 0,
            },
        }
    }

    /// By instances alone the two versions make up what was there before, and one more. Where the edge divides the
    /// requests by weight, the old version stays large enough for its part of them.
    fn canary_sizes(&self, step: &Step) -> Sizes {
        let base = self.base();
        let Sizes { canary, original } = step.sizes(base);
        let to_original = 100 - self.traffic().unwrap_or(100).min(100);
        Sizes {
            canary,
            original: original.max((base * to_original).div_ceil(100)),
        }
    }

    /// Percent of the requests for the goal on a step's leg; `None`: by instances. The weight changes only when the
    /// instances of the step are there.
    pub fn traffic(&self) -> Option<u32> {
        match &self.leg {
            Leg::Step { .. } if self.goal.strategy == Strategy::BlueGreen => Some(0),
            Leg::Step { step, .. } if self.at_step().is_some() => step.traffic,
            Leg::Step { traffic_before, .. } => *traffic_before,
            Leg::Release(_) | Leg::Through => None,
        }
    }

    /// What a canary's steps are shares of: the smaller one of the two sizes.
    fn base(&self) -> u32 {
        self.original
            .map_or(self.goal.instances, |o| o.instances.min(self.goal.instances))
    }

    /// Invariant 1: most instances that may be alive, leaving ones included; see [`super::scene::Scene::counted`].
    /// Blue-green has a surge of full size, and a canary step at least what it wants. The run of a release command is not
    /// counted: it serves nobody.
    pub fn ceiling(&self, serving: Option<&Goal>) -> u32 {
        let before = serving.map_or(0, |serving| serving.instances);
        let surge = self.goal.options.surge(self.goal.instances);
        let surge = match self.goal.strategy {
            Strategy::Rolling | Strategy::Recreate => surge,
            Strategy::Canary => surge.max(self.canary_surge(self.goal.instances.max(before))),
            Strategy::BlueGreen => surge.max(self.goal.instances),
        };
        self.goal.instances.max(before) + surge
    }

    /// Instances that were told to stop and do not count against the ceiling.
    pub fn uncounted_stopping(&self) -> u32 {
        self.goal.options.uncounted_stopping(self.goal.instances)
    }

    /// What this leg wants above the larger of both sizes, at least 1.
    fn canary_surge(&self, larger: u32) -> u32 {
        let Sizes { canary, original } = self.wanted();
        (canary + original).saturating_sub(larger).max(1)
    }

    /// Invariant 2: fewest available instances that a voluntary retirement may leave.
    pub fn floor(&self) -> u32 {
        let wanted = match &self.leg {
            Leg::Step { .. } if self.goal.strategy == Strategy::Canary => self.base(),
            Leg::Release(_) | Leg::Step { .. } | Leg::Through => self.goal.instances,
        };
        // Rolling takes its user at their word, and the plan says so beforehand (`change::downtime`). A canary is there
        // to risk a part only, and always has room for one above.
        let least = u32::from(self.goal.strategy == Strategy::Canary).min(wanted);
        wanted.saturating_sub(self.goal.options.max_unavailable).max(least)
    }

    /// Requests go over to the goal by one table, when all of it is ready.
    pub fn switches(&self) -> bool {
        self.goal.strategy == Strategy::BlueGreen && self.leg == Leg::Through && self.original.is_some()
    }

    /// How long stale instances outlive the switch.
    pub fn warm_for(&self) -> Duration {
        match self.rollout {
            Some(_) if self.switches() => self.goal.options.keep_warm(),
            Some(_) => Duration::ZERO,
            None => self.warm_for,
        }
    }

    /// Most instances of the goal that may be on their way at once while others serve.
    pub fn in_flight(&self) -> u32 {
        let options = &self.goal.options;
        match (self.goal.strategy, options.max_in_flight) {
            (Strategy::BlueGreen, None) => self.goal.instances,
            _ => options.in_flight(self.goal.instances),
        }
    }

    /// Stands still at a step until that is passed.
    pub fn at_step(&self) -> Option<&Trial> {
        self.rollout.and_then(|rollout| rollout.at_step.as_ref())
    }

    /// A user's pause: what has been reached is kept.
    pub fn is_paused_by_user(&self) -> bool {
        self.rollout
            .is_some_and(|rollout| rollout.stage == Stage::Paused && rollout.at_step.is_none())
    }

    pub fn has_failed(&self) -> bool {
        self.rollout
            .is_some_and(|rollout| rollout.failures >= rollout.goal.options.max_failures.max(1))
    }
}

fn leg(rollout: &Rollout, beside_another: bool) -> Leg {
    if let Some(release) = &rollout.release {
        return Leg::Release(release.clone());
    }
    let steps = match beside_another {
        true => rollout.goal.options.steps(rollout.goal.strategy),
        // Nothing to be compared with, nobody to be spared: a first deployment goes all the way.
        false => vec![],
    };
    let index = rollout.step as usize;
    let Some(step) = steps.get(index) else {
        return Leg::Through;
    };
    let before = match index.checked_sub(1) {
        Some(before) => steps[before].traffic,
        None => step.traffic.map(|_| 0),
    };
    // Never above what the step allows, even where steps go down.
    let traffic_before = match (before, step.traffic) {
        (before, None) => before,
        (before, Some(most)) => Some(before.unwrap_or(most).min(most)),
    };
    Leg::Step {
        step: step.clone(),
        traffic_before,
        number: rollout.step + 1,
        of: steps.len() as u32,
    }
}
