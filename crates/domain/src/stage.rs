//! The deployment state machine, and its projection into the words of each face.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a deployment stands. A closed machine: [`Stage::may_become`] lists every transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Recorded; its image is not resolved yet or nothing has been started.
    Queued,
    /// Instances are being started, routed and retired.
    Deploying,
    /// Waits for `continue` (or `resume`); keeps what it has reached.
    Paused,
    /// All wanted instances serve; the last old ones leave.
    Finalizing,
    /// Was asked to stop; the last healthy version is being brought back to full strength.
    Canceling,
    /// All wanted instances were healthy and routed at one instant, with none of an older version routed.
    Succeeded,
    /// Given up; `error_message` says why.
    Failed,
    /// Cancelled, and the last healthy version serves.
    Canceled,
    /// A newer deployment took its place before it was done.
    Superseded,
}

/// A recorded change of stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    pub from: Stage,
    pub to: Stage,
}

impl Stage {
    pub const ALL: [Stage; 9] = [
        Stage::Queued,
        Stage::Deploying,
        Stage::Paused,
        Stage::Finalizing,
        Stage::Canceling,
        Stage::Succeeded,
        Stage::Failed,
        Stage::Canceled,
        Stage::Superseded,
    ];

    /// Still moving: at most one deployment of a service is (invariant 7).
    pub fn is_active(self) -> bool {
        matches!(
            self,
            Stage::Queued | Stage::Deploying | Stage::Paused | Stage::Finalizing | Stage::Canceling
        )
    }

    /// Whether the machine has this edge (invariant 8). A stage never becomes itself.
    pub fn may_become(self, next: Stage) -> bool {
        use Stage::*;
        match self {
            Queued => matches!(next, Deploying | Canceling | Failed | Superseded),
            Deploying => matches!(next, Paused | Finalizing | Succeeded | Canceling | Failed | Superseded),
            Paused => matches!(next, Deploying | Canceling | Failed | Superseded),
            Finalizing => matches!(next, Succeeded | Canceling | Failed | Superseded),
            Canceling => matches!(next, Canceled | Failed | Superseded),
            Succeeded | Failed | Canceled | Superseded => false,
        }
    }

    /// The platform face's word (S0.22 to S0.25). `rolled_back` is a mark beside the stage, see faces 3.5.
    pub fn platform_status(self, rolled_back: bool) -> &'static str {
        match self {
            Stage::Succeeded if rolled_back => "rolled_back",
            Stage::Succeeded => "success",
            Stage::Failed | Stage::Canceled | Stage::Superseded => "failed",
            Stage::Queued | Stage::Deploying | Stage::Paused | Stage::Finalizing | Stage::Canceling => "pending",
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Queued => "queued",
            Stage::Deploying => "deploying",
            Stage::Paused => "paused",
            Stage::Finalizing => "finalizing",
            Stage::Canceling => "canceling",
            Stage::Succeeded => "succeeded",
            Stage::Failed => "failed",
            Stage::Canceled => "canceled",
            Stage::Superseded => "superseded",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is none of the nine stages.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no stage of a deployment")]
pub struct UnknownStage(String);

impl FromStr for Stage {
    type Err = UnknownStage;

    fn from_str(text: &str) -> Result<Self, UnknownStage> {
        Stage::ALL
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| UnknownStage(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_stages_lead_nowhere_and_active_ones_can_always_end() {
        for stage in Stage::ALL {
            let ways = Stage::ALL.into_iter().filter(|next| stage.may_become(*next)).count();
            assert_eq!(ways > 0, stage.is_active(), "{stage}");
            assert!(!stage.may_become(stage), "{stage}");
            if stage.is_active() {
                assert!(stage.may_become(Stage::Superseded), "{stage}");
                assert!(stage.may_become(Stage::Failed), "{stage}");
            }
        }
    }

    #[test]
    fn every_stage_reads_back_from_its_text() {
        for stage in Stage::ALL {
            assert_eq!(stage.as_str().parse::<Stage>().ok(), Some(stage));
        }
        assert!("success".parse::<Stage>().is_err());
    }
}
