//! Images from a directory or a single static binary, without a builder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder, write::GzEncoder};
use serde_json::json;
use tar::{Builder, EntryType, Header};

use crate::digest::{Digest, Hasher};
use crate::error::{ImageError, IoContext, Result};
use crate::limits::Limits;
use crate::manifest::{
    ANNOTATION_REF_NAME, ConfigFile, Descriptor, Index, Manifest, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST,
    Platform, RootFs, RunConfig,
};
use crate::reference::Reference;
use crate::store::{ImageStore, blocking};

/// What to make an image of.
#[derive(Debug, Clone)]
pub struct PackRequest {
    /// A directory, whose content becomes the root directory, or one file, which becomes `/<its name>` and, unless
    /// told otherwise, the entry point.
    pub source: PathBuf,
    pub name: Reference,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// TCP ports that the program listens on.
    pub ports: Vec<u16>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// Empty means root.
    pub user: String,
    /// Empty means `/`.
    pub working_dir: String,
    /// Empty means `SIGTERM`.
    pub stop_signal: String,
}

impl PackRequest {
    /// A request with nothing but the two things that are always needed.
    pub fn new(source: impl Into<PathBuf>, name: Reference) -> PackRequest {
        PackRequest {
            source: source.into(),
            name,
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            ports: Vec::new(),
            env: Vec::new(),
            user: String::new(),
            working_dir: String::new(),
            stop_signal: String::new(),
        }
    }
}

/// Packs and writes an OCI image layout as a tar stream, for sending it to [`ImageStore::import_stream`]. Files that
/// are needed on the way are made in `scratch` and have no name. Answers the digest of the image's manifest.
///
/// The result depends on names, contents and executable bits of the files alone: entries are sorted, owned by root and
/// dated 1970.
pub fn write_layout(request: &PackRequest, limits: &Limits, scratch: &Path, out: impl Write) -> Result<Digest> {
    let mut packed = Packed::build(request, limits, scratch)?;
    packed
        .write_layout(&request.name, out)
        .while_doing("writing the image of", &request.source)?;
    Ok(packed.manifest_digest)
}

impl ImageStore {
    /// Packs straight into the store.
    pub async fn pack(&self, request: PackRequest) -> Result<Digest> {
        let store = self.clone();
        blocking(move || {
            let mut packed = Packed::build(&request, store.limits(), &store.scratch_dir())?;
            let _lease = store.lease([packed.layer.digest, packed.config_digest(), packed.manifest_digest]);
            if !store.has(&packed.layer.digest, packed.layer.size) {
                packed
                    .layer_file
                    .rewind()
                    .while_doing("reading the layer of", &request.source)?;
                let mut writer = store.stage(store.layer_cap(&packed.layer.digest.to_string()))?;
                writer.append_all(&packed.layer_file, "the packed layer")?;
                store.commit(writer.finish()?)?;
            }
            store.put(&packed.config)?;
            store.put(&packed.manifest)?;
            store.tag(&packed.manifest_digest, &request.name)?;
            Ok(packed.manifest_digest)
        })
        .await
    }
}

struct Packed {
    layer_file: File,
    layer: Descriptor,
    config: Vec<u8>,
    manifest: Vec<u8>,
    manifest_digest: Digest,
}

