//! The documents of an image: index, manifest, configuration. Everything in them is untrusted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::limits::Limits;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Annotation with the whole name of an image, written by containerd and Docker.
pub(crate) const ANNOTATION_NAME: &str = "io.containerd.image.name";
/// Annotation with a tag or a whole name, of the OCI image layout.
pub(crate) const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Points to a blob. Its `urls` are not read: content comes from the registry that was asked, or not at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Build attestations are stored beside images in an index; they are no images.
    fn is_attestation(&self) -> bool {
        self.annotations.contains_key("vnd.docker.reference.type")
    }
}

/// What an image was built for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// In Go's words: `amd64`, `arm64`.
    pub architecture: String,
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// This machine.
    pub fn here() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant: None,
        }
    }

    /// Whether an image for `self` runs here. Variants are not compared: what we run on has only one in practice.
    fn runs_here(&self) -> bool {
        let here = Platform::here();
        self.architecture == here.architecture && self.os == here.os
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |text: &str| crate::error::printable(text.as_bytes());
        write!(f, "{}/{}", shown(&self.os), shown(&self.architecture))?;
        match &self.variant {
            Some(variant) => write!(f, "/{}", shown(variant)),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    pub(crate) fn new(config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
        Manifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            config,
            layers,
        }
    }

    /// Configuration and layers, in the order in which they are stacked.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// Refuses what is over a limit or of a kind that we do not run, before anything of it is fetched.
    pub(crate) fn check(&self, what: &str, limits: &Limits) -> Result<()> {
        if self.config.size > limits.config_bytes {
            return Err(ImageError::too_large(
                format!("the configuration of {what}"),
                "config_bytes",
                limits.config_bytes,
            ));
        }
        if self.layers.len() as u64 > limits.layers {
            return Err(ImageError::too_large(
                format!("the number of layers of {what}"),
                "layers",
                limits.layers,
            ));
        }
        let mut total: u64 = 0;
        for layer in &self.layers {
            if layer.size > limits.layer_bytes {
                let what = format!("the layer {} of {what}", layer.digest);
                return Err(ImageError::too_large(what, "layer_bytes", limits.layer_bytes));
            }
            total = total.saturating_add(layer.size);
            check_layer_type(layer)?;
        }
        if total > limits.image_bytes {
            return Err(ImageError::too_large(what, "image_bytes", limits.image_bytes));
        }
        match self.config.media_type.as_str() {
            OCI_CONFIG | DOCKER_CONFIG | "" => Ok(()),
            other => Err(ImageError::Unsupported {
                what: format!(
                    "{what}, whose configuration is `{}`,",
                    crate::error::printable(other.as_bytes())
                ),
                advice: "only container images can be deployed, not other artefacts".to_owned(),
            }),
        }
    }
}

/// The stream itself says how it is compressed; here only what can never be unpacked is told apart.
fn check_layer_type(layer: &Descriptor) -> Result<()> {
    let kind = layer.media_type.as_str();
    if kind.contains("nondistributable") || kind.contains("foreign") {
        return Err(ImageError::Unsupported {
            what: format!("the layer {} that must be fetched from a third place", layer.digest),
            advice: "rebuild the image on a base whose layers the registry itself holds".to_owned(),
        });
    }
    let known = kind.is_empty()
        || [OCI_LAYER_TAR, OCI_LAYER_GZIP, OCI_LAYER_ZSTD].contains(&kind)
        || kind.starts_with("application/vnd.docker.image.rootfs.diff.tar");
    if known {
        return Ok(());
    }
    Err(ImageError::Unsupported {
        what: format!(
            "the layer {} of type `{}`",
            layer.digest,
            crate::error::printable(kind.as_bytes())
        ),
        advice: "layers are tar archives, plain or compressed with gzip or zstd".to_owned(),
    })
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub manifests: Vec<Descriptor>,
}

/// Either of the two documents that a reference may lead to.
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

