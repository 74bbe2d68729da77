//! The way out without root: a program of the distribution that carries packets as an ordinary process would
//! (`slirp4netns`), where it is installed.
//!
//! Its connections are the user's own, so it would reach whatever listens on this host. The rules inside the namespace
//! refuse the host's addresses before a packet comes so far; without `nft` there is no way out.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::namespace;
use super::nat::{self, INSIDE};
use super::netlink::Netlink;
use crate::embedded::home::{Durability, replace};
use crate::embedded::process::ProcessRef;

/// Addresses between the program and the namespace; seen by nobody else.
const TRANSIT: &str = "100.115.0.0/24";
/// What the program makes its device of.
const TUNNEL: &str = "/dev/net/tun";
const RECORD: &str = "way-out.json";
/// The program has made its device by then, or never will.
const READY_LIMIT: Duration = Duration::from_secs(5);
const READY_PAUSE: Duration = Duration::from_millis(10);

/// The program that carries packets for one Hob. It outlives the control plane, as the instances do.
#[derive(Debug)]
pub struct UserMode {
    dir: PathBuf,
}

impl UserMode {
    /// `dir`: where the network keeps its files.
    pub fn new(dir: &Path) -> UserMode {
        UserMode { dir: dir.to_owned() }
    }

    /// Starts the program unless it runs.
    pub fn open(&self, namespace_path: &Path) -> io::Result<()> {
        let tunnel = fs::OpenOptions::new().read(true).write(true).open(TUNNEL);
        tunnel.map_err(|error| io::Error::new(error.kind(), format!("this user may not open {TUNNEL} ({error})")))?;
        let hosts_own = own_addresses()?;
        namespace::inside(namespace_path, move || nat::load_inside_rules(&hosts_own))?;
        if self.running()?.is_some() {
            return Ok(());
        }
        namespace::inside(namespace_path, || Netlink::open()?.remove(INSIDE))?;
        let mut command = Command::new("slirp4netns");
        command.args([
            "--configure",
            "--disable-host-loopback",
            "--disable-dns",
            "--cidr",
            TRANSIT,
        ]);
        command
            .args(["--netns-type", "path"])
            .arg(namespace_path)
            .arg(INSIDE)
            .env_clear();
        command.env("PATH", "/usr/bin:/bin:/usr/local/bin").current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: one system call without pointers.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                Ok(())
            })
        };
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::new(error.kind(), "the program `slirp4netns` is not installed"),
            kind => io::Error::new(kind, format!("cannot run slirp4netns: {error}")),
        })?;
        let process = ProcessRef::of(child.id() as i32)?;
        let bytes = serde_json::to_vec(&process).map_err(io::Error::other)?;
        replace(&self.dir, RECORD, &bytes, Durability::Crash)?;
        let deadline = Instant::now() + READY_LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!("slirp4netns ended ({status})")));
            }
            if namespace::inside(namespace_path, has_way)? {
                return Ok(());
            }
            std::thread::sleep(READY_PAUSE);
        }
        self.close()?;
        Err(io::Error::other("slirp4netns did not make its device"))
    }

    /// Ends the program, if it runs.
    pub fn close(&self) -> io::Result<()> {
        if let Some(process) = self.running()? {
            let pid = process.pid;
            if let Some(pidfd) = process.open()? {
                pidfd.signal(libc::SIGKILL)?;
                pidfd.wait(READY_LIMIT)?;
            }
            // It may be our own child; nobody else's is reaped by this.
            let _ = nix::sys::wait::waitpid(
                nix::unistd::Pid::from_raw(pid),
                Some(nix::sys::wait::WaitPidFlag::WNOHANG),
            );
        }
        match fs::remove_file(self.dir.join(RECORD)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn running(&self) -> io::Result<Option<ProcessRef>> {
        let Ok(bytes) = fs::read(self.dir.join(RECORD)) else {
            return Ok(None);
        };
        let Ok(process) = serde_json::from_slice::<ProcessRef>(&bytes) else {
            return Ok(None);
        };
        let alive = match process.open()? {
            Some(pidfd) => !pidfd.wait(Duration::ZERO)?,
            None => false,
        };
        Ok(alive.then_some(process))
    }
}

/// Whether the device is there and has an address.
fn has_way() -> io::Result<bool> {
    let mut netlink = Netlink::open()?;
    let transit = TRANSIT.parse::<super::Subnet>().map_err(io::Error::other)?;
    let addressed = netlink.addresses()?.iter().any(|network| network.overlaps(transit));
    Ok(addressed && netlink.index_of(INSIDE)?.is_some())
}

/// Addresses of the machine, seen from where the control plane is.
fn own_addresses() -> io::Result<Vec<Ipv4Addr>> {
    let addresses = Netlink::open()?.host_addresses()?;
    Ok(addresses.into_iter().filter(|address| !address.is_loopback()).collect())
}
