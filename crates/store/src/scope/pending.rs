//! What a service's config and secret say now, and the deployment that it runs was not told.

use std::collections::{BTreeMap, HashMap};

use domain::{ConfigId, DeploymentId, Result, SecretId, ServiceId, Spec};

use super::{Scope, ended};
use crate::db::{Row, Tx, Value};
use crate::rows::{Attached, Pending, PendingChange, Service};
use crate::sql;
use crate::system::padded;

impl Scope {
    /// What a deployment of each of `services` would change of its config and secret values, in the order asked for;
    /// by key, config first. Three statements for each [`sql::CHUNK`] services.
    ///
    /// Compared is with the deployment that is on its way, else with the one that serves, else with the newest.
    pub async fn pending(&self, services: &[Service]) -> Result<Vec<Vec<PendingChange>>> {
        let mut tx = self.read().await?;
        let mut all = Vec::with_capacity(services.len());
        for chunk in services.chunks(sql::CHUNK) {
            let told = told(&mut tx, chunk).await?;
            let configs: Vec<ConfigId> = chunk.iter().filter_map(|service| service.config).collect();
            let configs = by_parent(&mut tx, sql::CONFIG_VALUES_BATCH, &configs, |row| row.text("value")).await?;
            let secrets: Vec<SecretId> = chunk.iter().filter_map(|service| service.secret).collect();
            let secrets = by_parent(&mut tx, sql::SECRET_KEYS_BATCH, &secrets, |row| {
                row.int("value_version")
            })
            .await?;
            all.extend(chunk.iter().map(|service| match told.get(&service.id) {
                Some(told) => told.differ(service, &configs, &secrets),
                None => Vec::new(),
            }));
        }
        ended(tx, all).await
    }
}

/// What the instances of a service have been told.
struct Told {
    spec: Spec,
    /// The secret whose versions the spec names.
    secret: Option<SecretId>,
}

impl Told {
    fn differ(
        &self,
        service: &Service,
        configs: &ByParent<ConfigId, String>,
        secrets: &ByParent<SecretId, i64>,
    ) -> Vec<PendingChange> {
        let (no_values, no_versions) = (BTreeMap::new(), BTreeMap::new());
        let values = service.config.and_then(|id| configs.get(&id)).unwrap_or(&no_values);
        let mut changes = differences(Attached::Config, &self.spec.config, values, |a, b| a == b);
        let versions = service.secret.and_then(|id| secrets.get(&id)).unwrap_or(&no_versions);
        // Versions count within their secret: those of two secrets say nothing of each other.
        let same = self.secret == service.secret;
        changes.extend(differences(Attached::Secret, &self.spec.secrets, versions, |a, b| {
            same && a == b
        }));
        changes
    }
}

fn differences<V>(
    of: Attached,
    before: &BTreeMap<String, V>,
    now: &BTreeMap<String, V>,
    same: impl Fn(&V, &V) -> bool,
) -> Vec<PendingChange> {
    let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let change = |key: &String| match (before.get(key), now.get(key)) {
        (Some(before), Some(now)) if same(before, now) => None,
        (Some(_), Some(_)) => Some(Pending::Changed),
        (None, _) => Some(Pending::Added),
        (Some(_), None) => Some(Pending::Removed),
    };
    keys.into_iter()
        .filter_map(|key| Some((key.clone(), change(key)?)))
        .map(|(key, change)| PendingChange { of, key, change })
        .collect()
}

async fn told(tx: &mut Tx, services: &[Service]) -> Result<HashMap<ServiceId, Told>> {
    let ids: Vec<DeploymentId> = services
        .iter()
        .filter_map(|service| service.active.or(service.serving).or(service.last))
        .collect();
    let mut found = HashMap::with_capacity(ids.len());
    if ids.is_empty() {
        return Ok(found);
    }
    for row in tx.all(sql::SPECS_BATCH, padded(&ids, sql::CHUNK)).await? {
        let told = Told {
            spec: row.json("spec")?,
            secret: row.parse_or_null("secret")?,
        };
        found.insert(row.parse("service")?, told);
    }
    Ok(found)
}

/// Keys with something of theirs, by what they belong to.
type ByParent<P, V> = HashMap<P, BTreeMap<String, V>>;

async fn by_parent<P, V>(
    tx: &mut Tx,
    statement: &'static str,
    parents: &[P],
    read: impl Fn(&Row) -> Result<V>,
) -> Result<ByParent<P, V>>
where
    P: Copy + Eq + std::hash::Hash + std::str::FromStr<Err: std::fmt::Display>,
    Value: From<P>,
{
    let mut found: ByParent<P, V> = HashMap::new();
    if parents.is_empty() {
        return Ok(found);
    }
    for row in tx.all(statement, padded(parents, sql::CHUNK)).await? {
        let items = found.entry(row.parse("parent")?).or_default();
        items.insert(row.text("key")?, read(&row)?);
    }
    Ok(found)
}
