//! What reconcilers, authentication and the operator's socket do.

use std::collections::{BTreeMap, HashSet};

use domain::routing::Receipt;
use domain::{AccountId, DeploymentId, Result, ServiceId};
use uuid::Uuid;

use crate::input::*;
use crate::rows::*;
use crate::{SecretString, unwritten};

#[derive(Clone)]
pub struct System {}

impl System {
    pub async fn bootstrap(&self) -> Result<Account> {
        Err(unwritten())
    }

    pub async fn create_account(&self, _name: &str, _admin: bool, _password_hash: Option<String>) -> Result<Account> {
        Err(unwritten())
    }

    pub async fn account(&self, _id: AccountId) -> Result<Account> {
        Err(unwritten())
    }

    pub async fn account_by_name(&self, _name: &str) -> Result<Account> {
        Err(unwritten())
    }

    pub async fn accounts(&self, _after: Option<AccountId>, _limit: u32) -> Result<Vec<Account>> {
        Err(unwritten())
    }

    pub async fn password_hash(&self, _account: AccountId) -> Result<Option<String>> {
        Err(unwritten())
    }

    pub async fn create_api_key_for(
        &self,
        _account: AccountId,
        _name: &str,
        _expires_at_us: Option<i64>,
    ) -> Result<(ApiKey, SecretString)> {
        Err(unwritten())
    }

    pub async fn authenticate_key(&self, _plaintext: &str) -> Result<Principal> {
        Err(unwritten())
    }

    pub async fn services_changed_since(&self, _revision: i64, _limit: u32) -> Result<Vec<(ServiceId, i64)>> {
        Err(unwritten())
    }

    pub async fn load(&self, _ids: &[ServiceId]) -> Result<Vec<ServiceState>> {
        Err(unwritten())
    }

    pub async fn apply(&self, _fence: &Fence, _service: ServiceId, _effects: &[Effect]) -> Result<()> {
        Err(unwritten())
    }

    pub async fn instance_env(&self, _deployment: DeploymentId) -> Result<BTreeMap<String, String>> {
        Err(unwritten())
    }

    pub async fn edge_entries(&self) -> Result<Vec<EdgeEntry>> {
        Err(unwritten())
    }

    pub async fn acquire_lease(&self, _name: &str, _holder: &str, _ttl_us: i64) -> Result<Option<Fence>> {
        Err(unwritten())
    }

    pub async fn renew_lease(&self, _fence: &Fence, _ttl_us: i64) -> Result<bool> {
        Err(unwritten())
    }

    pub async fn add_receipts(&self, _edge_boot: Uuid, _receipts: &[(DeploymentId, Receipt)]) -> Result<()> {
        Err(unwritten())
    }

    pub async fn image_digests_in_use(&self) -> Result<HashSet<String>> {
        Err(unwritten())
    }

    pub async fn edge_epoch_floor(&self) -> Result<u64> {
        Err(unwritten())
    }

    pub async fn raise_edge_epoch(&self, _epoch: u64) -> Result<()> {
        Err(unwritten())
    }

    pub async fn put_claim(&self, _hash: &str, _expires_at_us: i64) -> Result<()> {
        Err(unwritten())
    }

    pub async fn take_claim(&self, _hash: &str) -> Result<bool> {
        Err(unwritten())
    }

    pub async fn apply_many(&self, _fence: &Fence, batch: &[(ServiceId, Vec<Effect>)]) -> Vec<Result<()>> {
        batch.iter().map(|_| Err(unwritten())).collect()
    }
}
