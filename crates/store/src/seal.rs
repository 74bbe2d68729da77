//! Secrets at rest.

use zeroize::Zeroizing;

/// Wraps the projects' data keys. 32 bytes; no `Debug`; wiped from memory when dropped.
#[derive(Clone)]
pub struct RootKey(pub(crate) Zeroizing<[u8; 32]>);

impl RootKey {
    pub fn new(bytes: [u8; 32]) -> Self {
        RootKey(Zeroizing::new(bytes))
    }
}

/// A secret's value. No `Debug`, no `Display`; wiped from memory when dropped.
#[derive(Clone)]
pub struct SecretString(Zeroizing<String>);

impl SecretString {
    pub fn new(value: String) -> Self {
        SecretString(Zeroizing::new(value))
    }

    /// The value, for the one place that must have it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}
