//! Keeping an edge running: adopt the one that runs, start one where none does, and again at once when it dies.

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::args::EdgeArgs;
use crate::edge_client::{hand_over, running_edge};
use crate::process::EXIT_LOCKED;
use crate::protocol::SocketRole;

/// An edge that lived shorter than this died quickly.
const QUICK: Duration = Duration::from_secs(2);
/// Quick deaths in a row that are answered at once.
const PATIENT_DEATHS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a started edge is asked for its sockets until it answers.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How long an edge that is to make room may take to let go of its directory.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(5);

/// How to start an edge.
#[derive(Debug, Clone)]
pub struct EdgeCommand {
    /// The program, and its arguments before those of the edge: `hob`, `["edge"]`.
    pub program: PathBuf,
    pub leading: Vec<OsString>,
    /// Where users' traffic comes in. Port 0: any, the same again after a restart of the edge.
    pub listen: Vec<SocketAddr>,
    /// Everything else. The descriptors in it are filled in at the start.
    pub args: EdgeArgs,
}

/// Duplicates of the edge's sockets, in the order in which they are handed on. While somebody holds them, connections
/// queue up instead of being refused.
#[derive(Debug, Default)]
pub struct HeldSockets {
    sockets: Vec<(SocketRole, OwnedFd)>,
}

impl HeldSockets {
    /// Binds the public listeners, but for those that are among these already; the rest of these is let go.
    ///
    /// # Errors
    /// Names the address that cannot be bound.
    pub fn bind(mut self, listen: &[SocketAddr]) -> io::Result<HeldSockets> {
        let bind = |address: &SocketAddr| {
            let held = self.sockets.iter().position(|(role, _)| role.listens_at(address));
            if let Some(held) = held {
                return Ok(self.sockets.swap_remove(held));
            }
            let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
            let listener = TcpListener::bind(address).map_err(named)?;
            Ok((SocketRole::Public(listener.local_addr()?), OwnedFd::from(listener)))
        };
        Ok(HeldSockets {
            sockets: listen.iter().map(bind).collect::<io::Result<_>>()?,
        })
    }

    /// Where users' traffic comes in, ports as they were chosen.
    pub fn public(&self) -> Vec<SocketAddr> {
        let address = |(role, _): &(SocketRole, OwnedFd)| match role {
            SocketRole::Public(address) => Some(*address),
            SocketRole::Internal(_) | SocketRole::Dns(_) | SocketRole::DnsTcp(_) => None,
        };
        self.sockets.iter().filter_map(address).collect()
    }

    /// Whether these listen where `wanted` says (any port for port 0).
    fn serve(&self, wanted: &[SocketAddr]) -> bool {
        let public: Vec<_> = self
            .sockets
            .iter()
            .filter(|(role, _)| matches!(role, SocketRole::Public(_)))
            .map(|(role, _)| role)
            .collect();
        public.len() == wanted.len() && public.iter().zip(wanted).all(|(role, wanted)| role.listens_at(wanted))
    }
}

impl EdgeCommand {
    /// Starts an edge on these sockets. It is a session of its own: neither a signal to the control plane's process
    /// group nor the control plane's death reaches it.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, held: &HeldSockets) -> io::Result<Child> {
        let mut args = self.args.clone();
        args.public_fds.clear();
        (args.internal_fd, args.dns_fd, args.dns_tcp_fd) = (None, None, None);
        for (role, socket) in &held.sockets {
            let fd = socket.as_raw_fd();
            match role {
                SocketRole::Public(_) => args.public_fds.push(fd),
                SocketRole::Internal(_) => args.internal_fd = Some(fd),
                SocketRole::Dns(_) => args.dns_fd = Some(fd),
                SocketRole::DnsTcp(_) => args.dns_tcp_fd = Some(fd),
            }
        }
        let inherit: Vec<_> = held.sockets.iter().map(|(_, socket)| socket.as_raw_fd()).collect();
        let mut command = Command::new(&self.program);
        command.args(&self.leading).args(args.to_args()).stdin(Stdio::null());
        // SAFETY: setsid and fcntl may be called between fork and exec; the closure allocates nothing.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::setsid()?;
                for fd in &inherit {
                    if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        command.spawn()
    }
}

/// What the supervisor is about, for a log or a status page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supervision {
    /// Where users' traffic comes in, once it does.
    pub public: Vec<SocketAddr>,
    pub pid: Option<i32>,
    /// Times that an edge was started by this supervisor.
    pub starts: u32,
    /// The edge that runs was there before this supervisor.
    pub adopted: bool,
}

