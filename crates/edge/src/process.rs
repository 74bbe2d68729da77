//! The edge as a process: what it takes with it, where it goes, what it gives up, and how it ends.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use nix::fcntl::{FcntlArg, FdFlag, Flock, fcntl};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_local;

use crate::args::EdgeArgs;
use crate::control;
use crate::dns::{HostResolver, Resolver};
use crate::dns_tcp;
use crate::edge::{Edge, Sockets};
use crate::limits::Limits;
use crate::persist::TableDir;
use crate::privileges;

/// Exit code when another edge runs on the same directory.
pub const EXIT_LOCKED: u8 = 75;

const HTTP_PORT: u16 = 80;
const DNS_PORT: u16 = 53;

/// Everything that an edge needs, made and owned: what is left is to run.
pub struct Setup {
    pub sockets: Sockets,
    pub dir: TableDir,
    /// Held for as long as this edge owns the directory.
    pub lock: Flock<File>,
    pub control: UnixListener,
    /// The user, besides root, who may use the control socket.
    pub owner: u32,
    pub gateway: Option<Ipv4Addr>,
    pub upstream_dns: Vec<HostResolver>,
    pub workers: usize,
    pub limits: Limits,
}

/// `hob edge`: to be called first in `main`, before there is any thread. Writes its log by `tracing`, whose subscriber
/// is the caller's.
pub fn edge_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match EdgeArgs::parse(args) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("hob edge: {error}. It is started by `hob up`, not by hand.");
            return ExitCode::from(2);
        }
    };
    let result = prepare(&args).and_then(|setup| run(setup, stop_signal));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hob edge: {error}");
            let locked = error.kind() == io::ErrorKind::WouldBlock;
            ExitCode::from(if locked { EXIT_LOCKED } else { 1 })
        }
    }
}

/// Takes over the inherited sockets, makes those that are missing, each in the namespace where it belongs, and gives up
/// every privilege.
///
/// # Assumptions
/// There is no other thread: a thread would keep its namespaces and its privileges.
///
/// # Errors
/// Each names the step that failed.
pub fn prepare(args: &EdgeArgs) -> io::Result<Setup> {
    let inherited = [args.internal_fd, args.dns_fd, args.dns_tcp_fd].into_iter().flatten();
    let keep: Vec<RawFd> = args.public_fds.iter().copied().chain(inherited).collect();
    let mut inherited = Inherited::take(&keep)?;
    privileges::raise_descriptor_limit();

    let dir = TableDir::open(&args.dir).map_err(|error| at("the directory", &args.dir, error))?;
    let lock = dir.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(error.kind(), "another edge runs on this directory"),
        _ => at("the lock in", &args.dir, error),
    })?;
    let control = control::bind(&args.dir).map_err(|error| at("the control socket in", &args.dir, error))?;
    let upstream_dns = args
        .upstream_dns
        .iter()
        .filter_map(|resolver| reach(*resolver))
        .collect();
    let mut public = Vec::new();
    for fd in &args.public_fds {
        public.push(TcpListener::from(inherited.socket(*fd, SockType::Stream)?));
    }

    let namespaces = [
        (&args.userns, CloneFlags::CLONE_NEWUSER),
        (&args.netns, CloneFlags::CLONE_NEWNET),
    ];
    for (path, kind) in namespaces {
        if let Some(path) = path {
            let namespace = File::open(path).map_err(|error| at("the namespace", path, error))?;
            setns(namespace, kind).map_err(|error| at("the namespace", path, error.into()))?;
        }
    }
    let internal = match (args.internal_fd, args.gateway) {
        (Some(fd), _) => Some(TcpListener::from(inherited.socket(fd, SockType::Stream)?)),
        (None, Some(gateway)) => Some(bound(gateway, HTTP_PORT, TcpListener::bind)?),
        (None, None) => None,
    };
    let dns = match (args.dns_fd, args.gateway) {
        (Some(fd), _) => Some(UdpSocket::from(inherited.socket(fd, SockType::Datagram)?)),
        (None, Some(gateway)) => Some(bound(gateway, DNS_PORT, UdpSocket::bind)?),
        (None, None) => None,
    };
    let dns_tcp = match (args.dns_tcp_fd, args.gateway) {
        (Some(fd), _) => Some(TcpListener::from(inherited.socket(fd, SockType::Stream)?)),
        (None, Some(gateway)) => Some(bound(gateway, DNS_PORT, TcpListener::bind)?),
        (None, None) => None,
    };
    let owner = nix::unistd::geteuid().as_raw();
    if let Some((uid, gid)) = args.user {
        dir.give_to(uid, gid)
            .map_err(|error| at("the owner of", &args.dir, error))?;
    }
    privileges::give_up(args.user)?;
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if args.workers == 0 { cores() } else { args.workers };
    let sockets = Sockets {
        public,
        internal,
        dns,
        dns_tcp,
    };
    let (gateway, limits) = (args.gateway, args.limits.clone());
    Ok(Setup {
        sockets,
        dir,
        lock,
        control,
        owner,
        gateway,
        upstream_dns,
        workers,
        limits,
    })
}

