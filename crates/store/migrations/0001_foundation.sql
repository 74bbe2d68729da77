-- One text for SQLite and PostgreSQL. Ids and JSON are text, times are microseconds since the epoch.
-- Soft references (no foreign key) are those that would be circular, or that outlive what they refer to.

create table meta (
    name text primary key,
    value bigint not null
);
insert into meta (name, value) values ('revision', 0), ('journal', 0), ('access', 0), ('edge_epoch', 0);

-- A known text sealed by the root key: a wrong key is found at start, not at the first secret.
create table seal_check (
    id bigint primary key,
    sealed bytea not null
);

create table account (
    id text primary key,
    name text not null unique,
    admin boolean not null,
    password_hash text,
    default_project text,
    created_at_us bigint not null
);

create table project (
    id text primary key,
    account text not null references account (id),
    name text not null,
    is_default boolean not null,
    data_key bytea not null,
    created_at_us bigint not null,
    updated_at_us bigint not null,
    unique (account, name)
);
create unique index project_default on project (account) where is_default;

-- Who sees a project. The owner is a member like any other.
create table member (
    account text not null references account (id),
    project text not null references project (id) on delete cascade,
    primary key (account, project)
);
create index member_of_project on member (project);

create table api_key (
    id text primary key,
    account text not null references account (id),
    name text not null,
    prefix text not null,
    lookup text not null,
    hash bytea not null,
    created_at_us bigint not null,
    last_used_at_us bigint,
    expires_at_us bigint,
    revoked_at_us bigint
);
create index api_key_lookup on api_key (lookup);
create index api_key_account on api_key (account, created_at_us, id);

create table claim (
    hash text primary key,
    expires_at_us bigint not null
);

create table config (
    id text primary key,
    project text not null references project (id),
    account text not null references account (id),
    name text not null,
    is_default boolean not null,
    created_at_us bigint not null,
    unique (account, name)
);
create index config_project on config (project, created_at_us, id);

create table config_item (
    id text primary key,
    config text not null references config (id) on delete cascade,
    key text not null,
    value text not null,
    created_at_us bigint not null,
    updated_at_us bigint not null,
    unique (config, key)
);

create table secret (
    id text primary key,
    project text not null references project (id),
    account text not null references account (id),
    name text not null,
    is_default boolean not null,
    version_counter bigint not null,
    created_at_us bigint not null,
    unique (account, name)
);
create index secret_project on secret (project, created_at_us, id);

create table secret_item (
    id text primary key,
    secret text not null references secret (id) on delete cascade,
    key text not null,
    value_version bigint not null,
    last_accessed_at_us bigint,
    last_accessed_by text,
    created_at_us bigint not null,
    updated_at_us bigint not null,
    unique (secret, key)
);

-- Sealed values. One outlives its item and its secret while a kept deployment refers to it.
create table secret_value (
    secret text not null,
    key text not null,
    version bigint not null,
    item text not null,
    project text not null references project (id),
    sealed bytea not null,
    created_at_us bigint not null,
    primary key (secret, key, version)
);

create table secret_access (
    seq bigint primary key,
    item text not null,
    account text not null,
    at_us bigint not null,
    how text not null
);
create index secret_access_item on secret_access (item, seq);

create table domain (
    id text primary key,
    project text not null references project (id),
    account text not null references account (id),
    hostname text not null unique,
    created_at_us bigint not null
);
create index domain_project on domain (project, created_at_us, id);

create table service (
    id text primary key,
    project text not null references project (id),
    account text not null references account (id),
    kind text not null,
    name text not null,
    image text not null,
    port bigint,
    instances bigint not null,
    instances_running bigint not null,
    config text references config (id) on delete set null,
    secret text references secret (id) on delete set null,
    command text,
    health text not null,
    resources text not null,
    strategy text not null,
    options text not null,
    restart bigint not null,
    active text,
    serving text,
    last text,
    last_stage text,
    deleting boolean not null,
    frozen text,
    version_counter bigint not null,
    revision bigint not null,
    created_at_us bigint not null,
    updated_at_us bigint not null
);
create unique index service_name on service (kind, name, account) where not deleting;
create unique index service_revision on service (revision);
create index service_project on service (project, created_at_us, id);
create index service_created on service (created_at_us, id);
create index service_config on service (config);
create index service_secret on service (secret);

create table route (
    id text primary key,
    project text not null references project (id),
    account text not null references account (id),
    domain text not null references domain (id) on delete cascade,
    service text not null references service (id) on delete cascade,
    path text not null,
    enabled boolean not null,
    created_at_us bigint not null,
    updated_at_us bigint not null,
    unique (domain, path)
);
create index route_service on route (service, created_at_us, id);
create index route_project on route (project, created_at_us, id);

create table deployment (
    id text primary key,
    service text not null references service (id) on delete cascade,
    project text not null references project (id),
    version bigint not null,
    spec text not null,
    port bigint,
    digest text,
    template text not null,
    secret text,
    stage text not null,
    rolled_back boolean not null,
    rollback_from text references deployment (id) on delete set null,
    notes text not null,
    error_message text not null,
    waiting text not null,
    created_by text not null,
    created_at_us bigint not null,
    finished_at_us bigint,
    ok bigint not null,
    failed_by_hob bigint not null,
    failed_by_app bigint not null,
    retried bigint not null,
    drained bigint not null,
    unique (service, version)
);
-- Invariant 7: at most one deployment of a service is on its way.
create unique index deployment_active on deployment (service)
    where stage in ('queued', 'deploying', 'paused', 'finalizing', 'canceling');
create index deployment_project on deployment (project, created_at_us, version, id);
create index deployment_created on deployment (created_at_us, version, id);
create index deployment_digest on deployment (digest) where digest is not null;
create index deployment_rollback on deployment (rollback_from);

-- Which sealed values a kept deployment needs.
create table deployment_secret (
    deployment text not null references deployment (id) on delete cascade,
    secret text not null,
    key text not null,
    version bigint not null,
    primary key (deployment, key)
);
create index deployment_secret_value on deployment_secret (secret, key, version);

create table receipt (
    deployment text not null references deployment (id) on delete cascade,
    edge_boot text not null,
    ok bigint not null,
    failed_by_hob bigint not null,
    failed_by_app bigint not null,
    retried bigint not null,
    drained bigint not null,
    primary key (deployment, edge_boot)
);

create table instance (
    id text primary key,
    service text not null references service (id) on delete cascade,
    deployment text not null,
    template text not null,
    state text not null,
    created_at_us bigint not null,
    gone_at_us bigint,
    healthy_once boolean not null,
    crashed boolean not null,
    exit text
);
create index instance_service on instance (service, state, created_at_us, id);
create index instance_gone on instance (service, gone_at_us, id) where state = 'gone';

-- Append-only, see the next migration.
create table journal (
    seq bigint primary key,
    deployment text,
    service text,
    at_us bigint not null,
    actor text not null,
    from_stage text,
    to_stage text,
    reason text not null,
    details text not null
);
create index journal_deployment on journal (deployment, seq);
create index journal_service on journal (service, seq);

-- Row counts per owner and kind, and statistics that outlive the rows that they count.
create table counter (
    owner text not null,
    kind text not null,
    n bigint not null,
    primary key (owner, kind)
);
create index counter_kind on counter (kind, owner);

create table lease (
    name text primary key,
    number bigint not null,
    holder text not null,
    expires_at_us bigint not null
);
