//! The HTTP faces of Hob: one router each, one domain error, one encoder each.
//!
//! - [`platform`]: `/api/…/`, the platform face; read [`platform::router`] first, it is the face's table of contents.
//! - [`operations`]: `/healthz`, `/readyz`, `/metrics`, `/`.
//! - [`claim`]: the one-time link of the first start.
//! - [`local`]: `/local/…`, for whoever owns the data directory, over the control socket only.
//!
//! Everything is put together by [`router`] and offered by [`serve`] (TCP) and [`serve_unix`] (the control socket).
//! What only a running platform knows (health, logs, images) comes through [`Runtime`].
//!
//! **Architecture invariant:** faces contain no business rule. They read a request, ask a [`store::Scope`], which holds
//! the tenant, and write the answer in their own words.

mod audit;
mod auth;
mod body;
pub mod claim;
mod drain;
pub mod limits;
pub mod local;
mod metrics;
mod middleware;
mod ndjson;
pub mod operations;
mod password;
pub mod platform;
pub mod policy;
mod router;
mod runtime;
mod serve;
mod session;
mod state;
mod streams;
mod throttle;
pub mod time;

pub use auth::LocalOperator;
pub use metrics::Metrics;
pub use router::router;
pub use runtime::{Health, ImageArchive, ImageInfo, LiveInstance, Runtime};
pub use serve::{ControlSocket, Shutdown, SocketError, serve, serve_unix};
pub use state::{ApiState, EdgeAddress, Settings};
pub use streams::Streams;
pub use throttle::{RateLimits, Throttle};
