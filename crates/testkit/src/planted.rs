//! A secret to plant, and a search that finds it in whatever form it comes out (invariant 25, C4.25).

use std::collections::HashSet;
use std::sync::OnceLock;

/// Shorter pieces of a secret are found by chance.
const PIECE_BYTES: usize = 8;

type Piece = [u8; PIECE_BYTES];

/// A value that needs escaping in JSON and in URLs, and that nothing else contains.
pub const PLANTED: &str = "zX9#qLm2\"vT7\\kP4@wR8&jH5";

/// Where a piece of [`PLANTED`] stands, in whatever form, with a little of what is around it.
pub fn find(bytes: &[u8]) -> Option<String> {
    static FORMS: OnceLock<HashSet<Piece>> = OnceLock::new();
    let forms = FORMS.get_or_init(|| forms(PLANTED));
    let at = bytes.windows(PIECE_BYTES).position(|piece| forms.contains(piece))?;
    let around = &bytes[at.saturating_sub(40)..(at + 40).min(bytes.len())];
    Some(String::from_utf8_lossy(around).into_owned())
}

/// Every piece of the value, as it is, escaped for JSON and for Rust's `{:?}`, encoded for URLs, in hex, in base64.
fn forms(value: &str) -> HashSet<Piece> {
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
    let windows = texts.iter().flat_map(|text| text.as_bytes().windows(PIECE_BYTES));
    windows.filter_map(|piece| piece.try_into().ok()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_finds_a_secret_in_every_form() {
        for text in [
            format!("x {PLANTED} y"),
            format!("{:?}", PLANTED),
            "x=qLm2%22vT7%5C".to_owned(),
            "714c6d322276".to_owned(),
            format!("a{}b", base64(&PLANTED.as_bytes()[1..])),
        ] {
            assert!(find(text.as_bytes()).is_some(), "{text}");
        }
        assert_eq!(find(b"correct horse battery staple"), None);
    }
}
