//! Reads what is left of a request that was refused before its body was, so that its sender sees the answer.
//!
//! A connection that is closed with unread bytes in it is reset, and a reset throws away an answer that the sender has
//! not read yet: instead of "403" they would see a broken pipe. So the rest is read and thrown away, for a while.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::header::EXPECT;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use crate::limits::{DRAIN_BYTES_MAX, DRAIN_TIMEOUT};

/// Goes on reading the body of a request that was answered with an error. The answer does not wait for that.
///
/// Whoever waits for a word before they send (`Expect: 100-continue`) is answered without any of it.
pub async fn drain(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() || parts.headers.contains_key(EXPECT) {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let kept = Kept(Arc::new(Mutex::new(body)));
    let response = next.run(Request::from_parts(parts, Body::new(kept.clone()))).await;
    let refused = response.status().is_client_error() || response.status().is_server_error();
    // Whoever else holds the body still wants it.
    if let Some(body) = Arc::into_inner(kept.0).filter(|_| refused) {
        let body = body.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !body.is_end_stream() {
            tokio::spawn(tokio::time::timeout(DRAIN_TIMEOUT, swallow(body)));
        }
    }
    response
}

async fn swallow(mut body: Body) {
    let mut left = DRAIN_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// A body that outlives the handler that it is given to.
#[derive(Clone)]
struct Kept(Arc<Mutex<Body>>);

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.lock()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}
