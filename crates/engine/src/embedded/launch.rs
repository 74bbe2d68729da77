//! What the control plane tells a new shim, over a pipe and in one go.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use domain::Resources;
use images::ImageConfig;
use serde::{Deserialize, Serialize};

use crate::ValueFiles;

/// Most bytes of an order: an environment may be large, but `execve` takes no more than a few MiB anyway, and files in
/// memory should not be larger.
pub const ORDER_MAX: u64 = 8 << 20;

/// Holds secret values, so it has no `Debug`, and is never written to a file.
#[derive(Serialize, Deserialize)]
pub struct LaunchOrder {
    /// Host name inside.
    pub hostname: String,
    pub image: ImageConfig,
    pub root: RootSource,
    pub command: Option<Vec<String>>,
    /// Beats the image's.
    pub env: BTreeMap<String, String>,
    pub files: ValueFiles,
    /// Beats everything: what Hob itself tells the program.
    pub platform_env: BTreeMap<String, String>,
    pub port: Option<u16>,
    pub resources: Resources,
    pub network: Option<NetworkPlan>,
    pub cgroup: Option<PathBuf>,
}

/// Where the root file system comes from.
#[derive(Serialize, Deserialize)]
pub enum RootSource {
    /// Layers to be stacked by overlayfs, lowest first, as names relative to `layers_dir`.
    Overlay {
        layers_dir: PathBuf,
        layers: Vec<String>,
        /// Opaque marks are in the `user.` name space.
        user_xattr: bool,
    },
    /// `rootfs/` of the instance already holds a copy.
    Copy,
}

/// How the instance is wired.
#[derive(Clone, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// Hob's own network namespace.
    pub namespace: PathBuf,
    pub bridge: String,
    /// Name of the device on the bridge.
    pub port_device: String,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Ipv4Addr,
}
