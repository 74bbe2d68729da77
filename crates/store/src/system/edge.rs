//! What the edge needs and what it reports.

use std::collections::HashMap;

use domain::routing::{Receipt, RouteMatch};
use domain::{Behaviour, DeploymentId, Result, ServiceId};
use uuid::Uuid;

use super::System;
use super::load::padded;
use crate::db::{Row, Tx, Value, args, json};
use crate::rows::EdgeEntry;
use crate::{read, sql};

const EPOCH: &str = "edge_epoch";

impl System {
    /// Every service and worker that is not being deleted, by id, with its enabled routes.
    pub async fn edge_entries(&self) -> Result<Vec<EdgeEntry>> {
        let mut tx = self.read().await?;
        let services = tx.all(sql::EDGE_SERVICES, args![]).await?;
        let routes = tx.all(sql::EDGE_ROUTES, args![]).await?;
        tx.end().await?;
        entries(&services, &routes)
    }

    /// Those of [`System::edge_entries`] that are asked for.
    pub async fn edge_entries_of(&self, ids: &[ServiceId]) -> Result<Vec<EdgeEntry>> {
        let mut tx = self.read().await?;
        let mut found = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(sql::CHUNK) {
            let services = tx.all(sql::EDGE_SERVICES_BATCH, padded(chunk, sql::CHUNK)).await?;
            let routes = tx.all(sql::EDGE_ROUTES_BATCH, padded(chunk, sql::CHUNK)).await?;
            found.extend(entries(&services, &routes)?);
        }
        tx.end().await?;
        Ok(found)
    }

    /// The highest epoch that may have been promised to the edge. New tables need a higher one.
    pub async fn edge_epoch_floor(&self) -> Result<u64> {
        let mut tx = self.read().await?;
        let epoch = tx.one(sql::META, args![EPOCH]).await?.number("value")?;
        tx.end().await?;
        Ok(epoch)
    }

    /// Promises epochs up to `epoch`. A lower one than before changes nothing.
    pub async fn raise_edge_epoch(&self, epoch: u64) -> Result<()> {
        let mut tx = self.write().await?;
        tx.run(sql::META_RAISE, args![EPOCH, whole(epoch)]).await?;
        tx.commit().await
    }

    /// Takes in what one life of the edge has counted so far. Reports may be repeated and may arrive in any order: of
    /// each number the highest counts. Reports of pruned deployments are let go.
    pub async fn add_receipts(&self, edge_boot: Uuid, receipts: &[(DeploymentId, Receipt)]) -> Result<()> {
        if receipts.is_empty() {
            return Ok(());
        }
        let mut tx = self.write().await?;
        let boot = edge_boot.to_string();
        for (deployment, receipt) in receipts {
            add_receipt(&mut tx, &boot, *deployment, *receipt).await?;
        }
        tx.commit().await
    }

    /// What one life of the edge has seen of deployments so far. Of what is reported twice or late, the most is kept.
    pub async fn add_behaviours(&self, edge_boot: Uuid, seen: &[(DeploymentId, Behaviour)]) -> Result<()> {
        if seen.is_empty() {
            return Ok(());
        }
        let mut tx = self.write().await?;
        let boot = edge_boot.to_string();
        for (deployment, behaviour) in seen {
            add_behaviour(&mut tx, &boot, *deployment, behaviour).await?;
        }
        tx.commit().await
    }
}

fn entries(services: &[Row], routes: &[Row]) -> Result<Vec<EdgeEntry>> {
    let mut matches: HashMap<ServiceId, Vec<RouteMatch>> = HashMap::new();
    for row in routes {
        let found = RouteMatch {
            host: row.text("hostname")?,
            path: row.text("path")?,
        };
        matches.entry(row.parse("service")?).or_default().push(found);
    }
    let entry = |row: &Row| {
        let service: ServiceId = row.parse("id")?;
        Ok(EdgeEntry {
            service,
            project: row.parse("project")?,
            kind: read::kind(row)?,
            name: row.text("name")?,
            port: row.number_or_null("port")?,
            receipt: row.parse("receipt")?,
            matches: matches.remove(&service).unwrap_or_default(),
        })
    };
    services.iter().map(entry).collect()
}

async fn add_receipt(tx: &mut Tx, boot: &str, deployment: DeploymentId, reported: Receipt) -> Result<()> {
    if tx.first(sql::DEPLOYMENT_ROW, args![deployment]).await?.is_none() {
        return Ok(());
    }
    let known = match tx.first(sql::RECEIPT, args![deployment, boot]).await? {
        Some(row) => read::receipt(&row)?,
        None => Receipt::default(),
    };
    let now = zip(known, reported, u64::max);
    let more = zip(now, known, u64::wrapping_sub);
    if more == Receipt::default() {
        return Ok(());
    }
    let mut values = args![deployment, boot];
    values.extend(numbers(now));
    tx.run(sql::RECEIPT_SET, values).await?;
    let mut values = args![deployment];
    values.extend(numbers(more));
    tx.run(sql::DEPLOYMENT_RECEIPT_ADD, values).await.map(drop)
}

async fn add_behaviour(tx: &mut Tx, boot: &str, deployment: DeploymentId, seen: &Behaviour) -> Result<()> {
    if tx.first(sql::DEPLOYMENT_ROW, args![deployment]).await?.is_none() {
        return Ok(());
    }
    let known = tx.first(sql::BEHAVIOUR, args![deployment, boot]).await?;
    let known: Option<Behaviour> = known.map(|row| row.json("counts")).transpose()?;
    if known.is_some_and(|known| known.requests >= seen.requests) {
        return Ok(());
    }
    tx.run(sql::BEHAVIOUR_SET, args![deployment, boot, json(seen)?])
        .await
        .map(drop)
}

fn zip(a: Receipt, b: Receipt, with: fn(u64, u64) -> u64) -> Receipt {
    Receipt {
        ok: with(a.ok, b.ok),
        failed_by_hob: with(a.failed_by_hob, b.failed_by_hob),
        failed_by_app: with(a.failed_by_app, b.failed_by_app),
        retried: with(a.retried, b.retried),
        drained: with(a.drained, b.drained),
    }
}

fn numbers(receipt: Receipt) -> [Value; 5] {
    [
        receipt.ok,
        receipt.failed_by_hob,
        receipt.failed_by_app,
        receipt.retried,
        receipt.drained,
    ]
    .map(|n| Value::from(whole(n)))
}

/// Numbers are stored with a sign.
fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
