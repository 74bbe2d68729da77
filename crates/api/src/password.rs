//! Passwords: hashed with Argon2id and its recommended parameters.

use argon2::{Argon2, PasswordHash, PasswordHasher, PasswordVerifier};
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

/// Whether a password is the one that was hashed. Without a hash it is not, after the same work.
pub async fn is(password: String, hashed: Option<String>) -> Result<bool> {
    let Some(hashed) = hashed else {
        return hash(password).await.map(|_| false);
    };
    tokio::task::spawn_blocking(move || {
        let hashed = PasswordHash::new(&hashed).map_err(|e| Error::internal(format!("read a password's hash: {e}")))?;
        Ok(Argon2::default().verify_password(password.as_bytes(), &hashed).is_ok())
    })
    .await
    .map_err(|e| Error::internal(format!("compare a password: {e}")))?
}
