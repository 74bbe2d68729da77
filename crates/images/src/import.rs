//! Archives of images into the store: OCI image layouts (directory or tar) and what `docker save` writes, old and new.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::digest::Digest;
use crate::error::{ImageError, IoContext, Result, printable};
use crate::limits::RATIO_GRACE_BYTES;
use crate::manifest::{
    ANNOTATION_NAME, ANNOTATION_REF_NAME, ConfigFile, Descriptor, Document, Index, Manifest, OCI_CONFIG,
    OCI_LAYER_GZIP, OCI_LAYER_TAR, OCI_LAYER_ZSTD, choose_platform,
};
use crate::reference::Reference;
use crate::store::{ImageStore, Staged, blocking};
use crate::stream::{
    BUFFER_BYTES, Cap, Capped, Compression, Counted, Fault, Piece, PipeReader, Ratio, decompressed, pipe,
};

/// An image that an import put into the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    pub name: Reference,
    pub digest: Digest,
}

/// Longest name of a file in an archive that is an image.
const MEMBER_NAME_MAX: usize = 512;

impl ImageStore {
    /// Imports from a path: an OCI layout directory, or an archive as in [`ImageStore::import_stream`].
    pub async fn import_path(&self, path: &Path, name: Option<Reference>) -> Result<Vec<Imported>> {
        let (store, path) = (self.clone(), path.to_owned());
        blocking(move || {
            if path.is_dir() {
                Import::new(&store, name).run(&mut Directory { root: path })
            } else {
                store.import_reader(File::open(&path).while_doing("opening", &path)?, name)
            }
        })
        .await
    }

