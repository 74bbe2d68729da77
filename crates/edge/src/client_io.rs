//! A client's socket that tells its [`Client`] whenever bytes move or cannot.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::joined;

/// Reads first what was read ahead by whoever had the socket before.
pub struct ClientIo {
    stream: TcpStream,
    client: Rc<Client>,
    read_ahead: Bytes,
}

impl ClientIo {
    pub fn new(stream: TcpStream, client: Rc<Client>, read_ahead: Bytes) -> Self {
        ClientIo {
            stream,
            client,
            read_ahead,
        }
    }

    /// Puts bytes back that were read too early.
    pub fn rewind(&mut self, read_ahead: Bytes) {
        debug_assert!(self.read_ahead.is_empty(), "rewound twice");
        self.read_ahead = read_ahead;
    }

    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_read_ready(cx)
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.read_ahead.has_remaining() {
            let take = this.read_ahead.len().min(buf.remaining());
            buf.put_slice(&this.read_ahead.split_to(take));
        } else {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        }
        if buf.filled().len() > before {
            this.client.on_read(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.client.on_write(result.is_pending());
        result
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = joined::poll_write(Pin::new(&mut this.stream), cx, bufs);
        this.client.on_write(result.is_pending());
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
