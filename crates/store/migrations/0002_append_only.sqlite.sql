create trigger journal_no_update before update on journal begin
    select raise(abort, 'the journal is append-only');
end;
create trigger journal_no_delete before delete on journal begin
    select raise(abort, 'the journal is append-only');
end;
create trigger secret_access_no_update before update on secret_access begin
    select raise(abort, 'the access log is append-only');
end;
create trigger secret_access_no_delete before delete on secret_access begin
    select raise(abort, 'the access log is append-only');
end;

-- Invariant 13: what a deployment asks for never changes, and a digest is fixed once.
create trigger deployment_immutable before update on deployment
when new.spec <> old.spec or new.version <> old.version or new.service <> old.service
    or new.created_by <> old.created_by or new.created_at_us <> old.created_at_us
    or (old.digest is not null and (new.digest is null or new.digest <> old.digest))
begin
    select raise(abort, 'a deployment is immutable');
end;
