//! Reads what was committed.

use domain::ServiceId;
use store::{Deployment, ListQuery, ServiceState};

use super::World;
use crate::turns::{Class, Key};

impl World {
    /// Reads what was committed, before anything else may happen.
    pub(super) async fn audit(self) {
        let mut wake = self.store.wake();
        loop {
            let key = Key {
                class: Class::Audit,
                life: 0,
                what: 0,
                subject: 0,
            };
            self.turns.turn(key).await;
            wake.borrow_and_update();
            if let Err(error) = self.audit_changed().await {
                self.book
                    .violate(0, format!("the store cannot be read: {}", error.context));
            }
            if wake.changed().await.is_err() {
                return;
            }
        }
    }

    async fn audit_changed(&self) -> domain::Result<()> {
        let kept = self.store.system().services_changed_since(0, 1_000).await?;
        let ids = self.book.pages().moved(&kept.into_iter().collect());
        if ids.is_empty() {
            return Ok(());
        }
        let mut states = self.store.system().load(&ids).await?.into_iter().peekable();
        for id in ids {
            let state = states.next_if(|state| state.service.id == id);
            let before = self
                .book
                .pages()
                .services
                .get(&id)
                .and_then(|known| known.state.clone());
            if revision(&before) == revision(&state) {
                continue;
            }
            // Deployments of a service that is being deleted are out of sight.
            let visible = state.as_ref().is_some_and(|state| !state.service.deleting);
            let moved = standing(&before) != standing(&state);
            let deployments = if visible && moved {
                Some(self.deployments(id).await?)
            } else {
                None
            };
            self.book.pages().audit(id, state, deployments.as_deref());
            for deployment in deployments.iter().flatten() {
                let from = self.book.pages().journal_from(id, deployment.id);
                let Some(from) = from else { continue };
                let entries = self.scope.journal(deployment.id, from, 1_000).await?;
                self.book.pages().journal(id, deployment.id, &entries);
            }
        }
        Ok(())
    }

    pub(super) async fn deployments(&self, service: ServiceId) -> domain::Result<Vec<Deployment>> {
        let query = ListQuery {
            page_size: 100,
            service: Some(service),
            ..ListQuery::default()
        };
        let page = self.scope.list_deployments(&query).await?;
        if page.count != page.rows.len() as u64 {
            let what = format!(
                "{} deployments are counted and {} are there",
                page.count,
                page.rows.len()
            );
            self.book.violate(23, what);
        }
        Ok(page.rows)
    }
}

fn revision(state: &Option<ServiceState>) -> Option<i64> {
    state.as_ref().map(|state| state.service.revision)
}

/// What changes whenever a deployment of the service is made or moves.
fn standing(state: &Option<ServiceState>) -> Option<impl PartialEq + use<>> {
    let state = state.as_ref()?;
    let service = &state.service;
    let active = state
        .active
        .as_ref()
        .map(|active| (active.id, active.stage, active.spec.digest.clone()));
    Some((service.version_counter, service.serving, service.last_stage, active))
}
