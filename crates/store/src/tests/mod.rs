//! The store's tests, each on both engines.

mod bed;
#[cfg(feature = "postgres")]
mod postgres;
mod registry;
mod services;

pub(crate) use bed::{Engine, World, both};
