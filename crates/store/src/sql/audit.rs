//! The audit log.

use super::statements;

macro_rules! line {
    () => {
        "a.seq, a.at_us, a.account, a.via, a.project, a.action, a.object, a.subject, a.outcome, a.bucket, a.request, \
         a.hash"
    };
}

statements! {
    AUDIT_APPEND = "insert into audit
        (seq, at_us, account, via, project, action, object, subject, outcome, bucket, request, hash)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    AUDIT_HASH = "select hash from audit where seq = $1";
    AUDIT_FORWARD = concat!("select ", line!(), " from audit a where a.seq > $1 order by a.seq limit $2");
    AUDIT_BACKWARD = concat!("select ", line!(), " from audit a where a.seq < $1 order by a.seq desc limit $2");
    AUDIT_FORWARD_OF_ACCOUNT = concat!(
        "select ", line!(), " from audit a where a.account = $3 and a.seq > $1 order by a.seq limit $2"
    );
    AUDIT_BACKWARD_OF_ACCOUNT = concat!(
        "select ", line!(), " from audit a where a.account = $3 and a.seq < $1 order by a.seq desc limit $2"
    );
    AUDIT_FORWARD_OF_PROJECT = concat!(
        "select ", line!(), " from audit a where a.project = $3 and a.seq > $1 order by a.seq limit $2"
    );
    AUDIT_BACKWARD_OF_PROJECT = concat!(
        "select ", line!(), " from audit a where a.project = $3 and a.seq < $1 order by a.seq desc limit $2"
    );
    /// Newest first.
    AUDIT_COUNTED = "select at_us from audit where account = $1 and bucket = $2 order by seq desc limit cast($3 as bigint)";
}
