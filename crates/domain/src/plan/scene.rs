//! One service at one instant, its instances sorted into the roles that the rules speak of.

use std::borrow::Cow;

use super::course::{Course, Leg};
use super::inputs::{Desired, Health, Observed, Process, RouteState, Seen};
use crate::RolloutOptions;

pub(super) struct Scene<'a> {
    pub desired: &'a Desired,
    pub observed: &'a Observed,
    pub course: Option<Course<'a>>,
    /// Of the goal's template, staying.
    pub fresh: Vec<&'a Seen>,
    /// Of what serves until the rollout has succeeded, staying.
    pub originals: Vec<&'a Seen>,
    /// Of any other template, staying until they are retired.
    pub others: Vec<&'a Seen>,
    /// The run of the release command.
    pub release: Option<&'a Seen>,
    /// Retiring, not gone.
    pub leaving: Vec<&'a Seen>,
}

impl<'a> Scene<'a> {
    pub fn new(desired: &'a Desired, observed: &'a Observed) -> Self {
        let mut scene = Scene {
            desired,
            observed,
            course: Course::of(desired),
            fresh: vec![],
            originals: vec![],
            others: vec![],
            release: None,
            leaving: vec![],
        };
        for seen in observed.instances.iter().filter(|seen| seen.process != Process::Exited) {
            scene.place(seen);
        }
        // Ids are time-ordered: oldest first, so that the choice of whom to retire is the same in every run.
        for role in [&mut scene.fresh, &mut scene.originals, &mut scene.others] {
            role.sort_by_key(|seen| seen.id);
        }
        scene
    }

    fn place(&mut self, seen: &'a Seen) {
        let template = &seen.template;
        match &self.course {
            _ if seen.retiring => self.leaving.push(seen),
            Some(course) if *template == course.goal.template => self.fresh.push(seen),
            Some(course) if course.original.is_some_and(|o| o.template == *template) => self.originals.push(seen),
            Some(course) if matches!(&course.leg, Leg::Release(release) if release == template) => {
                self.release = Some(seen);
            }
            _ => self.others.push(seen),
        }
    }

    /// Everybody who stays and is not of the goal.
    pub fn stale(&self) -> impl Iterator<Item = &'a Seen> + '_ {
        self.others.iter().chain(&self.originals).copied()
    }

    pub fn staying(&self) -> impl Iterator<Item = &'a Seen> + '_ {
        self.fresh.iter().copied().chain(self.stale())
    }

    pub fn routable(&self) -> bool {
        self.course.as_ref().is_none_or(|course| course.goal.routable)
    }

    /// Healthy, and one of the goal's for the minimum time. What is replaced is not asked for a time that may be newer
    /// than itself: it carries its requests already.
    pub fn is_ready(&self, seen: &Seen) -> bool {
        let goal = self.course.as_ref().map(|course| course.goal);
        let min_ready = goal.filter(|goal| goal.template == seen.template);
        let min_ready = min_ready.map(|goal| goal.options.min_ready());
        let healthy = match seen.health {
            Health::Passing { since } => since >= min_ready.unwrap_or_default(),
            // The control plane was restarted: what the edge serves is taken to be well until checks say otherwise.
            Health::Unknown => seen.route == RouteState::In,
            Health::Failing { .. } => false,
        };
        seen.process == Process::Running && healthy
    }

    /// Ready and, where requests come in, routed: it carries its share.
    pub fn is_available(&self, seen: &Seen) -> bool {
        self.is_ready(seen) && (!self.routable() || seen.route == RouteState::In)
    }

    pub fn available<'s>(&self, seen: impl IntoIterator<Item = &'s &'s Seen>) -> u32 {
        seen.into_iter().filter(|seen| self.is_available(seen)).count() as u32
    }

    /// Would be available but for an acknowledgement that is still to come.
    pub fn is_pending(&self, seen: &Seen) -> bool {
        let acknowledged = Seen {
            route: RouteState::In,
            ..seen.clone()
        };
        seen.route == RouteState::Entering && self.is_available(&acknowledged)
    }

    /// Those that count against the ceiling (invariant 1): all that live, leaving ones included, but for a bounded
    /// number that were told to stop, or are by this very plan.
    pub fn counted(&self, course: &Course) -> u32 {
        let live = (self.staying().count() + self.leaving.len()) as u32;
        let told = |seen: &&&Seen| seen.process == Process::Stopping || self.stops(seen).is_some();
        let stopping = self.leaving.iter().filter(told).count() as u32;
        live - stopping.min(course.uncounted_stopping())
    }

    /// Invariant 4: what leaves is stopped when no edge can choose it, and it carries no request (`Some(false)`) or has
    /// used up its time to drain (`Some(true)`: what it still carries is cut).
    pub fn stops(&self, seen: &Seen) -> Option<bool> {
        let runs = matches!(seen.process, Process::Starting | Process::Running);
        match seen.route {
            RouteState::Out if runs && seen.retiring => Some(false),
            RouteState::Leaving { drained_for: Some(age) }
                if runs && seen.retiring && age >= self.options().drain() =>
            {
                Some(true)
            }
            _ => None,
        }
    }

    /// Those of the goal; the defaults where nothing is wanted.
    pub fn options(&self) -> Cow<'a, RolloutOptions> {
        match &self.course {
            Some(course) => Cow::Borrowed(&course.goal.options),
            None => Cow::Owned(RolloutOptions::default()),
        }
    }

    /// All of the goal is ready, and the strategy turns to it by one table.
    pub fn is_switching(&self, course: &Course) -> bool {
        let ready = self.fresh.iter().filter(|seen| self.is_ready(seen)).count() as u32;
        course.switches() && ready >= course.goal.instances
    }

    /// A stale instance that outlives its version, unrouted. One that is routed although nothing is rolled out is left
    /// over from a rollout that failed, and still carries its share.
    pub fn is_kept_warm(&self, course: &Course, seen: &Seen) -> bool {
        let well = seen.process == Process::Running && !matches!(seen.health, Health::Failing { .. });
        let routed = matches!(seen.route, RouteState::In | RouteState::Entering);
        self.routable() && well && !course.warm_for().is_zero() && (course.rollout.is_some() || !routed)
    }
}
