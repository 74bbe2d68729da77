//! An open-loop load generator: it sends on an absolute schedule whatever the server does, measures each request from
//! the moment it was *meant* to be sent, and gives it exactly one [`Outcome`].
//!
//! A generator that waits for an answer before it sends the next request does not sample the bad moments. This one
//! does: see the test `a_stalling_server_shows_in_the_tail`.

mod audit;
mod histogram;
mod kind;
mod plan;
mod pool;
mod report;
mod run;
mod websocket;

pub use audit::{Audit, Delivered};
pub use histogram::Histogram;
pub use kind::Kind;
pub use plan::{LoadPlan, parse_mix};
pub use report::{Failure, Outcome, PostRecord, Report, Row};
pub use run::{Load, run};

#[cfg(test)]
mod tests;
