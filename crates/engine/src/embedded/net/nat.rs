//! The way out: one cable from Hob's namespace to the host's, masqueraded on both sides.
//!
//! Masqueraded twice, so that the host never sees an instance's address: two Hobs on one host may use the same range.
//! The host's side drops what is meant for the host itself, and forwards outwards only.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use super::namespace;
use super::netlink::{CableEnd, Netlink};
use super::subnet::Subnet;

/// The device that leads out, as Hob's namespace sees it.
pub const INSIDE: &str = "hobout";
/// Both ends get addresses from here, four for each Hob on the machine. Carrier-grade NAT range: nobody routes it.
const TRANSIT: Ipv4Addr = Ipv4Addr::new(100, 115, 0, 0);
const TRANSIT_SLOTS: u32 = 1 << 14;
/// Slots that are tried before giving up.
const SLOT_TRIES: u32 = 64;

/// The names of one Hob's way out.
#[derive(Debug, Clone)]
pub struct WayOut {
    /// The outer end of the cable.
    device: String,
    table: String,
    slot: u32,
}

impl WayOut {
    /// `tag`: eight hexadecimal digits that tell this data directory from others.
    pub fn new(tag: &str) -> WayOut {
        let slot = u32::from_str_radix(tag, 16).unwrap_or(0) % TRANSIT_SLOTS;
        WayOut {
            device: format!("hob-{tag}"),
            table: format!("hob_{tag}"),
            slot,
        }
    }

    pub fn device(&self) -> &str {
        &self.device
    }

    /// Builds what is missing; nothing is touched that is there. Answers remarks for the operator.
    pub fn open(&self, namespace_path: &Path) -> io::Result<Vec<String>> {
        let mut host = Netlink::open()?;
        if host.index_of(&self.device)?.is_none() {
            self.build_cable(&mut host, namespace_path)?;
        }
        self.load_host_rules()?;
        namespace::inside(namespace_path, || load_inside_rules(&[]))?;
        let mut remarks = Vec::from_iter(allow_forwarding()?);
        let dropping = others_that_drop();
        if !dropping.is_empty() {
            let tables = dropping.join(", ");
            remarks.push(format!(
                "the host's table {tables} drops what it forwards, so instances may have no way out; \
                 allow {} there (with Docker: in the chain DOCKER-USER)",
                self.device
            ));
        }
        Ok(remarks)
    }

    /// Removes cable and rules. No error where there are none.
    pub fn close(&self) -> io::Result<()> {
        Netlink::open()?.remove(&self.device)?;
        let script = format!("add table ip {0}\ndelete table ip {0}\n", self.table);
        nft(&script)
    }

    fn build_cable(&self, host: &mut Netlink, namespace_path: &Path) -> io::Result<()> {
        let transit = self.free_slot(host)?;
        let (outer, inner) = (u32::from(transit.network()) + 1, u32::from(transit.network()) + 2);
        let file = std::fs::File::open(namespace_path)?;
        // An inner end without its outer end cannot be, but an earlier half-done build can.
        namespace::inside(namespace_path, || Netlink::open()?.remove(INSIDE))?;
        host.add_cable(
            &CableEnd {
                name: &self.device,
                namespace: None,
            },
            &CableEnd {
                name: INSIDE,
                namespace: Some(file.as_fd()),
            },
        )?;
        let device = host.must_find(&self.device)?;
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.device), "1");
        host.add_address(device, outer.into(), transit.prefix_len())?;
        host.set_up(device)?;
        namespace::inside(namespace_path, || {
            let mut inside = Netlink::open()?;
            let device = inside.must_find(INSIDE)?;
            inside.add_address(device, inner.into(), transit.prefix_len())?;
            inside.set_up(device)?;
            inside.add_default_route(outer.into())
        })
    }

    /// Four addresses that nothing on the host overlaps.
    fn free_slot(&self, host: &mut Netlink) -> io::Result<Subnet> {
        let mut taken = host.routes()?;
        taken.extend(host.addresses()?);
        let slots = (0..SLOT_TRIES).map(|n| (self.slot + n) % TRANSIT_SLOTS);
        let mut transits = slots.filter_map(|slot| Subnet::new((u32::from(TRANSIT) + slot * 4).into(), 30).ok());
        let free = transits.find(|transit| !taken.iter().any(|other| other.overlaps(*transit)));
        free.ok_or_else(|| io::Error::other(format!("no free addresses in {TRANSIT}/16 for the way out")))
    }

    fn load_host_rules(&self) -> io::Result<()> {
        let WayOut { device, table, .. } = self;
        // `add` then `delete` then the table: replaced in one transaction, whether it was there or not.
        nft(&format!(
            "add table ip {table}
             delete table ip {table}
             table ip {table} {{
                 chain input {{
                     type filter hook input priority filter; policy accept;
                     iifname \"{device}\" ct state established,related accept
                     iifname \"{device}\" drop
                 }}
                 chain forward {{
                     type filter hook forward priority filter; policy accept;
                     iifname \"{device}\" ip daddr 169.254.0.0/16 drop
                     iifname \"{device}\" oifname \"{device}\" drop
                     iifname \"{device}\" accept
                     oifname \"{device}\" ct state established,related accept
                     oifname \"{device}\" drop
                 }}
                 chain postrouting {{
                     type nat hook postrouting priority srcnat; policy accept;
                     ip saddr {TRANSIT}/16 oifname != \"{device}\" masquerade
                 }}
             }}\n"
        ))
    }
}

