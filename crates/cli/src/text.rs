//! Numbers, times and tables for people.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;

/// Characters of an id that tell instances apart: the end of a time-ordered UUID is its random part.
const SHORT_ID: usize = 8;

/// `850 ms`, `3.2 s`, `4 min 5 s`, `2 h 10 min`.
pub fn duration(ms: i64) -> String {
    let seconds = ms / 1_000;
    match ms {
        ..0 => "0 ms".to_owned(),
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", seconds, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// How long ago a time of the interface was: `12 s`, `5 min`, `3 h`, `4 d`.
pub fn age(at: &str, now: Timestamp) -> String {
    let Ok(then) = at.parse::<Timestamp>() else {
        return String::new();
    };
    let seconds = (now.as_second() - then.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A time of the interface without its letters, in UTC.
pub fn moment(at: &str) -> String {
    at.replacen('T', " ", 1).trim_end_matches('Z').to_owned()
}

/// `512 B`, `1.5 KiB`, `12.0 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut scaled = bytes as f64 / 1_024.0;
    if scaled < 1.0 {
        return format!("{bytes} B");
    }
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if scaled < 1_024.0 {
            break;
        }
        scaled /= 1_024.0;
        unit = larger;
    }
    format!("{scaled:.1} {unit}")
}

/// `1 instance`, `3 instances`.
pub fn count(number: impl Into<u64>, noun: &str) -> String {
    let number = number.into();
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

/// Enough of an id to tell it from others.
pub fn short_id(id: &str) -> &str {
    let start = id.len().saturating_sub(SHORT_ID);
    id.get(start..).unwrap_or(id)
}

/// The first twelve digits of a digest, after its algorithm.
pub fn short_digest(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// The first line, cut to `max` characters. What cannot be seen, or would move the cursor, is shown as a dot.
pub fn first_line(text: &str, max: usize) -> String {
    let line = printable(text.lines().next().unwrap_or_default());
    if line.chars().count() <= max {
        return line;
    }
    let mut cut: String = line.chars().take(max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Text of others without control characters, so that no log line can play with the terminal.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\t' { '·' } else { c })
        .collect()
}

/// Likewise, but lines stay lines.
pub fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// A table without lines. Columns whose header begins with `>` are aligned to the right.
pub fn table<const N: usize>(headers: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headers.map(|header| header.trim_start_matches('>')));
    for row in rows {
        table.add_row(row.map(|cell| printable(&cell)));
    }
    for (column, header) in table.column_iter_mut().zip(headers) {
        column.set_padding((0, 2));
        if header.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Reads `90`, `90s`, `10m`, `2h`, `30d`; a bare number is seconds.
///
/// # Errors
/// A sentence for the user.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_s = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("use seconds, or a number with s, m, h or d, such as 10m".to_owned()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "use a whole number with s, m, h or d, such as 10m".to_owned())?;
    match number.checked_mul(unit_s) {
        Some(0) => Err("use more than nothing".to_owned()),
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err("that is too long".to_owned()),
    }
}

/// The name of `names` that was most likely meant.
pub fn nearest<'a>(asked: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let far = (asked.chars().count() / 3).max(2);
    let candidates = names.into_iter().map(|name| (distance(asked, name), name));
    candidates
        .filter(|(steps, _)| *steps <= far)
        .min()
        .map(|(_, name)| name)
}

/// Edits that lead from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        let shown = [0, 999, 1_000, 3_250, 59_999, 61_000, 3_600_000, 7_800_000].map(duration);
        assert_eq!(
            shown,
            [
                "0 ms",
                "999 ms",
                "1.0 s",
                "3.2 s",
                "59.9 s",
                "1 min 1 s",
                "1 h 0 min",
                "2 h 10 min"
            ]
        );
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for bad in ["", "0", "x", "1.5h", "-1", "10 m", "9w", "99999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_fitting_units() {
        let shown = [0, 1_023, 1_024, 1_536, 12 << 20, 3 << 40].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "12.0 MiB", "3.0 TiB"]);
    }

    #[test]
    fn the_name_that_was_meant_is_found() {
        let names = ["web", "worker", "billing-api"];
        assert_eq!(nearest("wbe", names), Some("web"));
        assert_eq!(nearest("biling-api", names), Some("billing-api"));
        assert_eq!(nearest("database", names), None);
    }

    #[test]
    fn text_of_others_cannot_move_the_cursor() {
        assert_eq!(printable("a\x1b[2Jb\tc\r"), "a·[2Jb\tc·");
        assert_eq!(first_line("one two three\nfour", 8), "one two…");
        assert_eq!(first_line("", 8), "");
    }

    #[test]
    fn ids_and_digests_are_shortened_without_trust_in_their_form() {
        assert_eq!(short_id("0190b6a2-0000-7000-8000-0123456789ab"), "456789ab");
        assert_eq!(short_id("x"), "x");
        assert_eq!(short_digest("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_digest("é"), "é");
    }
}

/// For the tests of everything that is shown.
#[cfg(test)]
pub mod tests_support {
    use std::path::Path;

    use jiff::Timestamp;

    /// The present, for tests.
    pub fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().expect("a time")
    }

    /// Compares with a file of `tests/screens`. `UPDATE_SCREENS=1` writes the file instead, for a look at the diff.
    #[track_caller]
    pub fn check(file: &str, shown: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/screens").join(file);
        let shown = format!("{}\n", shown.trim_end());
        if std::env::var_os("UPDATE_SCREENS").is_some() {
            std::fs::write(&path, &shown).expect("the screen is written");
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            shown,
            expected,
            "{} differs; UPDATE_SCREENS=1 accepts it",
            path.display()
        );
    }
}
