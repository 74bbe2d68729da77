//! The output of an instance on disk: a line of the program is a line of the file, `<µs since the epoch> <o|e> <text>`.
//!
//! Files are `log.<n>`; when one is full the next number begins and only the one before it is kept. So a cursor is a
//! number and an offset, reading needs no lock, and a reader that falls behind by a whole file loses the oldest lines
//! and never sees one twice.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::{LogChunk, LogCursor, LogLine, Stream};

/// Bytes of one file. Two are kept.
pub const FILE_MAX: u64 = 8 << 20;
/// Bytes of one line; longer ones become several.
pub const LINE_MAX: usize = 16 << 10;
/// Digits of a time, stream, two spaces, line end.
const LINE_OVERHEAD: usize = 32;
/// Most bytes that one call of [`read`] answers, whatever was asked for.
const CHUNK_MAX: usize = 4 << 20;
/// Most lines that a tail goes back.
const TAIL_MAX: usize = 10_000;

/// Writes the log of one instance. A disk that is full loses lines, not the instance.
pub struct LogWriter {
    dir: PathBuf,
    file_max: u64,
    number: u64,
    size: u64,
    file: Option<File>,
}

impl LogWriter {
    /// Goes on behind what is there.
    pub fn open(dir: &Path, file_max: u64) -> io::Result<LogWriter> {
        let number = numbers(dir)?.last().copied().unwrap_or(0);
        let mut writer = LogWriter {
            dir: dir.to_owned(),
            file_max,
            number,
            size: 0,
            file: None,
        };
        writer.open_file()?;
        Ok(writer)
    }

    /// Appends whole lines, each with its line end.
    pub fn append(&mut self, lines: &[u8]) {
        if self.size > 0 && self.size + lines.len() as u64 > self.file_max {
            self.number += 1;
            if self.open_file().is_err() {
                self.file = None;
            }
            // What this makes room for was readable until now; readers skip ahead.
            for old in numbers(&self.dir).unwrap_or_default() {
                if old + 1 < self.number {
                    let _ = fs::remove_file(file_path(&self.dir, old));
                }
            }
        }
        if let Some(file) = &mut self.file
            && file.write_all(lines).is_ok()
        {
            self.size += lines.len() as u64;
        }
    }

    fn open_file(&mut self) -> io::Result<()> {
        let path = file_path(&self.dir, self.number);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }
}

/// One line in the form of the file. `text` holds no line end.
pub fn format_line(into: &mut Vec<u8>, at_us: i64, stream: Stream, text: &[u8]) {
    let letter = match stream {
        Stream::Stdout => 'o',
        Stream::Stderr => 'e',
    };
    let _ = write!(into, "{at_us} {letter} ");
    into.extend_from_slice(text);
    into.push(b'\n');
}

/// Reads from `cursor` on, or from `tail` lines before the end. `ended` says that nothing more will be written.
///
/// # Errors
/// A cursor that is none of ours, or an unreadable file.
pub fn read(
    dir: &Path,
    cursor: Option<&LogCursor>,
    tail: usize,
    max_bytes: usize,
    ended: bool,
) -> io::Result<LogChunk> {
    let numbers = numbers(dir)?;
    let (Some(&oldest), Some(&newest)) = (numbers.first(), numbers.last()) else {
        return Ok(LogChunk {
            lines: Vec::new(),
            next: (!ended).then(|| encode(0, 0)),
        });
    };
    let (mut number, mut offset) = match cursor {
        Some(cursor) => decode(cursor)?,
        None => tail_position(dir, &numbers, tail.min(TAIL_MAX))?,
    };
    if number < oldest {
        (number, offset) = (oldest, 0);
    }
    let mut left = max_bytes.clamp(LINE_MAX + LINE_OVERHEAD, CHUNK_MAX);
    let mut lines = Vec::new();
    loop {
        let (bytes, at_end) = read_whole_lines(&file_path(dir, number), offset, left)?;
        offset += bytes.len() as u64;
        left -= bytes.len();
        lines.extend(bytes.split(|byte| *byte == b'\n').filter_map(parse_line));
        if at_end && number < newest {
            (number, offset) = (number + 1, 0);
        } else if at_end || bytes.is_empty() {
            let nothing_more = ended && at_end;
            return Ok(LogChunk {
                lines,
                next: (!nothing_more).then(|| encode(number, offset)),
            });
        }
    }
}

fn encode(number: u64, offset: u64) -> LogCursor {
    LogCursor(format!("{number}:{offset}"))
}

fn decode(cursor: &LogCursor) -> io::Result<(u64, u64)> {
    let parts = cursor.0.split_once(':');
    let position = parts.and_then(|(number, offset)| Some((number.parse().ok()?, offset.parse().ok()?)));
    position.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "the log position is not one that was given out",
        )
    })
}