impl Document {
    /// Reads a document by its own structure. One that could be read as both kinds, or that says it is the other kind
    /// (in itself or in `declared`, the type that its carrier gave), is refused: two tools must never see two images
    /// behind one digest.
    pub(crate) fn parse(bytes: &[u8], declared: Option<&str>, what: &str) -> Result<Document> {
        let json: serde_json::Value = serde_json::from_slice(bytes)
            .map_err(|error| ImageError::corrupt(format!("the manifest of {what}"), error))?;
        let corrupt = |problem: &str| ImageError::corrupt(format!("the manifest of {what}"), problem);
        let has = |key: &str| json.get(key).is_some();
        if has("fsLayers") || json.get("schemaVersion").and_then(serde_json::Value::as_u64) == Some(1) {
            return Err(ImageError::Unsupported {
                what: format!("the manifest of {what} (Docker schema 1)"),
                advice: "push the image again with a current tool".to_owned(),
            });
        }
        let is_index = match (has("manifests"), has("layers") || has("config")) {
            (true, false) => true,
            (false, true) => false,
            (true, true) => return Err(corrupt("it is an index and an image at once")),
            (false, false) => return Err(corrupt("it is neither an image nor an index")),
        };
        let inner = json
            .get("mediaType")
            .and_then(serde_json::Value::as_str)
            .map(str::to_owned);
        for said in declared.into_iter().chain(inner.as_deref()) {
            let says_index = match said {
                OCI_INDEX | DOCKER_INDEX => true,
                OCI_MANIFEST | DOCKER_MANIFEST => false,
                _ => continue,
            };
            if says_index != is_index {
                return Err(corrupt("its media type contradicts its content"));
            }
        }
        let read = |error: serde_json::Error| ImageError::corrupt(format!("the manifest of {what}"), error);
        if is_index {
            serde_json::from_value(json).map(Document::Index).map_err(read)
        } else {
            serde_json::from_value(json).map(Document::Manifest).map_err(read)
        }
    }
}

/// The first of `candidates` that runs on this machine. A descriptor without a platform is taken to fit; the image's
/// configuration has the last word ([`ConfigFile::check_platform`]).
pub(crate) fn choose_platform<'a>(candidates: &'a [Descriptor], image: &str) -> Result<&'a Descriptor> {
    let images = || candidates.iter().filter(|candidate| !candidate.is_attestation());
    let fits = images().find(|candidate| candidate.platform.as_ref().is_some_and(Platform::runs_here));
    let open = || images().find(|candidate| candidate.platform.is_none());
    fits.or_else(open).ok_or_else(|| {
        let found: Vec<String> = images()
            .filter_map(|candidate| candidate.platform.as_ref())
            .map(Platform::to_string)
            .collect();
        ImageError::WrongPlatform {
            image: image.to_owned(),
            found: if found.is_empty() {
                "no machine at all".to_owned()
            } else {
                found.join(", ")
            },
            wanted: Platform::here().to_string(),
        }
    })
}

/// The configuration blob of an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RunConfig,
    pub rootfs: RootFs,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type", default)]
    pub kind: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RunConfig {
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub user: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub stop_signal: String,
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl ConfigFile {
    pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<ConfigFile> {
        serde_json::from_slice(bytes)
            .map_err(|error| ImageError::corrupt(format!("the configuration of {what}"), error))
    }

    /// Refuses an image for another machine, naming both architectures.
    pub(crate) fn check_platform(&self, image: &str) -> Result<()> {
        let platform = Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: self.variant.clone().filter(|variant| !variant.is_empty()),
        };
        if platform.runs_here() {
            return Ok(());
        }
        Err(ImageError::WrongPlatform {
            image: image.to_owned(),
            found: platform.to_string(),
            wanted: Platform::here().to_string(),
        })
    }

    /// Each layer of `manifest` must have its diff ID, or nothing could be verified after unpacking.
    pub(crate) fn check_layers(&self, manifest: &Manifest, what: &str) -> Result<()> {
        let (ids, layers) = (self.rootfs.diff_ids.len(), manifest.layers.len());
        if ids == layers {
            return Ok(());
        }
        Err(ImageError::corrupt(
            format!("the configuration of {what}"),
            format!("it names {ids} layers of {layers}"),
        ))
    }

    /// The names under which the unpacked layers are kept, lowest first.
    pub(crate) fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.rootfs.diff_ids.len());
        for diff_id in &self.rootfs.diff_ids {
            chain.push(diff_id.chained_on(chain.last()));
        }
        chain
    }
}

