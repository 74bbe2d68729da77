//! What is written beside every change: counters and the journal.

use domain::{DeploymentId, Result, ServiceId, Stage};

use crate::db::{Tx, Value, args, json};
use crate::input::Principal;
use crate::sql;

/// Kinds of counters, each with its owner.
pub(crate) mod count {
    /// Of a project: services that their owner can see.
    pub(crate) const SERVICES: &str = "services";
    pub(crate) const WORKERS: &str = "workers";
    /// Of a project: deployments of visible services, without those of workers.
    pub(crate) const DEPLOYMENTS: &str = "deployments";
    /// Of a service.
    pub(crate) const SERVICE_DEPLOYMENTS: &str = "service_deployments";
    pub(crate) const ROUTES: &str = "routes";
    /// Of a service.
    pub(crate) const SERVICE_ROUTES: &str = "service_routes";
    pub(crate) const DOMAINS: &str = "domains";
    pub(crate) const CONFIGS: &str = "configs";
    pub(crate) const SECRETS: &str = "secrets";
    /// Of a config, of a secret.
    pub(crate) const CONFIG_ITEMS: &str = "config_items";
    pub(crate) const SECRET_ITEMS: &str = "secret_items";
    /// Of the owning account, and of each account that sees them.
    pub(crate) const PROJECTS: &str = "projects";
    pub(crate) const MEMBERSHIPS: &str = "memberships";
    /// Of a project.
    pub(crate) const MEMBERS: &str = "members";
    pub(crate) const API_KEYS: &str = "api_keys";

    /// Statistics, of a service and of a project: how deployments ended. They never shrink.
    pub(crate) const SUCCEEDED: &str = "outcome_succeeded";
    pub(crate) const FAILED: &str = "outcome_failed";
    pub(crate) const CANCELED: &str = "outcome_canceled";
    pub(crate) const SUPERSEDED: &str = "outcome_superseded";
    pub(crate) const ROLLED_BACK: &str = "outcome_rolled_back";
}

/// Who makes a change, as the journal names it.
#[derive(Clone)]
pub(crate) struct Actor(pub(crate) String);

impl Actor {
    pub(crate) fn account(who: &Principal) -> Actor {
        Actor(format!("account:{}", who.account))
    }

    pub(crate) fn reconciler(holder: &str) -> Actor {
        Actor(format!("reconciler:{holder}"))
    }
}

/// A line for the journal.
pub(crate) struct Line<'a> {
    pub(crate) service: ServiceId,
    pub(crate) deployment: Option<DeploymentId>,
    pub(crate) from: Option<Stage>,
    pub(crate) to: Option<Stage>,
    pub(crate) reason: &'a str,
    pub(crate) details: serde_json::Value,
}

impl Tx {
    /// Adds `n`, which may be negative, to a counter.
    pub(crate) async fn count(&mut self, owner: impl Into<Value>, kind: &str, n: i64) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        self.run(sql::COUNTER_ADD, vec![owner.into(), kind.into(), n.into()])
            .await
            .map(drop)
    }

    /// Appends to the journal. Numbers follow each other without gaps.
    pub(crate) async fn append(&mut self, actor: &Actor, line: Line<'_>) -> Result<()> {
        let seq = self.next(crate::db::Serial::Journal).await?;
        let values = args![
            seq,
            line.deployment,
            line.service,
            self.now_us(),
            &actor.0,
            line.from,
            line.to,
            line.reason,
            json(&line.details)?,
        ];
        self.run(sql::JOURNAL_APPEND, values).await.map(drop)
    }
}
