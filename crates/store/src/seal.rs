//! Secrets at rest (D4): each project has a data key, the root key wraps it, and every sealed text is bound to its
//! place, so that whoever can write to the database can neither read a value nor move one to another row.

use chacha20poly1305::aead::{Aead, Generate, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use domain::{Error, ProjectId, Result, SecretId, SecretItemId};
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// Wraps the projects' data keys. 32 bytes; no `Debug`; wiped from memory when dropped.
#[derive(Clone)]
pub struct RootKey(Zeroizing<[u8; KEY_BYTES]>);

impl RootKey {
    pub fn new(bytes: [u8; 32]) -> Self {
        RootKey(Zeroizing::new(bytes))
    }

    /// A new data key for a project: the key and its wrapped form.
    pub(crate) fn new_data_key(&self, project: ProjectId) -> Result<(DataKey, Vec<u8>)> {
        let key = DataKey(Zeroizing::new(random()?));
        let wrapped = seal(&self.0, &Place::data_key(project), &*key.0)?;
        Ok((key, wrapped))
    }

    pub(crate) fn unwrap_data_key(&self, project: ProjectId, wrapped: &[u8]) -> Result<DataKey> {
        let key = open(&self.0, &Place::data_key(project), wrapped)?;
        let key = <[u8; KEY_BYTES]>::try_from(key.as_slice())
            .map_err(|_| Error::internal(format!("the data key of project {project} has a wrong length")))?;
        Ok(DataKey(Zeroizing::new(key)))
    }

    /// A text by which the same root key is known again.
    pub(crate) fn proof(&self) -> Result<Vec<u8>> {
        seal(&self.0, &Place::proof(), PROOF)
    }

    pub(crate) fn is_proven_by(&self, proof: &[u8]) -> bool {
        open(&self.0, &Place::proof(), proof).is_ok_and(|text| text.as_slice() == PROOF)
    }
}

const PROOF: &[u8] = b"hob";

/// Seals the secrets of one project. Exists unwrapped only while it is used.
pub(crate) struct DataKey(Zeroizing<[u8; KEY_BYTES]>);

impl DataKey {
    pub(crate) fn seal(&self, place: &Place, value: &SecretString) -> Result<Vec<u8>> {
        seal(&self.0, place, value.expose().as_bytes())
    }

    pub(crate) fn open(&self, place: &Place, sealed: &[u8]) -> Result<SecretString> {
        let bytes = open(&self.0, place, sealed)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Error::internal("a secret's value is no text"))?;
        Ok(SecretString::new(text.to_owned()))
    }
}

/// Where a sealed text belongs: the associated data of its encryption.
pub(crate) struct Place(Vec<u8>);

impl Place {
    /// Fields are preceded by their length, so that no two lists of fields have the same bytes.
    fn of(fields: &[&[u8]]) -> Place {
        let mut bytes = b"hob/1".to_vec();
        for field in fields {
            bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
            bytes.extend_from_slice(field);
        }
        Place(bytes)
    }

    fn proof() -> Place {
        Place::of(&[b"seal_check"])
    }

    fn data_key(project: ProjectId) -> Place {
        Place::of(&[b"project", project.0.as_bytes(), b"data_key"])
    }

    pub(crate) fn secret_value(
        project: ProjectId,
        secret: SecretId,
        item: SecretItemId,
        key: &str,
        version: i64,
    ) -> Place {
        Place::of(&[
            b"secret_value",
            project.0.as_bytes(),
            secret.0.as_bytes(),
            item.0.as_bytes(),
            key.as_bytes(),
            &version.to_be_bytes(),
        ])
    }
}

/// A random nonce, then the ciphertext. 24 random bytes never repeat in practice, so none is kept count of.
fn seal(key: &[u8; KEY_BYTES], place: &Place, text: &[u8]) -> Result<Vec<u8>> {
    let nonce: [u8; NONCE_BYTES] = random()?;
    let cipher = XChaCha20Poly1305::new(&(*key).into());
    let sealed = cipher
        .encrypt(
            &XNonce::from(nonce),
            Payload {
                msg: text,
                aad: &place.0,
            },
        )
        .map_err(|_| Error::internal("cannot seal a secret"))?;
    Ok([&nonce[..], &sealed].concat())
}

fn open(key: &[u8; KEY_BYTES], place: &Place, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let damaged = || Error::internal("a sealed secret does not open: it was changed, moved, or sealed by another key");
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or_else(damaged)?;
    let cipher = XChaCha20Poly1305::new(&(*key).into());
    let text = cipher.decrypt(
        &XNonce::from(*nonce),
        Payload {
            msg: sealed,
            aad: &place.0,
        },
    );
    text.map(Zeroizing::new).map_err(|_| damaged())
}

/// Random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    <[u8; N]>::try_generate().map_err(|error| Error::internal(format!("the kernel gives no random bytes: {error}")))
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

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn place(version: i64) -> Place {
        Place::secret_value(
            Uuid::nil().into(),
            Uuid::nil().into(),
            Uuid::nil().into(),
            "KEY",
            version,
        )
    }

    #[test]
    fn a_sealed_value_opens_only_in_its_place_and_under_its_key() {
        let root = RootKey::new([7; 32]);
        let project = ProjectId(Uuid::now_v7());
        let (key, wrapped) = root.new_data_key(project).unwrap();
        let sealed = key.seal(&place(1), &SecretString::new("s3cret".to_owned())).unwrap();

        let again = root.unwrap_data_key(project, &wrapped).unwrap();
        assert_eq!(again.open(&place(1), &sealed).unwrap().expose(), "s3cret");
        assert!(again.open(&place(2), &sealed).is_err());
        assert!(root.unwrap_data_key(ProjectId(Uuid::now_v7()), &wrapped).is_err());
        assert!(RootKey::new([8; 32]).unwrap_data_key(project, &wrapped).is_err());
        let (other, _) = root.new_data_key(project).unwrap();
        assert!(other.open(&place(1), &sealed).is_err());
    }

    #[test]
    fn a_sealed_value_that_was_changed_or_cut_anywhere_does_not_open() {
        let (key, _) = RootKey::new([7; 32]).new_data_key(ProjectId(Uuid::nil())).unwrap();
        let sealed = key.seal(&place(1), &SecretString::new("s3cret".to_owned())).unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open(&place(1), &changed).is_err(), "byte {at}");
            assert!(key.open(&place(1), &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn equal_values_are_sealed_differently() {
        let (key, _) = RootKey::new([7; 32]).new_data_key(ProjectId(Uuid::nil())).unwrap();
        let value = SecretString::new("same".to_owned());
        assert_ne!(
            key.seal(&place(1), &value).unwrap(),
            key.seal(&place(1), &value).unwrap()
        );
    }
}
