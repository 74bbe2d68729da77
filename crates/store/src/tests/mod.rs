//! The store's tests, each on both engines.

mod audit;
mod batches;
mod bed;
mod counters;
mod crash;
mod foresee;
mod opening;
mod pending;
mod positions;
#[cfg(feature = "postgres")]
mod postgres;
mod reconcilers;
mod registry;
mod resources;
mod roles;
mod rollouts;
mod secrets;
mod services;
mod tenancy;
#[cfg(feature = "simulation")]
mod trouble;

pub(crate) use bed::{Engine, World, both};
