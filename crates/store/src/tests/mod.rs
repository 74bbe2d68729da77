//! The store's tests, each on both engines.

mod bed;
mod counters;
mod crash;
mod opening;
#[cfg(feature = "postgres")]
mod postgres;
mod reconcilers;
mod registry;
mod resources;
mod secrets;
mod services;
mod tenancy;

pub(crate) use bed::{Engine, World, both};
