//! Images and archives made by hand, and a look at directories.
#![allow(dead_code, reason = "each test program uses a part")]

pub mod pulling;
pub mod registry;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use images::{Digest, ImageStore, Limits, Platform, Reference, RegistryOptions};
use serde_json::{Value, json};
use tar::{EntryType, Header};

/// A temporary directory with a store in `images/`.
pub struct World {
    pub dir: tempfile::TempDir,
    pub store: ImageStore,
}

impl World {
    pub fn new() -> World {
        World::with_limits(Limits::default())
    }

    pub fn with_limits(limits: Limits) -> World {
        World::with(limits, RegistryOptions::default())
    }

    pub fn with(limits: Limits, registry: RegistryOptions) -> World {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = ImageStore::open_with(dir.path().join("images"), limits, registry).expect("a store");
        World { dir, store }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Names of everything below `images/<name>`, without what belongs to the open store itself.
    pub fn stored(&self, name: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.path().join("images").join(name))
            .expect("a directory of the store")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// What lies in the temporary area beside the lock of its owner.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let sessions = fs::read_dir(self.dir.path().join("images/tmp")).expect("tmp");
        let files = sessions.flat_map(|dir| fs::read_dir(dir.expect("a session").path()).expect("a session"));
        files
            .map(|file| file.expect("a file").path())
            .filter(|path| !path.ends_with("owner"))
            .collect()
    }
}

pub fn reference(text: &str) -> Reference {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A tar stream under construction, in which anything may be written.
pub struct Layer {
    bytes: Vec<u8>,
}

impl Layer {
    pub fn new() -> Layer {
        Layer { bytes: Vec::new() }
    }

    pub fn file(self, name: &str, content: &str) -> Layer {
        self.entry(EntryType::Regular, name.as_bytes(), "", content.as_bytes(), |_| {})
    }

    pub fn dir(self, name: &str, mode: u32) -> Layer {
        self.entry(EntryType::Directory, name.as_bytes(), "", b"", |header| {
            header.set_mode(mode)
        })
    }

    pub fn symlink(self, name: &str, target: &str) -> Layer {
        self.entry(EntryType::Symlink, name.as_bytes(), target, b"", |_| {})
    }

    pub fn hard_link(self, name: &str, target: &str) -> Layer {
        self.entry(EntryType::Link, name.as_bytes(), target, b"", |_| {})
    }

    pub fn entry(
        mut self,
        kind: EntryType,
        name: &[u8],
        link: &str,
        content: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Layer {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        let gnu = header.as_gnu_mut().expect("a GNU header");
        gnu.name[..name.len()].copy_from_slice(name);
        gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
        change(&mut header);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(content);
        let padding = content.len().next_multiple_of(512) - content.len();
        self.bytes.extend(std::iter::repeat_n(0, padding));
        self
    }

    /// A PAX header for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Layer {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(EntryType::XHeader, b"pax", "", &body, |_| {})
    }

    pub fn raw(mut self, bytes: &[u8]) -> Layer {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    pub fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Packing::Plain => bytes.to_vec(),
            Packing::Gzip => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                gzip.write_all(bytes).expect("memory");
                gzip.finish().expect("memory")
            }
            Packing::Zstd => zstd::encode_all(bytes, 3).expect("memory"),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
            Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// An image in memory, as a registry or an archive has it.
#[derive(Clone)]
pub struct TestImage {
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    pub manifest: Digest,
    pub config: Digest,
    pub layers: Vec<Digest>,
}

impl TestImage {
    pub fn new(layers: &[Vec<u8>]) -> TestImage {
        TestImage::packed(layers, Packing::Gzip, |_| {})
    }

    pub fn packed(layers: &[Vec<u8>], packing: Packing, change_config: impl FnOnce(&mut Value)) -> TestImage {
        let here = Platform::here();
        let mut blobs = BTreeMap::new();
        let mut descriptors = Vec::new();
        let mut digests = Vec::new();
        for layer in layers {
            let blob = packing.pack(layer);
            let digest = Digest::of(&blob);
            descriptors.push(json!({"mediaType": packing.media_type(), "digest": digest, "size": blob.len()}));
            blobs.insert(digest, blob);
            digests.push(digest);
        }
        let mut config = json!({
            "architecture": here.architecture, "os": here.os,
            "config": {"Env": ["A=1"], "Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| Digest::of(l)).collect::<Vec<_>>()},
        });
        change_config(&mut config);
        let config = serde_json::to_vec(&config).expect("JSON");
        let config_digest = Digest::of(&config);
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest,
                       "size": config.len()},
            "layers": descriptors,
        }))
        .expect("JSON");
        let manifest_digest = Digest::of(&manifest);
        blobs.insert(config_digest, config);
        blobs.insert(manifest_digest, manifest);
        TestImage {
            blobs,
            manifest: manifest_digest,
            config: config_digest,
            layers: digests,
        }
    }

    pub fn descriptor(&self) -> Value {
        let size = self.blobs[&self.manifest].len();
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": self.manifest, "size": size})
    }

    /// The files of an OCI layout with this one image.
    pub fn layout(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let mut descriptor = self.descriptor();
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.layout_of(vec![descriptor])
    }

    pub fn layout_of(&self, manifests: Vec<Value>) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        files.insert("index.json".to_owned(), serde_json::to_vec(&index).expect("JSON"));
        for (digest, blob) in &self.blobs {
            files.insert(format!("blobs/sha256/{}", digest.hex()), blob.clone());
        }
        files
    }

    pub fn layout_tar(&self, name: &str) -> Vec<u8> {
        archive(&self.layout(name))
    }
}

/// A tar of named files, in the order of their names.
pub fn archive(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut layer = Layer::new();
    for (name, content) in files {
        layer = layer.entry(EntryType::Regular, name.as_bytes(), "", content, |_| {});
    }
    layer.finish()
}

/// Puts the files of an OCI layout into a directory and answers its name.
pub fn write_layout(dir: &Path, files: impl IntoIterator<Item = (String, Vec<u8>)>) -> String {
    for (name, content) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, content).expect("a file");
    }
    dir.display().to_string()
}

/// Everything below `dir` that somebody could have changed: kind, mode, owner, links, content, link target.
pub fn snapshot(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).expect("metadata");
        let detail = if meta.is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .expect("a directory")
                    .map(|entry| entry.expect("an entry").path()),
            );
            String::new()
        } else if meta.is_symlink() {
            format!("{:?}", fs::read_link(&path).expect("a link"))
        } else if meta.is_file() {
            String::from_utf8_lossy(&fs::read(&path).expect("a file")).into_owned()
        } else {
            format!("device {}", meta.rdev())
        };
        let nlink = if meta.is_dir() { 0 } else { meta.nlink() };
        let line = format!("{:o} {}:{} {nlink} {detail}", meta.mode(), meta.uid(), meta.gid());
        found.insert(path.strip_prefix(dir).expect("below").to_owned(), line);
    }
    found
}

/// True when the named programs can be run; says loudly when not.
pub fn installed(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = true;
    for program in programs {
        if !std::env::split_paths(&path).any(|dir| dir.join(program).exists()) {
            println!("SKIPPED: `{program}` is not installed");
            all = false;
        }
    }
    all
}

/// Whether every user id exists here, as it does outside of user namespaces.
pub fn has_all_owners() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    is_root() && map.split_whitespace().nth(2) == Some("4294967295")
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
