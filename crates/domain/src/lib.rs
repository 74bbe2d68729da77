//! Nouns, the deployment state machine and the pure rollout planner.
//!
//! **Architecture invariant:** this crate performs no IO, reads no clock, draws no random number and knows no async
//! runtime. Everything here is a value or a total function of values, so that tests can call it a million times.

pub mod behaviour;
pub mod change;
pub mod error;
pub mod ids;
pub mod names;
pub mod outcome;
pub mod plan;
pub mod rollout;
pub mod routing;
pub mod spec;
pub mod stage;
pub mod steps;

pub use behaviour::Behaviour;
pub use error::{Error, Result};
pub use ids::*;
pub use outcome::{Footing, Outcome};
pub use rollout::{Advance, Gate, RolloutOptions, Step, Strategy};
pub use spec::{CONFIGS_DIR, Delivery, HealthCheck, Resources, SECRETS_DIR, Spec, Template};
pub use stage::{Stage, Transition};
