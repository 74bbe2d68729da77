create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name;
end $$;
create trigger journal_append_only before update or delete on journal
    for each row execute function refuse_change();
create trigger journal_no_truncate before truncate on journal
    for each statement execute function refuse_change();
create trigger secret_access_append_only before update or delete on secret_access
    for each row execute function refuse_change();
create trigger secret_access_no_truncate before truncate on secret_access
    for each statement execute function refuse_change();

-- Invariant 13: what a deployment asks for never changes, and a digest is fixed once.
create function refuse_deployment_change() returns trigger language plpgsql as $$
begin
    raise exception 'a deployment is immutable';
end $$;
create trigger deployment_immutable before update on deployment
    for each row when (new.spec <> old.spec or new.version <> old.version or new.service <> old.service
        or new.created_by <> old.created_by or new.created_at_us <> old.created_at_us
        or (old.digest is not null and (new.digest is null or new.digest <> old.digest)))
    execute function refuse_deployment_change();

-- Names sort by their bytes, as in SQLite, whatever the database's locale is.
alter table service alter column name type text collate "C";
alter table project alter column name type text collate "C";
alter table config alter column name type text collate "C";
alter table secret alter column name type text collate "C";
alter table config_item alter column key type text collate "C";
alter table secret_item alter column key type text collate "C";
alter table domain alter column hostname type text collate "C";
alter table route alter column path type text collate "C";
