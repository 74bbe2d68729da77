//! How "this was deleted" is written in an unpacked layer.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, mknodat};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::confined::set_xattr;
use super::members::EntryPath;
use crate::error::{IoContext, Result};
use crate::tree;

/// What this machine lets us write into a layer for overlayfs to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhiteoutForm {
    /// Character devices 0/0 and `trusted.overlay.opaque`: mount as usual.
    Trusted,
    /// Character devices 0/0 and `user.overlay.opaque`: mount with `userxattr` (a user namespace; Linux 5.11).
    User,
    /// Neither could be written; whiteouts stand in our own records only. Use [`crate::ImageStore::flatten`].
    Recorded,
}

impl WhiteoutForm {
    /// Tries in a fresh directory at `scratch`, which is removed again.
    pub(crate) fn probe(scratch: &Path) -> Result<WhiteoutForm> {
        fs::create_dir(scratch).while_doing("creating", scratch)?;
        let dir = File::open(scratch).while_doing("opening", scratch)?;
        let device = mknodat(&dir, "device", SFlag::S_IFCHR, Mode::empty(), 0);
        let form = if device.is_err() {
            WhiteoutForm::Recorded
        } else if set_xattr(&dir, b"trusted.overlay.opaque", b"y").is_ok() {
            WhiteoutForm::Trusted
        } else if set_xattr(&dir, b"user.overlay.opaque", b"y").is_ok() {
            WhiteoutForm::User
        } else {
            WhiteoutForm::Recorded
        };
        tree::remove(scratch).while_doing("removing", scratch)?;
        Ok(form)
    }

    pub(super) fn opaque_xattr(self) -> Option<&'static [u8]> {
        match self {
            WhiteoutForm::Trusted => Some(b"trusted.overlay.opaque"),
            WhiteoutForm::User => Some(b"user.overlay.opaque"),
            WhiteoutForm::Recorded => None,
        }
    }
}

/// What is kept of an unpacked layer beside its tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub form: WhiteoutForm,
    /// Bytes of the tar stream.
    pub bytes: u64,
    pub entries: u64,
    /// Paths that are gone in this layer.
    pub whiteouts: BTreeSet<EntryPath>,
    /// Directories in which nothing of lower layers is seen.
    pub opaques: BTreeSet<EntryPath>,
}

impl LayerRecord {
    /// The root itself is opaque. Overlayfs does not look for that, so such a layer must be mounted as the lowest.
    pub(crate) fn hides_everything_below(&self) -> bool {
        self.opaques.contains(&EntryPath::default())
    }
}

/// Bytes of a path in JSON: as text, with `%` and whatever is not UTF-8 as `%xx`.
impl Serialize for EntryPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        for chunk in self.as_bytes().utf8_chunks() {
            text.push_str(&chunk.valid().replace('%', "%25"));
            chunk
                .invalid()
                .iter()
                .for_each(|byte| text.push_str(&format!("%{byte:02x}")));
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for EntryPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EntryPath, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut pieces = text.split('%');
        let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
        for piece in pieces {
            let byte = piece.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
            bytes.push(byte.ok_or_else(|| serde::de::Error::custom("a path with a bad escape"))?);
            bytes.extend_from_slice(&piece.as_bytes()[2..]);
        }
        Ok(EntryPath::trusted(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_recorded_path_survives_whatever_its_bytes(bytes in proptest::collection::vec(1u8.., 0..64)) {
            let path = EntryPath::trusted(bytes);
            let json = serde_json::to_string(&path).expect("text");
            prop_assert_eq!(serde_json::from_str::<EntryPath>(&json).expect("a path"), path);
        }
    }
}
