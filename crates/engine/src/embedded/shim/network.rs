//! The instance's own network: one device, plugged into Hob's bridge.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns, unshare};

use super::StartError;
use super::root::open_namespace;
use crate::embedded::launch::NetworkPlan;
use crate::embedded::net::netlink::{CableEnd, LOOPBACK, Netlink};

/// The device as the program sees it.
const DEVICE: &str = "eth0";

/// The descriptor by which a shim keeps Hob's namespace alive.
const KEPT_FD: i32 = 100;

/// Where Hob's namespace is to be had when its file has lost it (its mount went with a mount namespace).
pub fn hob_namespace_of(shim_pid: i32) -> PathBuf {
    format!("/proc/{shim_pid}/fd/{KEPT_FD}").into()
}

/// Puts the shim, and so the container, into a network namespace of their own. Without a plan it holds loopback alone.
///
/// # Guarantees
/// The namespace has no name and no file. It and the cable end with the last process in it.
pub fn enter(plan: Option<&NetworkPlan>) -> Result<(), StartError> {
    wire(plan).map_err(|error| StartError::new("cannot set up its network", error))
}

fn wire(plan: Option<&NetworkPlan>) -> io::Result<()> {
    let Some(plan) = plan else {
        unshare(CloneFlags::CLONE_NEWNET)?;
        return Netlink::open()?.set_up(LOOPBACK);
    };
    let hob_namespace = open_namespace(&plan.namespace)?;
    setns(&hob_namespace, CloneFlags::CLONE_NEWNET)?;
    // SAFETY: plain numbers; the number is free in a process that has opened a handful of files.
    if unsafe { libc::dup3(hob_namespace.as_raw_fd(), KEPT_FD, libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut hob = Netlink::open()?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    let mut own = Netlink::open()?;
    let own_namespace = open_namespace("/proc/self/ns/net".as_ref())?;

    // What a killed shim left is on its way out already; the kernel just takes its time.
    hob.remove(&plan.port_device)?;
    hob.add_cable(
        &CableEnd {
            name: &plan.port_device,
            namespace: None,
        },
        &CableEnd {
            name: DEVICE,
            namespace: Some(own_namespace.as_fd()),
        },
    )?;
    let bridge = hob.must_find(&plan.bridge)?;
    let port = hob.must_find(&plan.port_device)?;
    hob.plug_in_isolated(port, bridge)?;
    hob.set_up(port)?;

    sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
    // Ports are the instance's own here: low ones need no privilege, nor does ping.
    sysctl("net/ipv4/ip_unprivileged_port_start", "0");
    sysctl("net/ipv4/ping_group_range", "0 2147483647");
    own.set_up(LOOPBACK)?;
    let device = own.must_find(DEVICE)?;
    own.add_address(device, plan.address, plan.prefix_len)?;
    own.set_up(device)?;
    own.add_default_route(plan.gateway)
}

/// A convenience that old kernels may lack.
fn sysctl(name: &str, value: &str) {
    let _ = fs::write(format!("/proc/sys/{name}"), value);
}
