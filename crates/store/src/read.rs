//! How rows become nouns.

use domain::routing::Receipt;
use domain::{AccountId, Error, Result, Spec, Template};

use crate::db::Row;
use crate::rows::*;
use crate::scope::SetId;

pub(crate) fn account(row: &Row) -> Result<Account> {
    Ok(Account {
        id: row.parse("id")?,
        name: row.text("name")?,
        admin: row.bool("admin")?,
        created_at_us: row.int("created_at_us")?,
    })
}

pub(crate) fn api_key(row: &Row) -> Result<ApiKey> {
    Ok(ApiKey {
        id: row.parse("id")?,
        account: row.parse("account")?,
        name: row.text("name")?,
        prefix: row.text("prefix")?,
        created_at_us: row.int("created_at_us")?,
        last_used_at_us: row.int_or_null("last_used_at_us")?,
        expires_at_us: row.int_or_null("expires_at_us")?,
        revoked_at_us: row.int_or_null("revoked_at_us")?,
    })
}

pub(crate) fn project(row: &Row) -> Result<Project> {
    Ok(Project {
        id: row.parse("id")?,
        name: row.text("name")?,
        is_default: row.bool("is_default")?,
        environment: row.text_or_null("environment")?,
        created_at_us: row.int("created_at_us")?,
        updated_at_us: row.int("updated_at_us")?,
    })
}

pub(crate) fn member(row: &Row) -> Result<Member> {
    Ok(Member {
        account: row.parse("account")?,
        name: row.text("name")?,
        project: row.parse("project")?,
        role: row.parse("role")?,
        created_at_us: row.int("created_at_us")?,
    })
}

/// The account that a resource belongs to.
pub(crate) fn owner(row: &Row) -> Result<AccountId> {
    row.parse("account")
}

pub(crate) fn kind(row: &Row) -> Result<ServiceKind> {
    match row.text("kind")?.as_str() {
        "service" => Ok(ServiceKind::Service),
        "worker" => Ok(ServiceKind::Worker),
        other => Err(Error::internal(format!("`{other}` is no kind of service"))),
    }
}

pub(crate) fn service(row: &Row) -> Result<Service> {
    Ok(Service {
        id: row.parse("id")?,
        project: row.parse("project")?,
        kind: kind(row)?,
        name: row.text("name")?,
        image: row.text("image")?,
        port: row.number_or_null("port")?,
        instances: row.number("instances")?,
        instances_running: row.number("instances_running")?,
        config: row.parse_or_null("config")?,
        secret: row.parse_or_null("secret")?,
        delivery: row.json("delivery")?,
        command: row.json_or_null("command")?,
        release: row.json_or_null("release")?,
        health: row.json("health")?,
        resources: row.json("resources")?,
        strategy: row.json("strategy")?,
        options: row.json("options")?,
        restart: row.number("restart")?,
        active: row.parse_or_null("active")?,
        serving: row.parse_or_null("serving")?,
        last: row.parse_or_null("last")?,
        last_stage: row.parse_or_null("last_stage")?,
        deleting: row.bool("deleting")?,
        frozen: row.text_or_null("frozen")?,
        version_counter: row.int("version_counter")?,
        revision: row.int("revision")?,
        created_at_us: row.int("created_at_us")?,
        updated_at_us: row.int("updated_at_us")?,
    })
}

pub(crate) fn deployment(row: &Row) -> Result<Deployment> {
    let mut spec: Spec = row.json("spec")?;
    spec.digest = row.text_or_null("digest")?;
    Ok(Deployment {
        id: row.parse("id")?,
        service: row.parse("service")?,
        project: row.parse("project")?,
        version: row.int("version")?,
        spec,
        template: Template(row.text("template")?),
        stage: row.parse("stage")?,
        step: row.number("step")?,
        at_step: row.bool("at_step")?,
        released: row.bool("released")?,
        rolled_back: row.bool("rolled_back")?,
        automatic: row.bool("automatic")?,
        replaced: row.parse_or_null("replaced")?,
        rollback_from: row.parse_or_null("rollback_from")?,
        notes: row.text("notes")?,
        error_message: row.text("error_message")?,
        waiting: row.text("waiting")?,
        created_by: row.parse("created_by")?,
        created_at_us: row.int("created_at_us")?,
        finished_at_us: row.int_or_null("finished_at_us")?,
        receipt: receipt(row)?,
    })
}