/// As many whole lines as fit into `max` bytes, and whether the file holds no more than was looked at.
fn read_whole_lines(path: &Path, offset: u64, max: usize) -> io::Result<(Vec<u8>, bool)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), true)),
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(max as u64).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let at_end = bytes.len() < max;
    bytes.truncate(whole);
    Ok((bytes, at_end))
}

fn parse_line(line: &[u8]) -> Option<LogLine> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let at_us = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let stream = match parts.next()? {
        b"o" => Stream::Stdout,
        b"e" => Stream::Stderr,
        _ => return None,
    };
    let text = String::from_utf8_lossy(parts.next()?).into_owned();
    Some(LogLine { at_us, stream, text })
}

/// Where the last `tail` lines begin.
fn tail_position(dir: &Path, numbers: &[u64], tail: usize) -> io::Result<(u64, u64)> {
    let mut wanted = tail;
    let mut position = (numbers.last().copied().unwrap_or(0), 0);
    for &number in numbers.iter().rev() {
        let bytes = fs::read(file_path(dir, number)).unwrap_or_default();
        let starts = line_starts_from_end(&bytes, wanted);
        position = (number, starts.last().copied().unwrap_or(bytes.len()) as u64);
        wanted -= starts.len();
        if wanted == 0 {
            break;
        }
    }
    Ok(position)
}

/// Offsets at which the last `count` lines begin, the last line first.
fn line_starts_from_end(bytes: &[u8], count: usize) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut end = bytes.len();
    while starts.len() < count && end > 0 {
        let start = bytes[..end - 1]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        starts.push(start);
        end = start;
    }
    starts
}

fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log.{number}"))
}

/// Numbers of the files that are there, ascending.
fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if let Some(number) = name.to_str().and_then(|name| name.strip_prefix("log.")?.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        format_line(&mut bytes, 7, Stream::Stdout, text.as_bytes());
        bytes
    }

    fn texts(chunk: &LogChunk) -> Vec<&str> {
        chunk.lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn a_reader_sees_every_line_once_across_files_and_then_only_new_ones() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut writer = LogWriter::open(dir.path(), 300).expect("a log");
        let mut cursor = read(dir.path(), None, 0, 1000, false).expect("readable").next;
        let mut seen = Vec::new();
        for round in 0..100 {
            writer.append(&line(&format!("line {round}")));
            let chunk = read(dir.path(), cursor.as_ref(), 0, 1000, false).expect("readable");
            seen.extend(chunk.lines.iter().map(|line| line.text.clone()));
            cursor = chunk.next;
        }
        let expected: Vec<String> = (0..100).map(|round| format!("line {round}")).collect();
        assert_eq!(seen, expected);
        assert!(
            numbers(dir.path()).expect("files").len() == 2,
            "only two files are kept"
        );
    }

    #[test]
    fn a_tail_reaches_back_over_the_file_boundary() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut writer = LogWriter::open(dir.path(), 40).expect("a log");
        for text in ["a", "b", "c", "d", "e", "f"] {
            writer.append(&line(text));
        }
        let chunk = read(dir.path(), None, 5, 1 << 20, true).expect("readable");
        assert_eq!(texts(&chunk), ["b", "c", "d", "e", "f"]);
        assert_eq!(chunk.next, None, "the instance has ended and everything was read");
        let none = read(dir.path(), None, 0, 1 << 20, false).expect("readable");
        assert!(none.lines.is_empty() && none.next.is_some());
    }

    #[test]
    fn a_reader_that_fell_behind_goes_on_with_the_oldest_line_there_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut writer = LogWriter::open(dir.path(), 10).expect("a log");
        let start = read(dir.path(), None, 0, 1000, false).expect("readable").next;
        for text in ["a", "b", "c", "d"] {
            writer.append(&line(text));
        }
        let chunk = read(dir.path(), start.as_ref(), 0, 1000, false).expect("readable");
        assert_eq!(texts(&chunk), ["c", "d"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_strange_cursors_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut writer = LogWriter::open(dir.path(), FILE_MAX).expect("a log");
        let mut bytes = Vec::new();
        format_line(&mut bytes, 1, Stream::Stderr, b"caf\xff");
        writer.append(&bytes);
        let chunk = read(dir.path(), None, 1, 1000, true).expect("readable");
        assert_eq!(
            chunk.lines,
            [LogLine {
                at_us: 1,
                stream: Stream::Stderr,
                text: "caf\u{fffd}".into()
            }]
        );
        for bad in ["", "1", "a:b", "-1:0", "../x:1"] {
            assert!(
                read(dir.path(), Some(&LogCursor(bad.into())), 0, 1000, false).is_err(),
                "{bad}"
            );
        }
    }
}
