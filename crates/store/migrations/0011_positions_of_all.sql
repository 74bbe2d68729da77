-- Every list is found by its positions in time, not only those of services and deployments.
insert into position (owner, kind, level, bucket, n)
select x.project, 'routes', w.level, x.created_at_us / w.width, count(*)
from route x cross join
    (select 22 as level, 4194304 as width union all select 31, 2147483648 union all select 40, 1099511627776) w
group by x.project, w.level, x.created_at_us / w.width;

insert into position (owner, kind, level, bucket, n)
select '', 'routes', w.level, x.created_at_us / w.width, count(*)
from route x cross join
    (select 22 as level, 4194304 as width union all select 31, 2147483648 union all select 40, 1099511627776) w
group by w.level, x.created_at_us / w.width;

insert into position (owner, kind, level, bucket, n)
select x.project, 'domains', w.level, x.created_at_us / w.width, count(*)
from domain x cross join
    (select 22 as level, 4194304 as width union all select 31, 2147483648 union all select 40, 1099511627776) w
group by x.project, w.level, x.created_at_us / w.width;

insert into position (owner, kind, level, bucket, n)
select '', 'domains', w.level, x.created_at_us / w.width, count(*)
from domain x cross join
    (select 22 as level, 4194304 as width union all select 31, 2147483648 union all select 40, 1099511627776) w
group by w.level, x.created_at_us / w.width;

insert into position (owner, kind, level, bucket, n)
select x.project, 'configs', w.level, x.created_at_us / w.width, count(*)
from config x cross join
    (select 22 as level, 4194304 as width union all select 31, 2147483648 union all select 40, 1099511627776) w
group by x.project, w.level, x.created_at_us / w.width;

insert into position (owner, kind, level, bucket, n)
select '', 'configs', w.level, x.created_at_us / w.width, count(*)
from config x cross join
    (select 22 as level, 4194304 as width union all select 31, 2147483648 union all select 40, 1099511627776) w
group by w.level, x.created_at_us / w.width;

insert into position (owner, kind, level, bucket, n)
select x.project, 'secrets', w.level, x.created_at_us / w.width, count(*)
from secret x cross join
    (select 22 as level, 4194304 as width union all select 31, 2147483648 union all select 40, 1099511627776) w
group by x.project, w.level, x.created_at_us / w.width;

insert into position (owner, kind, level, bucket, n)
select '', 'secrets', w.level, x.created_at_us / w.width, count(*)
from secret x cross join
    (select 22 as level, 4194304 as width union all select 31, 2147483648 union all select 40, 1099511627776) w
group by w.level, x.created_at_us / w.width;

insert into position (owner, kind, level, bucket, n)
select x.id, 'projects', w.level, x.created_at_us / w.width, count(*)
from project x cross join
    (select 22 as level, 4194304 as width union all select 31, 2147483648 union all select 40, 1099511627776) w
group by x.id, w.level, x.created_at_us / w.width;

insert into position (owner, kind, level, bucket, n)
select '', 'projects', w.level, x.created_at_us / w.width, count(*)
from project x cross join
    (select 22 as level, 4194304 as width union all select 31, 2147483648 union all select 40, 1099511627776) w
group by w.level, x.created_at_us / w.width;

-- For administrators, who see all.
create index route_created on route (created_at_us, id);
create index domain_created on domain (created_at_us, id);
create index config_created on config (created_at_us, id);
create index secret_created on secret (created_at_us, id);
create index project_created on project (created_at_us, id);
