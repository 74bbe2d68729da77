-- What a member may do: viewer, developer or owner. Members of before could do everything.
alter table member add column role text not null default 'owner';
alter table member add column created_at_us bigint not null default 0;
insert into counter (owner, kind, n) select m.project, 'members', count(*) from member m group by m.project;

-- Who asked for what, and what became of it. Append-only, see the next migration; each line's hash covers the line and
-- the hash before it.
insert into meta (name, value) values ('audit', 0);
create table audit (
    seq bigint primary key,
    at_us bigint not null,
    account text not null,
    via text not null,
    project text,
    action text not null,
    object text not null,
    subject text,
    outcome text not null,
    bucket text,
    request text not null,
    hash text not null
);
create index audit_account on audit (account, seq);
create index audit_project on audit (project, seq) where project is not null;
create index audit_bucket on audit (account, bucket, seq) where bucket is not null;
