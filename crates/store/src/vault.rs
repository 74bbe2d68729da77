//! Reading and writing sealed values inside a transaction.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use domain::{DeploymentId, ProjectId, Result, SecretId, SecretItemId};

use crate::Store;
use crate::db::{Row, Tx, args};
use crate::seal::{DataKey, Place, SecretString};
use crate::sql;

impl Store {
    async fn data_key(&self, tx: &mut Tx, project: ProjectId) -> Result<DataKey> {
        let row = tx.one(sql::PROJECT_KEY, args![project]).await?;
        self.root_key.unwrap_data_key(project, &row.bytes("data_key")?)
    }

    /// Stores a value as the secret's next version and answers that version.
    pub(crate) async fn put_value(
        &self,
        tx: &mut Tx,
        project: ProjectId,
        secret: SecretId,
        item: SecretItemId,
        key: &str,
        value: &SecretString,
    ) -> Result<i64> {
        let version = tx
            .one(sql::SECRET_NEXT_VERSION, args![secret])
            .await?
            .int("version_counter")?;
        let place = Place::secret_value(project, secret, item, key, version);
        let sealed = self.data_key(tx, project).await?.seal(&place, value)?;
        let values = args![secret, key, version, item, project, sealed, tx.now_us()];
        tx.run(sql::SECRET_VALUE_INSERT, values).await?;
        Ok(version)
    }

    pub(crate) async fn value(&self, tx: &mut Tx, secret: SecretId, key: &str, version: i64) -> Result<SecretString> {
        let row = tx.one(sql::SECRET_VALUE, args![secret, key, version]).await?;
        let data_key = self.data_key(tx, row.parse("project")?).await?;
        open(&data_key, &row)
    }

    /// The secret part of a deployment's environment.
    pub(crate) async fn values_of(&self, tx: &mut Tx, deployment: DeploymentId) -> Result<BTreeMap<String, String>> {
        let rows = tx.all(sql::SECRET_VALUES_OF_DEPLOYMENT, args![deployment]).await?;
        let mut keys: HashMap<ProjectId, DataKey> = HashMap::new();
        let mut values = BTreeMap::new();
        for row in rows {
            let project: ProjectId = row.parse("project")?;
            if let Entry::Vacant(unknown) = keys.entry(project) {
                unknown.insert(self.data_key(tx, project).await?);
            }
            let value = open(&keys[&project], &row)?;
            values.insert(row.text("key")?, value.expose().to_owned());
        }
        Ok(values)
    }
}

fn open(data_key: &DataKey, row: &Row) -> Result<SecretString> {
    let (project, secret, item) = (row.parse("project")?, row.parse("secret")?, row.parse("item")?);
    let (key, version) = (row.text("key")?, row.int("version")?);
    let place = Place::secret_value(project, secret, item, &key, version);
    let value = data_key.open(&place, &row.bytes("sealed")?);
    value.map_err(|error| error.within(&format!("secret {secret}, key {key}, version {version}")))
}
