//! Passwords: hashed with Argon2id and its recommended parameters.

use argon2::{Argon2, PasswordHasher};
use domain::{Error, Result};

/// A PHC string. Takes tens of milliseconds and 19 MiB, so it runs beside the event loop.
pub async fn hash(password: String) -> Result<String> {
    tokio::task::spawn_blocking(move || {
        Argon2::default()
            .hash_password(password.as_bytes())
            .map(|hash| hash.to_string())
            .map_err(|e| Error::internal(format!("hash a password: {e}")))
    })
    .await
    .map_err(|e| Error::internal(format!("hash a password: {e}")))?
}
