//! Unpacking one layer: a hostile tar stream becomes a directory, and nothing else changes.
//!
//! # Rules (C6.13)
//! - Every parent directory is resolved by descriptor beneath the layer's root, without symbolic links ([`confined`]).
//!   A path with `..`, an absolute path, and a path through a link of the same archive are refused, not repaired.
//! - Symbolic links are stored with whatever target they have and never followed. Hard links lead to files of the same
//!   layer, resolved the same way.
//! - Device nodes, fifos and sockets are left out: a container gets its own `/dev`.
//! - Set-user-id and set-group-id bits of files are cleared. Instances run with *no new privileges*, where they mean
//!   nothing; and a directory full of other people's root-owned set-user-id files is no gift to the host.
//! - Extended attributes are dropped but for `user.*`, and of those `user.overlay.*`, which would speak to overlayfs.
//!   File capabilities go for the same reason as set-user-id bits.
//! - Sparse files are refused; long names, sizes and extension headers are capped before they are read ([`members`]).
//! - The last entry of a path wins, whatever was there before.
//! - Owners are kept where we may set them (root); an ordinary user's layers belong to that user.
//!
//! # Whiteouts
//! A layer says by `.wh.name` that a lower `name` is gone, and by `.wh..wh..opq` that all that is lower in a directory
//! is. They become what overlayfs understands ([`WhiteoutForm`]) and are written into [`LayerRecord`] as well, for
//! [`crate::flatten`].

pub(crate) mod confined;
mod layer;
mod members;
mod whiteout;

pub(crate) use layer::{LayerSource, unpack};
pub(crate) use members::EntryPath;
pub(crate) use whiteout::LayerRecord;
pub use whiteout::WhiteoutForm;