/// Keeps one edge running until the future is dropped, which leaves the edge alone.
///
/// # Expected flow
/// A running edge is asked for its sockets and adopted, unless it listens elsewhere than it should: then it is asked to
/// make room. Otherwise the listeners are bound here and an edge is started on them. Either way its process is watched
/// by a pidfd, and its sockets are held, so that from a death to the next start nothing is refused; connections wait in
/// the queue.
///
/// # Errors
/// When the listeners cannot be bound. Later troubles are logged and tried again.
pub async fn supervise(command: EdgeCommand, report: watch::Sender<Supervision>) -> io::Result<()> {
    let mut quick_deaths = 0u32;
    let (edge, mut held) = adopt(&command).await;
    if let Some(edge) = edge {
        let pid = edge.pid;
        report.send_modify(|report| {
            *report = Supervision {
                public: held.public(),
                pid: Some(pid),
                adopted: true,
                ..report.clone()
            };
        });
        tracing::info!(edge.pid = pid, "adopted the running edge");
        edge.ended().await;
        tracing::warn!(edge.pid = pid, "the edge has ended; starting another one");
    }
    if !held.serve(&command.listen) {
        held = held.bind(&command.listen)?;
    }
    loop {
        let began = Instant::now();
        match Watched::start(&command, &held) {
            Ok(edge) => {
                let pid = edge.pid;
                report.send_modify(|report| {
                    let starts = report.starts + 1;
                    *report = Supervision {
                        public: held.public(),
                        pid: Some(pid),
                        starts,
                        adopted: false,
                    };
                });
                hold_all(&command, edge, &mut held).await;
            }
            Err(error) => tracing::error!(error = %error, "the edge cannot be started; trying again"),
        }
        report.send_modify(|report| report.pid = None);
        quick_deaths = if began.elapsed() < QUICK { quick_deaths + 1 } else { 0 };
        if let Some(excess) = quick_deaths.checked_sub(PATIENT_DEATHS) {
            tokio::time::sleep(LONGEST_PAUSE.min(FIRST_PAUSE * 2u32.pow(excess.min(8)))).await;
        }
    }
}

/// Ends the edge of a directory, for good: it finishes what is in flight first, up to its limit. Whoever supervises it
/// must have been stopped before, or starts another one.
///
/// # Errors
/// When no edge runs there.
pub async fn stop(dir: &Path) -> io::Result<()> {
    let edge = Watched::of(running_edge(dir).await?, None)?;
    edge.signal(libc::SIGTERM);
    edge.ended().await;
    Ok(())
}

/// Watches an edge to its end; on the way it takes duplicates of the sockets that the edge made itself.
async fn hold_all(command: &EdgeCommand, edge: Watched, held: &mut HeldSockets) {
    let makes_its_own = command.args.gateway.is_some() && held.sockets.len() == held.public().len();
    let pid = edge.pid;
    let mut ended = std::pin::pin!(edge.ended());
    let mut collected = !makes_its_own;
    while !collected {
        tokio::select! {
            () = &mut ended => break,
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
        let is_it = running_edge(&command.args.dir)
            .await
            .is_ok_and(|running| running == pid);
        if is_it && let Ok(sockets) = hand_over(&command.args.dir).await {
            *held = HeldSockets { sockets };
            collected = true;
        }
    }
    if collected {
        ended.await;
    }
    tracing::warn!(edge.pid = pid, "the edge has ended; starting another one");
}

/// The edge that runs already, if it serves where it should, and its sockets, be it adopted or not.
async fn adopt(command: &EdgeCommand) -> (Option<Watched>, HeldSockets) {
    let running = running_edge(&command.args.dir).await;
    let Some(edge) = running.ok().and_then(|pid| Watched::of(pid, None).ok()) else {
        return (None, HeldSockets::default());
    };
    let held = match hand_over(&command.args.dir).await {
        Ok(sockets) => HeldSockets { sockets },
        Err(error) => {
            tracing::warn!(edge.pid = edge.pid, error = %error, "the running edge does not answer; it is replaced");
            HeldSockets::default()
        }
    };
    if held.serve(&command.listen) && !held.sockets.is_empty() {
        return (Some(edge), held);
    }
    tracing::info!(edge.pid = edge.pid, "the running edge makes room for another one");
    make_room(edge).await;
    (None, held)
}

/// Ends an edge: politely first, in which case it goes on finishing its requests after it has let go of the directory.
async fn make_room(edge: Watched) {
    edge.signal(libc::SIGTERM);
    let pid = edge.pid;
    let ended = tokio::time::timeout(HANDOVER_PATIENCE, edge.ended()).await;
    if ended.is_err() {
        tracing::warn!(edge.pid = pid, "the old edge still finishes its requests");
    }
}

/// A process watched by its pidfd: no other process can be taken for it.
struct Watched {
    pid: i32,
    pidfd: AsyncFd<OwnedFd>,
    /// There when it is our own child, to be reaped.
    child: Option<Child>,
}

impl Watched {
    fn start(command: &EdgeCommand, held: &HeldSockets) -> io::Result<Watched> {
        let child = command.spawn(held)?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        Watched::of(pid, Some(child))
    }

    fn of(pid: i32, child: Option<Child>) -> io::Result<Watched> {
        // SAFETY: takes numbers, returns a new descriptor that nothing else owns.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an `OwnedFd` is one descriptor for all of its life.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok(Watched { pid, pidfd, child })
    }

    fn signal(&self, signal: i32) {
        let pidfd = self.pidfd.get_ref().as_fd().as_raw_fd();
        // SAFETY: takes numbers and a null pointer, which means default information.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, 0, 0) };
        if result != 0 {
            tracing::debug!(edge.pid = self.pid, error = %io::Error::last_os_error(), "cannot signal the edge");
        }
    }

    /// Returns when the process has ended.
    async fn ended(mut self) {
        // The only error is a runtime that shuts down, and then nobody waits any more.
        let _ = self.pidfd.readable().await;
        let status = self.child.as_mut().map(Child::wait);
        if let Some(Ok(status)) = status
            && status.code() == Some(i32::from(EXIT_LOCKED))
        {
            tracing::error!(edge.pid = self.pid, "another edge holds the directory");
        }
    }
}
