//! What is being used right now in this process, and must not be collected.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::Digest;

/// Counts the users of each blob and each unpacked layer.
#[derive(Clone, Default)]
pub(super) struct Leases(Arc<Mutex<HashMap<Digest, usize>>>);

impl Leases {
    /// Protects `digests` until the lease is dropped, whether they exist yet or not.
    pub(super) fn take(&self, digests: impl IntoIterator<Item = Digest>) -> Lease {
        let mut lease = Lease {
            leases: self.clone(),
            digests: Vec::new(),
        };
        lease.extend(digests);
        lease
    }

    /// Runs `remove` unless somebody holds the digest; nobody can take it meanwhile.
    pub(super) fn unless_leased<T>(&self, digest: &Digest, remove: impl FnOnce() -> T) -> Option<T> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.contains_key(digest) {
            None
        } else {
            Some(remove())
        }
    }
}

/// Keeps blobs and layers from being collected for as long as it lives.
pub struct Lease {
    leases: Leases,
    digests: Vec<Digest>,
}

impl Lease {
    pub(crate) fn extend(&mut self, digests: impl IntoIterator<Item = Digest>) {
        let mut held = self.leases.0.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in digests {
            *held.entry(digest).or_default() += 1;
            self.digests.push(digest);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = self.leases.0.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in &self.digests {
            if let Some(count) = held.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    held.remove(digest);
                }
            }
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.digests).finish()
    }
}
