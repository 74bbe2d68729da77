//! The local content store: one directory, content-addressed, shared by threads and processes.
//!
//! ```text
//! blobs/sha256/<hex>       manifests, configurations, layers as they came
//! layers/<hex>/fs          a layer unpacked on its chain of lower layers
//! layers/<hex>/layer.json  what was found in it (whiteouts, size)
//! names.json, names.copy.json, lock, tmp/<session>/
//! ```

mod blobs;
mod collect;
mod leases;
mod names;
mod prepare;
mod session;

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use collect::Freed;
pub use leases::Lease;
pub use names::Origin;
pub use prepare::Prepared;

pub(crate) use blobs::{BlobWriter, Staged};

use crate::digest::Digest;
use crate::error::{ImageError, IoContext, Result};
use crate::limits::Limits;
use crate::manifest::{ConfigFile, Document, ImageConfig, Manifest, Platform};
use crate::reference::Reference;
use crate::registry::RegistryOptions;
use crate::stream::Cap;
use crate::unpack::WhiteoutForm;
use blobs::Blobs;
use leases::Leases;
use names::{NameIndex, Named, Names};
use session::Session;

/// Everything about images on this machine. Cheap to clone; clones are one store.
///
/// **Guarantees:** a name leads to a complete image or to nothing. Nothing half-written is visible under its final name,
/// whenever the process is killed. Any number of threads and processes may use one directory.
///
/// **Assumptions:** the directory belongs to us alone (mode 0700) and is on one file system.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    limits: Limits,
    registry: RegistryOptions,
    blobs: Blobs,
    names: NameIndex,
    leases: Leases,
    session: Session,
    form: WhiteoutForm,
    /// One lock per layer that is being unpacked, so that concurrent callers share the work.
    unpacking: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
}

/// One line of `hob image ls`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageInfo {
    pub name: Reference,
    /// Of the image manifest.
    pub digest: Digest,
    /// Bytes as stored: manifest, configuration, layers.
    pub size: u64,
    /// RFC 3339 as written in the image, if it is.
    pub created: Option<String>,
    pub platform: Platform,
    pub origin: Origin,
}

