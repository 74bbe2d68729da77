-- How many rows of a list fall into each span of time, in three widths, per project and ('') in all: a page number
-- becomes a moment without counting off the rows before it.
create table position (
    owner text not null,
    kind text not null,
    level bigint not null,
    bucket bigint not null,
    n bigint not null,
    primary key (owner, kind, level, bucket)
);

insert into position (owner, kind, level, bucket, n)
select d.project, 'deployments', w.level, d.created_at_us / w.width, count(*)
from deployment d join service s on s.id = d.service cross join
    (select 22 as level, 4194304 as width union all select 31, 2147483648 union all select 40, 1099511627776) w
where s.kind = 'service' and not s.deleting
group by d.project, w.level, d.created_at_us / w.width;

insert into position (owner, kind, level, bucket, n)
select s.project, s.kind || 's', w.level, s.created_at_us / w.width, count(*)
from service s cross join
    (select 22 as level, 4194304 as width union all select 31, 2147483648 union all select 40, 1099511627776) w
where not s.deleting
group by s.project, s.kind || 's', w.level, s.created_at_us / w.width;

insert into position (owner, kind, level, bucket, n)
select '', p.kind, p.level, p.bucket, sum(p.n) from position p group by p.kind, p.level, p.bucket;

-- Services and workers are listed apart.
drop index service_project;
drop index service_created;
create index service_project on service (project, kind, created_at_us, id);
create index service_created on service (kind, created_at_us, id);
