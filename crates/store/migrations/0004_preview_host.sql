-- A host leads to one place only: a copy of the option, for the index.
alter table service add column preview_host text;
create unique index service_preview on service (preview_host) where preview_host is not null and not deleting;
