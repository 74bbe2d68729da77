//! What tests and measurements are made of.
//!
//! - [`FakeEngine`] and [`FakeEdge`]: doubles that run on tokio's clock (paused or not), follow a script per image, and
//!   fail on demand in the ways of faults C5.
//! - [`load`]: an open-loop load generator that gives every request exactly one outcome; also the program `hob-load`.
//! - [`conformance`]: what every engine and every edge must do, run against the fake ones and against real ones.
//! - [`bench`]: what `bin/bench` measures; also the program `hob-bench`.
//! - [`planted`]: a secret, and a search for it in every form.
//! - [`postgres`]: a PostgreSQL server of the test's own.
//! - [`system`]: starts the real `hob`, watches it from outside, and checks that nothing of it is left behind.
//!
//! **Architecture invariant:** nothing here is linked into the product.

#[cfg(feature = "bench")]
pub mod bench;
pub mod conformance;
pub mod dice;
pub mod fake_edge;
pub mod fake_engine;
pub mod http1;
pub mod load;
pub mod planted;
pub mod postgres;
pub mod script;
pub mod system;

pub use dice::Dice;
pub use fake_edge::FakeEdge;
pub use fake_engine::FakeEngine;
pub use script::{Ending, Health, Script};
