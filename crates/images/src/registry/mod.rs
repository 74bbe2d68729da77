//! Pulling from a registry by the OCI distribution protocol.
//!
//! This is a client of our own on `reqwest`, not the `oci-client` crate that the design first named: that crate reads
//! manifests of any size into memory, hides `Retry-After`, cannot continue a blob from an offset with its digest still
//! checked, and offers no hook on the addresses that a registry may send us to. What is left of it after those four is
//! the token exchange ([`auth`]).

mod address;
mod auth;
mod client;
mod pull;

use std::time::Duration;

use zeroize::Zeroizing;

use crate::digest::Digest;

/// A registry account. Has no `Debug`, and its secret is wiped from memory.
#[derive(Clone)]
pub struct Credentials {
    pub username: String,
    pub password: Zeroizing<String>,
}

impl Credentials {
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Credentials {
        Credentials {
            username: username.into(),
            password: Zeroizing::new(password.into()),
        }
    }
}

/// Certificates of authorities, such as a company's own.
#[derive(Debug, Clone, Default)]
pub struct Authorities(pub(super) Vec<reqwest::Certificate>);

impl Authorities {
    /// All certificates of a PEM file.
    ///
    /// # Errors
    /// What is wrong with it, for the operator: a damaged certificate, or none at all.
    pub fn from_pem(pem: &[u8]) -> std::result::Result<Authorities, String> {
        let unusable = |error: reqwest::Error| format!("it holds no usable certificate: {}", client::chain(error));
        let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(unusable)?;
        if certificates.is_empty() {
            return Err("no certificate is in it; PEM is expected".to_owned());
        }
        // What is inside of the PEM is looked at by a client only.
        let client = reqwest::Client::builder().tls_certs_merge(certificates.iter().cloned());
        client.build().map_err(unusable)?;
        Ok(Authorities(certificates))
    }
}

/// How pulls behave.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// `host[:port]` of registries that are spoken to in plain HTTP. Those on this machine always are.
    pub insecure_registries: Vec<String>,
    /// Who may vouch for a registry besides the authorities that the system trusts.
    pub authorities: Authorities,
    /// Whether a registry may be on this machine or in a private network. Turn it off where people who are not the
    /// operator choose images. Link-local addresses (cloud metadata) are refused in any case (C6.7).
    pub allow_private: bool,
    /// How often a request is tried without any progress. Default 5.
    pub attempts: u32,
    /// Wait before the second attempt; doubles with each, up to 10 s. Default 250 ms.
    pub backoff: Duration,
    /// Longest wait that a registry may ask for; beyond it the pull fails with
    /// [`crate::ImageError::RateLimited`]. Default 60 s.
    pub retry_after_max: Duration,
    /// A transfer that delivers nothing (or less than a KiB a second) for so long is continued by a new
    /// request. Default 30 s.
    pub stall: Duration,
    /// Longest time for a connection. Default 10 s.
    pub connect: Duration,
    /// Blobs fetched at once for one pull. Default 3.
    pub parallel: usize,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        RegistryOptions {
            insecure_registries: Vec::new(),
            authorities: Authorities::default(),
            allow_private: true,
            attempts: 5,
            backoff: Duration::from_millis(250),
            retry_after_max: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            connect: Duration::from_secs(10),
            parallel: 3,
        }
    }
}

/// What a pull tells while it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The reference means this image; so much of it is not here yet.
    Resolved {
        digest: Digest,
        layers: usize,
        missing_bytes: u64,
    },
    /// `done` of `total` bytes of a layer have arrived.
    Layer { digest: Digest, done: u64, total: u64 },
    /// Something failed and is tried again after `wait`.
    Retrying {
        what: String,
        reason: String,
        wait: Duration,
    },
}