/// Holds the writer lock of the store until dropped.
struct Writing(#[expect(dead_code, reason = "closing the file is what unlocks")] File);

impl ImageStore {
    /// Opens or creates the store in `root` (`<data-dir>/images`) and removes what killed processes left half-done.
    /// Blocks on the disk.
    pub fn open(root: PathBuf, limits: Limits) -> Result<ImageStore> {
        ImageStore::open_with(root, limits, RegistryOptions::default())
    }

    /// [`ImageStore::open`] with settings for pulls.
    pub fn open_with(root: PathBuf, limits: Limits, registry: RegistryOptions) -> Result<ImageStore> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)
            .while_doing("creating", &root)?;
        for dir in ["layers", "tmp"].map(|name| root.join(name)) {
            fs::create_dir_all(&dir).while_doing("creating", &dir)?;
        }
        let blobs = Blobs::open(&root)?;
        let session = {
            let _writing = lock(&root)?;
            Session::start(&root.join("tmp"))?
        };
        let form = WhiteoutForm::probe(&session.fresh_path())?;
        let names = NameIndex::new(&root);
        let inner = Inner {
            limits,
            registry,
            blobs,
            names,
            leases: Leases::default(),
            session,
            form,
            unpacking: Mutex::default(),
            root,
        };
        Ok(ImageStore { inner: Arc::new(inner) })
    }

    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn registry_options(&self) -> &RegistryOptions {
        &self.inner.registry
    }

    /// The manifest that `reference` means here without asking a registry: an image that was imported, packed or tagged
    /// under this name, or any complete image whose digest is written out. Reads small local files.
    pub fn resolve_local(&self, reference: &Reference) -> Result<Option<Digest>> {
        let named = self.inner.names.read()?.get(&reference.local_name()).cloned();
        let pinned = reference.digest().copied();
        let found = match (named, pinned) {
            (Some(named), _) if named.origin == Origin::Local || pinned.is_some() => Some(named.digest),
            (_, pinned) => pinned,
        };
        Ok(found.filter(|digest| self.is_complete(digest)))
    }

    /// What the last pull of this reference got, if it is still here. For a registry that cannot be reached.
    pub fn resolve_pulled(&self, reference: &Reference) -> Result<Option<Digest>> {
        let named = self
            .inner
            .names
            .read()?
            .get(&reference.local_name())
            .map(|named| named.digest);
        Ok(named.filter(|digest| self.is_complete(digest)))
    }

    /// Every named image whose content is here, by name.
    pub fn list(&self) -> Result<Vec<ImageInfo>> {
        let mut found = Vec::new();
        for (name, named) in self.inner.names.read()? {
            let Ok(name) = name.parse() else { continue };
            match self.describe(name, &named) {
                Ok(info) => found.push(info),
                Err(ImageError::UnknownDigest(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn describe(&self, name: Reference, named: &Named) -> Result<ImageInfo> {
        let manifest_size = self
            .inner
            .blobs
            .size(&named.digest)
            .ok_or(ImageError::UnknownDigest(named.digest))?;
        let manifest = self.manifest(&named.digest)?;
        let config = self.config_file(&manifest)?;
        let blobs: u64 = manifest.blobs().map(|blob| blob.size).sum();
        Ok(ImageInfo {
            name,
            digest: named.digest,
            size: manifest_size + blobs,
            created: config.created,
            platform: Platform {
                architecture: config.architecture,
                os: config.os,
                variant: config.variant,
            },
            origin: named.origin,
        })
    }

    /// Forgets a name. The content goes with the next collection, once nothing else needs it.
    ///
    /// # Errors
    /// [`ImageError::Unknown`] when there is no such name.
    pub fn remove(&self, reference: &Reference) -> Result<()> {
        self.change_names(|names| match names.remove(&reference.local_name()) {
            Some(_) => Ok(()),
            None => Err(ImageError::Unknown(Box::new(reference.clone()))),
        })
    }

    /// Gives an image that is here another name; a name that exists moves to it.
    pub fn tag(&self, digest: &Digest, name: &Reference) -> Result<()> {
        if name.digest().is_some() {
            return Err(ImageError::InvalidRequest(format!(
                "`{name}` names a digest; a name for an image has a tag"
            )));
        }
        if !self.is_complete(digest) {
            return Err(ImageError::UnknownDigest(*digest));
        }
        self.record(name, *digest, Origin::Local)
    }

    /// Gives `digest` the name `name`. What the operator put under a name is not displaced by a pull of the same name;
    /// at the limit, the oldest pull is forgotten for a new one.
    pub(crate) fn record(&self, name: &Reference, digest: Digest, origin: Origin) -> Result<()> {
        let max = self.inner.limits.names;
        self.change_names(|names| {
            let key = name.local_name();
            if origin == Origin::Pulled && names.get(&key).is_some_and(|old| old.origin == Origin::Local) {
                return Ok(());
            }
            if names.len() as u64 >= max && !names.contains_key(&key) {
                let pulled = names.iter().filter(|(_, named)| named.origin == Origin::Pulled);
                let Some(oldest) = pulled.min_by_key(|(_, named)| named.at_ms).map(|(key, _)| key.clone()) else {
                    return Err(ImageError::too_large("the list of image names", "names", max));
                };
                names.remove(&oldest);
            }
            let at_ms = now_ms();
            names.insert(key, Named { digest, origin, at_ms });
            Ok(())
        })
    }

    fn change_names(&self, change: impl FnOnce(&mut Names) -> Result<()>) -> Result<()> {
        let _writing = self.writing()?;
        let mut names = self.inner.names.read()?;
        change(&mut names)?;
        self.inner.names.write(names)
    }

    fn writing(&self) -> Result<Writing> {
        lock(&self.inner.root)
    }

    /// What the image says about how it wants to be run. Reads two small local files.
    pub fn config(&self, digest: &Digest) -> Result<ImageConfig> {
        let manifest = self.manifest(digest)?;
        Ok(self.config_file(&manifest)?.into())
    }

    pub(crate) fn manifest(&self, digest: &Digest) -> Result<Manifest> {
        let what = digest.to_string();
        let bytes = self.inner.blobs.read(digest, self.manifest_cap(&what))?;
        match Document::parse(&bytes, None, &what)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(ImageError::corrupt(what, "it is an index, not one image")),
        }
    }

    pub(crate) fn config_file(&self, manifest: &Manifest) -> Result<ConfigFile> {
        let digest = &manifest.config.digest;
        let bytes = self.inner.blobs.read(digest, self.config_cap(&digest.to_string()))?;
        ConfigFile::parse(&bytes, &digest.to_string())
    }

    /// Manifest, configuration and all layers are here.
    fn is_complete(&self, digest: &Digest) -> bool {
        let blobs = &self.inner.blobs;
        blobs.size(digest).is_some()
            && self.manifest(digest).is_ok_and(|manifest| {
                manifest
                    .blobs()
                    .all(|blob| blobs.size(&blob.digest).is_some_and(|size| size == blob.size))
            })
    }

    pub(crate) fn manifest_cap(&self, image: &str) -> Cap {
        Cap {
            what: format!("the manifest of {image}"),
            limit: "manifest_bytes",
            bytes: self.inner.limits.manifest_bytes,
        }
    }

    pub(crate) fn config_cap(&self, image: &str) -> Cap {
        Cap {
            what: format!("the configuration of {image}"),
            limit: "config_bytes",
            bytes: self.inner.limits.config_bytes,
        }
    }

    pub(crate) fn layer_cap(&self, layer: &str) -> Cap {
        Cap {
            what: format!("the layer {layer}"),
            limit: "layer_bytes",
            bytes: self.inner.limits.layer_bytes,
        }
    }

    /// Starts a blob of not yet known content.
    pub(crate) fn stage(&self, cap: Cap) -> Result<BlobWriter> {
        BlobWriter::create(self.inner.session.fresh_path(), cap)
    }

    /// Where unnamed scratch files may be made.
    pub(crate) fn scratch_dir(&self) -> PathBuf {
        self.inner.session.dir().to_owned()
    }

    /// Stores a small blob.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.has(&digest, bytes.len() as u64) {
            return Ok(digest);
        }
        let cap = Cap {
            what: digest.to_string(),
            limit: "manifest_bytes",
            bytes: u64::MAX,
        };
        let mut writer = self.stage(cap)?;
        writer.append(bytes)?;
        self.commit(writer.finish()?).map(|(digest, _)| digest)
    }

    pub(crate) fn commit(&self, staged: Staged) -> Result<(Digest, u64)> {
        self.inner.blobs.commit(staged)
    }

    /// Whether a blob is here, and now young enough to stay for a while. Take a lease first.
    pub(crate) fn has(&self, digest: &Digest, size: u64) -> bool {
        self.inner.blobs.size(digest) == Some(size) && self.inner.blobs.touch(digest)
    }

    pub(crate) fn lease(&self, digests: impl IntoIterator<Item = Digest>) -> Lease {
        self.inner.leases.take(digests)
    }

    /// Every lease on a layer's unpacking, dropped from the table when its last user is done.
    fn unpacking_lock(&self, layer: &Digest) -> Arc<Mutex<()>> {
        let mut all = self.inner.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(all.entry(*layer).or_default())
    }
}

impl std::fmt::Debug for ImageStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageStore")
            .field("root", &self.inner.root)
            .finish_non_exhaustive()
    }
}

fn lock(root: &Path) -> Result<Writing> {
    let path = root.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .while_doing("opening", &path)?;
    file.lock().while_doing("locking", &path)?;
    Ok(Writing(file))
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Runs blocking work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::InvalidRequest(format!(
            "image work was interrupted: {error}"
        ))),
    }
}
