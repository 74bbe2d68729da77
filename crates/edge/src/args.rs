//! The command line of `hob edge`, written by the control plane and read by the edge.

use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::limits::Limits;

/// What an edge is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EdgeArgs {
    /// Holds the routing table and the control socket.
    pub dir: PathBuf,
    /// Inherited listening sockets for users' traffic.
    pub public_fds: Vec<RawFd>,
    /// An inherited listener inside the namespace, in place of one that would be bound at the gateway.
    pub internal_fd: Option<RawFd>,
    /// Likewise for DNS.
    pub dns_fd: Option<RawFd>,
    /// The same for the listener of longer questions.
    pub dns_tcp_fd: Option<RawFd>,
    /// A user namespace to enter before `netns`, where that one belongs to it.
    pub userns: Option<PathBuf>,
    /// The instances' network namespace.
    pub netns: Option<PathBuf>,
    /// The edge's own address on the instances' network.
    pub gateway: Option<Ipv4Addr>,
    pub upstream_dns: Vec<SocketAddr>,
    /// User and group to become.
    pub user: Option<(u32, u32)>,
    /// Zero: as many as there are cores.
    pub workers: usize,
    pub limits: Limits,
}

impl EdgeArgs {
    /// Reads what [`EdgeArgs::to_args`] has written.
    ///
    /// # Errors
    /// Names the argument that is not understood.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<EdgeArgs, String> {
        let mut parsed = EdgeArgs::default();
        let mut args = args.into_iter();
        while let Some(flag) = args.next() {
            let flag = flag.to_str().ok_or("an argument is not UTF-8")?.to_owned();
            let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--dir" => parsed.dir = value.into(),
                "--public-fd" => parsed.public_fds.push(number(&flag, &value)?),
                "--internal-fd" => parsed.internal_fd = Some(number(&flag, &value)?),
                "--dns-fd" => parsed.dns_fd = Some(number(&flag, &value)?),
                "--dns-tcp-fd" => parsed.dns_tcp_fd = Some(number(&flag, &value)?),
                "--userns" => parsed.userns = Some(value.into()),
                "--netns" => parsed.netns = Some(value.into()),
                "--gateway" => parsed.gateway = Some(number(&flag, &value)?),
                "--upstream-dns" => parsed.upstream_dns.push(number(&flag, &value)?),
                "--user" => parsed.user = Some(user(&value).ok_or("--user is written UID:GID")?),
                "--workers" => parsed.workers = number(&flag, &value)?,
                "--limits" => {
                    let text = value.to_str().unwrap_or_default();
                    parsed.limits = serde_json::from_str(text).map_err(|error| format!("--limits: {error}"))?;
                }
                _ => return Err(format!("unknown argument {flag}")),
            }
        }
        if parsed.dir.as_os_str().is_empty() {
            return Err("--dir is missing".to_owned());
        }
        Ok(parsed)
    }

    /// The arguments that [`EdgeArgs::parse`] reads back as this.
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut push = |flag: &str, value: OsString| args.extend([flag.into(), value]);
        push("--dir", self.dir.clone().into());
        self.public_fds
            .iter()
            .for_each(|fd| push("--public-fd", fd.to_string().into()));
        self.internal_fd
            .iter()
            .for_each(|fd| push("--internal-fd", fd.to_string().into()));
        self.dns_fd
            .iter()
            .for_each(|fd| push("--dns-fd", fd.to_string().into()));
        self.dns_tcp_fd
            .iter()
            .for_each(|fd| push("--dns-tcp-fd", fd.to_string().into()));
        self.userns.iter().for_each(|path| push("--userns", path.into()));
        self.netns.iter().for_each(|path| push("--netns", path.into()));
        self.gateway
            .iter()
            .for_each(|address| push("--gateway", address.to_string().into()));
        self.upstream_dns
            .iter()
            .for_each(|address| push("--upstream-dns", address.to_string().into()));
        self.user
            .iter()
            .for_each(|(uid, gid)| push("--user", format!("{uid}:{gid}").into()));
        push("--workers", self.workers.to_string().into());
        if self.limits != Limits::default() {
            push(
                "--limits",
                serde_json::to_string(&self.limits).unwrap_or_default().into(),
            );
        }
        args
    }
}

fn number<T: std::str::FromStr>(flag: &str, value: &OsStr) -> Result<T, String> {
    let parsed = value.to_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| format!("{flag} {} is not understood", value.display()))
}

fn user(value: &OsStr) -> Option<(u32, u32)> {
    let (uid, gid) = value.to_str()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_they_were_written() {
        let args = EdgeArgs {
            dir: "/data/edge".into(),
            public_fds: vec![5, 6],
            internal_fd: Some(7),
            dns_fd: Some(8),
            dns_tcp_fd: Some(9),
            userns: Some("/proc/7/ns/user".into()),
            netns: Some("/run/netns/hob".into()),
            gateway: Some(Ipv4Addr::new(10, 99, 0, 1)),
            upstream_dns: vec!["1.1.1.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()],
            user: Some((65534, 65534)),
            workers: 2,
            limits: Limits {
                tick_ms: 50,
                ..Limits::default()
            },
        };
        assert_eq!(EdgeArgs::parse(args.to_args()), Ok(args));
    }

    #[test]
    fn a_bad_argument_is_named() {
        for (args, named) in [
            (vec!["--dir", "/d", "--workers", "x"], "--workers"),
            (vec!["--dir"], "--dir"),
            (vec![], "--dir"),
            (vec!["--dir", "/d", "--what", "1"], "--what"),
            (vec!["--dir", "/d", "--user", "7"], "--user"),
        ] {
            let error = EdgeArgs::parse(args.into_iter().map(OsString::from)).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
