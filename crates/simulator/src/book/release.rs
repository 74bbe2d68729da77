//! Release commands: once, and before anything of their version.

use std::collections::BTreeSet;

use domain::{DeploymentId, InstanceId, ServiceId};
use store::{InstanceRow, ServiceState};

use super::Pages;

/// The runs of release commands that the record says have begun.
pub(super) type Runs = BTreeSet<DeploymentId>;

impl Pages {
    /// Notes which runs are known to have begun.
    pub(super) fn note_runs(&mut self, state: &ServiceState) {
        let begun = |row: &&InstanceRow| row.template.is_release() && row.healthy_once;
        let begun = state.instances.iter().filter(begun).map(|row| row.deployment);
        self.release_runs.extend(begun);
    }

    /// An instance really runs now: invariant 22. A run that is lost before anybody could see it is no run.
    pub(super) fn runs(&mut self, service: ServiceId, id: InstanceId) {
        let state = self.services.get(&service).and_then(|known| known.state.as_ref());
        let Some(state) = state else { return };
        let Some(row) = state.instances.iter().find(|row| row.id == id) else {
            return;
        };
        let deployment = row.deployment;
        let Some(active) = state.active.as_ref().filter(|active| active.id == deployment) else {
            return;
        };
        let version = active.version;
        let fault = if row.template.is_release() {
            let again = self.release_runs.contains(&deployment);
            again.then_some("runs its release command again")
        } else {
            let is_new = state
                .serving
                .as_ref()
                .is_none_or(|serving| serving.template != active.template);
            let outstanding = active.spec.release.is_some() && !active.released;
            (is_new && outstanding).then_some("starts before its release command has succeeded")
        };
        if let Some(fault) = fault {
            self.violate(22, format!("version {version} {fault}"));
        }
    }
}
