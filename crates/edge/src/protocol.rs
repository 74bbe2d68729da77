//! What the control plane and the edge say to each other over `control.sock`: frames of a 32-bit big-endian length and
//! that many bytes of JSON.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use domain::routing::{Receipt, RoutingTable};
use domain::{Behaviour, DeploymentId, InstanceId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

/// Changes when an older peer could no longer understand.
pub const VERSION: u32 = 1;

/// Most bytes of one frame.
pub const MAX_FRAME: u32 = 64 << 20;

/// The name of the socket in the edge's directory.
pub const SOCKET: &str = "control.sock";

/// Requests in flight per instance that is no longer in the table. Not named: none.
pub type Busy = BTreeMap<InstanceId, u64>;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToEdge {
    /// First on every connection.
    Hello {
        version: u32,
    },
    /// Serve by this table. Answered with [`FromEdge::Ack`] or [`FromEdge::Refused`]; of several that wait, only the
    /// newest is.
    Table(RoutingTable),
    /// The drain deadline of these has passed: cut what is still with them.
    CloseBusy {
        instances: Vec<InstanceId>,
    },
    /// Hand me your listening sockets: answered with [`FromEdge::Sockets`], the descriptors beside it.
    HandOver,
    Status,
    /// Receipts and behaviours that changed since the last report on this connection, now.
    Receipts,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromEdge {
    /// First on every connection. `epoch` is that of the table that is served and kept.
    Hello {
        version: u32,
        edge_boot: Uuid,
        epoch: u64,
        pid: u32,
        busy: Busy,
    },
    /// The table of this epoch is served by every worker, and a restart begins from it.
    Ack {
        epoch: u64,
        busy: Busy,
    },
    /// The table of this epoch is not the one that is served and kept, and why.
    Refused {
        epoch: u64,
        reason: String,
    },
    /// Sent when one of the instances that left has become idle.
    Busy {
        busy: Busy,
    },
    /// Cumulative since `edge_boot`; those that changed since the last report on this connection.
    Receipts {
        edge_boot: Uuid,
        receipts: Vec<(DeploymentId, Receipt)>,
        #[serde(default)]
        behaviours: Vec<(DeploymentId, Behaviour)>,
    },
    /// As many descriptors come with it, in this order.
    Sockets(Vec<SocketRole>),
    Status(Status),
}

/// What a handed-over socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketRole {
    Public(SocketAddr),
    Internal(SocketAddr),
    Dns(SocketAddr),
    DnsTcp(SocketAddr),
}

impl SocketRole {
    /// Whether this is a public listener at `wanted`, any port for port 0.
    pub fn listens_at(&self, wanted: &SocketAddr) -> bool {
        match self {
            SocketRole::Public(at) => at.ip() == wanted.ip() && (wanted.port() == 0 || at.port() == wanted.port()),
            SocketRole::Internal(_) | SocketRole::Dns(_) | SocketRole::DnsTcp(_) => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub edge_boot: Uuid,
    pub pid: u32,
    pub epoch: u64,
    pub connections: usize,
    /// Requests that wait for a target.
    #[serde(default)]
    pub held: usize,
    pub workers: usize,
    pub instances: usize,
}

/// Reads one frame.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] at the end; [`io::ErrorKind::InvalidData`] for what is no frame of ours.
pub async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let len = stream.read_u32().await?;
    if len > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {len} bytes is too long"),
        ));
    }
    // Grows as bytes arrive: a length alone reserves nothing.
    let mut bytes = Vec::new();
    stream.take(u64::from(len)).read_to_end(&mut bytes).await?;
    if bytes.len() < len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&bytes)?)
}

/// Writes one frame.
///
/// # Errors
/// As the socket says; [`io::ErrorKind::InvalidInput`] when the message is too long.
pub async fn write<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), message: &T) -> io::Result<()> {
    stream.write_all(&encode(message)?).await
}

/// A whole frame.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let len = u32::try_from(frame.len() - 4).ok().filter(|len| *len <= MAX_FRAME);
    let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the message is too long for a frame"))?;
    frame[..4].copy_from_slice(&len.to_be_bytes());
    Ok(frame)
}
