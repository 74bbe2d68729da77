//! A seeded simulator of the control plane: the real reconciler, planner and store against a fake engine and a fake
//! edge, under virtual time, with commands and faults that the seed decides.
//!
//! `docs/SIMULATOR.md` says what is simulated, which invariants are checked and how to replay a failure. A reading
//! order: [`scenario`] (what a seed means), [`turns`] (why it is deterministic and sound), [`world`] (a run),
//! [`book`] (what is checked).

pub mod book;
pub mod exhaustive;
pub mod life;
pub mod mutants;
pub mod scenario;
pub mod shrink;
pub mod switch;
pub mod turns;
pub mod wires;
pub mod world;

pub use mutants::Mutant;
pub use scenario::Scenario;
pub use world::{Outcome, Ruin, Setup, run, run_with};
