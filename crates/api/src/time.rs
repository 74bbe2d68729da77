//! Times as the platform face writes and reads them: UTC, `Z`, whole seconds (I.11).

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// Microseconds since the epoch, shown as `2024-10-15T12:00:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(pub i64);

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&seconds(self.0))
    }
}

/// `2024-10-15T12:00:00Z`. A time outside the years that have four digits is shown as the nearest one inside.
pub fn seconds(at_us: i64) -> String {
    nearest(Timestamp::from_second(at_us.div_euclid(1_000_000)), at_us).to_string()
}

/// `2024-10-15T12:00:00.123456Z`, for log lines.
pub fn micros(at_us: i64) -> String {
    format!("{:.6}", nearest(Timestamp::from_microsecond(at_us), at_us))
}

fn nearest(made: Result<Timestamp, jiff::Error>, at_us: i64) -> Timestamp {
    made.unwrap_or(if at_us < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// Reads an RFC 3339 time with any offset, whole or fractional seconds.
pub fn parse(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(|t| t.as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_z_and_whole_seconds() {
        assert_eq!(seconds(1_728_993_600_000_000), "2024-10-15T12:00:00Z");
        assert_eq!(seconds(1_728_993_600_999_999), "2024-10-15T12:00:00Z");
        assert_eq!(seconds(-1), "1969-12-31T23:59:59Z");
        assert_eq!(micros(1_728_993_600_000_042), "2024-10-15T12:00:00.000042Z");
    }

    #[test]
    fn extreme_times_do_not_panic() {
        for at_us in [i64::MIN, i64::MAX] {
            assert!(seconds(at_us).ends_with('Z'));
            assert!(micros(at_us).ends_with('Z'));
        }
    }

    #[test]
    fn times_are_read_with_any_offset() {
        assert_eq!(parse("2024-10-15T12:00:00Z"), Some(1_728_993_600_000_000));
        assert_eq!(parse("2024-10-15T14:00:00.5+02:00"), Some(1_728_993_600_500_000));
        assert_eq!(parse("yesterday"), None);
    }
}
