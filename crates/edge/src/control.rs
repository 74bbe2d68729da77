//! The edge's end of the control socket. Level-triggered: every connection is told the newest state, never a backlog.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use domain::DeploymentId;
use domain::routing::Receipt;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

use crate::edge::Edge;
use crate::protocol::{self, Busy, FromEdge, ToEdge};

/// How often changing receipts are reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Messages of one peer that may wait for us before the peer waits.
const INBOX: usize = 4;

/// Most control connections at once. The control plane needs one, and another for a moment to be handed the sockets.
const MAX_PEERS: usize = 16;

/// Makes the control socket, in place of one that a dead edge left behind. The caller holds the directory's lock.
///
/// # Errors
/// As the file system says.
pub fn bind(dir: &Path) -> io::Result<StdUnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(protocol::SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdUnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What changes without being asked for.
struct News {
    busy: watch::Sender<Busy>,
    /// Rung when something was counted.
    counted: watch::Sender<()>,
}

/// Serves the control socket for as long as the edge runs. Only `owner` and root are listened to.
pub async fn serve(edge: Rc<Edge>, listener: StdUnixListener, owner: u32) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let news = Rc::new(News {
        busy: watch::Sender::default(),
        counted: watch::Sender::default(),
    });
    spawn_local(watch_busy(Rc::clone(&edge), Rc::clone(&news)));
    spawn_local(watch_books(Rc::clone(&edge), Rc::clone(&news)));
    let peers = Rc::new(());
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = %error, "cannot accept on the control socket; trying again in a moment");
                tokio::time::sleep(REPORT_EVERY).await;
                continue;
            }
        };
        let known = stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == owner);
        if !known || Rc::strong_count(&peers) > MAX_PEERS {
            tracing::warn!("a connection to the control socket was turned away");
            continue;
        }
        let (edge, news, peer) = (Rc::clone(&edge), Rc::clone(&news), Rc::clone(&peers));
        spawn_local(async move {
            if let Err(error) = converse(&edge, &news, stream).await
                && error.kind() != io::ErrorKind::UnexpectedEof
            {
                tracing::warn!(error = %error, "the control connection broke");
            }
            drop(peer);
        });
    }
}

async fn watch_busy(edge: Rc<Edge>, news: Rc<News>) {
    loop {
        edge.idle().notified().await;
        news.busy.send_replace(edge.busy());
    }
}

async fn watch_books(edge: Rc<Edge>, news: Rc<News>) {
    loop {
        edge.books.dirty().wait().await;
        tokio::time::sleep(REPORT_EVERY).await;
        edge.books.dirty().clear();
        news.counted.send_replace(());
    }
}

