//! How what belongs to one data directory is named where all data directories of a machine meet: control groups, network
//! devices, packet rules.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Eight hexadecimal digits that tell one data directory from another: FNV-1a, so that it never changes.
pub fn tag_of(data_dir: &Path) -> String {
    let resolved = std::fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let bytes = resolved.as_os_str().as_bytes().iter();
    let hash = bytes.fold(0x811c_9dc5u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    format!("{hash:08x}")
}
