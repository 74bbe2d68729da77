//! Whether everything is done.

use std::collections::BTreeSet;

use domain::{InstanceId, ServiceId};
use store::ServiceKind;

use super::{Known, Pages, Truth};

impl Pages {
    /// Invariants 11 and 15: whether reality matches the record. `Err` says what is missing.
    pub fn whole(&self, service: ServiceId) -> Result<(), String> {
        let Some(known) = self.services.get(&service) else {
            return Ok(());
        };
        let name = &known.name;
        let known_to_engine: Vec<&Truth> = self
            .instances
            .values()
            .filter(|truth| truth.service == service && !truth.removed)
            .collect();
        let nothing = |why: &str| {
            if known_to_engine.is_empty() && self.routed(service).is_empty() {
                Ok(())
            } else {
                Err(format!("{name} {why} and {} instances are left", known_to_engine.len()))
            }
        };
        let Some(state) = &known.state else {
            return nothing("is purged");
        };
        if state.service.deleting {
            return Err(format!("{name} is not purged"));
        }
        if let Some(active) = &state.active {
            return Err(format!(
                "{name}.v{} is still {}: {}",
                active.version, active.stage, active.waiting
            ));
        }
        let Some(serving) = &state.serving else {
            return nothing("has nothing to serve");
        };
        if !self.image_is_good(known.subject, &serving.spec.image) {
            return Ok(());
        }
        // A success that is watched may still be taken back.
        let watch = serving.spec.options.watch();
        if known.ended.is_some_and(|(at, _)| at.elapsed() < watch) {
            return Err(format!("{name} is watched for {watch:?} after its success"));
        }
        let wanted = serving.spec.instances as usize;
        let fresh = state.instances.iter().filter(|row| row.template == serving.template);
        let rows: BTreeSet<InstanceId> = fresh.map(|row| row.id).collect();
        let alive = known_to_engine.iter().filter(|truth| truth.alive).count();
        let routed = self.routed(service);
        let routed_well = state.service.kind == ServiceKind::Worker || routed == rows;
        if state.instances.len() == wanted
            && rows.len() == wanted
            && alive == wanted
            && known_to_engine.len() == wanted
            && routed_well
        {
            return Ok(());
        }
        Err(format!(
            "{name} wants {wanted}: {} intended, {} of the serving template, {alive} alive, {} known to the engine, \
             {} routed",
            state.instances.len(),
            rows.len(),
            known_to_engine.len(),
            routed.len()
        ))
    }

    /// The version that each service serves, in the order in which they were made.
    pub fn serving(&self) -> Vec<Option<i64>> {
        let mut services: Vec<_> = self.services.values().collect();
        services.sort_by_key(|known| known.subject);
        let version = |known: &Known| Some(known.state.as_ref()?.serving.as_ref()?.version);
        services.into_iter().map(version).collect()
    }

    /// Whether what serves stays as it is when nobody touches it.
    pub fn is_steady(&self, service: ServiceId) -> bool {
        let Some(known) = self.services.get(&service) else {
            return true;
        };
        let serving = known.state.as_ref().and_then(|state| state.serving.as_ref());
        serving.is_none_or(|serving| self.image_is_good(known.subject, &serving.spec.image))
    }

    /// What must not change any more once everything is done (invariant 15).
    pub fn stillness(&self, service: ServiceId) -> (u64, BTreeSet<InstanceId>, i64) {
        let effects = self
            .instances
            .values()
            .filter(|truth| truth.service == service)
            .map(|truth| truth.effects)
            .sum();
        let state = self.services.get(&service).and_then(|known| known.state.as_ref());
        (effects, self.routed(service), state.map_or(0, |s| s.service.revision))
    }
}
