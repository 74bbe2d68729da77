-- What was seen of a deployment beside its requests. Null: not known.
alter table deployment add column routes text;
alter table deployment add column memory_peak bigint;
