//! API keys: made here, shown once, kept as a hash (G.1, G.2).

use domain::Result;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::seal::{SecretString, random};

/// What every key begins with.
pub(crate) const MARK: &str = "gob_";
/// 52 characters of 5 bits hold 256 random bits.
const BODY_CHARS: usize = 52;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Characters of a key that its record shows.
const PREFIX_CHARS: usize = 12;
/// Hex digits of the hash by which candidates are found.
const LOOKUP_CHARS: usize = 16;

/// What a key leaves behind: enough to know it again, not enough to make it.
///
/// A key has 256 random bits, so a plain SHA-256 cannot be searched through; a slow hash would add nothing.
pub(crate) struct Fingerprint {
    /// Finds candidates in an index. It says nothing of the key but 64 bits of its hash.
    pub(crate) lookup: String,
    pub(crate) hash: Vec<u8>,
}

/// What a browser's session begins with, so that neither can pass for the other.
pub(crate) const SESSION_MARK: &str = "hobs_";

/// A new key, or, with another mark, a new session.
pub(crate) fn generate(mark: &str) -> Result<SecretString> {
    let bytes: [u8; BODY_CHARS] = random()?;
    let body = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)]));
    Ok(SecretString::new(mark.chars().chain(body).collect()))
}

/// The part of a key that may be shown again.
pub(crate) fn prefix(key: &SecretString) -> String {
    key.expose().chars().take(PREFIX_CHARS).collect()
}

/// `None` for a text that cannot be a key.
pub(crate) fn fingerprint(text: &str) -> Option<Fingerprint> {
    let body = text.strip_prefix(MARK)?;
    if body.len() != BODY_CHARS || !body.bytes().all(|byte| ALPHABET.contains(&byte)) {
        return None;
    }
    let hash = Sha256::digest(text.as_bytes()).to_vec();
    let mut lookup = hex(&hash);
    lookup.truncate(LOOKUP_CHARS);
    Some(Fingerprint { lookup, hash })
}

/// Takes the same time wherever the difference is.
pub(crate) fn same(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_marked_long_and_never_the_same() {
        let key = generate(MARK).unwrap();
        assert!(key.expose().starts_with("gob_"));
        assert_eq!(key.expose().len(), 56);
        assert_ne!(key.expose(), generate(MARK).unwrap().expose());
        assert!(fingerprint(key.expose()).is_some());
        assert_eq!(prefix(&key).len(), 12);
    }

    #[test]
    fn what_cannot_be_a_key_has_no_fingerprint() {
        let good = format!("gob_{}", "a".repeat(52));
        assert!(fingerprint(&good).is_some());
        for bad in [
            "",
            "gob_",
            "gob_short",
            &good[1..],
            &good[..55],
            &format!("{good}a"),
            &good.replace('a', "A"),
        ] {
            assert!(fingerprint(bad).is_none(), "{bad}");
        }
    }
}
