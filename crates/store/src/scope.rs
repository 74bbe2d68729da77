//! What a tenant may do.

use domain::{
    ApiKeyId, ConfigId, ConfigItemId, DeploymentId, DomainId, ProjectId, Result, RouteId, SecretId, SecretItemId,
    ServiceId,
};

use crate::input::*;
use crate::rows::*;
use crate::{SecretString, unwritten};

#[derive(Clone)]
pub struct Scope {}

impl Scope {
    pub async fn create_service(&self, _new: NewService) -> Result<(Service, Deployment)> {
        Err(unwritten())
    }

    pub async fn service(&self, _id: ServiceId) -> Result<Service> {
        Err(unwritten())
    }

    pub async fn service_by_name(
        &self,
        _kind: ServiceKind,
        _name: &str,
        _project: Option<ProjectId>,
    ) -> Result<Service> {
        Err(unwritten())
    }

    pub async fn list_services(&self, _kind: ServiceKind, _query: &ListQuery) -> Result<Page<Service>> {
        Err(unwritten())
    }

    pub async fn patch_service(&self, _id: ServiceId, _patch: ServicePatch) -> Result<(Service, Option<Deployment>)> {
        Err(unwritten())
    }

    pub async fn deploy_again(&self, _id: ServiceId, _notes: &str) -> Result<Deployment> {
        Err(unwritten())
    }

    pub async fn delete_service(&self, _id: ServiceId) -> Result<()> {
        Err(unwritten())
    }

    pub async fn instances(&self, _service: ServiceId) -> Result<Vec<InstanceRow>> {
        Err(unwritten())
    }

    pub async fn deployment(&self, _id: DeploymentId) -> Result<Deployment> {
        Err(unwritten())
    }

    pub async fn deployment_by_version(&self, _service: ServiceId, _version: i64) -> Result<Deployment> {
        Err(unwritten())
    }

    pub async fn list_deployments(&self, _query: &ListQuery) -> Result<Page<Deployment>> {
        Err(unwritten())
    }

    pub async fn rollback(&self, _target: DeploymentId, _request: RollbackRequest) -> Result<Deployment> {
        Err(unwritten())
    }

    pub async fn cancel(&self, _service: ServiceId) -> Result<Deployment> {
        Err(unwritten())
    }

    pub async fn resume(&self, _service: ServiceId) -> Result<Deployment> {
        Err(unwritten())
    }

    pub async fn journal(&self, _deployment: DeploymentId, _after_seq: i64, _limit: u32) -> Result<Vec<JournalEntry>> {
        Err(unwritten())
    }

    pub async fn outcomes(&self, _service: ServiceId) -> Result<Outcomes> {
        Err(unwritten())
    }

    pub async fn create_route(&self, _new: NewRoute) -> Result<Route> {
        Err(unwritten())
    }

    pub async fn route(&self, _id: RouteId) -> Result<Route> {
        Err(unwritten())
    }

    pub async fn list_routes(&self, _query: &ListQuery) -> Result<Page<Route>> {
        Err(unwritten())
    }

    pub async fn patch_route(&self, _id: RouteId, _patch: RoutePatch) -> Result<Route> {
        Err(unwritten())
    }

    pub async fn delete_route(&self, _id: RouteId) -> Result<()> {
        Err(unwritten())
    }

    pub async fn create_domain(&self, _hostname: &str, _project: Option<ProjectId>) -> Result<Domain> {
        Err(unwritten())
    }

    pub async fn domain(&self, _id: DomainId) -> Result<Domain> {
        Err(unwritten())
    }

    pub async fn domain_by_hostname(&self, _hostname: &str) -> Result<Domain> {
        Err(unwritten())
    }

    pub async fn list_domains(&self, _query: &ListQuery) -> Result<Page<Domain>> {
        Err(unwritten())
    }

    pub async fn patch_domain(&self, _id: DomainId, _hostname: Option<String>) -> Result<Domain> {
        Err(unwritten())
    }

    pub async fn delete_domain(&self, _id: DomainId) -> Result<()> {
        Err(unwritten())
    }

    pub async fn create_config(&self, _name: &str, _project: Option<ProjectId>) -> Result<Config> {
        Err(unwritten())
    }

    pub async fn config(&self, _id: ConfigId) -> Result<Config> {
        Err(unwritten())
    }

    pub async fn list_configs(&self, _query: &ListQuery) -> Result<Page<Config>> {
        Err(unwritten())
    }