pub(crate) fn receipt(row: &Row) -> Result<Receipt> {
    Ok(Receipt {
        ok: row.number("ok")?,
        failed_by_hob: row.number("failed_by_hob")?,
        failed_by_app: row.number("failed_by_app")?,
        retried: row.number("retried")?,
        drained: row.number("drained")?,
    })
}

pub(crate) fn instance(row: &Row) -> Result<InstanceRow> {
    let state = match row.text("state")?.as_str() {
        "wanted" => InstanceState::Wanted,
        "retiring" => InstanceState::Retiring,
        "gone" => InstanceState::Gone,
        other => return Err(Error::internal(format!("`{other}` is no state of an instance"))),
    };
    Ok(InstanceRow {
        id: row.parse("id")?,
        service: row.parse("service")?,
        deployment: row.parse("deployment")?,
        template: Template(row.text("template")?),
        state,
        created_at_us: row.int("created_at_us")?,
        gone_at_us: row.int_or_null("gone_at_us")?,
        healthy_once: row.bool("healthy_once")?,
        crashed: row.bool("crashed")?,
        exit: row.json_or_null("exit")?,
    })
}

pub(crate) fn route(row: &Row) -> Result<Route> {
    Ok(Route {
        id: row.parse("id")?,
        project: row.parse("project")?,
        domain: row.parse("domain")?,
        hostname: row.text("hostname")?,
        service: row.parse("service")?,
        path: row.text("path")?,
        enabled: row.bool("enabled")?,
        created_at_us: row.int("created_at_us")?,
        updated_at_us: row.int("updated_at_us")?,
    })
}

pub(crate) fn domain(row: &Row) -> Result<Domain> {
    Ok(Domain {
        id: row.parse("id")?,
        project: row.parse("project")?,
        hostname: row.text("hostname")?,
        created_at_us: row.int("created_at_us")?,
    })
}

pub(crate) fn set<I: SetId>(row: &Row) -> Result<Set<I>> {
    Ok(Set {
        id: row.parse("id")?,
        project: row.parse("project")?,
        name: row.text("name")?,
        is_default: row.bool("is_default")?,
        created_at_us: row.int("created_at_us")?,
    })
}

pub(crate) fn config_item(row: &Row) -> Result<ConfigItem> {
    Ok(ConfigItem {
        id: row.parse("id")?,
        config: row.parse("config")?,
        key: row.text("key")?,
        value: row.text("value")?,
        created_at_us: row.int("created_at_us")?,
        updated_at_us: row.int("updated_at_us")?,
    })
}

pub(crate) fn secret_item(row: &Row) -> Result<SecretItem> {
    Ok(SecretItem {
        id: row.parse("id")?,
        secret: row.parse("secret")?,
        key: row.text("key")?,
        value_version: row.int("value_version")?,
        last_accessed_at_us: row.int_or_null("last_accessed_at_us")?,
        last_accessed_by: row.parse_or_null("last_accessed_by")?,
        created_at_us: row.int("created_at_us")?,
        updated_at_us: row.int("updated_at_us")?,
    })
}

pub(crate) fn secret_access(row: &Row) -> Result<SecretAccess> {
    Ok(SecretAccess {
        seq: row.int("seq")?,
        item: row.parse("item")?,
        account: row.parse("account")?,
        at_us: row.int("at_us")?,
        how: row.text("how")?,
    })
}

pub(crate) fn journal_entry(row: &Row) -> Result<JournalEntry> {
    Ok(JournalEntry {
        seq: row.int("seq")?,
        deployment: row.parse_or_null("deployment")?,
        service: row.parse_or_null("service")?,
        at_us: row.int("at_us")?,
        actor: row.text("actor")?,
        from: row.parse_or_null("from_stage")?,
        to: row.parse_or_null("to_stage")?,
        reason: row.text("reason")?,
        details: row.json("details")?,
    })
}
