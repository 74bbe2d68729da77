//! A stream of JSON objects, one a line.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

/// Longest line.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A stream that is silent for so long is dead: the server says something every 15 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(45);

pub struct Lines {
    response: Response,
    buffer: BytesMut,
}

impl Lines {
    pub(super) fn new(response: Response) -> Self {
        Lines {
            response,
            buffer: BytesMut::new(),
        }
    }

    /// The next object, keep-alives left out. `None`: the stream has ended, as it also does when the server goes away.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                match serde_json::from_slice(&line) {
                    Ok(Value::Object(fields)) if fields.is_empty() => {}
                    Ok(value) => return Some(value),
                    Err(_) => return None,
                }
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return None;
            }
            match timeout(SILENCE_MAX, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.buffer.extend_from_slice(&chunk),
                _ => return None,
            }
        }
    }
}