/// One peer, from its hello to its end.
async fn converse(edge: &Edge, news: &News, stream: UnixStream) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let version = match protocol::read::<ToEdge>(&mut reader).await? {
        ToEdge::Hello { version } => version,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the first message was no hello",
            ));
        }
    };
    let mut settled = edge.settled();
    let mut busy = news.busy.subscribe();
    let mut counted = news.counted.subscribe();
    let epoch = settled.borrow_and_update().epoch;
    let hello = FromEdge::Hello {
        version: protocol::VERSION,
        edge_boot: edge.boot,
        epoch,
        pid: std::process::id(),
        busy: edge.busy(),
    };
    protocol::write(&mut writer, &hello).await?;
    if version != protocol::VERSION {
        return Err(io::Error::other(format!(
            "the peer speaks version {version}, not {}",
            protocol::VERSION
        )));
    }
    let (inbox, mut messages) = mpsc::channel(INBOX);
    let pump = spawn_local(pump(reader, inbox));
    let mut reported = Reported::default();
    report(edge, &mut reported, &mut writer).await?;
    loop {
        let answer = tokio::select! {
            message = messages.recv() => match message {
                None => return pump.await.unwrap_or_else(|join| Err(io::Error::other(join))),
                Some(ToEdge::Table(table)) => {
                    let epoch = table.epoch;
                    match edge.want(table) {
                        Err(reason) => Some(FromEdge::Refused { epoch, reason }),
                        Ok(()) if edge.status().epoch == epoch => Some(FromEdge::Ack { epoch, busy: edge.busy() }),
                        Ok(()) => None,
                    }
                }
                Some(ToEdge::CloseBusy { instances }) => {
                    edge.close_busy(instances).await;
                    None
                }
                Some(ToEdge::HandOver) => {
                    hand_over(edge, &mut writer).await?;
                    None
                }
                Some(ToEdge::Status) => Some(FromEdge::Status(edge.status())),
                Some(ToEdge::Receipts) => {
                    report(edge, &mut reported, &mut writer).await?;
                    None
                }
                Some(ToEdge::Hello { .. }) => None,
            },
            Ok(()) = settled.changed() => {
                let now = settled.borrow_and_update().clone();
                Some(match now.refused {
                    Some((epoch, reason)) => FromEdge::Refused { epoch, reason },
                    None => FromEdge::Ack { epoch: now.epoch, busy: edge.busy() },
                })
            }
            Ok(()) = busy.changed() => {
                let busy = busy.borrow_and_update().clone();
                Some(FromEdge::Busy { busy })
            }
            Ok(()) = counted.changed() => {
                counted.mark_unchanged();
                report(edge, &mut reported, &mut writer).await?;
                None
            }
        };
        if let Some(answer) = answer {
            protocol::write(&mut writer, &answer).await?;
        }
    }
}

/// Reads frames whole, so that nothing is lost when the conversation looks elsewhere.
async fn pump(mut reader: OwnedReadHalf, inbox: mpsc::Sender<ToEdge>) -> io::Result<()> {
    loop {
        let message = protocol::read(&mut reader).await?;
        if inbox.send(message).await.is_err() {
            return Ok(());
        }
    }
}

/// What one peer has been told.
#[derive(Default)]
struct Reported {
    receipts: HashMap<DeploymentId, Receipt>,
    /// Requests and failures of each behaviour: it does not change without one of them.
    behaviours: HashMap<DeploymentId, (u64, u64)>,
}

/// Reports the receipts and behaviours that differ from `reported`.
async fn report(
    edge: &Edge,
    reported: &mut Reported,
    writer: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> io::Result<()> {
    let now = edge.books.receipts();
    let changed = now
        .iter()
        .filter(|(id, receipt)| reported.receipts.get(id) != Some(receipt));
    let receipts = changed.map(|(id, receipt)| (*id, *receipt)).collect();
    reported.receipts = now;
    let mut behaviours: Vec<_> = edge.books.behaviours().into_iter().collect();
    let told: HashMap<_, _> = behaviours
        .iter()
        .map(|(id, behaviour)| (*id, (behaviour.requests, behaviour.failed)))
        .collect();
    behaviours.retain(|(id, _)| reported.behaviours.get(id) != told.get(id));
    reported.behaviours = told;
    let edge_boot = edge.boot;
    let frame = FromEdge::Receipts {
        edge_boot,
        receipts,
        behaviours,
    };
    protocol::write(writer, &frame).await
}

/// Sends the listening sockets beside a frame that says what they are.
async fn hand_over(edge: &Edge, writer: &mut tokio::net::unix::OwnedWriteHalf) -> io::Result<()> {
    let duplicates = edge.sockets().duplicates()?;
    let (roles, sockets): (Vec<_>, Vec<_>) = duplicates.into_iter().unzip();
    let frame = protocol::encode(&FromEdge::Sockets(roles))?;
    let fds: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    let stream: &UnixStream = writer.as_ref();
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            let rights = [ControlMessage::ScmRights(&fds)];
            let parts = [io::IoSlice::new(&frame)];
            Ok(sendmsg::<()>(
                stream.as_raw_fd(),
                &parts,
                &rights,
                MsgFlags::MSG_NOSIGNAL,
                None,
            )?)
        })
        .await?;
    tokio::io::AsyncWriteExt::write_all(writer, &frame[sent..]).await
}
