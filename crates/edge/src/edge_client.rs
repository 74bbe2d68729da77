//! The control plane's end of the control socket: publish the newest table, see what became of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::routing::{self, Receipt, RoutingTable};
use domain::{Behaviour, DeploymentId, InstanceId};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use uuid::Uuid;

use crate::behaviours::Behaviours;
use crate::protocol::{self, Busy, FromEdge, MAX_FRAME, SOCKET, SocketRole, Status, ToEdge};

/// How long until the next try to reach an edge that is not there. It is on the way of every restart of the edge.
const RECONNECT_EVERY: Duration = Duration::from_millis(20);

/// Longest answer to a question that is asked on a connection of its own.
const PATIENCE: Duration = Duration::from_secs(5);

/// Frames that may wait for the client.
const INBOX: usize = 16;

/// Edges whose receipts are kept: the running one and those before it, for a reader that is late.
const MAX_BOOTS: usize = 8;

/// Most sockets in one hand-over.
const MAX_SOCKETS: usize = 64;

/// What the control plane knows of its edge. Level-triggered: always the newest, steps in between may be left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EdgeView {
    pub connected: bool,
    /// Which run of the edge the rest is about; stays while it cannot be reached.
    pub boot: Option<Uuid>,
    pub pid: Option<u32>,
    /// Served by every worker of the edge, and on its disk. A table that is to be served next needs a greater epoch,
    /// also for a control plane that has lost its own count.
    pub acked_epoch: u64,
    /// As of an epoch that is acknowledged: requests in flight per instance that is not in the table any more. Not
    /// named: none.
    pub busy: HashMap<InstanceId, u64>,
    /// The newest published table was refused, and why.
    pub refused: Option<(u64, String)>,
}

impl From<&EdgeView> for routing::EdgeView {
    fn from(view: &EdgeView) -> Self {
        routing::EdgeView {
            connected: view.connected,
            boot: view.boot,
            acked_epoch: view.acked_epoch,
            busy: view.busy.iter().map(|(id, count)| (*id, *count)).collect(),
        }
    }
}

/// Receipts by the run of the edge that counted them, oldest run first. Within a run they are cumulative, so a reader
/// keeps, for each run and deployment, the last it saw, and adds over the runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Receipts {
    pub by_boot: Vec<(Uuid, HashMap<DeploymentId, Receipt>)>,
}

impl Receipts {
    /// A deployment's sum over the runs that are kept here.
    pub fn sum(&self, deployment: DeploymentId) -> Receipt {
        let found = self
            .by_boot
            .iter()
            .filter_map(|(_, receipts)| receipts.get(&deployment));
        found.fold(Receipt::default(), |sum, receipt| sum.plus(*receipt))
    }

    /// Says whether that changed anything.
    fn merge(&mut self, boot: Uuid, receipts: Vec<(DeploymentId, Receipt)>) -> bool {
        let is_news = !receipts.is_empty() || self.by_boot.last().is_none_or(|(last, _)| *last != boot);
        if self.by_boot.last().is_none_or(|(last, _)| *last != boot) {
            self.by_boot.push((boot, HashMap::new()));
            let excess = self.by_boot.len().saturating_sub(MAX_BOOTS);
            self.by_boot.drain(..excess);
        }
        if let Some((_, kept)) = self.by_boot.last_mut() {
            kept.extend(receipts);
        }
        is_news
    }
}

/// Talks to the edge of one directory, for as long as any clone of it lives. Connects by itself, again and again.
#[derive(Clone)]
pub struct EdgeClient {
    dir: Arc<PathBuf>,
    wanted: Arc<watch::Sender<Option<Arc<RoutingTable>>>>,
    to_cut: Arc<watch::Sender<Cuts>>,
    receipts_asked: Arc<watch::Sender<u64>>,
    view: watch::Receiver<EdgeView>,
    receipts: watch::Receiver<Receipts>,
    behaviours: Arc<Behaviours>,
}

