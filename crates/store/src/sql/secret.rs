//! Secrets, their items, their sealed values.

use super::{chunk, role, statements};

macro_rules! secret_item {
    () => {
        "i.id, i.secret, i.key, i.value_version, i.last_accessed_at_us, i.last_accessed_by, i.created_at_us, \
         i.updated_at_us"
    };
}

statements! {
    SECRET_NEXT_VERSION = "update secret set version_counter = version_counter + 1 where id = $1
        returning version_counter";
    SECRET_ITEM = concat!("select ", secret_item!(), " from secret_item i where i.secret = $1 and i.id = $2");
    SECRET_ITEM_VISIBLE = concat!(
        "select ", secret_item!(), ", x.project, ", role!("x.project"),
        " from secret_item i join secret x on x.id = i.secret where i.id = $3"
    );
    SECRET_ITEMS = concat!("select ", secret_item!(), " from secret_item i where i.secret = $1");
    SECRET_KEY_TAKEN = "select 1 as taken from secret_item where secret = $1 and key = $2 and id <> $3";
    SECRET_ITEM_INSERT = "insert into secret_item (id, secret, key, value_version, created_at_us, updated_at_us)
        values ($1, $2, $3, $4, $5, $5)";
    SECRET_ITEM_UPDATE = "update secret_item set key = $2, value_version = $3, updated_at_us = $4 where id = $1";
    SECRET_ITEM_ACCESSED = "update secret_item set last_accessed_at_us = $2, last_accessed_by = $3 where id = $1";
    SECRET_ITEM_DELETE = "delete from secret_item where id = $1";
    SECRET_KEYS = "select key, value_version from secret_item where secret = $1";
    SECRET_KEYS_BATCH = concat!(
        "select secret as parent, key, value_version from secret_item where secret in ", chunk!()
    );

    SECRET_ACCESS_APPEND = "insert into secret_access (seq, item, account, at_us, how) values ($1, $2, $3, $4, $5)";
    SECRET_ACCESSES = "select seq, item, account, at_us, how from secret_access
        where item = $1 and seq > $2 order by seq limit $3";

    SECRET_VALUE_INSERT = "insert into secret_value (secret, key, version, item, project, sealed, created_at_us)
        values ($1, $2, $3, $4, $5, $6, $7)";
    SECRET_VALUE = "select v.secret, v.key, v.version, v.item, v.project, v.sealed from secret_value v
        where v.secret = $1 and v.key = $2 and v.version = $3";
    SECRET_VALUES_OF_DEPLOYMENT = "select v.secret, v.key, v.version, v.item, v.project, v.sealed
        from deployment_secret n join secret_value v on v.secret = n.secret and v.key = n.key and v.version = n.version
        where n.deployment = $1";
    /// Drops the values of a secret that neither an item has now nor a kept deployment had.
    SECRET_VALUES_DROP_UNUSED = "delete from secret_value where secret = $1
        and not exists (select 1 from secret_item i where i.secret = secret_value.secret
            and i.key = secret_value.key and i.value_version = secret_value.version)
        and not exists (select 1 from deployment_secret n where n.secret = secret_value.secret
            and n.key = secret_value.key and n.version = secret_value.version)";
}
