-- Browsers that are logged in. Only the hash of a session's token is kept.
create table session (
    hash text primary key,
    account text not null references account (id),
    created_at_us bigint not null,
    seen_at_us bigint not null,
    expires_at_us bigint not null
);
create index session_expiry on session (expires_at_us);
