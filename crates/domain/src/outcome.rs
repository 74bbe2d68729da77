//! How an operation on a service ends: in exactly one of three ways.

use serde::Serialize;

use crate::Stage;

/// Done, reverted, or waiting for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// What was asked for is what runs.
    Done,
    /// What ran before is what runs.
    Reverted,
    /// Nothing more happens until somebody acts; [`Footing::next_command`] says how.
    NeedsYou,
}

/// Where a deployment stands, as far as its outcome depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Footing<'a> {
    /// Of the service.
    pub name: &'a str,
    pub stage: Stage,
    pub rolled_back: bool,
    /// Paused at a step.
    pub at_step: bool,
    /// The step that it is at ends with nothing but a user's `continue`.
    pub needs_continue: bool,
    /// Some version of the service serves.
    pub serves: bool,
    /// The platform has stopped acting on the service.
    pub frozen: bool,
}

impl Footing<'_> {
    /// `None` while it moves by itself.
    pub fn outcome(&self) -> Option<Outcome> {
        if self.frozen {
            return Some(Outcome::NeedsYou);
        }
        match self.stage {
            Stage::Queued | Stage::Deploying | Stage::Finalizing | Stage::Canceling => None,
            Stage::Paused if self.at_step && !self.needs_continue => None,
            Stage::Paused => Some(Outcome::NeedsYou),
            Stage::Succeeded if self.rolled_back => Some(Outcome::Reverted),
            Stage::Succeeded => Some(Outcome::Done),
            // A newer deployment took over: of this one nothing is left.
            Stage::Superseded => Some(Outcome::Reverted),
            Stage::Failed | Stage::Canceled if self.serves => Some(Outcome::Reverted),
            // A first deployment that was taken back on purpose leaves what was before: nothing.
            Stage::Canceled => Some(Outcome::Reverted),
            Stage::Failed => Some(Outcome::NeedsYou),
        }
    }

    /// What to type next, where the outcome is [`Outcome::NeedsYou`].
    pub fn next_command(&self) -> Option<String> {
        if self.outcome() != Some(Outcome::NeedsYou) {
            return None;
        }
        let verb = match self.stage {
            _ if self.frozen => return Some("hob doctor".to_owned()),
            Stage::Paused if self.at_step => "continue",
            Stage::Paused => "resume",
            _ => "logs",
        };
        Some(format!("hob {verb} {}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOVING: Footing = Footing {
        name: "web",
        stage: Stage::Deploying,
        rolled_back: false,
        at_step: false,
        needs_continue: false,
        serves: true,
        frozen: false,
    };

    #[test]
    fn every_end_is_one_of_three_and_a_command_stands_exactly_where_a_person_is_needed() {
        for stage in Stage::ALL {
            for bits in 0..32_u8 {
                let on = |bit: u8| bits & (1 << bit) != 0;
                let footing = Footing {
                    stage,
                    rolled_back: on(0),
                    at_step: on(1),
                    needs_continue: on(2),
                    serves: on(3),
                    frozen: on(4),
                    ..MOVING
                };
                let outcome = footing.outcome();
                assert!(outcome.is_some() || stage.is_active(), "{footing:?}");
                assert_eq!(
                    footing.next_command().is_some(),
                    outcome == Some(Outcome::NeedsYou),
                    "{footing:?}"
                );
            }
        }
    }

    #[test]
    fn a_person_is_told_what_to_type() {
        let paused = Footing {
            stage: Stage::Paused,
            ..MOVING
        };
        assert_eq!(paused.next_command().as_deref(), Some("hob resume web"));
        let at_step = Footing {
            at_step: true,
            needs_continue: true,
            ..paused
        };
        assert_eq!(at_step.next_command().as_deref(), Some("hob continue web"));
        let timed = Footing {
            needs_continue: false,
            ..at_step
        };
        assert_eq!(timed.next_command(), None);
        let first = Footing {
            stage: Stage::Failed,
            serves: false,
            ..MOVING
        };
        assert_eq!(first.next_command().as_deref(), Some("hob logs web"));
        assert_eq!(Footing { serves: true, ..first }.outcome(), Some(Outcome::Reverted));
    }
}