impl EdgeClient {
    /// Starts the client's task on the current tokio runtime.
    pub fn new(dir: PathBuf) -> EdgeClient {
        let (view_tx, view) = watch::channel(EdgeView::default());
        let (receipts_tx, receipts) = watch::channel(Receipts::default());
        let client = EdgeClient {
            dir: Arc::new(dir),
            wanted: Arc::new(watch::Sender::default()),
            to_cut: Arc::new(watch::Sender::default()),
            receipts_asked: Arc::new(watch::Sender::default()),
            view,
            receipts,
            behaviours: Arc::default(),
        };
        let link = Link {
            dir: Arc::clone(&client.dir),
            wanted: client.wanted.subscribe(),
            to_cut: Arc::clone(&client.to_cut),
            receipts_asked: client.receipts_asked.subscribe(),
            view: view_tx,
            receipts: receipts_tx,
            behaviours: Arc::clone(&client.behaviours),
        };
        tokio::spawn(link.run());
        client
    }

    /// Has `table` served; of several, only the newest is kept. Ignored when it is not newer than the last.
    pub fn publish(&self, table: RoutingTable) {
        self.behaviours.forget_all_but(&table);
        self.wanted.send_if_modified(|wanted| {
            let newer = wanted.as_ref().is_none_or(|wanted| table.epoch > wanted.epoch);
            if newer {
                *wanted = Some(Arc::new(table));
            }
            newer
        });
    }

    pub fn watch(&self) -> watch::Receiver<EdgeView> {
        self.view.clone()
    }

    /// [`EdgeClient::watch`] in the reconciler's terms, which changes only where those do.
    pub fn routing_view(&self) -> watch::Receiver<routing::EdgeView> {
        let mut source = self.watch();
        let (sender, receiver) = watch::channel(routing::EdgeView::from(&*source.borrow()));
        tokio::spawn(async move {
            while source.changed().await.is_ok() {
                let view = routing::EdgeView::from(&*source.borrow_and_update());
                sender.send_if_modified(|known| std::mem::replace(known, view.clone()) != view);
            }
        });
        receiver
    }

    pub fn receipts(&self) -> watch::Receiver<Receipts> {
        self.receipts.clone()
    }

    /// What this client has heard of a deployment since it was made, over all runs of the edge; it only grows, unless the
    /// deployment has been out of every table for long.
    pub fn behaviour(&self, deployment: DeploymentId) -> Behaviour {
        self.behaviours.sum(deployment)
    }

    /// What the run of now has counted of a deployment, for a record by run; `None` for another run.
    pub fn behaviour_of_run(&self, boot: Uuid, deployment: DeploymentId) -> Option<Behaviour> {
        self.behaviours.of_run(boot, deployment)
    }

    /// Asks for the receipts and behaviours of this moment; they arrive at [`EdgeClient::receipts`] and
    /// [`EdgeClient::behaviour`].
    pub fn ask_receipts(&self) {
        self.receipts_asked.send_modify(|asked| *asked += 1);
    }

    /// The drain deadline of these instances has passed: what is still with them is cut, as soon as the edge can be
    /// told. Has no effect on those that are in the edge's table.
    pub fn close_busy(&self, instances: impl IntoIterator<Item = InstanceId>) {
        let newest = self.wanted.borrow().as_ref().map_or(0, |table| table.epoch);
        self.to_cut
            .send_modify(|cuts| cuts.extend(instances.into_iter().map(|instance| (instance, newest))));
    }

    /// Duplicates of the edge's sockets.
    ///
    /// # Errors
    /// When there is no edge, or it does not answer in time.
    pub async fn hand_over(&self) -> io::Result<Vec<(SocketRole, OwnedFd)>> {
        hand_over(&self.dir).await
    }

