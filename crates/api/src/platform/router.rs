//! The platform face's table of contents.

use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::extract::OriginalUri;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post};
use domain::{ConfigId, Error, SecretId};
use http::header::LOCATION;
use http::{HeaderValue, Method, StatusCode};
use store::ServiceKind;

use super::caller::{Gate, admit, enforce};
use super::error::Failure;
use super::{
    account, api_keys, audit, configs, controls, deployments, diff, domains, images, instances, logs, members, plan,
    projects, rollout, routes, schema, secrets, services, session, sets,
};
use crate::ApiState;
use crate::limits::{REQUEST_TIMEOUT, UPLOAD_TIMEOUT};
use crate::middleware::deadline;

/// Everything under `/api/`.
fn contents() -> Table {
    Table::new()
        .at("/api/", get(account::index))
        .at("/api/account/", get(account::get))
        .at("/api/schema/", get(schema::get))
        // What runs.
        .join(workloads("/api/services", ServiceKind::Service))
        .join(workloads("/api/workers", ServiceKind::Worker))
        // The history, and going back in it.
        .at("/api/deployments/", get(deployments::list))
        .at("/api/deployments/{id}/", get(deployments::get))
        .at("/api/deployments/{id}/rollback/", post(deployments::rollback))
        .at("/api/deployments/{id}/events/", get(deployments::events))
        .at("/api/deployments/{id}/receipt/", get(deployments::receipt))
        .at("/api/deployments/{id}/plan/", post(plan::of_rollback))
        .at("/api/deployments/{id}/diff/{item}/", get(diff::get))
        .at("/api/deployments/{id}/continue/", post(controls::continue_this))
        .at("/api/deployments/{id}/cancel/", post(controls::cancel_this))
        .at("/api/deployments/{id}/pause/", post(controls::pause_this))
        .at("/api/deployments/{id}/resume/", post(controls::resume_this))
        // Where requests go.
        .at("/api/routes/", get(routes::list).post(routes::create))
        .at(
            "/api/routes/{id}/",
            get(routes::get).patch(routes::patch).delete(routes::delete),
        )
        .at("/api/domains/", get(domains::list).post(domains::create))
        .at(
            "/api/domains/{id}/",
            get(domains::get).patch(domains::patch).delete(domains::delete),
        )
        // What instances are told.
        .at(
            "/api/configs/",
            get(sets::list::<ConfigId>).post(sets::create::<ConfigId>),
        )
        .at(
            "/api/configs/{id}/",
            get(sets::get::<ConfigId>)
                .patch(sets::patch::<ConfigId>)
                .delete(sets::delete::<ConfigId>),
        )
        .at(
            "/api/configs/{id}/items/",
            get(configs::list_items).post(configs::create_item),
        )
        .at(
            "/api/configs/{id}/items/{item}/",
            get(configs::get_item)
                .patch(configs::patch_item)
                .delete(configs::delete_item),
        )
        .at(
            "/api/secrets/",
            get(sets::list::<SecretId>).post(sets::create::<SecretId>),
        )
        .at(
            "/api/secrets/{id}/",
            get(sets::get::<SecretId>)
                .patch(sets::patch::<SecretId>)
                .delete(sets::delete::<SecretId>),
        )
        .at(
            "/api/secrets/{id}/items/",
            get(secrets::list_items).post(secrets::create_item),
        )
        .at(
            "/api/secrets/{id}/items/{item}/",
            get(secrets::get_item)
                .patch(secrets::patch_item)
                .delete(secrets::delete_item),
        )
        .at("/api/secrets/{id}/items/{item}/accesses/", get(audit::accesses))
        // Who owns it, who works on it, who did what.
        .at("/api/projects/", get(projects::list).post(projects::create))
        .at(
            "/api/projects/{id}/",
            get(projects::get).patch(projects::patch).delete(projects::delete),
        )
        .at("/api/projects/{id}/members/", get(members::list).post(members::add))
        .at(
            "/api/projects/{id}/members/{item}/",
            get(members::get).patch(members::patch).delete(members::remove),
        )
        .at("/api/audit/", get(audit::list))
        .openly("/api/login/", post(session::login))
        .at("/api/session/", get(session::get).delete(session::logout))
        .at("/api/api-keys/", get(api_keys::list).post(api_keys::create))
        .at("/api/api-keys/{id}/", get(api_keys::get).delete(api_keys::revoke))
        // The machine's images, for administrators.
        .slowly(
            "/api/images/",
            get(images::list).post(images::import).delete(images::remove),
        )
}

