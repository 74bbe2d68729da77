//! What reconcilers read: whole states, many at a time.

use std::collections::{BTreeMap, HashMap, HashSet};

use domain::{DeploymentId, Error, InstanceId, Result, ServiceId};

use super::System;
use crate::db::{Row, Tx, Value, args};
use crate::rows::{Deployment, InstanceRow, Service, ServiceState};
use crate::{deploy, read, sql};

/// Most services of one answer of [`System::services_changed_since`].
const CHANGED_LIMIT: u32 = 10_000;

impl System {
    /// Services with their revisions, in the order of the changes, from after `revision` on. From 0: all that are not
    /// purged.
    pub async fn services_changed_since(&self, revision: i64, limit: u32) -> Result<Vec<(ServiceId, i64)>> {
        let mut tx = self.read().await?;
        let rows = tx
            .all(sql::SERVICES_CHANGED, args![revision, limit.min(CHANGED_LIMIT)])
            .await?;
        tx.end().await?;
        rows.iter()
            .map(|row| Ok((row.parse("id")?, row.int("revision")?)))
            .collect()
    }

    /// The states of services at one instant, in the order asked for. Purged and unknown ones are left out.
    /// Four statements for each [`sql::CHUNK`] services, however many instances they have.
    pub async fn load(&self, ids: &[ServiceId]) -> Result<Vec<ServiceState>> {
        let mut tx = self.read().await?;
        let mut states = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(sql::CHUNK) {
            load_chunk(&mut tx, chunk, &mut states).await?;
        }
        tx.end().await?;
        Ok(states)
    }

    /// Those of `ids` that the record says are gone. Ids are never given again, so such an instance must not run.
    pub async fn gone_of(&self, ids: &[InstanceId]) -> Result<Vec<InstanceId>> {
        let mut tx = self.read().await?;
        let mut gone = Vec::new();
        for chunk in ids.chunks(sql::CHUNK) {
            for row in tx.all(sql::INSTANCES_GONE_BATCH, padded(chunk, sql::CHUNK)).await? {
                gone.push(row.parse("id")?);
            }
        }
        tx.end().await?;
        Ok(gone)
    }

    /// One deployment of any service, e.g. the one that the serving one has replaced. `None` when it is pruned.
    pub async fn deployment(&self, id: DeploymentId) -> Result<Option<Deployment>> {
        let mut tx = self.read().await?;
        let row = tx.first(sql::DEPLOYMENT_ROW, args![id]).await?;
        tx.end().await?;
        row.as_ref().map(crate::read::deployment).transpose()
    }

    /// Secret values of a deployment, for its instances. Never log them.
    ///
    /// # Errors
    /// `NotFound` for a pruned deployment; `Internal` where a recorded secret cannot be read any more.
    pub async fn instance_secrets(&self, deployment: DeploymentId) -> Result<BTreeMap<String, String>> {
        let mut tx = self.read().await?;
        let spec = deploy::row(&mut tx, deployment).await?.spec;
        let secrets = self.store.values_of(&mut tx, deployment).await?;
        tx.end().await?;
        match spec.secrets.keys().find(|key| !secrets.contains_key(*key)) {
            Some(lost) => Err(Error::internal(format!(
                "the value of secret key {lost} of deployment {deployment} is lost"
            ))),
            None => Ok(secrets),
        }
    }

    /// Manifest digests that kept deployments run or may be rolled back to.
    pub async fn image_digests_in_use(&self) -> Result<HashSet<String>> {
        let mut tx = self.read().await?;
        let rows = tx.all(sql::DIGESTS, args![]).await?;
        tx.end().await?;
        rows.iter().map(|row| row.text("digest")).collect()
    }
}

/// The statements of one load, for a number of services.
struct Reading {
    services: &'static str,
    deployments: &'static str,
    live: &'static str,
    crashed: &'static str,
    places: usize,
}

const ALONE: Reading = Reading {
    services: sql::SERVICE_ROW,
    deployments: sql::DEPLOYMENTS_ALONE,
    live: sql::INSTANCES_LIVE_ALONE,
    crashed: sql::INSTANCES_CRASHED_ALONE,
    places: 1,
};

const BATCH: Reading = Reading {
    services: sql::SERVICES_BATCH,
    deployments: sql::DEPLOYMENTS_BATCH,
    live: sql::INSTANCES_LIVE_BATCH,
    crashed: sql::INSTANCES_CRASHED_BATCH,
    places: sql::CHUNK,
};

impl Reading {
    fn ids(&self, ids: &[ServiceId]) -> Vec<Value> {
        padded(ids, self.places)
    }
}

async fn load_chunk(tx: &mut Tx, ids: &[ServiceId], states: &mut Vec<ServiceState>) -> Result<()> {
    let mut services: HashMap<ServiceId, Service> = HashMap::with_capacity(ids.len());
    let read = if ids.len() == 1 { &ALONE } else { &BATCH };
    for row in tx.all(read.services, read.ids(ids)).await? {
        let service = read::service(&row)?;
        services.insert(service.id, service);
    }
    let rows = tx.all(read.deployments, read.ids(ids)).await?;
    let mut deployments: HashMap<ServiceId, Vec<Deployment>> = HashMap::with_capacity(ids.len());
    for row in &rows {
        let deployment = read::deployment(row)?;
        deployments.entry(deployment.service).or_default().push(deployment);
    }
    let mut instances = by_service(tx.all(read.live, read.ids(ids)).await?)?;
    let mut crashes = by_service(tx.all(read.crashed, read.ids(ids)).await?)?;
    for id in ids {
        let Some(service) = services.remove(id) else { continue };
        let mut former = deployments.remove(id).unwrap_or_default();
        let mut take = |wanted: Option<DeploymentId>| {
            let place = former.iter().position(|deployment| Some(deployment.id) == wanted)?;
            Some(former.remove(place))
        };
        states.push(ServiceState {
            active: take(service.active),
            serving: take(service.serving),
            former,
            instances: instances.remove(id).unwrap_or_default(),
            crashes: crashes.remove(id).unwrap_or_default(),
            service,
        });
    }
    Ok(())
}

fn by_service(rows: Vec<Row>) -> Result<HashMap<ServiceId, Vec<InstanceRow>>> {
    let mut found: HashMap<ServiceId, Vec<InstanceRow>> = HashMap::new();
    for row in &rows {
        let instance = read::instance(row)?;
        found.entry(instance.service).or_default().push(instance);
    }
    Ok(found)
}

/// As many arguments as a statement takes; the last id fills up.
pub(crate) fn padded<I: Copy>(ids: &[I], places: usize) -> Vec<Value>
where
    Value: From<I>,
{
    let last = ids.last().copied();
    ids.iter()
        .copied()
        .chain(std::iter::repeat_with(move || last).flatten())
        .take(places)
        .map(Value::from)
        .collect()
}
