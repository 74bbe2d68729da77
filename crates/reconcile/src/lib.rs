//! Level-triggered loops: read everything, plan, execute.
//!
//! # Expected flow
//! [`Reconciler::run`] sleeps until the store, the engine, the edge, a health check or a timer wakes it. It is never
//! told what changed: for every service that may be concerned it reads the whole record, asks [`domain::plan`] what
//! to do, writes the durable part of the answer in one transaction, and only then acts.
//!
//! # Guarantees
//! It may die at any instruction. Intents are durable before their effects (invariant 18), every effect may be
//! repeated (16), and a new reconciler picks up where the record and reality stand, restarting nothing that is
//! healthy. Writes carry the fence of a lease: a reconciler that was overtaken writes nothing (19).
//!
//! # Assumptions
//! One reconciler per store at a time is the normal case; the lease makes a second one harmless, not useful.

mod evidence;
mod execute;
mod explain;
mod health;
mod layout;
mod live;
mod observe;
mod pulls;
mod record;
mod release;
mod routes;
mod run;
mod seams;
mod service;
mod timers;

pub use live::{Live, LiveInstance};
pub use run::Reconciler;
pub use seams::{EdgePort, ImageSource, ObtainError, Parts, Planner, Settings, guarded};