/// Services and workers: the same operations on two kinds.
fn workloads(base: &str, kind: ServiceKind) -> Table {
    Table::new()
        .at(&format!("{base}/"), get(services::list).post(services::create))
        .at(
            &format!("{base}/{{id}}/"),
            get(services::get).patch(services::patch).delete(services::delete),
        )
        .at(
            &format!("{base}/{{id}}/deployments/"),
            get(services::list_deployments).post(services::deploy),
        )
        .at(&format!("{base}/{{id}}/restart/"), post(services::restart))
        .at(&format!("{base}/plan/"), post(plan::of_new))
        .at(&format!("{base}/{{id}}/plan/"), post(plan::of_patch))
        .at(&format!("{base}/{{id}}/continue/"), post(controls::continue_of))
        .at(&format!("{base}/{{id}}/cancel/"), post(controls::cancel_of))
        .at(&format!("{base}/{{id}}/pause/"), post(controls::pause_of))
        .at(&format!("{base}/{{id}}/resume/"), post(controls::resume_of))
        .at(&format!("{base}/{{id}}/outcomes/"), get(services::outcomes))
        .at(&format!("{base}/{{id}}/instances/"), get(instances::list))
        .at(&format!("{base}/{{id}}/logs/"), get(logs::stream))
        .at(&format!("{base}/{{id}}/rollout/"), get(rollout::get))
        .of_kind(kind)
}

/// The face as a router.
pub fn router(api: &ApiState) -> Router<ApiState> {
    let (mut routes, mut open, mut without_slash) = (Router::new(), Router::new(), Router::new());
    for entry in contents().0 {
        let path = entry.path;
        let mut methods = entry
            .methods
            .fallback(not_allowed)
            .layer(from_fn_with_state(entry.limit, deadline));
        if let Some(kind) = entry.kind {
            methods = methods.layer(Extension(kind));
        }
        without_slash = without_slash.route(path.trim_end_matches('/'), any(add_slash));
        if entry.open {
            open = open.route(&path, methods);
            continue;
        }
        // The policy stands around what the route has, not around the answer to what it has not.
        let gate = Gate {
            api: api.clone(),
            route: path.as_str().into(),
        };
        routes = routes.route(&path, methods.route_layer(from_fn_with_state(gate, enforce)));
    }
    // What stands outside authentication: the login, and paths without their final slash (I.5), which tell nothing.
    routes
        .layer(from_fn_with_state(api.clone(), admit))
        .merge(open)
        .merge(without_slash)
}

/// Every path of the face, for tests that walk all of it.
pub fn paths() -> Vec<String> {
    contents().0.into_iter().map(|entry| entry.path).collect()
}

/// Routes on their way into a router.
struct Table(Vec<Entry>);

struct Entry {
    path: String,
    methods: MethodRouter<ApiState>,
    /// Longest time to an answer.
    limit: Duration,
    kind: Option<ServiceKind>,
    /// Nobody is asked who they are.
    open: bool,
}

impl Table {
    fn new() -> Self {
        Table(Vec::new())
    }

    fn at(self, path: &str, methods: MethodRouter<ApiState>) -> Self {
        self.within(REQUEST_TIMEOUT, path, methods)
    }

    /// For uploads, which take as long as they take.
    fn slowly(self, path: &str, methods: MethodRouter<ApiState>) -> Self {
        self.within(UPLOAD_TIMEOUT, path, methods)
    }

    fn within(mut self, limit: Duration, path: &str, methods: MethodRouter<ApiState>) -> Self {
        self.0.push(Entry {
            path: path.to_owned(),
            methods,
            limit,
            kind: None,
            open: false,
        });
        self
    }

    /// For how one comes to be known.
    fn openly(self, path: &str, methods: MethodRouter<ApiState>) -> Self {
        let mut table = self.at(path, methods);
        table
            .0
            .iter_mut()
            .filter(|entry| entry.path == path)
            .for_each(|entry| entry.open = true);
        table
    }

    fn of_kind(mut self, kind: ServiceKind) -> Self {
        self.0.iter_mut().for_each(|entry| entry.kind = Some(kind));
        self
    }

    fn join(mut self, other: Table) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// I.4. The router adds `Allow`.
async fn not_allowed(method: Method) -> Failure {
    Failure::MethodNotAllowed(method)
}

/// I.5: readers are sent to the path with a slash, writers have made a mistake.
async fn add_slash(method: Method, OriginalUri(uri): OriginalUri) -> Response {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::try_from(format!("{}/{query}", uri.path()));
    match (method, location) {
        (Method::GET | Method::HEAD, Ok(location)) => {
            (StatusCode::MOVED_PERMANENTLY, [(LOCATION, location)]).into_response()
        }
        _ => Failure::from(Error::not_found("the path lacks its final slash")).into_response(),
    }
}
