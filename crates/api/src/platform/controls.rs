//! Commands for a rollout that is on its way: `…/continue/`, `…/cancel/`, `…/pause/`, `…/resume/`, of a service (whatever
//! is on its way) or of a deployment (that one and no other).

use axum::{Extension, Json};
use domain::{DeploymentId, ServiceId};
use store::{Scope, ServiceKind, Which};

use super::caller::Caller;
use super::deployments::DeploymentView;
use super::error::Reply;
use super::extract::At;
use super::services::find;

type Answer = Reply<Json<DeploymentView>>;

#[derive(Debug, Clone, Copy)]
enum Command {
    /// Passes the step that it waits at.
    Continue,
    /// Stops it and brings the last healthy version back.
    Cancel,
    /// Keeps it where it is.
    Pause,
    /// Lets a paused one go on.
    Resume,
}

impl Command {
    async fn give(self, scope: &Scope, which: Which) -> Answer {
        let deployment = match self {
            Command::Continue => scope.continue_rollout(which).await?,
            Command::Cancel => scope.cancel(which).await?,
            Command::Pause => scope.pause(which).await?,
            Command::Resume => scope.resume(which).await?,
        };
        Ok(Json(DeploymentView::new(deployment, false)))
    }
}

/// The handlers of one command: for a deployment, and for a service or worker.
macro_rules! handlers {
    ($($command:ident: $of_deployment:ident, $of_service:ident;)+) => {$(
        pub async fn $of_deployment(caller: Caller, At(id): At<DeploymentId>) -> Answer {
            Command::$command.give(&caller.scope, id.into()).await
        }

        pub async fn $of_service(
            Extension(kind): Extension<ServiceKind>,
            caller: Caller,
            At(id): At<ServiceId>,
        ) -> Answer {
            find(&caller.scope, kind, id).await?;
            Command::$command.give(&caller.scope, id.into()).await
        }
    )+};
}

handlers! {
    Continue: continue_this, continue_of;
    Cancel: cancel_this, cancel_of;
    Pause: pause_this, pause_of;
    Resume: resume_this, resume_of;
}
