//! Why a deployment failed, in sentences that a user can act on.

use domain::plan::FailReason;
use engine::Exit;
use store::{Deployment, InstanceRow};

/// Most lines of output that an error message quotes.
const QUOTED_LINES: usize = 5;
/// Most characters of an error message.
const MESSAGE_MAX: usize = 2_000;

/// The `error_message` of a deployment that was given up.
pub fn failure(deployment: &Deployment, reason: &FailReason, crashes: &[InstanceRow]) -> String {
    let version = deployment.version;
    let text = match reason {
        FailReason::Crashing { failures } => {
            let died = match failures {
                1 => "an instance of it died".to_owned(),
                n => format!("{n} instances of it died"),
            };
            format!(
                "Version {version} was given up: {died}{}",
                last_death(deployment, crashes)
            )
        }
        FailReason::Release => {
            format!(
                "Version {version} was given up: its release command did not succeed{}",
                last_death(deployment, crashes)
            )
        }
        FailReason::Gate { what } => {
            format!("Version {version} was given up: beside the version before it did worse: {what}")
        }
        FailReason::Stalled { deadline, waiting } => {
            let waiting = if waiting.is_empty() {
                "nothing in particular"
            } else {
                waiting
            };
            format!(
                "Version {version} was given up: no progress for {} s while waiting for this: {waiting}{}",
                deadline.as_secs(),
                last_death(deployment, crashes)
            )
        }
    };
    text.chars().take(MESSAGE_MAX).collect()
}

fn last_death(deployment: &Deployment, crashes: &[InstanceRow]) -> String {
    let Some(row) = crashes.iter().find(|row| row.deployment == deployment.id) else {
        return String::new();
    };
    let Some(exit) = exit_of(row) else { return String::new() };
    let lived_ms = row
        .gone_at_us
        .map_or(0, |gone| (gone - row.created_at_us).max(0) / 1_000);
    let mut text = format!(
        ", the last one after {:.1} s: {}",
        lived_ms as f64 / 1_000.0,
        exit.describe()
    );
    let quoted = &exit.tail[exit.tail.len().saturating_sub(QUOTED_LINES)..];
    if !quoted.is_empty() {
        text.push_str("; its last output:");
        quoted.iter().for_each(|line| {
            text.push_str("\n  ");
            text.push_str(line);
        });
    }
    text
}

/// How an instance ended, where its row says so.
pub fn exit_of(row: &InstanceRow) -> Option<Exit> {
    serde_json::from_value(row.exit.clone()?).ok()
}
