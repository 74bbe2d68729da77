//! Services and instances.

use super::{alone, chunk, of_admin, of_member, role, statements};

macro_rules! service {
    () => {
        "s.id, s.project, s.account, s.kind, s.name, s.image, s.port, s.instances, s.instances_running, s.config, \
         s.secret, s.delivery, s.command, s.release, s.health, s.resources, s.strategy, s.options, s.restart, s.active, \
         s.serving, s.last, s.last_stage, s.deleting, s.frozen, s.version_counter, s.revision, s.created_at_us, \
         s.updated_at_us"
    };
}

macro_rules! instance {
    () => {
        "i.id, i.service, i.deployment, i.template, i.state, i.created_at_us, i.gone_at_us, i.healthy_once, \
         i.crashed, i.exit"
    };
}

macro_rules! instances_live {
    ($ids:ident) => {
        concat!(
            "select ",
            instance!(),
            " from instance i where i.state in ('wanted', 'retiring') and i.service in ",
            $ids!(),
            " order by i.created_at_us, i.id"
        )
    };
}

macro_rules! instances_crashed {
    ($ids:ident) => {
        concat!(
            "select ",
            instance!(),
            " from
            (select n.*, row_number() over (partition by n.service order by n.gone_at_us desc, n.id desc) as place
            from instance n where n.state = 'gone' and n.crashed and n.service in ",
            $ids!(),
            ") i
        where i.place <= 20 order by i.gone_at_us desc, i.id desc"
        )
    };
}

/// In place of a list of ids.
macro_rules! every {
    () => {
        "(select id from service)"
    };
}

macro_rules! edge_services {
    ($ids:ident) => {
        concat!(
            "select s.id, s.project, s.kind, s.name, d.id as receipt, d.port
        from service s join deployment d on d.id = coalesce(s.active, s.serving, s.last)
        where not s.deleting and s.id in ",
            $ids!(),
            " order by s.id"
        )
    };
}

macro_rules! edge_routes {
    ($ids:ident) => {
        concat!(
            "select r.service, o.hostname, r.path from route r
        join domain o on o.id = r.domain join service s on s.id = r.service
        where r.enabled and not s.deleting and s.id in ",
            $ids!(),
            " order by r.service, o.hostname, r.path"
        )
    };
}

statements! {
    SERVICE = concat!(
        "select ", service!(), ", ", role!("s.project"), " from service s where s.id = $3 and not s.deleting"
    );
    SERVICE_BY_NAME = concat!(
        "select ", service!(), " from service s
        where s.kind = $4 and s.name = $5 and not s.deleting and ($3 = '' or s.project = $3)
            and ($2 or exists (select 1 from member m where m.account = $1 and m.project = s.project))
        order by case when s.account = $1 then 0 else 1 end, s.created_at_us limit 1"
    );
    SERVICES_OF_MEMBER = concat!(
        "select ", service!(), " from service s
        where ", of_member!("s.project"), " and s.kind = $4 and not s.deleting"
    );
    SERVICES_OF_ADMIN = concat!(
        "select ", service!(), " from service s where ", of_admin!("s.project"), " and s.kind = $4 and not s.deleting"
    );
    SERVICE_NAME_TAKEN = "select 1 as taken from service
        where account = $1 and kind = $2 and name = $3 and id <> $4 and not deleting";
    /// A host leads to one place: a domain is one, and so is another service's preview.
    PREVIEW_TAKEN = "select 1 as taken from domain where hostname = $1 union all
        select 1 from service where preview_host = $1 and id <> $2 and not deleting";
    /// The first seventeen are those of [`SERVICE_WANT`].
    SERVICE_INSERT = "insert into service
        (id, name, image, port, instances, config, secret, command, health, resources, strategy, options, restart,
            created_at_us, updated_at_us, release, preview_host, delivery, project, account, kind, revision,
            instances_running, deleting, version_counter)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14, $15, $16, $17, $18, $19, $20, $21, 0,
            false, 0)";
    /// What the owner wants.
    SERVICE_WANT = "update service set name = $2, image = $3, port = $4, instances = $5, config = $6, secret = $7,
            command = $8, health = $9, resources = $10, strategy = $11, options = $12, restart = $13,
            updated_at_us = $14, release = $15, preview_host = $16, delivery = $17
        where id = $1";
    /// Where it stands.
    SERVICE_STAND = "update service set instances_running = $2, active = $3, serving = $4, last = $5, last_stage = $6,
            deleting = $7, frozen = $8, version_counter = $9, revision = $10, updated_at_us = $11
        where id = $1";
    SERVICE_DELETE = "delete from service where id = $1";
    SERVICE_ROW = concat!("select ", service!(), " from service s where s.id = $1");
    SERVICES_CHANGED = "select id, revision from service where revision > $1 order by revision limit cast($2 as bigint)";
    SERVICES_BATCH = concat!("select ", service!(), " from service s where s.id in ", chunk!());
    SERVICE_TOUCH = "update service set revision = $2 where id = $1";

    INSTANCE_INSERT = "insert into instance
        (id, service, deployment, template, state, created_at_us, healthy_once, crashed)
        values ($1, $2, $3, $4, 'wanted', $5, false, false) on conflict (id) do nothing";
    INSTANCE_RETIRE = "update instance set state = 'retiring' where id = $1 and service = $2 and state = 'wanted'";
    INSTANCE_GONE = "update instance set state = 'gone', gone_at_us = $3, crashed = $4, exit = $5
        where id = $1 and service = $2 and state <> 'gone'";
    INSTANCE_HEALTHY = "update instance set healthy_once = true where id = $1 and service = $2 and not healthy_once";
    /// Forgets all but the newest gone ones.
    INSTANCES_FORGET = "delete from instance where service = $1 and state = 'gone' and id not in
        (select i.id from instance i where i.service = $1 and i.state = 'gone'
            order by i.gone_at_us desc, i.id desc limit cast($2 as bigint))";
    INSTANCES_LIVE_ANY = "select 1 as live from instance
        where service = $1 and state in ('wanted', 'retiring') limit 1";
    INSTANCES_LIVE_BATCH = instances_live!(chunk);
    INSTANCES_LIVE_ALONE = instances_live!(alone);
    INSTANCES_CRASHED_BATCH = instances_crashed!(chunk);
    INSTANCES_CRASHED_ALONE = instances_crashed!(alone);
    INSTANCES_GONE_BATCH = concat!("select i.id from instance i where i.state = 'gone' and i.id in ", chunk!());
    INSTANCES_OF_SERVICE = concat!(
        "select ", instance!(), " from instance i where i.service = $1 and i.state in ('wanted', 'retiring')
        order by i.created_at_us, i.id"
    );
    INSTANCES_GONE = concat!(
        "select ", instance!(), " from instance i where i.service = $1 and i.state = 'gone'
        order by i.gone_at_us desc, i.id desc limit $2"
    );

    EDGE_SERVICES = edge_services!(every);
    EDGE_SERVICES_BATCH = edge_services!(chunk);
    EDGE_ROUTES = edge_routes!(every);
    EDGE_ROUTES_BATCH = edge_routes!(chunk);
}
