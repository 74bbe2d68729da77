//! Endless answers: one JSON object a line.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use domain::Result;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use store::Scope;
use tokio::sync::{mpsc, watch};

use crate::ApiState;
use crate::streams::unwelcome;

/// Lines between the writer and a reader who is slow. Full: the writer waits.
const LINES_AHEAD_MAX: usize = 64;

/// Where a stream's task writes to.
pub struct Lines {
    sender: mpsc::Sender<Bytes>,
}

/// The reader has left.
pub struct Gone;

impl Lines {
    /// Waits while the reader is slow.
    pub async fn send(&self, line: &impl Serialize) -> Result<(), Gone> {
        let Ok(mut text) = serde_json::to_vec(line) else {
            return Err(Gone);
        };
        text.push(b'\n');
        self.sender.send(text.into()).await.map_err(|_| Gone)
    }

    /// A line without news, so that both sides know that the other is there.
    pub async fn heartbeat(&self) -> Result<(), Gone> {
        self.sender.send(Bytes::from_static(b"{}\n")).await.map_err(|_| Gone)
    }
}

/// Answers with what `write` sends. The stream ends when `write` returns, when the reader leaves or is no longer
/// welcome, or when the server is about to end.
///
/// # Errors
/// `Kind::Unavailable` when too many streams are open already.
pub fn answer<W, F>(api: &ApiState, scope: &Scope, write: W) -> Result<Response>
where
    W: FnOnce(Lines) -> F,
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let open = api.streams.open(scope.principal().account)?;
    let counted = api.metrics.streams.enter();
    let (sender, receiver) = mpsc::channel(LINES_AHEAD_MAX);
    let reader = sender.clone();
    let work = write(Lines { sender });
    let unwelcome = unwelcome(scope.clone(), api.clock.clone());
    let mut closing = api.closing.clone();
    tokio::spawn(async move {
        let _held = (open, counted);
        tokio::select! {
            _ = work => {}
            () = reader.closed() => {}
            () = unwelcome => {}
            () = closed(&mut closing) => {}
        }
    });
    let lines = stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((Ok::<_, Infallible>(line), receiver))
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    if closing.wait_for(|closing| *closing).await.is_err() {
        // Nobody is left who could close the server in an orderly way.
        std::future::pending::<()>().await;
    }
}