/// Runs an edge until `stop` is ready, then lets it finish what is in flight.
///
/// # Errors
/// When it cannot begin.
pub fn run<S: Future<Output = ()>>(setup: Setup, stop: impl FnOnce() -> S) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        let Setup {
            sockets,
            dir,
            lock,
            control,
            owner,
            gateway,
            upstream_dns,
            workers,
            limits,
        } = setup;
        let resolver = match (&sockets.dns, gateway) {
            (Some(socket), Some(gateway)) => Some(Rc::new(Resolver::new(socket.try_clone()?, gateway, upstream_dns)?)),
            _ => None,
        };
        let dns_tcp = sockets.dns_tcp.as_ref().map(TcpListener::try_clone).transpose()?;
        let edge = Rc::new(Edge::start(sockets, dir, workers, limits)?);
        let longer = resolver.clone().zip(dns_tcp);
        let dns_tcp = longer.map(|(resolver, listener)| spawn_local(dns_tcp::serve(resolver, listener)));
        let dns = resolver.map(|resolver| spawn_local(resolver.serve()));
        let settling = spawn_local({
            let edge = Rc::clone(&edge);
            async move { edge.settle_tables().await }
        });
        let control = spawn_local(control::serve(Rc::clone(&edge), control, owner));
        stop().await;
        tracing::info!("the edge stops: it finishes what is in flight");
        // Whoever comes next may begin while this one finishes.
        control.abort();
        settling.abort();
        drop(lock);
        edge.drain().await;
        dns.inspect(|dns| dns.abort());
        dns_tcp.inspect(|dns| dns.abort());
        Ok(())
    })
}

async fn stop_signal() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// The descriptors that came with the process; each can be taken once.
struct Inherited {
    fds: Vec<(RawFd, OwnedFd)>,
}

impl Inherited {
    /// Owns `keep`, closes every other descriptor but the standard three.
    fn take(keep: &[RawFd]) -> io::Result<Inherited> {
        let mut sorted = keep.to_vec();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) || sorted.first().is_some_and(|fd| *fd < 3) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a descriptor is named twice or below 3",
            ));
        }
        privileges::close_all_but(&sorted)?;
        let own = |fd: &RawFd| {
            // SAFETY: named once (checked above), handed to this process for this purpose, and owned by nothing else:
            // nothing has been opened by this process yet.
            let owned = unsafe { OwnedFd::from_raw_fd(*fd) };
            fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            Ok((*fd, owned))
        };
        Ok(Inherited {
            fds: keep.iter().map(own).collect::<io::Result<_>>()?,
        })
    }

    fn socket(&mut self, fd: RawFd, kind: SockType) -> io::Result<OwnedFd> {
        let at = self.fds.iter().position(|(number, _)| *number == fd);
        let at = at.ok_or_else(|| io::Error::other(format!("descriptor {fd} was not handed over")))?;
        let (_, owned) = self.fds.swap_remove(at);
        match getsockopt(&owned.as_fd(), sockopt::SockType) {
            Ok(found) if found == kind => Ok(owned),
            _ => Err(io::Error::other(format!(
                "descriptor {fd} is not the kind of socket that it should be"
            ))),
        }
    }
}

fn bound<T>(gateway: Ipv4Addr, port: u16, bind: impl FnOnce(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let address = SocketAddr::from((gateway, port));
    bind(address).map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

/// A resolver that cannot be asked from this host keeps no edge from serving.
fn reach(resolver: SocketAddr) -> Option<HostResolver> {
    HostResolver::at(resolver)
        .inspect_err(|error| tracing::warn!(dns.resolver = %resolver, %error, "a resolver is left out"))
        .ok()
}

fn at(what: &str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}
