//! Upgraded connections (WebSocket and the like): two sockets joined until one side ends, or they are cut.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, copy_bidirectional};

use crate::client::{Client, Signal};
use crate::client_io::ClientIo;
use crate::exchange::Exchange;
use crate::tally::Outcome;
use crate::upstream::Upstream;

/// An answer of 101 is on its way to the client; then the sockets are to be joined. The instance counts as busy with
/// it until the end.
pub struct Upgrade {
    pub upstream: Upstream,
    pub exchange: Exchange,
}

impl Upgrade {
    /// Carries bytes both ways until both sides have ended, one breaks, the edge cuts, or nothing moved for too long.
    pub async fn run(self, mut io: ClientIo, read_ahead: Bytes, client: &Rc<Client>) {
        let Upgrade { upstream, mut exchange } = self;
        let join = async {
            let Some((mut stream, from_app)) = upstream.into_raw().await else {
                return;
            };
            let begun = async {
                io.write_all(&from_app).await?;
                stream.write_all(&read_ahead).await?;
                copy_bidirectional(&mut io, &mut stream).await
            };
            if let Err(error) = begun.await {
                tracing::debug!(client.address = %client.peer, error = %error, "upgraded connection broke");
            }
        };
        let mut join = pin!(join);
        poll_fn(|cx| match client.poll_signal(cx) {
            Signal::Cut | Signal::Close => Poll::Ready(()),
            Signal::None | Signal::Park | Signal::Expire | Signal::Drain => join.as_mut().poll(cx),
        })
        .await;
        exchange.set_outcome(Outcome::Ok);
    }
}
