//! Bodies that are made on a thread while they are sent.

use std::io::{self, BufWriter, Write};

use bytes::Bytes;
use futures_util::stream;
use indicatif::ProgressBar;
use reqwest::Body;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Result, Trouble};

/// Bytes of one piece.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces between the thread and the network. Full: the thread waits.
const PIECES_AHEAD_MAX: usize = 16;

/// The other end of a body: what became of the thread that makes it.
pub struct Producer(oneshot::Receiver<Result<()>>);

/// Runs `write` on a thread of its own and gives what it writes as a body.
pub fn body(bar: ProgressBar, write: impl FnOnce(&mut dyn Write) -> Result<()> + Send + 'static) -> (Body, Producer) {
    let (pieces, receiver) = mpsc::channel(PIECES_AHEAD_MAX);
    let (done, producer) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let pipe = Pipe {
            pieces: pieces.clone(),
            bar,
        };
        let mut out = BufWriter::with_capacity(PIECE_BYTES, pipe);
        let mut result = write(&mut out).and_then(|()| out.flush().map_err(|e| Trouble::failed(e.to_string())));
        if pieces.is_closed() {
            // The answer came early, or the connection broke; that is what there is to tell.
            result = Ok(());
        } else if result.is_err() {
            // A body that ends with an error is never taken for a whole one.
            let _ = pieces.blocking_send(Err(io::Error::other("the sender gave up")));
        }
        let _ = done.send(result);
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    (Body::wrap_stream(pieces), Producer(producer))
}

impl Producer {
    /// The answer, unless the body could not be made: then that is what went wrong. A body that the server did not
    /// want to the end is no fault of ours.
    pub async fn judge<T>(self, answer: Result<T>) -> Result<T> {
        let made = self.0.await.unwrap_or(Ok(()));
        match (answer, made) {
            (Ok(answer), _) => Ok(answer),
            (Err(refused), _) if refused.status.is_some() => Err(refused),
            (Err(_), Err(broken)) => Err(broken),
            (Err(unreachable), Ok(())) => Err(unreachable),
        }
    }
}

/// Hands pieces to the network.
struct Pipe {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    bar: ProgressBar,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(&bytes[..bytes.len().min(PIECE_BYTES)]);
        let size = piece.len();
        self.pieces
            .blocking_send(Ok(piece))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the server has stopped reading"))?;
        self.bar.inc(size as u64);
        Ok(size)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
