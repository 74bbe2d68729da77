//! Steps in words: how people write them, and what is wrong with them.
//!
//! ```text
//! steps = step { "," step }
//! step  = WEIGHT [ "traffic" SHARE ] [ "for" TIME | "gate" { GATE } ]
//! GATE  = "requests" N | "for" TIME | "errors" POINTS | "p95" PERCENT
//! ```
//! Weights and shares may carry a percent sign. A time is a number with `ms`, `s`, `m` or `h`. A step that says neither
//! `for` nor `gate` ends with a user's `continue`.

use std::fmt;
use std::str::FromStr;

use crate::rollout::STEPS_MAX;
use crate::{Advance, Gate, Step};

/// Longest wait at a step: a day.
pub const STEP_MS_MAX: u64 = 24 * 3_600_000;
/// Most requests that a gate may ask for.
pub const GATE_REQUESTS_MAX: u64 = 1_000_000_000;
/// Most percent that the new version's latency may be of the old one's.
pub const GATE_P95_PERCENT_MAX: u32 = 10_000;

/// Whether a rollout can take these steps, and a sentence where it cannot.
pub fn check(steps: &[Step]) -> Result<(), String> {
    if steps.len() > STEPS_MAX {
        return Err(format!("A rollout has at most {STEPS_MAX} steps"));
    }
    let mut before = 0;
    for (n, step) in (1..).zip(steps) {
        if !(1..=100).contains(&step.weight) {
            return Err(format!("Step {n}: the weight is between 1 and 100 percent"));
        }
        if step.weight < before {
            return Err(format!(
                "Step {n}: its weight of {} is below the {before} of the step before; weights never shrink",
                step.weight
            ));
        }
        if step.traffic.is_some_and(|share| share > 100) {
            return Err(format!("Step {n}: the traffic is between 0 and 100 percent"));
        }
        check_end(&step.then).map_err(|problem| format!("Step {n}: {problem}"))?;
        before = step.weight;
    }
    Ok(())
}

fn check_end(then: &Advance) -> Result<(), String> {
    let wait = |ms: u64| match ms {
        0..=STEP_MS_MAX => Ok(()),
        _ => Err("a wait is at most 24h".to_owned()),
    };
    match then {
        Advance::Continue => Ok(()),
        Advance::AfterMs(ms) => wait(*ms),
        Advance::Gate(gate) => {
            if !(1..=GATE_REQUESTS_MAX).contains(&gate.min_requests) {
                return Err(format!("a gate's requests are between 1 and {GATE_REQUESTS_MAX}"));
            }
            if gate.max_error_points > 100 {
                return Err("a gate's errors are between 0 and 100 percentage points".to_owned());
            }
            if !(1..=GATE_P95_PERCENT_MAX).contains(&gate.max_p95_percent) {
                return Err(format!("a gate's p95 is between 1 and {GATE_P95_PERCENT_MAX} percent"));
            }
            wait(gate.observe_ms)
        }
    }
}

/// Reads steps as [`Display`](fmt::Display) writes them, and checks them.
pub fn parse(text: &str) -> Result<Vec<Step>, String> {
    let steps = text.split(',').map(str::parse).collect::<Result<Vec<Step>, String>>()?;
    check(&steps)?;
    Ok(steps)
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Step, String> {
        let mut words = text.split_whitespace().peekable();
        let weight = percent(words.next().ok_or("a step begins with a weight, such as 10%")?)?;
        let traffic = match words.next_if_eq(&"traffic") {
            Some(_) => Some(percent(
                words.next().ok_or("`traffic` is followed by a share, such as 5%")?,
            )?),
            None => None,
        };
        let then = match words.next() {
            None | Some("continue") => Advance::Continue,
            Some("for") => Advance::AfterMs(duration(
                words.next().ok_or("`for` is followed by a time, such as 5m")?,
            )?),
            Some("gate") => Advance::Gate(gate(&mut words)?),
            Some(other) => return Err(format!("`{other}` in `{}`: expected traffic, for or gate", text.trim())),
        };
        match words.next() {
            Some(word) => Err(format!("`{word}` in `{}` comes after the step's end", text.trim())),
            None => Ok(Step { weight, traffic, then }),
        }
    }
}

