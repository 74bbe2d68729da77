//! The instances' network: a namespace of Hob's own with a bridge, a gateway address, and one cable per instance.
//!
//! ```text
//!   host namespace        │  Hob's namespace <data-dir>/net/ns                │  instance
//!   hob-<tag> ────────────┼─ hobout   hob0 (bridge, gateway) ── hob<address> ─┼─ eth0
//!   100.115.x.y/30, NAT   │  NAT      edge: HTTP and DNS                      │  10.213.a.b
//! ```
//!
//! # Guarantees
//! - Ports of the bridge are isolated from each other: an instance talks to the gateway, and through it to the world.
//! - Nothing on the host but the edge (which enters the namespace) reaches an instance; no instance reaches an address
//!   of the host, or a link-local one (where clouds keep their secrets).
//! - As an ordinary user the cable to the host is replaced by a program that needs no privilege ([`user_mode`]).
//! - The namespace outlives the control plane: a file keeps it, and every shim does.

pub mod addresses;
pub mod namespace;
mod nat;
pub mod netlink;
pub mod subnet;
mod user_mode;

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::home::private_dir;
use super::launch::NetworkPlan;
use crate::{Finding, Level};
use nat::WayOut;
use netlink::{LOOPBACK, Netlink};
pub use subnet::{BadSubnet, Subnet};
use user_mode::UserMode;

const BRIDGE: &str = "hob0";

/// The network of one data directory.
#[derive(Debug)]
pub struct Network {
    dir: PathBuf,
    namespace: PathBuf,
    subnet: Subnet,
    way_out: WayOut,
    user_mode: UserMode,
    /// Whether rules were loaded on the host, so that they must be removable again.
    host_has_rules: bool,
    findings: Vec<Finding>,
}

/// The network cannot be had: what is in the way, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(
        "the instances' network {wanted} overlaps {other}, which this host routes elsewhere; \
         choose another with --instance-network"
    )]
    Clash { wanted: Subnet, other: Subnet },
    #[error("cannot make the instances' network ({doing}): {source}")]
    Refused { doing: &'static str, source: io::Error },
}

impl Network {
    /// Builds what is missing. Idempotent; running instances do not notice.
    ///
    /// `surviving` are other places where the namespace may still be alive, if the file has lost it: what the shims
    /// hold open.
    ///
    /// # Errors
    /// See [`NetworkError`]. A missing way out is none, but a finding.
    pub fn open(dir: &Path, tag: &str, subnet: Subnet, surviving: &[PathBuf]) -> Result<Network, NetworkError> {
        let refused = |doing| move |source| NetworkError::Refused { doing, source };
        let mut host = Netlink::open().map_err(refused("opening a routing socket"))?;
        let routes = host.routes().map_err(refused("reading the host's routes"))?;
        if let Some(other) = routes.into_iter().find(|route| route.overlaps(subnet)) {
            return Err(NetworkError::Clash { wanted: subnet, other });
        }
        private_dir(dir).map_err(refused("making its directory"))?;
        let namespace = dir.join("ns");
        if !namespace::is_kept_at(&namespace) {
            let found = surviving.iter().any(|place| namespace::keep(place, &namespace).is_ok());
            if !found {
                namespace::create_at(&namespace).map_err(refused("making a network namespace"))?;
            }
        }
        namespace::inside(&namespace, || furnish(subnet)).map_err(refused("making the bridge"))?;
        let mut network = Network {
            dir: dir.to_owned(),
            namespace,
            subnet,
            way_out: WayOut::new(tag),
            user_mode: UserMode::new(dir),
            host_has_rules: false,
            findings: Vec::new(),
        };
        network.open_way_out();
        Ok(network)
    }

    /// The file to enter (`setns`) for whoever serves the instances.
    pub fn enter_path(&self) -> &Path {
        &self.namespace
    }

    /// Hob's own address on the instances' network: their default route, DNS server and internal HTTP listener.
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.gateway()
    }

    /// Where the network keeps its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// What was found when the network was built.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    pub fn plan_for(&self, address: Ipv4Addr) -> NetworkPlan {
        NetworkPlan {
            namespace: self.namespace.clone(),
            bridge: BRIDGE.to_owned(),
            port_device: port_device(address),
            address,
            prefix_len: self.subnet.prefix_len(),
            gateway: self.gateway(),
        }
    }

    /// Devices on the bridge that belong to none of `addresses`.
    pub fn stray_devices(&self, addresses: &[Ipv4Addr]) -> io::Result<Vec<String>> {
        let wanted: Vec<String> = addresses.iter().copied().map(port_device).collect();
        let names = namespace::inside(&self.namespace, || Netlink::open()?.device_names())?;
        let ours = names
            .into_iter()
            .filter(|name| name.len() == PORT_NAME_LEN && name.starts_with("hob"));
        Ok(ours.filter(|name| !wanted.contains(name)).collect())
    }

    /// Removes everything of the network. For when no instance runs any more.
    pub fn close(&self) -> io::Result<()> {
        let closed = self.way_out.close();
        if self.host_has_rules {
            closed?;
        }
        self.user_mode.close()?;
        namespace::forget(&self.namespace)
    }

    fn open_way_out(&mut self) {
        let opened = self.way_out.open(&self.namespace);
        self.host_has_rules = opened.is_ok();
        let finding = match opened {
            Ok(remarks) if remarks.is_empty() => finding(
                Level::Ok,
                format!("{} with a way out by {}", self.subnet, self.way_out.device()),
                "",
            ),
            Ok(remarks) => finding(Level::Warning, remarks.join("; "), "look whether that is what you want"),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => match self.user_mode.open(&self.namespace) {
                Ok(()) => finding(Level::Ok, format!("{} with a way out by slirp4netns", self.subnet), ""),
                Err(error) => finding(
                    Level::Warning,
                    format!("instances have no way out: {error}"),
                    "install slirp4netns and nftables, or run as root; everything else works without",
                ),
            },
            Err(error) => finding(
                Level::Warning,
                format!("instances have no way out: {error}"),
                "install nftables, then start again; everything else works without",
            ),
        };
        if finding.level == Level::Warning {
            tracing::warn!(network.subnet = %self.subnet, "{}", finding.message);
        }
        self.findings.push(finding);
    }
}

fn finding(level: Level, message: String, advice: &str) -> Finding {
    Finding {
        level,
        subject: "network".to_owned(),
        message,
        advice: advice.to_owned(),
    }
}

/// Bridge and addresses inside the namespace, in which the calling thread is.
fn furnish(subnet: Subnet) -> io::Result<()> {
    for (name, value) in [
        ("ipv4/ip_forward", "1"),
        // Neither bridge nor cables need IPv6 addresses; without them nothing is announced.
        ("ipv6/conf/default/disable_ipv6", "1"),
        // Instances may ask for an address on the bridge only by the bridge.
        ("ipv4/conf/all/arp_ignore", "1"),
    ] {
        let _ = std::fs::write(format!("/proc/sys/net/{name}"), value);
    }
    let mut netlink = Netlink::open()?;
    netlink.set_up(LOOPBACK)?;
    let bridge = match netlink.index_of(BRIDGE)? {
        Some(index) => index,
        None => {
            netlink.add_bridge(BRIDGE)?;
            netlink.must_find(BRIDGE)?
        }
    };
    netlink.add_address(bridge, subnet.gateway(), subnet.prefix_len())?;
    netlink.set_up(bridge)
}

const PORT_NAME_LEN: usize = "hob".len() + 8;

/// Unique in the namespace, since the address is.
fn port_device(address: Ipv4Addr) -> String {
    format!("hob{:08x}", u32::from(address))
}