impl Packed {
    fn build(request: &PackRequest, limits: &Limits, scratch: &Path) -> Result<Packed> {
        let metadata = fs::metadata(&request.source).while_doing("reading", &request.source)?;
        let entrypoint = entrypoint(request, metadata.is_file())?;
        let unnamed = unnamed_file(scratch)?;
        let gzip = GzBuilder::new()
            .mtime(0)
            .write(Hashing::new(unnamed), Compression::default());
        let mut layer = LayerWriter {
            tar: Builder::new(Hashing::new(gzip)),
            limits,
            entries: 0,
            bytes: 0,
        };
        if metadata.is_file() {
            layer.file(&request.source, Path::new(file_name(&request.source)?))?;
        } else {
            layer.directory(&request.source, Path::new(""), 0)?;
        }
        let written = layer.finish().while_doing("packing", &request.source)?;
        let (layer_file, digest, size, diff_id) = written;
        if size > limits.layer_bytes {
            return Err(ImageError::too_large(
                "the packed layer",
                "layer_bytes",
                limits.layer_bytes,
            ));
        }
        let layer = Descriptor::new(OCI_LAYER_GZIP, digest, size);
        let json =
            |error: serde_json::Error| ImageError::InvalidRequest(format!("could not describe the image: {error}"));
        let config = serde_json::to_vec(&config_file(request, entrypoint, diff_id)).map_err(json)?;
        let config_descriptor = Descriptor::new(OCI_CONFIG, Digest::of(&config), config.len() as u64);
        let manifest = serde_json::to_vec(&Manifest::new(config_descriptor, vec![layer.clone()])).map_err(json)?;
        let manifest_digest = Digest::of(&manifest);
        Ok(Packed {
            layer_file,
            layer,
            config,
            manifest,
            manifest_digest,
        })
    }

    fn config_digest(&self) -> Digest {
        Digest::of(&self.config)
    }

    fn write_layout(&mut self, name: &Reference, out: impl Write) -> io::Result<()> {
        let mut descriptor = Descriptor::new(OCI_MANIFEST, self.manifest_digest, self.manifest.len() as u64);
        let local_name = name.local_name();
        descriptor
            .annotations
            .insert(ANNOTATION_REF_NAME.to_owned(), local_name);
        let index = Index {
            schema_version: 2,
            media_type: Some(OCI_INDEX.to_owned()),
            manifests: vec![descriptor],
        };
        let mut tar = Builder::new(out);
        let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        add_bytes(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add_bytes(&mut tar, "index.json", &serde_json::to_vec(&index)?)?;
        add_bytes(&mut tar, &blob(&self.manifest_digest), &self.manifest)?;
        add_bytes(&mut tar, &blob(&self.config_digest()), &self.config)?;
        self.layer_file.rewind()?;
        let mut header = plain_header(EntryType::Regular, 0o644, self.layer.size);
        tar.append_data(&mut header, blob(&self.layer.digest), &self.layer_file)?;
        tar.into_inner()?.flush()
    }
}

fn entrypoint(request: &PackRequest, single_file: bool) -> Result<Vec<String>> {
    if !request.entrypoint.is_empty() || (!request.cmd.is_empty() && !single_file) {
        return Ok(request.entrypoint.clone());
    }
    if single_file {
        return Ok(vec![format!("/{}", file_name(&request.source)?)]);
    }
    Err(ImageError::InvalidRequest(format!(
        "an image of the directory {} needs a program to start; name it with --entrypoint /PATH/IN/IMAGE",
        request.source.display()
    )))
}

fn file_name(path: &Path) -> Result<&str> {
    path.file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| ImageError::InvalidRequest(format!("{} has no name that an image could use", path.display())))
}

fn config_file(request: &PackRequest, entrypoint: Vec<String>, diff_id: Digest) -> ConfigFile {
    let here = Platform::here();
    let exposed_ports: BTreeMap<_, _> = request
        .ports
        .iter()
        .map(|port| (format!("{port}/tcp"), json!({})))
        .collect();
    let mut env = request.env.clone();
    if !env.iter().any(|pair| pair.starts_with("PATH=")) {
        env.insert(
            0,
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        );
    }
    ConfigFile {
        created: Some("1970-01-01T00:00:00Z".to_owned()),
        architecture: here.architecture,
        os: here.os,
        variant: None,
        config: RunConfig {
            user: request.user.clone(),
            exposed_ports,
            env,
            entrypoint,
            cmd: request.cmd.clone(),
            working_dir: request.working_dir.clone(),
            stop_signal: request.stop_signal.clone(),
        },
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: vec![diff_id],
        },
    }
}

/// Deepest directory that is packed; what unpacking takes.
const DEPTH_MAX: usize = 255;

struct LayerWriter<'a> {
    tar: Builder<Hashing<GzEncoder<Hashing<File>>>>,
    limits: &'a Limits,
    entries: u64,
    bytes: u64,
}

