//! `/api/` and `/api/account/`: what there is, and who asks.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use domain::AccountId;
use serde::Serialize;
use store::Account;

use super::caller::Caller;
use super::error::Reply;
use crate::ApiState;
use crate::time::Stamp;

#[derive(Debug, Serialize)]
pub struct AccountView {
    id: AccountId,
    name: String,
    admin: bool,
    created_at: Stamp,
}

impl From<Account> for AccountView {
    fn from(account: Account) -> Self {
        AccountView {
            id: account.id,
            name: account.name,
            admin: account.admin,
            created_at: Stamp(account.created_at_us),
        }
    }
}

pub async fn get(State(api): State<ApiState>, caller: Caller) -> Reply<Json<AccountView>> {
    Ok(Json(api.store.system().account(caller.who.account).await?.into()))
}

/// Resources by name, as Django REST framework's root shows them.
pub async fn index(State(api): State<ApiState>, _caller: Caller) -> Json<BTreeMap<&'static str, String>> {
    const RESOURCES: [&str; 10] = [
        "api-keys",
        "audit",
        "configs",
        "deployments",
        "domains",
        "projects",
        "routes",
        "secrets",
        "services",
        "workers",
    ];
    let link = |name| (name, format!("{}/api/{name}/", api.settings.public_url));
    Json(RESOURCES.into_iter().map(link).collect())
}
