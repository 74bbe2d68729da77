//! Images: what people call them, where they come from, and how they become directories that a container starts on.
//!
//! Everything lives below one directory ([`ImageStore::open`]); there is no daemon and no database. An image gets in by
//! [`ImageStore::import_path`] and [`ImageStore::import_stream`], [`ImageStore::pack`], or [`ImageStore::pull`]; it
//! gets out by [`ImageStore::prepare`] (unpacked layers for overlayfs) or [`ImageStore::flatten`] (a plain copy);
//! [`ImageStore::collect_garbage`] removes what nothing needs.
//!
//! **Architecture invariants:** all content is untrusted: it is capped before it is written ([`Limits`]), verified
//! before it is visible, and unpacked where it cannot get out (`unpack`). This crate runs nothing, mounts nothing and
//! decides nothing about deployments. Methods that are not `async` block on the disk, shortly.

mod digest;
mod error;
mod flatten;
mod import;
mod limits;
mod manifest;
mod pack;
mod reference;
mod registry;
mod store;
mod stream;
mod tree;
mod unpack;

pub use digest::Digest;
pub use error::{ImageError, Result};
pub use import::Imported;
pub use limits::Limits;
pub use manifest::{ImageConfig, Platform};
pub use pack::{PackRequest, write_layout};
pub use reference::{REFERENCE_MAX, Reference};
pub use registry::{Authorities, Credentials, Progress, RegistryOptions};
pub use store::{Freed, ImageInfo, ImageStore, Lease, Origin, Prepared};
pub use unpack::WhiteoutForm;