    pub async fn patch_config(&self, _id: ConfigId, _name: Option<String>) -> Result<Config> {
        Err(unwritten())
    }

    pub async fn delete_config(&self, _id: ConfigId) -> Result<()> {
        Err(unwritten())
    }

    pub async fn create_config_item(&self, _config: ConfigId, _key: &str, _value: &str) -> Result<ConfigItem> {
        Err(unwritten())
    }

    pub async fn config_item(&self, _config: ConfigId, _id: ConfigItemId) -> Result<ConfigItem> {
        Err(unwritten())
    }

    pub async fn list_config_items(&self, _config: ConfigId, _query: &ListQuery) -> Result<Page<ConfigItem>> {
        Err(unwritten())
    }

    pub async fn patch_config_item(
        &self,
        _config: ConfigId,
        _id: ConfigItemId,
        _key: Option<String>,
        _value: Option<String>,
    ) -> Result<ConfigItem> {
        Err(unwritten())
    }

    pub async fn delete_config_item(&self, _config: ConfigId, _id: ConfigItemId) -> Result<()> {
        Err(unwritten())
    }

    pub async fn create_secret(&self, _name: &str, _project: Option<ProjectId>) -> Result<Secret> {
        Err(unwritten())
    }

    pub async fn secret(&self, _id: SecretId) -> Result<Secret> {
        Err(unwritten())
    }

    pub async fn list_secrets(&self, _query: &ListQuery) -> Result<Page<Secret>> {
        Err(unwritten())
    }

    pub async fn patch_secret(&self, _id: SecretId, _name: Option<String>) -> Result<Secret> {
        Err(unwritten())
    }

    pub async fn delete_secret(&self, _id: SecretId) -> Result<()> {
        Err(unwritten())
    }

    pub async fn create_secret_item(&self, _secret: SecretId, _key: &str, _value: SecretString) -> Result<SecretItem> {
        Err(unwritten())
    }

    pub async fn secret_item(&self, _secret: SecretId, _id: SecretItemId) -> Result<SecretItem> {
        Err(unwritten())
    }

    pub async fn list_secret_items(&self, _secret: SecretId, _query: &ListQuery) -> Result<Page<SecretItem>> {
        Err(unwritten())
    }

    pub async fn list_secret_values(
        &self,
        _secret: SecretId,
        _query: &ListQuery,
        _how: &str,
    ) -> Result<Page<(SecretItem, SecretString)>> {
        Err(unwritten())
    }

    pub async fn secret_value(&self, _item: SecretItemId, _how: &str) -> Result<SecretString> {
        Err(unwritten())
    }

    pub async fn secret_accesses(
        &self,
        _item: SecretItemId,
        _after_seq: i64,
        _limit: u32,
    ) -> Result<Vec<SecretAccess>> {
        Err(unwritten())
    }

    pub async fn patch_secret_item(
        &self,
        _secret: SecretId,
        _id: SecretItemId,
        _key: Option<String>,
        _value: Option<SecretString>,
    ) -> Result<SecretItem> {
        Err(unwritten())
    }

    pub async fn delete_secret_item(&self, _secret: SecretId, _id: SecretItemId) -> Result<()> {
        Err(unwritten())
    }

    pub async fn create_project(&self, _name: &str) -> Result<Project> {
        Err(unwritten())
    }

    pub async fn project(&self, _id: ProjectId) -> Result<Project> {
        Err(unwritten())
    }

    pub async fn project_by_name(&self, _name: &str) -> Result<Project> {
        Err(unwritten())
    }

    pub async fn list_projects(&self, _query: &ListQuery) -> Result<Page<Project>> {
        Err(unwritten())
    }

    pub async fn patch_project(&self, _id: ProjectId, _name: Option<String>) -> Result<Project> {
        Err(unwritten())
    }

    pub async fn delete_project(&self, _id: ProjectId) -> Result<()> {
        Err(unwritten())
    }

    pub async fn create_api_key(&self, _name: &str, _expires_at_us: Option<i64>) -> Result<(ApiKey, SecretString)> {
        Err(unwritten())
    }

    pub async fn list_api_keys(&self, _query: &ListQuery) -> Result<Page<ApiKey>> {
        Err(unwritten())
    }

    pub async fn revoke_api_key(&self, _id: ApiKeyId) -> Result<()> {
        Err(unwritten())
    }
}
