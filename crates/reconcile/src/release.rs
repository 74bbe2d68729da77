//! The run of a release command: an instance like any other, but with another command, no checks and no requests. Once
//! it was seen to run it is never started again, whatever becomes of it.

use domain::{DeploymentId, InstanceId, Template};
use engine::Exit;
use store::{Deployment, ServiceState};

/// What is still to run before instances of a deployment may start.
pub fn outstanding(deployment: &Deployment) -> Option<Template> {
    let asked = deployment.spec.release.is_some() && !deployment.released;
    asked.then(|| Template::of_release(deployment.id))
}

/// The active deployment, where the template is that of its release command's run.
pub fn of<'s>(state: &'s ServiceState, known: &Template) -> Option<&'s Deployment> {
    state
        .active
        .as_ref()
        .filter(|active| Template::of_release(active.id) == *known)
}

/// The deployment whose release command has succeeded by the end of this instance.
pub fn done(state: &ServiceState, id: InstanceId, exit: Option<&Exit>) -> Option<DeploymentId> {
    let row = state.instances.iter().find(|row| row.id == id)?;
    let deployment = of(state, &row.template)?;
    exit.is_some_and(|exit| exit.code == Some(0) && !exit.asked)
        .then_some(deployment.id)
}
