//! The faces, over a real store and a runtime that tells what the tests put into it.
//!
//! One file for each resource. Each test names, in its doc comment, the facts that it proves; `facts.rs` adds them up.

mod documents;
mod facts;
mod operations;
mod platform_api_keys;
mod platform_audit;
mod platform_auth;
mod platform_configs;
mod platform_controls;
mod platform_deployments;
mod platform_domains;
mod platform_errors;
mod platform_images;
mod platform_live;
mod platform_members;
mod platform_pagination;
mod platform_plan;
mod platform_projects;
mod platform_routes;
mod platform_schema;
mod platform_secrets;
mod platform_services;
mod platform_session;
mod platform_tenancy;
mod platform_throttle;
mod platform_workers;
mod serving;
mod world;
