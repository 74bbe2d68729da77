//! The store's own bookkeeping: serial numbers, counters, leases, claims, accounts and keys.

use super::statements;

macro_rules! account {
    () => {
        "a.id, a.name, a.admin, a.created_at_us"
    };
}

macro_rules! api_key {
    () => {
        "k.id, k.account, k.name, k.prefix, k.created_at_us, k.last_used_at_us, k.expires_at_us, k.revoked_at_us"
    };
}

/// The bucket in which a running sum passes `$9`; `$8` is -1 for the newest first.
macro_rules! position {
    ($buckets:literal) => {
        concat!(
            "select w.bucket, w.n, w.before from (select p.bucket, p.n,
            cast(sum(p.n) over (order by p.bucket * $8) - p.n as bigint) as before from ",
            $buckets,
            " p) w where w.before + w.n > $9 order by w.before limit 1"
        )
    };
}

statements! {
    META = "select value from meta where name = $1";
    META_SET = "update meta set value = $2 where name = $1";
    META_RAISE = "update meta set value = $2 where name = $1 and value < $2";

    SEAL_CHECK = "select sealed from seal_check where id = 1";
    SEAL_CHECK_SET = "insert into seal_check (id, sealed) values (1, $1)";

    COUNTER_ADD = "insert into counter (owner, kind, n) values ($1, $2, $3)
        on conflict (owner, kind) do update set n = counter.n + excluded.n";
    COUNTER = "select n from counter where owner = $1 and kind = $2";
    COUNTERS_OF = "select kind, n from counter where owner = $1";
    COUNTERS_DROP = "delete from counter where owner = $1";
    /// Rows of a kind in the caller's projects.
    COUNT_OF_MEMBER = "select cast(coalesce(sum(c.n), 0) as bigint) as n from counter c
        where c.kind = $4 and c.owner in (select m.project from member m where m.account = $1 and not $2)
            and ($3 = '' or c.owner = $3)";
    COUNT_OF_ADMIN = "select cast(coalesce(sum(c.n), 0) as bigint) as n from counter c
        where c.kind = $4 and cast($1 as text) is not null and $2 and ($3 = '' or c.owner = $3)";

    POSITION_ADD = "insert into position (owner, kind, level, bucket, n)
        values ($1, $2, 40, $4, $3), ($1, $2, 31, $5, $3), ($1, $2, 22, $6, $3),
            ('', $2, 40, $4, $3), ('', $2, 31, $5, $3), ('', $2, 22, $6, $3)
        on conflict (owner, kind, level, bucket) do update set n = position.n + excluded.n";
    POSITION_CLEAR = "delete from position where owner in ($1, '') and kind = $2 and n = 0
        and ((level = 40 and bucket = $3) or (level = 31 and bucket = $4) or (level = 22 and bucket = $5))";
    POSITION_OF_MEMBER = position!(
        "(select q.bucket, cast(sum(q.n) as bigint) as n from position q
        where q.owner in (select m.project from member m where m.account = $1 and not $2) and ($3 = '' or q.owner = $3)
            and q.kind = $4 and q.level = $5 and q.bucket between $6 and $7 group by q.bucket)"
    );
    POSITION_OF_PROJECT = position!(
        "(select q.bucket, q.n from position q
        where cast($1 as text) is not null and $2 and q.owner = $3
            and q.kind = $4 and q.level = $5 and q.bucket between $6 and $7)"
    );
    POSITION_OF_ALL = position!(
        "(select q.bucket, q.n from position q
        where cast($1 as text) is not null and $2 and $3 = '' and q.owner = ''
            and q.kind = $4 and q.level = $5 and q.bucket between $6 and $7)"
    );

    JOURNAL_APPEND = "insert into journal
        (seq, deployment, service, at_us, actor, from_stage, to_stage, reason, details)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    JOURNAL_OF_DEPLOYMENT = "select j.seq, j.deployment, j.service, j.at_us, j.actor, j.from_stage, j.to_stage,
            j.reason, j.details
        from journal j where j.deployment = $1 and j.seq > $2 order by j.seq limit cast($3 as bigint)";

    /// Takes a lease that is free, over, or already the holder's.
    LEASE_TAKE = "insert into lease (name, number, holder, expires_at_us) values ($1, 1, $2, $3)
        on conflict (name) do update
            set number = lease.number + 1, holder = excluded.holder, expires_at_us = excluded.expires_at_us
            where lease.expires_at_us <= $4 or lease.holder = excluded.holder
        returning number";
    LEASE_RENEW = "update lease set expires_at_us = $4 where name = $1 and number = $2 and holder = $3";
    LEASE_HELD = "select 1 as held from lease where name = $1 and number = $2 and holder = $3";

    CLAIM_PUT = "insert into claim (hash, expires_at_us) values ($1, $2)
        on conflict (hash) do update set expires_at_us = excluded.expires_at_us";
    CLAIM_TAKE = "delete from claim where hash = $1 and expires_at_us > $2";
    CLAIM_EXPIRE = "delete from claim where expires_at_us <= $1";

    SESSION_INSERT = "insert into session (hash, account, created_at_us, seen_at_us, expires_at_us)
        values ($1, $2, $3, $3, $4)";
    SESSION = "select s.account, a.admin, s.seen_at_us, s.expires_at_us from session s join account a on a.id = s.account
        where s.hash = $1";
    SESSION_SEEN = "update session set seen_at_us = $2 where hash = $1";
    SESSION_DELETE = "delete from session where hash = $1";
    SESSIONS_EXPIRE = "delete from session where expires_at_us <= $1";

    ACCOUNT = concat!("select ", account!(), " from account a where a.id = $1");
    ACCOUNT_BY_NAME = concat!("select ", account!(), " from account a where a.name = $1");
    ACCOUNTS_AFTER = concat!("select ", account!(), " from account a where a.id > $1 order by a.id limit $2");
    ACCOUNT_INSERT = "insert into account (id, name, admin, password_hash, created_at_us) values ($1, $2, $3, $4, $5)";
    ACCOUNT_SET_DEFAULT_PROJECT = "update account set default_project = $2 where id = $1";
    ACCOUNT_SECRETS = "select password_hash, default_project from account where id = $1";

    API_KEY_INSERT = "insert into api_key
        (id, account, name, prefix, lookup, hash, created_at_us, expires_at_us)
        values ($1, $2, $3, $4, $5, $6, $7, $8)";
    API_KEYS_ACTIVE = "select count(*) as n from api_key k
        where k.account = $1 and k.revoked_at_us is null and (k.expires_at_us is null or k.expires_at_us > $2)";
    /// Candidates for a key that was presented, by a short hash; the whole hash is compared in constant time.
    API_KEY_CANDIDATES = concat!(
        "select ", api_key!(), ", k.hash, a.admin from api_key k join account a on a.id = k.account
        where k.lookup = $1 order by k.id limit 8"
    );
    API_KEY_USED = "update api_key set last_used_at_us = $2 where id = $1";
    API_KEY_OF_ACCOUNT = concat!("select ", api_key!(), " from api_key k where k.id = $1 and k.account = $2");
    API_KEY_REVOKE = "update api_key set revoked_at_us = $2 where id = $1 and revoked_at_us is null";
    /// The oldest that is revoked or over.
    API_KEY_FORGET = "delete from api_key where id in (select k.id from api_key k where k.account = $1
        and (k.revoked_at_us is not null or k.expires_at_us <= $2) order by k.created_at_us, k.id limit 1)";
    API_KEYS = concat!("select ", api_key!(), " from api_key k where k.account = $1");
}