    /// # Errors
    /// When there is no edge, or it does not answer in time.
    pub async fn status(&self) -> io::Result<Status> {
        in_time(async {
            let mut stream = greet(&self.dir).await?;
            protocol::write(&mut stream, &ToEdge::Status).await?;
            loop {
                if let FromEdge::Status(status) = protocol::read(&mut stream).await? {
                    return Ok(status);
                }
            }
        })
        .await
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn greet(dir: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(dir.join(SOCKET)).await?;
    protocol::write(
        &mut stream,
        &ToEdge::Hello {
            version: protocol::VERSION,
        },
    )
    .await?;
    Ok(stream)
}

/// The process that listens on the control socket, as the kernel says.
pub async fn running_edge(dir: &Path) -> io::Result<i32> {
    let stream = UnixStream::connect(dir.join(SOCKET)).await?;
    stream
        .peer_cred()?
        .pid()
        .ok_or_else(|| io::Error::other("the edge is in another pid namespace"))
}

/// Instances to cut, with the newest epoch that was published when that was asked for. Kept until the edge reports them
/// idle, so that a new connection says it again.
type Cuts = BTreeMap<InstanceId, u64>;

/// The client's task.
struct Link {
    dir: Arc<PathBuf>,
    wanted: watch::Receiver<Option<Arc<RoutingTable>>>,
    to_cut: Arc<watch::Sender<Cuts>>,
    receipts_asked: watch::Receiver<u64>,
    view: watch::Sender<EdgeView>,
    receipts: watch::Sender<Receipts>,
    behaviours: Arc<Behaviours>,
}

impl Link {
    /// Ends when the last [`EdgeClient`] is gone.
    async fn run(mut self) {
        while self.wanted.has_changed().is_ok() {
            match greet(&self.dir).await {
                Ok(stream) => {
                    let ended = self.converse(stream).await;
                    self.view.send_modify(|view| view.connected = false);
                    match ended {
                        Ok(()) => return,
                        Err(error) => tracing::info!(error = %error, "the edge's control connection ended"),
                    }
                }
                Err(error) => tracing::trace!(error = %error, "the edge is not there yet"),
            }
            tokio::time::sleep(RECONNECT_EVERY).await;
        }
    }

    /// One connection. `Ok` when nobody needs it any more.
    async fn converse(&mut self, stream: UnixStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let (inbox, mut frames) = mpsc::channel(INBOX);
        let pump = tokio::spawn(pump(reader, inbox));
        let lost = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let hello = frames.recv().await.ok_or_else(lost)?;
        self.take(hello)?;
        let mut published = 0;
        let mut to_cut = self.to_cut.subscribe();
        let mut told_to_cut = BTreeSet::new();
        loop {
            // Whatever is newer than what the edge has is sent once per connection; the answer may be late or never.
            let next = self.wanted.borrow_and_update().clone();
            let next = next.filter(|table| table.epoch > self.view.borrow().acked_epoch.max(published));
            if let Some(table) = next {
                published = table.epoch;
                protocol::write(&mut writer, &ToEdgeRef::Table(&table)).await?;
            }
            to_cut.mark_unchanged();
            let due = self.due_cuts();
            if !due.is_subset(&told_to_cut) {
                let instances = due.iter().copied().collect();
                protocol::write(&mut writer, &ToEdge::CloseBusy { instances }).await?;
            }
            told_to_cut = due;
            tokio::select! {
                frame = frames.recv() => match frame {
                    Some(frame) => self.take(frame)?,
                    None => return Err(pump.await.unwrap_or_else(io::Error::other)),
                },
                changed = self.wanted.changed() => if changed.is_err() { return Ok(()) },
                Ok(()) = to_cut.changed() => {}
                Ok(()) = self.receipts_asked.changed() => {
                    self.receipts_asked.mark_unchanged();
                    protocol::write(&mut writer, &ToEdge::Receipts).await?;
                }
            }
        }
    }

    fn take(&mut self, frame: FromEdge) -> io::Result<()> {
        match frame {
            FromEdge::Hello {
                version,
                edge_boot,
                epoch,
                pid,
                busy,
            } => {
                if version != protocol::VERSION {
                    return Err(io::Error::other(format!("the edge speaks version {version}")));
                }
                self.settled(epoch, &busy);
                let busy = busy.into_iter().collect();
                let (boot, pid) = (Some(edge_boot), Some(pid));
                let view = EdgeView {
                    connected: true,
                    boot,
                    pid,
                    acked_epoch: epoch,
                    busy,
                    refused: None,
                };
                self.view.send_replace(view);
            }
            FromEdge::Ack { epoch, busy } => {
                self.settled(epoch, &busy);
                self.view.send_modify(|view| {
                    view.acked_epoch = epoch;
                    view.busy = busy.into_iter().collect();
                    view.refused = None;
                });
            }
            FromEdge::Refused { epoch, reason } => {
                tracing::warn!(epoch, reason, "the edge refused a routing table");
                self.view.send_modify(|view| view.refused = Some((epoch, reason)));
            }
            FromEdge::Busy { busy } => {
                self.settled(self.view.borrow().acked_epoch, &busy);
                self.view.send_modify(|view| view.busy = busy.into_iter().collect());
            }
            FromEdge::Receipts {
                edge_boot,
                receipts,
                behaviours,
            } => {
                self.behaviours.merge(edge_boot, behaviours);
                self.receipts.send_if_modified(|kept| kept.merge(edge_boot, receipts));
            }
            FromEdge::Sockets(_) | FromEdge::Status(_) => {}
        }
        Ok(())
    }

    /// Whoever is not busy in the table that was the newest one then, or in a later one, needs not be cut.
    fn settled(&self, acked_epoch: u64, busy: &Busy) {
        self.to_cut.send_if_modified(|cuts| {
            cuts.retain(|instance, asked_at| *asked_at > acked_epoch || busy.contains_key(instance));
            false
        });
    }

    /// Those that the edge says are busy, in a table that is not older than the wish: before that it would take them for
    /// routed, and do nothing.
    fn due_cuts(&self) -> BTreeSet<InstanceId> {
        let view = self.view.borrow();
        let cuts = self.to_cut.borrow();
        let due = cuts
            .iter()
            .filter(|(instance, asked_at)| **asked_at <= view.acked_epoch && view.busy.contains_key(*instance));
        due.map(|(instance, _)| *instance).collect()
    }
}

/// As [`ToEdge::Table`], without a copy of the table.
#[derive(serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum ToEdgeRef<'a> {
    Table(&'a RoutingTable),
}

async fn pump(mut reader: OwnedReadHalf, inbox: mpsc::Sender<FromEdge>) -> io::Error {
    loop {
        match protocol::read(&mut reader).await {
            Ok(frame) => {
                if inbox.send(frame).await.is_err() {
                    return io::ErrorKind::UnexpectedEof.into();
                }
            }
            Err(error) => return error,
        }
    }
}

/// Asks the edge of `dir` for its sockets, on a connection of its own: descriptors travel with bytes, and a reader that
/// does not expect them would drop them.
pub async fn hand_over(dir: &Path) -> io::Result<Vec<(SocketRole, OwnedFd)>> {
    in_time(async {
        let mut stream = greet(dir).await?;
        protocol::write(&mut stream, &ToEdge::HandOver).await?;
        let mut received = Received::default();
        loop {
            if let Some(FromEdge::Sockets(roles)) = received.next_frame()? {
                if roles.len() != received.sockets.len() {
                    return Err(io::Error::other("the edge sent other sockets than it said"));
                }
                return Ok(roles.into_iter().zip(received.sockets).collect());
            }
            received.read(&stream).await?;
        }
    })
    .await
}

/// Bytes and descriptors as they come.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    sockets: Vec<OwnedFd>,
}

impl Received {
    /// The next whole frame that has arrived; frames of no interest are taken away.
    fn next_frame(&mut self) -> io::Result<Option<FromEdge>> {
        while let Some(head) = self.bytes.first_chunk::<4>() {
            let len = u32::from_be_bytes(*head);
            if len > MAX_FRAME {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let end = 4 + len as usize;
            if self.bytes.len() < end {
                return Ok(None);
            }
            let frame: FromEdge = serde_json::from_slice(&self.bytes[4..end])?;
            self.bytes.drain(..end);
            if matches!(frame, FromEdge::Sockets(_)) {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    async fn read(&mut self, stream: &UnixStream) -> io::Result<()> {
        let mut chunk = [0; 4096];
        let (len, fds) = stream
            .async_io(Interest::READABLE, || receive(stream.as_raw_fd(), &mut chunk))
            .await?;
        self.sockets.extend(fds);
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.extend_from_slice(&chunk[..len]);
        Ok(())
    }
}

fn receive(from: RawFd, chunk: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; MAX_SOCKETS]);
    let mut parts = [io::IoSliceMut::new(chunk)];
    let message = recvmsg::<()>(from, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut sockets = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just made these descriptors for us; nothing else owns them.
            sockets.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, sockets))
}
