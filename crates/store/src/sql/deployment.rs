//! Deployments, their needs, their receipts.

use super::{alone, chunk, of_admin, of_member, role, statements};

macro_rules! deployment {
    () => {
        "d.id, d.service, d.project, d.version, d.spec, d.digest, d.template, d.secret, d.stage, d.step, \
         d.at_step, d.released, d.rolled_back, d.automatic, d.replaced, d.rollback_from, d.notes, d.error_message, \
         d.waiting, d.created_by, d.created_at_us, d.finished_at_us, d.ok, d.failed_by_hob, d.failed_by_app, \
         d.retried, d.drained"
    };
}

macro_rules! deployments_of {
    ($ids:ident) => {
        concat!(
            "select ",
            deployment!(),
            " from service s join deployment d on d.service = s.id and (d.id in (s.active, s.serving) or d.id in
                (select i.deployment from instance i where i.service = s.id and i.state in ('wanted', 'retiring')))
            where s.id in ",
            $ids!(),
            " order by d.version"
        )
    };
}

statements! {
    DEPLOYMENT = concat!(
        "select ", deployment!(), ", ", role!("d.project"),
        " from deployment d join service s on s.id = d.service where d.id = $3 and not s.deleting"
    );
    DEPLOYMENT_BY_VERSION = concat!("select ", deployment!(), " from deployment d where d.service = $1 and d.version = $2");
    /// Of services; workers have no deployments on the platform face (G.16) and are asked for by their id.
    DEPLOYMENTS_OF_MEMBER = concat!(
        "select ", deployment!(), " from deployment d join service s on s.id = d.service
        where ", of_member!("d.project"), " and not s.deleting and ((s.kind = 'service' and $4 = '') or d.service = $4)"
    );
    DEPLOYMENTS_OF_ADMIN = concat!(
        "select ", deployment!(), " from deployment d join service s on s.id = d.service
        where ", of_admin!("d.project"), " and not s.deleting and ((s.kind = 'service' and $4 = '') or d.service = $4)"
    );
    DEPLOYMENT_ROW = concat!("select ", deployment!(), " from deployment d where d.id = $1");
    SPECS_BATCH = concat!("select d.service, d.spec, d.secret from deployment d where d.id in ", chunk!());
    DEPLOYMENTS_BATCH = deployments_of!(chunk);
    DEPLOYMENTS_ALONE = deployments_of!(alone);
    DEPLOYMENT_INSERT = "insert into deployment
        (id, service, project, version, spec, port, digest, template, secret, stage, rolled_back, rollback_from, notes,
            error_message, waiting, created_by, created_at_us, ok, failed_by_hob, failed_by_app, retried, drained,
            automatic, step)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'queued', false, $10, $11, '', '', $12, $13, 0, 0, 0, 0, 0, $14,
            $15)";
    DEPLOYMENT_SECRET_INSERT = "insert into deployment_secret (deployment, secret, key, version)
        values ($1, $2, $3, $4)";
    /// Compare-and-set (invariant 8).
    DEPLOYMENT_SET_STAGE = "update deployment set stage = $4, error_message = $5, waiting = '', finished_at_us = $6,
            at_step = false
        where id = $1 and service = $2 and stage = $3";
    DEPLOYMENT_AT_STEP = "update deployment set at_step = $2 where id = $1 and stage = 'paused'";
    /// Compare-and-set: steps are passed one after the other.
    DEPLOYMENT_ADVANCE = "update deployment set step = $2, waiting = '' where id = $1 and step = $2 - 1";
    DEPLOYMENT_RELEASED = "update deployment set released = true where id = $1 and service = $2 and not released";
    DEPLOYMENT_REPLACED = "update deployment
        set replaced = (select p.id from deployment p where p.id = $2 and not p.rolled_back)
        where id = $1";
    DEPLOYMENT_SET_DIGEST = "update deployment set digest = $2, template = $3 where id = $1 and digest is null";
    DEPLOYMENT_SET_WAITING = "update deployment set waiting = $3 where id = $1 and service = $2 and waiting <> $3";
    DEPLOYMENT_ROLLED_BACK = "update deployment set rolled_back = true
        where id = $1 and stage = 'succeeded' and not rolled_back";
    /// OPEN-7: all but the newest ten, what serves, what is on its way, and the target of a rollback on its way.
    DEPLOYMENTS_TO_PRUNE = "select d.id, d.secret, d.created_at_us from deployment d
        where d.service = $1 and d.stage in ('succeeded', 'failed', 'canceled', 'superseded') and d.id <> $2
            and d.id not in (select x.id from deployment x where x.service = $1
                order by x.version desc limit cast($3 as bigint))
            and not exists (select 1 from deployment y where y.service = $1 and y.rollback_from = d.id
                and y.stage in ('queued', 'deploying', 'paused', 'finalizing', 'canceling'))";
    DEPLOYMENT_TIMES = "select created_at_us from deployment where service = $1";
    DEPLOYMENT_DELETE = "delete from deployment where id = $1";
    SECRETS_NEEDED_BY_SERVICE = "select distinct n.secret from deployment_secret n
        join deployment d on d.id = n.deployment where d.service = $1";
    DIGESTS = "select distinct digest from deployment where digest is not null";

    DEPLOYMENT_SET_ROUTES = "update deployment set routes = $2 where id = $1";
    DEPLOYMENT_RAISE_MEMORY = "update deployment set memory_peak = $3
        where id = (select deployment from instance where id = $1 and service = $2)
            and (memory_peak is null or memory_peak < $3)";
    OBSERVED = "select routes, memory_peak from deployment where id = $1";

    BEHAVIOUR = "select counts from behaviour where deployment = $1 and edge_boot = $2";
    BEHAVIOURS = "select counts from behaviour where deployment = $1 order by edge_boot";
    BEHAVIOUR_SET = "insert into behaviour (deployment, edge_boot, counts) values ($1, $2, $3)
        on conflict (deployment, edge_boot) do update set counts = excluded.counts";

    RECEIPT = "select ok, failed_by_hob, failed_by_app, retried, drained from receipt
        where deployment = $1 and edge_boot = $2";
    RECEIPT_SET = "insert into receipt (deployment, edge_boot, ok, failed_by_hob, failed_by_app, retried, drained)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (deployment, edge_boot) do update set ok = excluded.ok, failed_by_hob = excluded.failed_by_hob,
            failed_by_app = excluded.failed_by_app, retried = excluded.retried, drained = excluded.drained";
    DEPLOYMENT_RECEIPT_ADD = "update deployment set ok = ok + $2, failed_by_hob = failed_by_hob + $3,
            failed_by_app = failed_by_app + $4, retried = retried + $5, drained = drained + $6
        where id = $1";
}