    /// Imports an OCI layout tar or a `docker save` archive, plain or compressed with gzip or zstd, while it arrives.
    /// `name` replaces whatever the archive calls its image.
    ///
    /// # Guarantees
    /// At most [`crate::Limits::archive_bytes`] are read. All images of the archive get their names at the end, or none
    /// does; a stream that is cut off leaves nothing.
    pub async fn import_stream(
        &self,
        source: impl AsyncRead + Send + Unpin,
        name: Option<Reference>,
    ) -> Result<Vec<Imported>> {
        let store = self.clone();
        let (pieces, receiver) = pipe();
        let import = blocking(move || store.import_reader(PipeReader::new(receiver), name));
        let feed = feed(source, pieces);
        let (fed, imported) = futures_util::future::join(feed, import).await;
        // When both failed, the import knows why: the feed only saw that nobody listened any more, or was the cause.
        match (imported, fed) {
            (Ok(imported), _) => Ok(imported),
            (Err(ImageError::Corrupt { .. }), Err(error)) => {
                Err(ImageError::corrupt("the upload", format!("it broke off: {error}")))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// The blocking form of [`ImageStore::import_stream`].
    pub fn import_reader(&self, source: impl Read, name: Option<Reference>) -> Result<Vec<Imported>> {
        let fault = Fault::default();
        let cap = Cap {
            what: "the archive".into(),
            limit: "archive_bytes",
            bytes: self.limits().archive_bytes,
        };
        let capped = Capped::new(source, cap, None, fault.clone());
        let mut archive = Archive::read(self, capped, &fault)?;
        Import::new(self, name).run(&mut archive)
    }
}

async fn feed(mut source: impl AsyncRead + Unpin, pieces: tokio::sync::mpsc::Sender<Piece>) -> io::Result<()> {
    loop {
        let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
        let piece = match source.read_buf(&mut buffer).await? {
            0 => Piece::End,
            _ => Piece::Data(buffer.freeze()),
        };
        let ended = matches!(piece, Piece::End);
        if pieces.send(piece).await.is_err() || ended {
            return Ok(());
        }
    }
}

/// Where the files of an image come from.
trait Source {
    /// A small document, if it is there.
    fn document(&mut self, name: &str, cap: Cap) -> Result<Option<Vec<u8>>>;

    /// The name of the file that `name` leads to, where one file may have several.
    fn canonical(&self, name: &str) -> String {
        name.to_owned()
    }

    /// A file as a stored-to-be blob, if it is there. May be asked once for each canonical name.
    fn blob(&mut self, store: &ImageStore, name: &str, cap: Cap) -> Result<Option<Staged>>;
}

/// An OCI layout in a directory. Only plain files in their places are read; links are not followed.
struct Directory {
    root: PathBuf,
}

impl Directory {
    fn open(&self, name: &str) -> Result<Option<File>> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.root.join(name);
        let opened = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path);
        match opened {
            Ok(file) if file.metadata().while_doing("reading", &path)?.is_file() => Ok(Some(file)),
            Ok(_) => Err(ImageError::corrupt(path.display().to_string(), "it is not a file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ImageError::io("opening", &path, error)),
        }
    }
}

impl Source for Directory {
    fn document(&mut self, name: &str, cap: Cap) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(cap.bytes + 1)
            .read_to_end(&mut bytes)
            .while_doing("reading", &self.root.join(name))?;
        if bytes.len() as u64 > cap.bytes {
            Err(cap.exceeded())
        } else {
            Ok(Some(bytes))
        }
    }

    fn blob(&mut self, store: &ImageStore, name: &str, cap: Cap) -> Result<Option<Staged>> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let mut writer = store.stage(cap)?;
        writer.append_all(file, name)?;
        writer.finish().map(Some)
    }
}

/// The files of a tar archive, each staged as it came by: an archive may hold its description at its end.
struct Archive {
    members: HashMap<String, Staged>,
    /// `docker save` of old links equal layers to each other.
    links: HashMap<String, String>,
}

impl Archive {
    fn read(store: &ImageStore, source: impl Read, fault: &Fault) -> Result<Archive> {
        let what = "the archive";
        let limits = store.limits();
        let (counted, source) = Counted::new(source);
        let (plain, _) = decompressed(counted, what)?;
        let cap = Cap {
            what: what.into(),
            limit: "archive_bytes",
            bytes: limits.archive_bytes,
        };
        let ratio = Ratio {
            source,
            times: limits.layer_ratio,
            grace_bytes: RATIO_GRACE_BYTES,
            limit: "layer_ratio",
        };
        let mut tar = tar::Archive::new(Capped::new(plain, cap, Some(ratio), fault.clone()));
        let mut archive = Archive {
            members: HashMap::new(),
            links: HashMap::new(),
        };
        let mut count = 0;
        let entries = tar.entries().map_err(|error| fault.explain(what, error))?.raw(true);
        for entry in entries {
            let mut entry = entry.map_err(|error| fault.explain(what, error))?;
            count += 1;
            if count > limits.archive_members {
                return Err(ImageError::too_large(
                    "the number of files in the archive",
                    "archive_members",
                    limits.archive_members,
                ));
            }
            archive.add(store, &mut entry, fault)?;
        }
        if count == 0 {
            return Err(ImageError::corrupt(what, "it is empty, or no tar archive at all"));
        }
        Ok(archive)
    }

    fn add<R: Read>(&mut self, store: &ImageStore, entry: &mut tar::Entry<'_, R>, fault: &Fault) -> Result<()> {
        let raw = entry.path_bytes().into_owned();
        let shown = || format!("the archive's file `{}`", printable(&raw));
        let kind = entry.header().entry_type();
        if !kind.is_file() && !kind.is_symlink() && !kind.is_hard_link() {
            // Directories say nothing; times and other attributes of an image's own files mean nothing.
            return Ok(());
        }
        let name = std::str::from_utf8(&raw)
            .ok()
            .filter(|name| name.len() <= MEMBER_NAME_MAX);
        let name = name.map(|name| name.trim_start_matches("./").to_owned());
        let name = name.ok_or_else(|| ImageError::corrupt(shown(), "no file of an image is called so"))?;
        if kind.is_file() {
            let mut writer = store.stage(store.layer_cap(&shown()))?;
            writer.append_all(entry, &shown()).map_err(|error| match error {
                ImageError::Corrupt { problem, .. } => fault.explain(&shown(), problem),
                other => other,
            })?;
            self.members.insert(name, writer.finish()?);
        } else if let Some(target) = entry.link_name_bytes() {
            let target = String::from_utf8_lossy(&target).into_owned();
            let target = if kind.is_symlink() {
                sibling(&name, &target)
            } else {
                target
            };
            self.links.insert(name, target);
        }
        Ok(())
    }
}

/// `b/layer.tar` seen from `a/layer.tar` by `../b/layer.tar`. A key into a table, nothing on disk.
fn sibling(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts.join("/")
}

impl Source for Archive {
    fn canonical(&self, name: &str) -> String {
        self.links.get(name).map_or(name, String::as_str).to_owned()
    }

