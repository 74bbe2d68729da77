//! How much of anything an image may have.

use serde::{Deserialize, Serialize};

/// Caps on untrusted input (C6.13, C6.14). All are checked before the bytes in question are written. The field names
/// are those that [`crate::ImageError::TooLarge`] prints and that the configuration uses, below `images.`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one manifest or index. Default 4 MiB, what registries accept.
    pub manifest_bytes: u64,
    /// Bytes of an image's configuration. Default 8 MiB.
    pub config_bytes: u64,
    /// Layers of one image. Default 127, what overlayfs-based tools build at most.
    pub layers: u64,
    /// Bytes of one layer as stored (usually compressed). Default 8 GiB.
    pub layer_bytes: u64,
    /// Bytes of all layers of an image as stored. Default 16 GiB.
    pub image_bytes: u64,
    /// Bytes of one layer's tar stream. Default 16 GiB.
    pub layer_unpacked_bytes: u64,
    /// Bytes of all tar streams of an image. Default 32 GiB.
    pub image_unpacked_bytes: u64,
    /// How many times larger a layer may become by unpacking, once it is over 64 MiB. Default 250.
    pub layer_ratio: u64,
    /// Files, directories, links and whiteouts of one layer. Default 1,000,000.
    pub layer_entries: u64,
    /// Bytes read from an archive that is imported, as sent. Default 32 GiB.
    pub archive_bytes: u64,
    /// Files in an archive that is imported. Default 4,096.
    pub archive_members: u64,
    /// Names that the store holds. Default 10,000.
    pub names: u64,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            manifest_bytes: 4 * MIB,
            config_bytes: 8 * MIB,
            layers: 127,
            layer_bytes: 8 * GIB,
            image_bytes: 16 * GIB,
            layer_unpacked_bytes: 16 * GIB,
            image_unpacked_bytes: 32 * GIB,
            layer_ratio: 250,
            layer_entries: 1_000_000,
            archive_bytes: 32 * GIB,
            archive_members: 4096,
            names: 10_000,
        }
    }
}

/// Below this many unpacked bytes the ratio of a layer is nobody's concern: small files of zeros are ordinary.
pub(crate) const RATIO_GRACE_BYTES: u64 = 64 * MIB;
