//! The embedded engine with real containers.

mod bad_input;
mod common;
mod lifecycle;
mod network;
mod profile;
mod survival;
