//! Projects, domains, routes, configs.

use super::{chunk, of_admin, of_member, role, statements};

macro_rules! project {
    () => {
        "p.id, p.name, p.is_default, p.environment, p.created_at_us, p.updated_at_us, p.account"
    };
}

macro_rules! member {
    () => {
        "m.account, m.project, a.name, m.role, m.created_at_us from member m join account a on a.id = m.account"
    };
}

macro_rules! domain {
    () => {
        "o.id, o.project, o.hostname, o.created_at_us, o.account"
    };
}

macro_rules! route {
    () => {
        "r.id, r.project, r.domain, o.hostname, r.service, r.path, r.enabled, r.created_at_us, r.updated_at_us, \
         r.account"
    };
}

macro_rules! config_item {
    () => {
        "i.id, i.config, i.key, i.value, i.created_at_us, i.updated_at_us"
    };
}

statements! {
    PROJECT = concat!("select ", project!(), ", ", role!("p.id"), " from project p where p.id = $3");
    PROJECT_BY_NAME = concat!(
        "select ", project!(), " from project p
        where p.name = $3 and ($2 or exists (select 1 from member m where m.account = $1 and m.project = p.id))
        order by case when p.account = $1 then 0 else 1 end, p.created_at_us limit 1"
    );
    PROJECTS_OF_MEMBER = concat!(
        "select ", project!(), " from project p where ", of_member!("p.id"), " and $4 = ''"
    );
    PROJECTS_OF_ADMIN = concat!(
        "select ", project!(), " from project p where ", of_admin!("p.id"), " and $4 = ''"
    );
    PROJECT_NAME_TAKEN = "select 1 as taken from project where account = $1 and name = $2 and id <> $3";
    PROJECT_INSERT = "insert into project
        (id, account, name, is_default, data_key, created_at_us, updated_at_us, environment)
        values ($1, $2, $3, $4, $5, $6, $6, $7)";
    PROJECT_CHANGE = "update project set name = $2, environment = $3, updated_at_us = $4 where id = $1";
    PROJECT_DELETE = "delete from project where id = $1";
    PROJECT_USED = "select exists (select 1 from service where project = $1)
            or exists (select 1 from route where project = $1)
            or exists (select 1 from domain where project = $1)
            or exists (select 1 from config where project = $1)
            or exists (select 1 from secret where project = $1)
            or exists (select 1 from secret_value where project = $1) as used";
    PROJECT_KEY = "select data_key from project where id = $1";
    MEMBER_INSERT = "insert into member (account, project, role, created_at_us) values ($1, $2, $3, $4)";
    MEMBER = concat!("select ", member!(), " where m.project = $1 and m.account = $2");
    MEMBERS = concat!("select ", member!(), " where m.project = $1");
    MEMBER_SET_ROLE = "update member set role = $3 where account = $1 and project = $2";
    MEMBER_DELETE = "delete from member where account = $1 and project = $2";
    MEMBERS_OF = "select account from member where project = $1";

    DOMAIN = concat!("select ", domain!(), ", ", role!("o.project"), " from domain o where o.id = $3");
    DOMAIN_BY_HOSTNAME = concat!(
        "select ", domain!(), ", ", role!("o.project"), " from domain o where o.hostname = $3"
    );
    DOMAINS_OF_MEMBER = concat!(
        "select ", domain!(), " from domain o where ", of_member!("o.project"), " and $4 = ''"
    );
    DOMAINS_OF_ADMIN = concat!(
        "select ", domain!(), " from domain o where ", of_admin!("o.project"), " and $4 = ''"
    );
    /// Over the whole system, whoever owns it.
    HOSTNAME_TAKEN = "select 1 as taken from domain where hostname = $1 and id <> $2 union all
        select 1 from service where preview_host = $1 and not deleting";
    DOMAIN_INSERT = "insert into domain (id, project, account, hostname, created_at_us) values ($1, $2, $3, $4, $5)";
    DOMAIN_RENAME = "update domain set hostname = $2 where id = $1";
    DOMAIN_DELETE = "delete from domain where id = $1";

    ROUTE = concat!(
        "select ", route!(), ", ", role!("r.project"),
        " from route r join domain o on o.id = r.domain where r.id = $3"
    );
    ROUTES_OF_MEMBER = concat!(
        "select ", route!(), " from route r join domain o on o.id = r.domain
        where ", of_member!("r.project"), " and ($4 = '' or r.service = $4)"
    );
    ROUTES_OF_ADMIN = concat!(
        "select ", route!(), " from route r join domain o on o.id = r.domain
        where ", of_admin!("r.project"), " and ($4 = '' or r.service = $4)"
    );
    ROUTE_TAKEN = "select 1 as taken from route where domain = $1 and path in ($2, $4) and id <> $3";
    ROUTE_INSERT = "insert into route
        (id, project, account, domain, service, path, enabled, created_at_us, updated_at_us)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $8)";
    ROUTE_UPDATE = "update route set project = $2, domain = $3, service = $4, path = $5, enabled = $6,
        updated_at_us = $7 where id = $1";
    ROUTE_DELETE = "delete from route where id = $1";
    ROUTES_OF_SERVICE = "select id, project, service, created_at_us from route where service = $1";
    ROUTES_THAT_LEAD = "select o.hostname, r.path from route r join domain o on o.id = r.domain
        where r.service = $1 and r.enabled order by o.hostname, r.path";
    ROUTES_OF_DOMAIN = "select id, project, service, created_at_us from route where domain = $1";

    CONFIG_ITEM = concat!("select ", config_item!(), " from config_item i where i.config = $1 and i.id = $2");
    CONFIG_ITEMS = concat!("select ", config_item!(), " from config_item i where i.config = $1");
    CONFIG_KEY_TAKEN = "select 1 as taken from config_item where config = $1 and key = $2 and id <> $3";
    CONFIG_ITEM_INSERT = "insert into config_item (id, config, key, value, created_at_us, updated_at_us)
        values ($1, $2, $3, $4, $5, $5)";
    CONFIG_ITEM_UPDATE = "update config_item set key = $2, value = $3, updated_at_us = $4 where id = $1";
    CONFIG_ITEM_DELETE = "delete from config_item where id = $1";
    CONFIG_VALUES = "select key, value from config_item where config = $1";
    CONFIG_VALUES_BATCH = concat!("select config as parent, key, value from config_item where config in ", chunk!());
}
