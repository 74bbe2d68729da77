//! `/api/projects/{id}/members/…`: who else works on a project, and what they may do there.

use axum::Json;
use axum::extract::State;
use domain::{AccountId, ProjectId};
use http::StatusCode;
use serde::Serialize;
use store::{Member, Role};

use super::caller::Caller;
use super::error::Reply;
use super::extract::{At, Params, Within};
use super::fields::{self, Fields};
use super::page::Envelope;
use crate::ApiState;
use crate::body::RawBody;
use crate::limits::NAME_MAX;
use crate::time::Stamp;

/// The words of [`Role`].
const ROLES: [(&str, Role); 3] = [
    (Role::Viewer.as_str(), Role::Viewer),
    (Role::Developer.as_str(), Role::Developer),
    (Role::Owner.as_str(), Role::Owner),
];

#[derive(Debug, Serialize)]
pub struct MemberView {
    /// Of the account.
    id: AccountId,
    name: String,
    project: ProjectId,
    role: Role,
    created_at: Stamp,
}

impl From<Member> for MemberView {
    fn from(member: Member) -> Self {
        MemberView {
            id: member.account,
            name: member.name,
            project: member.project,
            role: member.role,
            created_at: Stamp(member.created_at_us),
        }
    }
}

pub async fn list(
    State(api): State<ApiState>,
    caller: Caller,
    At(project): At<ProjectId>,
    params: Params,
) -> Reply<Json<Envelope<MemberView>>> {
    let mut page = caller.scope.list_members(project, &params.list_query()?).await?;
    let rows = std::mem::take(&mut page.rows);
    let views = rows.into_iter().map(MemberView::from).collect();
    Ok(Json(Envelope::new(&api, &params, &page, views)))
}

/// `name` is that of the account.
pub async fn add(caller: Caller, At(project): At<ProjectId>, body: RawBody) -> Reply<(StatusCode, Json<MemberView>)> {
    caller.scope.project(project).await?;
    let mut fields = Fields::full(body.object()?);
    let name = fields.text("name", NAME_MAX, fields::visible);
    let role = fields.choice("role", &ROLES);
    fields.require("name");
    fields.require("role");
    fields.finish()?;
    let (name, role) = (name.unwrap_or_default(), role.unwrap_or(Role::Viewer));
    let member = caller.scope.add_member(project, &name, role).await?;
    Ok((StatusCode::CREATED, Json(member.into())))
}

pub async fn get(caller: Caller, Within(project, account): Within<ProjectId, AccountId>) -> Reply<Json<MemberView>> {
    Ok(Json(caller.scope.member(project, account).await?.into()))
}

pub async fn patch(
    caller: Caller,
    Within(project, account): Within<ProjectId, AccountId>,
    body: RawBody,
) -> Reply<Json<MemberView>> {
    let member = caller.scope.member(project, account).await?;
    let mut fields = Fields::partial(body.object()?);
    let role = fields.choice("role", &ROLES);
    fields.finish()?;
    let member = match role {
        Some(role) => caller.scope.set_member_role(project, account, role).await?,
        None => member,
    };
    Ok(Json(member.into()))
}

/// Effective with their next request.
pub async fn remove(caller: Caller, Within(project, account): Within<ProjectId, AccountId>) -> Reply<StatusCode> {
    caller.scope.remove_member(project, account).await?;
    Ok(StatusCode::NO_CONTENT)
}
