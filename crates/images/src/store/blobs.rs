//! Content-addressed files: `blobs/sha256/<hex>`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::digest::{Digest, Hasher};
use crate::error::{ImageError, IoContext, Result};
use crate::stream::{BUFFER_BYTES, Cap};
use crate::tree;

/// The blobs of a store.
///
/// **Guarantees:** a file under its final name is complete and has the content that its name says; it got there by a
/// rename after a sync.
pub(super) struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    pub(super) fn open(root: &Path) -> Result<Blobs> {
        let dir = root.join("blobs/sha256");
        fs::create_dir_all(&dir).while_doing("creating", &dir)?;
        Ok(Blobs { dir })
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Size in bytes, if the blob is here.
    pub(super) fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|found| found.len())
    }

    /// Makes the blob as young as one that was just written, so that a collector of another process with its minimum
    /// age leaves it alone. False when it is not here.
    pub(super) fn touch(&self, digest: &Digest) -> bool {
        File::open(self.path(digest))
            .and_then(|file| file.set_modified(SystemTime::now()))
            .is_ok()
    }

    pub(super) fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ImageError::UnknownDigest(*digest)),
            other => other.while_doing("opening", &path),
        }
    }

    /// A whole small blob. Its content is checked again: a manifest decides what is unpacked and what is collected.
    pub(super) fn read(&self, digest: &Digest, cap: Cap) -> Result<Vec<u8>> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        self.open_blob(digest)?
            .take(cap.bytes + 1)
            .read_to_end(&mut bytes)
            .while_doing("reading", &path)?;
        if bytes.len() as u64 > cap.bytes {
            return Err(cap.exceeded());
        }
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(ImageError::DigestMismatch {
                what: path.display().to_string(),
                expected: *digest,
                actual,
            });
        }
        Ok(bytes)
    }

    /// Whether the content of a blob is still what its name says.
    pub(super) fn verify(&self, digest: &Digest) -> Result<bool> {
        let path = self.path(digest);
        let mut file = self.open_blob(digest)?;
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match file.read(&mut buffer).while_doing("reading", &path)? {
                0 => return Ok(hasher.finish() == *digest),
                n => hasher.update(&buffer[..n]),
            }
        }
    }

    /// Puts a finished temporary file in its place.
    pub(super) fn commit(&self, staged: Staged) -> Result<(Digest, u64)> {
        let path = self.path(&staged.digest);
        staged.file.sync_all().while_doing("syncing", &path)?;
        fs::rename(&staged.path, &path).while_doing("renaming", &path)?;
        tree::sync_dir(&self.dir).while_doing("syncing", &self.dir)?;
        Ok((staged.digest, staged.size))
    }

    /// Every blob with its size and the time it was last written or touched.
    pub(super) fn all(&self) -> Result<Vec<(Digest, u64, SystemTime)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).while_doing("reading", &self.dir)? {
            let entry = entry.while_doing("reading", &self.dir)?;
            let Some(digest) = entry.file_name().to_str().and_then(Digest::from_hex) else {
                continue;
            };
            let metadata = entry.metadata().while_doing("reading", &entry.path())?;
            found.push((
                digest,
                metadata.len(),
                metadata.modified().while_doing("reading", &entry.path())?,
            ));
        }
        Ok(found)
    }

    pub(super) fn remove(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        tree::remove(&path).while_doing("removing", &path)
    }
}

/// A temporary file under construction, hashed while it is written. Dropping it removes the file.
pub(crate) struct BlobWriter {
    staged: Option<(File, PathBuf)>,
    hasher: Hasher,
    written: u64,
    cap: Cap,
}

impl BlobWriter {
    pub(super) fn create(path: PathBuf, cap: Cap) -> Result<BlobWriter> {
        let file = File::create_new(&path).while_doing("creating", &path)?;
        Ok(BlobWriter {
            staged: Some((file, path)),
            hasher: Hasher::default(),
            written: 0,
            cap,
        })
    }

    /// # Errors
    /// [`ImageError::TooLarge`] before anything over the cap is written, [`ImageError::NoSpace`] on a full disk.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        if self.written > self.cap.bytes {
            return Err(self.cap.exceeded());
        }
        self.hasher.update(bytes);
        if let Some((file, path)) = &mut self.staged {
            file.write_all(bytes).while_doing("storing the image", path)?;
        }
        Ok(())
    }

    /// Appends all of `source`. Its errors are laid to `what`.
    pub(crate) fn append_all(&mut self, mut source: impl Read, what: &str) -> Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => self.append(&buffer[..n])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ImageError::corrupt(what, error)),
            }
        }
    }

    /// Forgets everything written so far.
    pub(crate) fn restart(&mut self) -> Result<()> {
        use std::io::Seek as _;
        self.hasher = Hasher::default();
        self.written = 0;
        match &mut self.staged {
            Some((file, path)) => file
                .set_len(0)
                .and_then(|()| file.rewind())
                .while_doing("truncating", path),
            None => Ok(()),
        }
    }

    pub(crate) fn finish(mut self) -> Result<Staged> {
        let digest = std::mem::take(&mut self.hasher).finish();
        match self.staged.take() {
            Some((file, path)) => Ok(Staged {
                file,
                path,
                digest,
                size: self.written,
            }),
            None => Err(ImageError::corrupt("a temporary file", "it was finished twice")),
        }
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if let Some((_, path)) = &self.staged {
            let _ = fs::remove_file(path);
        }
    }
}

/// A complete temporary file of known content. Dropping it removes the file; after [`Blobs::commit`] there is nothing
/// left to remove.
pub(crate) struct Staged {
    file: File,
    path: PathBuf,
    pub digest: Digest,
    pub size: u64,
}

impl Staged {
    /// The whole content, if it is not over the cap.
    pub(crate) fn read(&self, cap: Cap) -> Result<Vec<u8>> {
        if self.size > cap.bytes {
            return Err(cap.exceeded());
        }
        fs::read(&self.path).while_doing("reading", &self.path)
    }

    /// The first bytes, enough to tell the kind of content.
    pub(crate) fn reopen(&self) -> Result<File> {
        File::open(&self.path).while_doing("opening", &self.path)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
