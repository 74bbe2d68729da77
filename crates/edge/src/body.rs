//! Bodies in both directions. Frames pass as they come; nothing is gathered.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::client::Client;
use crate::exchange::Exchange;
use crate::pages::Refusal;
use crate::tally::Outcome;
use crate::upstream::Upstream;

/// Why a body was broken off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is longer than the limit of {0} bytes")]
    TooLong(u64),
    #[error("the app was silent for too long")]
    Silence,
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
}

/// A client's body on its way to an instance.
pub struct RequestBody {
    incoming: Incoming,
    client: Rc<Client>,
    /// Bytes that may still come; `None`: no limit.
    room: Option<u64>,
}

impl RequestBody {
    pub fn new(incoming: Incoming, client: Rc<Client>) -> Self {
        let limit = client.worker.shared.limits.body_bytes;
        RequestBody {
            incoming,
            client,
            room: (limit > 0).then_some(limit),
        }
    }

    /// A frame within the limit. What is wrong with a body is the client's fault, and noted as that.
    fn admit(&mut self, frame: hyper::Result<Frame<Bytes>>) -> Result<Frame<Bytes>, BodyError> {
        let frame = frame.inspect_err(|_| self.client.set_fault(Refusal::Framing))?;
        if let (Some(room), Some(data)) = (&mut self.room, frame.data_ref()) {
            *room = room.checked_sub(data.len() as u64).ok_or_else(|| {
                self.client.set_fault(Refusal::TooLarge);
                BodyError::TooLong(self.client.worker.shared.limits.body_bytes)
            })?;
        }
        Ok(frame)
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.incoming).poll_frame(cx);
        this.client.set_awaits_client(polled.is_pending());
        Poll::Ready(ready!(polled).map(|frame| this.admit(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.client.set_awaits_client(false);
    }
}

/// What a client is answered with. Its end is the end of the request.
pub struct AnswerBody {
    content: Content,
    client: Rc<Client>,
}

enum Content {
    /// One of the edge's own short pages.
    Page(Option<Bytes>),
    /// What an instance answers.
    App(AppBody),
}

impl AnswerBody {
    pub fn page(text: &'static [u8], client: Rc<Client>) -> Self {
        let text = (!text.is_empty()).then(|| Bytes::from_static(text));
        AnswerBody {
            content: Content::Page(text),
            client,
        }
    }

    pub fn app(body: AppBody, client: Rc<Client>) -> Self {
        AnswerBody {
            content: Content::App(body),
            client,
        }
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match &mut this.content {
            Content::Page(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Content::App(body) => body.poll_frame(&this.client, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Page(text) => text.is_none(),
            Content::App(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Page(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Content::App(body) => body.incoming.size_hint(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.client.end_request();
    }
}

/// An instance's body on its way to the client, with everything that has to happen when it ends.
pub struct AppBody {
    incoming: Incoming,
    upstream: Option<Upstream>,
    exchange: Exchange,
    status: StatusCode,
    progress: Progress,
}

enum Progress {
    Flowing,
    Ended,
    Broken,
}

impl AppBody {
    pub fn new(incoming: Incoming, status: StatusCode, upstream: Upstream, exchange: Exchange) -> Self {
        AppBody {
            incoming,
            upstream: Some(upstream),
            exchange,
            status,
            progress: Progress::Flowing,
        }
    }

    fn poll_frame(&mut self, client: &Client, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if polled.is_pending() {
            if !client.has_expired() {
                return Poll::Pending;
            }
            self.progress = Progress::Broken;
            return Poll::Ready(Some(Err(BodyError::Silence)));
        }
        client.stamp();
        match ready!(polled) {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Err(error)) => {
                self.progress = Progress::Broken;
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                self.progress = Progress::Ended;
                Poll::Ready(None)
            }
        }
    }
}

impl Drop for AppBody {
    fn drop(&mut self) {
        let ended = matches!(self.progress, Progress::Ended) || self.incoming.is_end_stream();
        let broke_off = matches!(self.progress, Progress::Broken) && self.exchange.client().fault().is_none();
        let app_failed = self.status.is_server_error() || broke_off;
        // A client that leaves in the middle of an answer has been answered.
        self.exchange
            .set_outcome(if app_failed { Outcome::FailedByApp } else { Outcome::Ok });
        if let Some(upstream) = self.upstream.take()
            && ended
        {
            self.exchange.give_back(upstream);
        }
    }
}