/// What an image says about how it wants to be run. Untrusted: environment keys may be odd, the user may not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `KEY=VALUE` in the image's order; entries without `=` are left out.
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `user`, `uid`, `user:group`, … as written; empty means root.
    pub user: String,
    /// Empty means `/`.
    pub working_dir: String,
    /// `SIGQUIT` or a number, as written; empty means `SIGTERM`.
    pub stop_signal: String,
    /// TCP ports, ascending.
    pub exposed_ports: Vec<u16>,
    pub architecture: String,
    pub os: String,
    /// RFC 3339 as written in the image, if it is.
    pub created: Option<String>,
}

impl From<ConfigFile> for ImageConfig {
    fn from(file: ConfigFile) -> Self {
        let run = file.config;
        let mut exposed_ports: Vec<u16> = run.exposed_ports.keys().filter_map(|port| tcp_port(port)).collect();
        exposed_ports.sort_unstable();
        exposed_ports.dedup();
        ImageConfig {
            env: run
                .env
                .into_iter()
                .filter(|pair| pair.find('=').is_some_and(|at| at > 0))
                .collect(),
            entrypoint: run.entrypoint,
            cmd: run.cmd,
            user: run.user,
            working_dir: run.working_dir,
            stop_signal: run.stop_signal,
            exposed_ports,
            architecture: file.architecture,
            os: file.os,
            created: file.created,
        }
    }
}

fn tcp_port(text: &str) -> Option<u16> {
    let number = text.strip_suffix("/tcp").unwrap_or(text);
    number.parse().ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, declared: Option<&str>) -> Result<Document> {
        Document::parse(json.as_bytes(), declared, "test")
    }

    #[test]
    fn a_document_that_is_index_and_image_at_once_is_refused() {
        let both = r#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#;
        assert!(matches!(parse(both, None), Err(ImageError::Corrupt { .. })));
    }

    #[test]
    fn a_document_whose_type_contradicts_its_content_is_refused() {
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(parse(index, Some(OCI_INDEX)), Ok(Document::Index(_))));
        assert!(matches!(
            parse(index, Some(OCI_MANIFEST)),
            Err(ImageError::Corrupt { .. })
        ));
        let lying = format!(r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","manifests":[]}}"#);
        assert!(matches!(parse(&lying, None), Err(ImageError::Corrupt { .. })));
    }

    #[test]
    fn null_fields_of_a_configuration_read_as_absent() {
        let json = r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":null,"ExposedPorts":{"80/tcp":{},
            "53/udp":{},"8080":{}},"User":null,"Unknown":1},"rootfs":{"type":"layers","diff_ids":null}}"#;
        let config = ImageConfig::from(ConfigFile::parse(json.as_bytes(), "test").expect("a configuration"));
        assert_eq!(config.exposed_ports, [80, 8080]);
        assert!(config.env.is_empty() && config.cmd.is_empty() && config.user.is_empty());
    }

    #[test]
    fn the_platform_of_this_machine_is_chosen_and_attestations_are_not() {
        let digest = Digest::of(b"x");
        let with = |architecture: &str| {
            let mut descriptor = Descriptor::new(OCI_MANIFEST, Digest::of(architecture.as_bytes()), 1);
            descriptor.platform = Some(Platform {
                architecture: architecture.into(),
                os: "linux".into(),
                variant: None,
            });
            descriptor
        };
        let mut attestation = Descriptor::new(OCI_MANIFEST, digest, 1);
        attestation
            .annotations
            .insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
        let here = Platform::here().architecture;
        let all = [attestation.clone(), with("sparc"), with(&here)];
        assert_eq!(
            choose_platform(&all, "x").expect("one fits").digest,
            Digest::of(here.as_bytes())
        );
        let error = choose_platform(&[attestation, with("sparc")], "x")
            .expect_err("none fits")
            .to_string();
        assert!(error.contains("linux/sparc") && error.contains(&here), "{error}");
    }
}