/// The namespace's own side: instances go out, nothing comes in, and `refused` is out of reach.
pub fn load_inside_rules(refused: &[Ipv4Addr]) -> io::Result<()> {
    let refused: String = refused
        .iter()
        .map(|address| format!("oifname \"{INSIDE}\" ip daddr {address} drop\n"))
        .collect();
    nft(&format!(
        "add table ip hob
         delete table ip hob
         table ip hob {{
             chain input {{
                 type filter hook input priority filter; policy accept;
                 iifname \"{INSIDE}\" ct state established,related accept
                 iifname \"{INSIDE}\" drop
             }}
             chain forward {{
                 type filter hook forward priority filter; policy drop;
                 oifname \"{INSIDE}\" ip daddr 169.254.0.0/16 drop
                 {refused}
                 oifname \"{INSIDE}\" accept
                 iifname \"{INSIDE}\" ct state established,related accept
             }}
             chain postrouting {{
                 type nat hook postrouting priority srcnat; policy accept;
                 oifname \"{INSIDE}\" masquerade
             }}
         }}\n"
    ))
}

/// Answers what was changed for the whole host.
fn allow_forwarding() -> io::Result<Option<String>> {
    const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
    if std::fs::read_to_string(SWITCH)?.trim() == "1" {
        return Ok(None);
    }
    std::fs::write(SWITCH, "1")?;
    Ok(Some(
        "net.ipv4.ip_forward was off and has been turned on for the whole host".to_owned(),
    ))
}

/// Tables of others that drop whatever they do not know by name, as Docker's does: what leads out is then dropped too.
fn others_that_drop() -> Vec<String> {
    let mut command = nft_command();
    command
        .args(["list", "chains", "ip"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let listing = command
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    dropping_tables(&listing.unwrap_or_default())
}

fn dropping_tables(listing: &str) -> Vec<String> {
    let (mut table, mut dropping) = (String::new(), Vec::new());
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ip ") {
            table = name.trim_end_matches(" {").to_owned();
        } else if line.contains("hook forward") && line.contains("policy drop") {
            dropping.push(table.clone());
        }
    }
    dropping
}

fn nft_command() -> Command {
    let mut command = Command::new("nft");
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin");
    command
}

/// Runs `nft` on a script, by argument vector; names in the script are our own.
fn nft(script: &str) -> io::Result<()> {
    let mut command = Command::new("nft");
    command
        .args(["-f", "-"])
        .env_clear()
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::new(error.kind(), "the program `nft` (package nftables) is not installed")
        }
        kind => io::Error::new(kind, format!("cannot run nft: {error}")),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let first = text.lines().next().unwrap_or("no message");
    Err(io::Error::other(format!("nft: {first}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_drops_by_default_is_named() {
        let listing = "table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n\
            \tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n\
            table ip hob_1 {\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n\t}\n}\n";
        assert_eq!(dropping_tables(listing), ["filter"]);
        assert!(dropping_tables("").is_empty());
    }

    #[test]
    fn names_fit_into_what_the_kernel_takes() {
        let way_out = WayOut::new("ffffffff");
        assert!(way_out.device().len() < 16, "{}", way_out.device());
        assert!(way_out.slot < TRANSIT_SLOTS);
    }
}