fn gate<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Gate, String> {
    let mut gate = Gate::default();
    while let Some(word) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("`{word}` of a gate lacks its value"))?;
        match word {
            "requests" => gate.min_requests = number(value)?,
            "for" => gate.observe_ms = duration(value)?,
            "errors" => gate.max_error_points = percent(value)?,
            "p95" => gate.max_p95_percent = percent(value)?,
            _ => return Err(format!("`{word}` of a gate: expected requests, for, errors or p95")),
        }
    }
    Ok(gate)
}

fn percent(word: &str) -> Result<u32, String> {
    number(word.strip_suffix('%').unwrap_or(word))
}

fn number<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("`{word}` is no whole number"))
}

/// `500ms`, `30s`, `5m`, `1h`, in milliseconds. A bare number is refused: nobody knows what it means.
pub fn duration(word: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let bad = || format!("`{word}` is no time; write 500ms, 30s, 5m or 1h");
    let digits = word.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = word.split_at(digits);
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(*scale).ok_or_else(bad)
}

/// The shortest text that [`duration`] reads back.
pub fn in_words(ms: u64) -> String {
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.weight)?;
        if let Some(share) = self.traffic {
            write!(f, " traffic {share}%")?;
        }
        match &self.then {
            Advance::Continue => Ok(()),
            Advance::AfterMs(ms) => write!(f, " for {}", in_words(*ms)),
            Advance::Gate(gate) => write!(f, " gate {gate}"),
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gate {
            min_requests,
            observe_ms,
            max_error_points,
            max_p95_percent,
        } = self;
        let time = in_words(*observe_ms);
        write!(
            f,
            "requests {min_requests} for {time} errors {max_error_points}% p95 {max_p95_percent}%"
        )
    }
}

impl Advance {
    /// What ends the step, as the rest of "waits …".
    pub fn waits_for(&self) -> String {
        match self {
            Advance::Continue => "for `continue`".to_owned(),
            Advance::AfterMs(ms) => format!("for {} at this step", in_words(*ms)),
            Advance::Gate(gate) => format!("for its gate ({gate})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_read_back_as_they_are_written() {
        let cases = [
            ("10,50", "10%, 50%"),
            ("10% for 5m", "10% for 5m"),
            (
                "10 traffic 5 gate, 100",
                "10% traffic 5% gate requests 100 for 1m errors 1% p95 150%, 100%",
            ),
            (
                "5 gate requests 20 for 90s errors 0 p95 120%",
                "5% gate requests 20 for 90s errors 0% p95 120%",
            ),
            (" 1%  traffic 0%  continue ", "1% traffic 0%"),
            ("1 for 1500ms", "1% for 1500ms"),
        ];
        for (typed, written) in cases {
            let steps = parse(typed).unwrap_or_else(|problem| panic!("{typed}: {problem}"));
            let text: Vec<String> = steps.iter().map(ToString::to_string).collect();
            assert_eq!(text.join(", "), written);
            assert_eq!(parse(written), Ok(steps));
        }
    }

    #[test]
    fn what_is_wrong_with_steps_is_said() {
        let many = vec!["1"; STEPS_MAX + 1].join(",");
        let cases = [
            ("", "a step begins with a weight"),
            ("ten", "`ten` is no whole number"),
            ("0", "between 1 and 100"),
            ("101", "between 1 and 100"),
            ("50,10", "Step 2: its weight of 10 is below the 50"),
            ("10 traffic 101", "the traffic is between 0 and 100"),
            ("10 for 5", "`5` is no time"),
            ("10 for 25h", "at most 24h"),
            ("10 for 99999999999999999h", "is no time"),
            ("10 until 5m", "expected traffic, for or gate"),
            ("10 for 5m gate", "`gate` in `10 for 5m gate` comes after"),
            ("10 gate requests", "`requests` of a gate lacks its value"),
            ("10 gate requests 0", "requests are between 1 and"),
            ("10 gate speed 3", "expected requests, for, errors or p95"),
            (many.as_str(), "at most 20 steps"),
        ];
        for (typed, expected) in cases {
            let problem = parse(typed).unwrap_err();
            assert!(problem.contains(expected), "{typed}: {problem}");
        }
    }
}
