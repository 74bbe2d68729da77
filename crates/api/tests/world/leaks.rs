//! Looks for planted secrets in everything that anybody logs, at every level (invariant 25).

use std::io::{self, Write};
use std::sync::{Mutex, OnceLock};

/// Shorter pieces of a secret are found by chance.
const PIECE_BYTES: usize = 8;

/// A value that needs escaping in JSON and in URLs, and that nothing else contains.
pub const PLANTED: &str = "zX9#qLm2\"vT7\\kP4@wR8&jH5";

static LEAKS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From here on, every log line of this process is searched.
pub fn watch_all_logs() {
    static WATCHING: OnceLock<()> = OnceLock::new();
    WATCHING.get_or_init(|| {
        let needles = forms(PLANTED);
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(move || Searcher {
                needles: needles.clone(),
            })
            .init();
    });
}

/// Leaks on purpose, to see that a leak would be seen.
pub fn canary() {
    tracing::trace!(canary = PLANTED, "the canary");
}

/// Log lines that held a piece of [`PLANTED`].
pub fn leaks() -> Vec<String> {
    LEAKS.lock().expect("nobody panics with the lock").clone()
}

/// Where a piece of [`PLANTED`] stands in a text, in whatever form.
pub fn find(text: &str) -> Option<String> {
    forms(PLANTED).into_iter().find(|needle| text.contains(needle))
}

struct Searcher {
    needles: Vec<String>,
}

impl Write for Searcher {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        if self.needles.iter().any(|needle| text.contains(needle)) {
            LEAKS
                .lock()
                .expect("nobody panics with the lock")
                .push(text.into_owned());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Every piece of the value, as it is, escaped for JSON and for Rust's `{:?}`, encoded for URLs, in hex, in base64.
fn forms(value: &str) -> Vec<String> {
    let json = serde_json::to_string(value).expect("a string has a JSON form");
    let url: String = value
        .bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect();
    let hex: String = value.bytes().map(|b| format!("{b:02x}")).collect();
    let mut texts = vec![value.to_owned(), json.trim_matches('"').to_owned(), url, hex];
    // Base64 has three faces, one for each place in a group of three bytes.
    texts.extend((0..3).map(|skip| base64(&value.as_bytes()[skip..])));
    let mut pieces: Vec<String> = texts
        .iter()
        .flat_map(|text| text.as_bytes().windows(PIECE_BYTES))
        .map(|piece| String::from_utf8_lossy(piece).into_owned())
        .collect();
    pieces.sort();
    pieces.dedup();
    pieces
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks_exact(3) {
        let number = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        for shift in [18, 12, 6, 0] {
            text.push(char::from(ALPHABET[(number >> shift & 63) as usize]));
        }
    }
    text
}

#[test]
fn the_search_finds_a_secret_in_every_form() {
    for text in [
        format!("x {PLANTED} y"),
        format!("{:?}", PLANTED),
        "x=qLm2%22vT7%5C".to_owned(),
        "714c6d322276".to_owned(),
        format!("a{}b", base64(&PLANTED.as_bytes()[1..])),
    ] {
        assert!(find(&text).is_some(), "{text}");
    }
    assert_eq!(find("correct horse battery staple"), None);
}