    fn document(&mut self, name: &str, cap: Cap) -> Result<Option<Vec<u8>>> {
        self.members
            .get(&self.canonical(name))
            .map(|staged| staged.read(cap))
            .transpose()
    }

    fn blob(&mut self, _: &ImageStore, name: &str, cap: Cap) -> Result<Option<Staged>> {
        let Some(staged) = self.members.remove(&self.canonical(name)) else {
            return Ok(None);
        };
        if staged.size > cap.bytes {
            Err(cap.exceeded())
        } else {
            Ok(Some(staged))
        }
    }
}

/// One entry of `docker save`'s own description.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// One import under way.
struct Import<'a> {
    store: &'a ImageStore,
    name: Option<Reference>,
    lease: crate::store::Lease,
    /// Archive names of layers that were stored already, for `docker save` archives where images share them.
    layers: HashMap<String, Descriptor>,
}

impl<'a> Import<'a> {
    fn new(store: &'a ImageStore, name: Option<Reference>) -> Import<'a> {
        Import {
            store,
            name,
            lease: store.lease([]),
            layers: HashMap::new(),
        }
    }

    fn run(mut self, source: &mut impl Source) -> Result<Vec<Imported>> {
        let cap = |what: &str| self.store.manifest_cap(what);
        let index = source.document("index.json", cap("the archive"))?;
        let saved = source.document("manifest.json", cap("the archive"))?;
        let saved = saved.map(|bytes| parse_saved(&bytes)).transpose()?;
        let mut images = match (index, saved) {
            (Some(index), saved) => self.layout(source, &index, saved.as_deref().unwrap_or_default())?,
            (None, Some(saved)) => self.saved(source, &saved)?,
            (None, None) => {
                let problem = "it has neither index.json (OCI layout) nor manifest.json (docker save)";
                return Err(ImageError::corrupt("the archive", problem));
            }
        };
        if let Some(name) = &self.name {
            images.dedup_by_key(|image| image.1);
            let [(names, _)] = images.as_mut_slice() else {
                let problem = format!("the archive has {} images and can only get one name", images.len());
                return Err(ImageError::InvalidRequest(problem));
            };
            *names = vec![name.clone()];
        }
        self.name_all(images)
    }

    fn name_all(&self, images: Vec<(Vec<Reference>, Digest)>) -> Result<Vec<Imported>> {
        if images.is_empty() {
            return Err(ImageError::corrupt("the archive", "there is no image in it"));
        }
        if images.iter().any(|(names, _)| names.is_empty()) {
            return Err(ImageError::Unnamed);
        }
        let mut imported = Vec::new();
        for (names, digest) in images {
            for name in names {
                self.store.tag(&digest, &name)?;
                imported.push(Imported { name, digest });
            }
        }
        Ok(imported)
    }

    /// An OCI layout. Entries of one name are one image for several machines. `saved` is the description that new
    /// versions of Docker add, which has the names as the user knows them.
    fn layout(
        &mut self,
        source: &mut impl Source,
        index: &[u8],
        saved: &[SavedImage],
    ) -> Result<Vec<(Vec<Reference>, Digest)>> {
        let Document::Index(Index { manifests, .. }) = Document::parse(index, None, "the archive")? else {
            return Err(ImageError::corrupt("index.json", "it is no index"));
        };
        let mut groups: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
        for descriptor in manifests {
            let whole = descriptor.annotations.get(ANNOTATION_NAME).cloned();
            let short = || {
                descriptor
                    .annotations
                    .get(ANNOTATION_REF_NAME)
                    .filter(|name| name.contains([':', '/']))
            };
            groups
                .entry(whole.or_else(|| short().cloned()))
                .or_default()
                .push(descriptor);
        }
        let mut images = Vec::new();
        for (name, candidates) in groups {
            let shown = name
                .clone()
                .map_or("the image".to_owned(), |name| printable(name.as_bytes()));
            let (digest, config) = self.layout_image(source, &candidates, &shown)?;
            let tags = saved.iter().filter(|image| image.config.ends_with(&config.hex()));
            let mut names: Vec<String> = tags
                .flat_map(|image| image.repo_tags.clone().unwrap_or_default())
                .collect();
            if names.is_empty() {
                names.extend(name);
            }
            names.sort();
            names.dedup();
            let names = names
                .iter()
                .map(|name| name.parse())
                .collect::<Result<Vec<Reference>>>();
            // A name that is about to be replaced need not be a good one.
            let names = if self.name.is_some() {
                names.unwrap_or_default()
            } else {
                names?
            };
            images.push((names, digest));
        }
        images.sort_by_key(|(_, digest)| *digest);
        images.dedup();
        Ok(images)
    }

    /// Stores the image among `candidates` that runs here, going through at most one index.
    fn layout_image(
        &mut self,
        source: &mut impl Source,
        candidates: &[Descriptor],
        shown: &str,
    ) -> Result<(Digest, Digest)> {
        let chosen = choose_platform(candidates, shown)?;
        let (mut digest, mut bytes) = self.layout_document(source, chosen, shown)?;
        let mut document = Document::parse(&bytes, Some(&chosen.media_type), shown)?;
        if let Document::Index(index) = document {
            let chosen = choose_platform(&index.manifests, shown)?;
            (digest, bytes) = self.layout_document(source, chosen, shown)?;
            document = Document::parse(&bytes, Some(&chosen.media_type), shown)?;
        }
        let Document::Manifest(manifest) = document else {
            return Err(ImageError::corrupt(
                format!("the manifest of {shown}"),
                "it is an index inside an index",
            ));
        };
        manifest.check(shown, self.store.limits())?;
        self.lease
            .extend(manifest.blobs().map(|blob| blob.digest).chain([digest]));
        self.layout_blob(source, &manifest.config, self.store.config_cap(shown))?;
        let config = self.store.config_file(&manifest)?;
        config.check_platform(shown)?;
        config.check_layers(&manifest, shown)?;
        for layer in &manifest.layers {
            self.layout_blob(source, layer, self.store.layer_cap(&layer.digest.to_string()))?;
        }
        self.store.put(&bytes)?;
        Ok((digest, manifest.config.digest))
    }

    fn layout_document(
        &self,
        source: &mut impl Source,
        descriptor: &Descriptor,
        shown: &str,
    ) -> Result<(Digest, Vec<u8>)> {
        let name = blob_name(&descriptor.digest);
        let bytes = source
            .document(&name, self.store.manifest_cap(shown))?
            .ok_or_else(|| missing(&name))?;
        check_digest(&name, descriptor.digest, Digest::of(&bytes))?;
        Ok((descriptor.digest, bytes))
    }

    fn layout_blob(&self, source: &mut impl Source, descriptor: &Descriptor, cap: Cap) -> Result<()> {
        if self.store.has(&descriptor.digest, descriptor.size) {
            return Ok(());
        }
        let name = blob_name(&descriptor.digest);
        let staged = source.blob(self.store, &name, cap)?.ok_or_else(|| missing(&name))?;
        check_digest(&name, descriptor.digest, staged.digest)?;
        if staged.size != descriptor.size {
            return Err(ImageError::corrupt(
                name,
                format!("it has {} bytes of {}", staged.size, descriptor.size),
            ));
        }
        self.store.commit(staged).map(drop)
    }

    /// What `docker save` wrote before it wrote OCI layouts.
    fn saved(&mut self, source: &mut impl Source, saved: &[SavedImage]) -> Result<Vec<(Vec<Reference>, Digest)>> {
        let mut images = Vec::new();
        for image in saved {
            let names: Vec<String> = image.repo_tags.clone().unwrap_or_default();
            let shown = names
                .first()
                .map_or("the image".to_owned(), |name| printable(name.as_bytes()));
            let digest = self.saved_image(source, image, &shown)?;
            let names = names
                .iter()
                .map(|name| name.parse())
                .collect::<Result<Vec<Reference>>>();
            let names = if self.name.is_some() {
                names.unwrap_or_default()
            } else {
                names?
            };
            images.push((names, digest));
        }
        Ok(images)
    }

    fn saved_image(&mut self, source: &mut impl Source, image: &SavedImage, shown: &str) -> Result<Digest> {
        let config_bytes = source
            .document(&image.config, self.store.config_cap(shown))?
            .ok_or_else(|| missing(&printable(image.config.as_bytes())))?;
        let config = ConfigFile::parse(&config_bytes, shown)?;
        config.check_platform(shown)?;
        let max = self.store.limits().layers;
        if image.layers.len() as u64 > max {
            return Err(ImageError::too_large(
                format!("the number of layers of {shown}"),
                "layers",
                max,
            ));
        }
        let layers = image
            .layers
            .iter()
            .map(|name| self.saved_layer(source, name))
            .collect::<Result<Vec<_>>>()?;
        let config_digest = Digest::of(&config_bytes);
        self.lease.extend([config_digest]);
        self.store.put(&config_bytes)?;
        let manifest = Manifest::new(
            Descriptor::new(OCI_CONFIG, config_digest, config_bytes.len() as u64),
            layers,
        );
        manifest.check(shown, self.store.limits())?;
        config.check_layers(&manifest, shown)?;
        let bytes = serde_json::to_vec(&manifest).map_err(|error| ImageError::corrupt(shown, error))?;
        self.lease.extend([Digest::of(&bytes)]);
        self.store.put(&bytes)
    }

    fn saved_layer(&mut self, source: &mut impl Source, name: &str) -> Result<Descriptor> {
        let file = source.canonical(name);
        if let Some(known) = self.layers.get(&file) {
            return Ok(known.clone());
        }
        let shown = printable(name.as_bytes());
        let staged = source
            .blob(self.store, name, self.store.layer_cap(&shown))?
            .ok_or_else(|| missing(&shown))?;
        let (_, compression) = decompressed(staged.reopen()?, &shown)?;
        let media_type = match compression {
            Compression::None => OCI_LAYER_TAR,
            Compression::Gzip => OCI_LAYER_GZIP,
            Compression::Zstd => OCI_LAYER_ZSTD,
        };
        self.lease.extend([staged.digest]);
        let (digest, size) = self.store.commit(staged)?;
        let descriptor = Descriptor::new(media_type, digest, size);
        self.layers.insert(file, descriptor.clone());
        Ok(descriptor)
    }
}

fn parse_saved(bytes: &[u8]) -> Result<Vec<SavedImage>> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::corrupt("manifest.json of the archive", error))
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn missing(name: &str) -> ImageError {
    ImageError::corrupt("the archive", format!("`{name}` is missing from it"))
}

fn check_digest(what: &str, expected: Digest, actual: Digest) -> Result<()> {
    if expected == actual {
        Ok(())
    } else {
        Err(ImageError::DigestMismatch {
            what: format!("`{what}`"),
            expected,
            actual,
        })
    }
}