impl LayerWriter<'_> {
    fn directory(&mut self, host: &Path, inside: &Path, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(ImageError::InvalidRequest(format!(
                "{} is nested too deeply",
                host.display()
            )));
        }
        let listing = fs::read_dir(host).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let mut children = listing.while_doing("reading", host)?;
        children.sort_by_key(fs::DirEntry::file_name);
        for child in children {
            let (host, inside) = (child.path(), inside.join(child.file_name()));
            let kind = child.file_type().while_doing("reading", &host)?;
            if kind.is_dir() {
                self.count(0, &host)?;
                let mut header = plain_header(EntryType::Directory, 0o755, 0);
                self.tar
                    .append_data(&mut header, &inside, io::empty())
                    .while_doing("packing", &host)?;
                self.directory(&host, &inside, depth + 1)?;
            } else if kind.is_symlink() {
                self.count(0, &host)?;
                let target = fs::read_link(&host).while_doing("reading", &host)?;
                let mut header = plain_header(EntryType::Symlink, 0o777, 0);
                self.tar
                    .append_link(&mut header, &inside, &target)
                    .while_doing("packing", &host)?;
            } else if kind.is_file() {
                self.file(&host, &inside)?;
            } else {
                let problem = format!(
                    "{} is no file, directory or link; remove it and pack again",
                    host.display()
                );
                return Err(ImageError::InvalidRequest(problem));
            }
        }
        Ok(())
    }

    fn file(&mut self, host: &Path, inside: &Path) -> Result<()> {
        if inside
            .file_name()
            .is_some_and(|name| name.as_bytes().starts_with(b".wh."))
        {
            let problem = format!("{} would delete a file of the image; rename it", host.display());
            return Err(ImageError::InvalidRequest(problem));
        }
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(host)
            .while_doing("opening", host)?;
        let metadata = file.metadata().while_doing("reading", host)?;
        self.count(metadata.len(), host)?;
        let mode = if metadata.mode() & 0o111 == 0 { 0o644 } else { 0o755 };
        let mut header = plain_header(EntryType::Regular, mode, metadata.len());
        let mut content = Exactly {
            inner: file.take(metadata.len()),
            left: metadata.len(),
        };
        self.tar
            .append_data(&mut header, inside, &mut content)
            .while_doing("packing", host)
    }

    fn count(&mut self, bytes: u64, host: &Path) -> Result<()> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        let what = || format!("the image with {}", host.display());
        if self.entries > self.limits.layer_entries {
            return Err(ImageError::too_large(
                what(),
                "layer_entries",
                self.limits.layer_entries,
            ));
        }
        if self.bytes > self.limits.layer_unpacked_bytes {
            return Err(ImageError::too_large(
                what(),
                "layer_unpacked_bytes",
                self.limits.layer_unpacked_bytes,
            ));
        }
        Ok(())
    }

    /// The compressed file, its digest and size, and the diff ID.
    fn finish(self) -> io::Result<(File, Digest, u64, Digest)> {
        let plain = self.tar.into_inner()?;
        let diff_id = plain.hasher.finish();
        let mut compressed = plain.inner.finish()?;
        compressed.flush()?;
        Ok((compressed.inner, compressed.hasher.finish(), compressed.bytes, diff_id))
    }
}

/// Fails when a file shrinks while it is packed, rather than writing a layer that no one can read.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left -= n as u64;
        if n == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file changed while it was packed",
            ));
        }
        Ok(n)
    }
}

struct Hashing<W> {
    inner: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Hashing<W> {
        Hashing {
            inner,
            hasher: Hasher::default(),
            bytes: 0,
        }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn plain_header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn add_bytes<W: Write>(tar: &mut Builder<W>, name: &str, bytes: &[u8]) -> io::Result<()> {
    tar.append_data(
        &mut plain_header(EntryType::Regular, 0o644, bytes.len() as u64),
        name,
        bytes,
    )
}

/// A file that vanishes with its last descriptor, whatever happens to us.
fn unnamed_file(dir: &Path) -> Result<File> {
    let path = dir.join(format!("hob-pack-{}", uuid::Uuid::now_v7().simple()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let file = file.while_doing("creating", &path)?;
    fs::remove_file(&path).while_doing("removing", &path)?;
    Ok(file)
}
