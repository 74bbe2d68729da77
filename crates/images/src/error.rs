//! What can go wrong with an image, in sentences that a user can act on.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::reference::Reference;

pub type Result<T, E = ImageError> = std::result::Result<T, E>;

/// Every failure of this crate. The texts are safe to show: they hold no credentials and no address beyond what the
/// user named.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("`{input}` is not an image reference: {problem}")]
    InvalidReference { input: String, problem: String },

    #[error("`{input}` is not a digest; write sha256: and 64 lower-case hexadecimal digits")]
    InvalidDigest { input: String },

    /// Not in the local store.
    #[error(
        "there is no image `{0}` here; `hob image ls` lists what there is, `hob image import FILE` or \
         `hob image pack DIR --name {0}` adds one, and a reference with a registry is pulled when it is deployed"
    )]
    Unknown(Box<Reference>),

    /// The manifest that was asked for by digest is not (any more, or completely) in the store.
    #[error("the image {0} is not complete in the local store; import or pull it again")]
    UnknownDigest(Digest),

    /// The registry answered that it has no such image.
    #[error(
        "the registry {registry} has no image `{reference}`; check the name and the tag, or add the image with \
         `hob image import FILE` or `hob image pack DIR --name NAME`"
    )]
    NotInRegistry {
        reference: Box<Reference>,
        registry: String,
    },

    #[error("the registry {registry} does not let us pull {repository}: {advice}")]
    Unauthorized {
        registry: String,
        repository: String,
        advice: &'static str,
    },

    #[error("{image} is built for {found}, and this machine runs {wanted}; use an image that is built for {wanted}")]
    WrongPlatform {
        image: String,
        found: String,
        wanted: String,
    },

    #[error("{what} does not have the promised content: expected {expected}, got {actual}; nothing of it was kept")]
    DigestMismatch {
        what: String,
        expected: Digest,
        actual: Digest,
    },

    /// `what` names the archive, manifest or tar entry.
    #[error("{what} is corrupt: {problem}")]
    Corrupt { what: String, problem: String },

    /// A tar entry that would reach something outside the image's root.
    #[error("the layer entry `{entry}` was refused: {problem}; the image is not usable")]
    Escapes { entry: String, problem: &'static str },

    /// `limit` is the name of the field of [`crate::Limits`].
    #[error("{what} is too large: more than {allowed} (setting images.{limit})")]
    TooLarge {
        what: String,
        limit: &'static str,
        allowed: u64,
    },

    #[error("{what} is not supported: {advice}")]
    Unsupported { what: String, advice: String },

    /// The archive holds an image without a name and none was given.
    #[error("the archive does not say what the image is called; give it a name with --name NAME:TAG")]
    Unnamed,

    #[error("{0}")]
    InvalidRequest(String),

    #[error(
        "there is no space left on the disk of {} while {operation}; free some (`hob image rm`) and try again. \
         Nothing half-done was kept", path.display()
    )]
    NoSpace { operation: String, path: PathBuf },

    /// After all retries. Trying again later may work.
    #[error("could not pull from the registry {registry}: {problem}")]
    Registry { registry: String, problem: String },

    #[error("the registry {registry} limits our requests and asks to wait {wait_s} s; try again after that")]
    RateLimited { registry: String, wait_s: u64 },

    /// The address behind a name is one that a registry may not send us to.
    #[error("{host} leads to an address that is not allowed for a registry: {problem}")]
    AddressRefused { host: String, problem: &'static str },

    #[error("{operation} {} failed: {source}", path.display())]
    Io {
        operation: String,
        path: PathBuf,
        source: io::Error,
    },
}

impl ImageError {
    /// Whether the same call may succeed later without anybody changing the input.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            ImageError::Registry { .. }
                | ImageError::RateLimited { .. }
                | ImageError::NoSpace { .. }
                | ImageError::Io { .. }
        )
    }

    /// A failed system call on `path`; a full disk or quota becomes [`ImageError::NoSpace`].
    pub(crate) fn io(operation: &str, path: &Path, source: io::Error) -> ImageError {
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if full {
            ImageError::NoSpace {
                operation: operation.to_owned(),
                path: path.to_owned(),
            }
        } else {
            ImageError::Io {
                operation: operation.to_owned(),
                path: path.to_owned(),
                source,
            }
        }
    }

    pub(crate) fn corrupt(what: impl Into<String>, problem: impl ToString) -> ImageError {
        ImageError::Corrupt {
            what: what.into(),
            problem: problem.to_string(),
        }
    }

    pub(crate) fn too_large(what: impl Into<String>, limit: &'static str, allowed: u64) -> ImageError {
        ImageError::TooLarge {
            what: what.into(),
            limit,
            allowed,
        }
    }
}

/// Attaches what was done to which path to an I/O error.
pub(crate) trait IoContext<T> {
    fn while_doing(self, operation: &str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn while_doing(self, operation: &str, path: &Path) -> Result<T> {
        self.map_err(|source| ImageError::io(operation, path, source))
    }
}

impl<T> IoContext<T> for nix::Result<T> {
    fn while_doing(self, operation: &str, path: &Path) -> Result<T> {
        self.map_err(|errno| ImageError::io(operation, path, errno.into()))
    }
}

/// A name out of an archive for a message: control characters and endless names never reach a terminal or a log.
pub(crate) fn printable(name: &[u8]) -> String {
    const SHOWN_MAX: usize = 200;
    let text = String::from_utf8_lossy(name);
    let mut shown: String = text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        shown.push('…');
    }
    shown
}
