//! The embedded engine with real containers.

mod bad_input;
mod cgroups;
mod common;
mod lifecycle;
mod network;
mod ordinary_user;
mod profile;
mod survival;
