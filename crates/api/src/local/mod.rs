//! `/local/…`: for whoever owns the data directory. Over TCP none of it exists.
//!
//! Same shapes and errors as the platform face; no final slashes.

mod keys;
mod router;
mod status;
mod users;

pub use router::router;
