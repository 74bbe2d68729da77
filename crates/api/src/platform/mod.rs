//! The platform face: `/api/…/`, in the manner of Django REST framework (facts S0, S2, G, I of the specification).
//!
//! [`router`] is the table of contents. A handler's module is named after the resource in its path.
//!
//! Common to all of it: paths end with a slash; JSON in and out, with [`error`] for what goes wrong; keys as
//! `Authorization: Bearer gob_…` or `X-API-Key`; lists in pages ([`page`]); unknown and read-only fields of a body are
//! ignored; one answer names every bad field ([`fields`]).
//!
//! # Beyond the documents
//!
//! Hob's own, with the same conventions, and never a change to what the documents state:
//!
//! - Services and workers take `health_check`, `strategy`, `options`, `command`, `release`, `resources`, `delivery` and
//!   `notes`, all optional, and show them with `project`, `active_deployment`, `serving_deployment`, `last_deployment`, `frozen`
//!   and `pending_changes` (edited config and secret keys that wait for a deployment).
//! - `…/plan/` answers what a creation, a change or a rollback would do, with a hash that `apply_hash` binds it to;
//!   `/api/deployments/{a}/diff/{b}/`.
//! - `POST …/deployments/` deploys again with today's config and the tag resolved anew; `…/restart/`, `…/cancel/`,
//!   `…/continue/`, `…/pause/`, `…/resume/` (the last four for a deployment, too); `…/outcomes/`
//!   (statistics that outlive retention), `…/instances/`, `…/logs/` (NDJSON), `…/rollout/` (one document, or NDJSON with
//!   `?watch=1`).
//!   All of them under `/api/workers/` too.
//! - `/api/deployments/{id}/events/` (the journal), `…/receipt/`; `?detail=full` on deployments.
//! - Exact filters `?name=`, `?hostname=`, `?service=`, `?version=`.
//! - `/api/schema/`, all of this as an OpenAPI 3.1 document.
//! - `/api/projects/{id}/members/` with the roles viewer, developer and owner; `/api/audit/`; `…/items/{item}/accesses/`.
//! - `/api/projects/`, `/api/api-keys/`, `/api/account/`, and, for administrators, `/api/images/`.

mod account;
mod api_keys;
mod audit;
mod behaviour;
mod caller;
mod configs;
mod controls;
mod deployments;
mod diff;
mod domains;
pub mod error;
mod extract;
pub mod fields;
mod images;
mod instances;
mod logs;
mod members;
pub mod page;
mod plan;
mod projects;
mod rollout;
pub mod router;
mod routes;
pub mod schema;
mod secrets;
mod services;
mod session;
mod sets;
mod workload;

pub(crate) use account::AccountView;
pub(crate) use api_keys::NewApiKeyView;
pub(crate) use page::Whole;
