//! Names by TCP, where an answer does not fit into a datagram. Messages with their length before them (RFC 7766).

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::dns::Resolver;

/// Most connections at once; further ones are closed.
const MAX_CONNECTIONS: usize = 128;
/// How long a connection may be idle, or take for a message in either direction.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest question that is read.
const MAX_QUESTION: usize = 4096;

/// Answers on one listener for as long as the edge runs.
pub async fn serve(resolver: Rc<Resolver>, listener: StdTcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let connections = Rc::new(());
    loop {
        match listener.accept().await {
            Ok((stream, _)) if Rc::strong_count(&connections) <= MAX_CONNECTIONS => {
                let (resolver, connection) = (Rc::clone(&resolver), Rc::clone(&connections));
                spawn_local(async move {
                    if let Err(error) = converse(&resolver, stream).await {
                        tracing::debug!(error = %error, "a DNS connection ended early");
                    }
                    drop(connection);
                });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = %error, "cannot accept a DNS connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// One question after the other, until the client ends, is silent for too long, or says what is no question.
async fn converse(resolver: &Resolver, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let Ok(question) = timeout(PATIENCE, read(&mut stream)).await else {
            return Ok(());
        };
        let Some(answer) = resolver.answer(&question?).await else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(PATIENCE, stream.write_all(&framed)).await??;
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_QUESTION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
