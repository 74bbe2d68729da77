-- What a service runs once before a new version starts.
alter table service add column release text;

-- How far a deployment has come within its stage, and what it took the place of.
alter table deployment add column step bigint not null default 0;
alter table deployment add column at_step boolean not null default false;
alter table deployment add column released boolean not null default false;
alter table deployment add column automatic boolean not null default false;
alter table deployment add column replaced text references deployment (id) on delete set null;
create index deployment_replaced on deployment (replaced);

-- What each life of the edge has seen of a deployment; the counts are JSON.
create table behaviour (
    deployment text not null references deployment (id) on delete cascade,
    edge_boot text not null,
    counts text not null,
    primary key (deployment, edge_boot)
);
