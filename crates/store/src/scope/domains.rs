//! Domains.

use domain::{DomainId, Error, ProjectId, Result};
use uuid::Uuid;

use super::{Scope, ended, routes};
use crate::db::args;
use crate::input::{ListQuery, Page};
use crate::ledger::count;
use crate::list::{self, Count};
use crate::rows::Domain;
use crate::{check, read, sql};

impl Scope {
    /// Registers a host name, which then belongs to nobody else in the system (invariant 24).
    pub async fn create_domain(&self, hostname: &str, project: Option<ProjectId>) -> Result<Domain> {
        let hostname = check::hostname(hostname)?;
        let mut tx = self.write().await?;
        let home = self.home(&mut tx, project).await?;
        let domain = Domain {
            id: DomainId(Uuid::now_v7()),
            project: home.project,
            hostname,
            created_at_us: tx.now_us(),
        };
        let taken = args![&domain.hostname, domain.id];
        self.refuse_taken(&mut tx, sql::HOSTNAME_TAKEN, taken, check::taken("hostname", "domain"))
            .await?;
        let values = args![
            domain.id,
            domain.project,
            home.account,
            &domain.hostname,
            domain.created_at_us
        ];
        tx.run(sql::DOMAIN_INSERT, values).await?;
        tx.about(domain.id);
        tx.place(domain.project, count::DOMAINS, domain.created_at_us, 1)
            .await?;
        tx.commit().await?;
        Ok(domain)
    }

    pub async fn domain(&self, id: DomainId) -> Result<Domain> {
        let mut tx = self.read().await?;
        let row = self.visible(&mut tx, sql::DOMAIN, "domain", id).await?;
        ended(tx, read::domain(&row)?).await
    }

    pub async fn domain_by_hostname(&self, hostname: &str) -> Result<Domain> {
        check::findable(hostname)?;
        let mut tx = self.read().await?;
        let row = tx
            .first(
                sql::DOMAIN_BY_HOSTNAME,
                self.bound(args![hostname.to_ascii_lowercase()]),
            )
            .await?;
        let row = row.ok_or_else(|| Error::not_found(format!("domain {hostname:?}")))?;
        self.allowed(&row, "domain", &hostname)?;
        ended(tx, read::domain(&row)?).await
    }

    pub async fn list_domains(&self, query: &ListQuery) -> Result<Page<Domain>> {
        let mut tx = self.read().await?;
        let count = Count::InProjects(count::DOMAINS);
        let page = list::DOMAINS
            .page(&mut tx, &self.who, query, "", count, read::domain)
            .await?;
        ended(tx, page).await
    }

    pub async fn patch_domain(&self, id: DomainId, hostname: Option<String>) -> Result<Domain> {
        let hostname = hostname.as_deref().map(check::hostname).transpose()?;
        let mut tx = self.write().await?;
        let row = self.visible(&mut tx, sql::DOMAIN, "domain", id).await?;
        let mut domain = read::domain(&row)?;
        let Some(hostname) = hostname.filter(|hostname| *hostname != domain.hostname) else {
            return ended(tx, domain).await;
        };
        let taken = args![&hostname, id];
        self.refuse_taken(&mut tx, sql::HOSTNAME_TAKEN, taken, check::taken("hostname", "domain"))
            .await?;
        tx.run(sql::DOMAIN_RENAME, args![id, &hostname]).await?;
        for route in tx.all(sql::ROUTES_OF_DOMAIN, args![id]).await? {
            routes::touch(&mut tx, route.parse("service")?).await?;
        }
        tx.commit().await?;
        domain.hostname = hostname;
        Ok(domain)
    }

    /// Frees a host name; its routes go with it.
    pub async fn delete_domain(&self, id: DomainId) -> Result<()> {
        let mut tx = self.write().await?;
        let row = self.visible(&mut tx, sql::DOMAIN, "domain", id).await?;
        let domain = read::domain(&row)?;
        for route in tx.all(sql::ROUTES_OF_DOMAIN, args![id]).await? {
            routes::remove(&mut tx, &route).await?;
        }
        tx.run(sql::DOMAIN_DELETE, args![id]).await?;
        tx.place(domain.project, count::DOMAINS, domain.created_at_us, -1)
            .await?;
        tx.commit().await
    }
}
