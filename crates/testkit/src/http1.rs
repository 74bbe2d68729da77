//! A small HTTP/1.1 client that tells exactly how far an exchange got when it broke.
//!
//! Made for judging servers, not for being one's friend: no redirects, no retries, no decompression.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Most bytes of a response head.
const HEAD_MAX: usize = 64 * 1024;
/// Most bytes of a line that gives a chunk's size.
const CHUNK_LINE_MAX: usize = 256;
const READ_SIZE: usize = 64 * 1024;

/// How an exchange broke.
#[derive(Debug)]
pub enum Broken {
    /// No connection.
    Connect(io::Error),
    /// The connection ended and not one byte of the answer had come.
    BeforeFirstByte(String),
    /// The connection ended within the answer.
    AfterFirstByte(String),
    /// What came is not HTTP/1.1, or over a limit.
    Malformed(String),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Connect(error) => write!(f, "no connection: {error}"),
            Broken::BeforeFirstByte(why) => write!(f, "ended before the first byte: {why}"),
            Broken::AfterFirstByte(why) => write!(f, "ended within the answer: {why}"),
            Broken::Malformed(why) => write!(f, "malformed answer: {why}"),
        }
    }
}

impl std::error::Error for Broken {}

pub type Result<T> = std::result::Result<T, Broken>;

/// The first part of an answer. Header names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn framing(&self) -> Result<Framing> {
        if self.status == 204 || self.status == 304 || self.status < 200 {
            return Ok(Framing::Length(0));
        }
        if self
            .header("transfer-encoding")
            .is_some_and(|te| te.eq_ignore_ascii_case("chunked"))
        {
            return Ok(Framing::Chunked);
        }
        match self.header("content-length") {
            None => Ok(Framing::UntilClose),
            Some(text) => match text.parse() {
                Ok(length) => Ok(Framing::Length(length)),
                Err(_) => Err(Broken::Malformed(format!("Content-Length: {text}"))),
            },
        }
    }

    fn keeps_alive(&self) -> bool {
        let closes = self
            .header("connection")
            .is_some_and(|value| value.to_ascii_lowercase().contains("close"));
        !closes && !matches!(self.framing(), Ok(Framing::UntilClose) | Err(_))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    pub head: Head,
    pub body: Vec<u8>,
    /// The connection may carry another request.
    pub reusable: bool,
}

impl Response {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection to a server, with what has been read from it and not been used yet.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
    started: bool,
}

impl Connection {
    pub async fn open(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(server).await.map_err(Broken::Connect)?;
        stream.set_nodelay(true).map_err(Broken::Connect)?;
        Ok(Connection {
            stream,
            unread: Vec::new(),
            started: false,
        })
    }

    /// Whether the idle connection is known to be at its end: the server closed it, or sent what nobody asked for.
    pub fn is_stale(&self) -> bool {
        let mut byte = [0];
        let waiting =
            matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        !waiting || !self.unread.is_empty()
    }

    /// Writes a request (or a part of one).
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.started = false;
        self.write(bytes).await
    }

    /// Writes more without expecting a new answer, as in a WebSocket.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream
            .write_all(bytes)
            .await
            .map_err(|error| self.ended(&error.to_string()))
    }

    /// Reads one answer with a body of at most `body_max` bytes. Interim (1xx) answers but 101 are passed over.
    pub async fn response(&mut self, body_max: usize) -> Result<Response> {
        let head = self.final_head().await?;
        let mut body = Vec::new();
        self.body(&head, &mut |bytes| {
            body.extend_from_slice(bytes);
            body.len() <= body_max
        })
        .await?;
        Ok(Response {
            reusable: head.keeps_alive(),
            head,
            body,
        })
    }

    /// The head of the answer proper, after any interim ones.
    pub async fn final_head(&mut self) -> Result<Head> {
        // A server may send a few of them; more is no protocol.
        for _ in 0..8 {
            let head = self.head().await?;
            if head.status >= 200 || head.status == 101 {
                return Ok(head);
            }
        }
        Err(Broken::Malformed("more than 8 interim answers".to_owned()))
    }

    async fn head(&mut self) -> Result<Head> {
        let mut searched = 0;
        loop {
            if let Some(at) = find(&self.unread[searched..], b"\r\n\r\n") {
                let bytes: Vec<u8> = self.unread.drain(..searched + at + 4).collect();
                return parse_head(&bytes);
            }
            searched = self.unread.len().saturating_sub(3);
            if self.unread.len() > HEAD_MAX {
                return Err(Broken::Malformed(format!("head over {HEAD_MAX} bytes")));
            }
            self.fill().await?;
        }
    }

    /// Feeds the body to `sink`, which answers whether it takes more. Returns its length.
    pub async fn body(&mut self, head: &Head, sink: &mut impl FnMut(&[u8]) -> bool) -> Result<u64> {
        match head.framing()? {
            Framing::Length(length) => self.counted(length, sink).await.map(|()| length),
            Framing::UntilClose => self.until_close(sink).await,
            Framing::Chunked => self.chunks(sink).await,
        }
    }

    async fn counted(&mut self, mut left: u64, sink: &mut impl FnMut(&[u8]) -> bool) -> Result<()> {
        while left > 0 {
            if self.unread.is_empty() {
                self.fill().await?;
            }
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(self.unread.len());
            if !sink(&self.unread[..take]) {
                return Err(Broken::Malformed("body over the limit".to_owned()));
            }
            self.unread.drain(..take);
            left -= take as u64;
        }
        Ok(())
    }

    async fn until_close(&mut self, sink: &mut impl FnMut(&[u8]) -> bool) -> Result<u64> {
        let mut length = 0;
        loop {
            length += self.unread.len() as u64;
            if !sink(&self.unread) {
                return Err(Broken::Malformed("body over the limit".to_owned()));
            }
            self.unread.clear();
            if self.read_some().await? == 0 {
                return Ok(length);
            }
        }
    }

    async fn chunks(&mut self, sink: &mut impl FnMut(&[u8]) -> bool) -> Result<u64> {
        let mut length = 0;
        loop {
            let line = self.line().await?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size =
                u64::from_str_radix(digits, 16).map_err(|_| Broken::Malformed(format!("chunk size {line:?}")))?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(length);
            }
            self.counted(size, sink).await?;
            length += size;
            if !self.line().await?.is_empty() {
                return Err(Broken::Malformed("a chunk longer than it says".to_owned()));
            }
        }
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(at) = find(&self.unread, b"\r\n") {
                let bytes: Vec<u8> = self.unread.drain(..at + 2).collect();
                return Ok(String::from_utf8_lossy(&bytes[..at]).into_owned());
            }
            if self.unread.len() > CHUNK_LINE_MAX {
                return Err(Broken::Malformed("a line over the limit".to_owned()));
            }
            self.fill().await?;
        }
    }

    /// Exactly `count` bytes from the connection, for what follows an upgrade.
    pub async fn exactly(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.unread.len() < count {
            self.fill().await?;
        }
        Ok(self.unread.drain(..count).collect())
    }

    async fn fill(&mut self) -> Result<()> {
        match self.read_some().await? {
            0 => Err(self.ended("closed by the server")),
            _ => Ok(()),
        }
    }

    async fn read_some(&mut self) -> Result<usize> {
        let old = self.unread.len();
        self.unread.resize(old + READ_SIZE, 0);
        let read = self.stream.read(&mut self.unread[old..]).await;
        self.unread.truncate(old + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(count) => {
                self.started |= count > 0;
                Ok(count)
            }
            Err(error) => Err(self.ended(&error.to_string())),
        }
    }

    fn ended(&self, why: &str) -> Broken {
        if self.started {
            Broken::AfterFirstByte(why.to_owned())
        } else {
            Broken::BeforeFirstByte(why.to_owned())
        }
    }
}

/// The bytes of a request. `headers` are added to `Host`, `User-Agent` and, where there is a body, `Content-Length`.
pub fn request(method: &str, host: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: hob-load\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// One request on a connection of its own.
pub async fn fetch(server: SocketAddr, request: &[u8], body_max: usize) -> Result<Response> {
    let mut connection = Connection::open(server).await?;
    connection.send(request).await?;
    connection.response(body_max).await
}

fn parse_head(bytes: &[u8]) -> Result<Head> {
    let text = std::str::from_utf8(bytes).map_err(|_| Broken::Malformed("head is not text".to_owned()))?;
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let first = lines.next().unwrap_or_default();
    let bad = || Broken::Malformed(format!("first line {first:?}"));
    let rest = first
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| first.strip_prefix("HTTP/1.0 "))
        .ok_or_else(bad)?;
    let status = rest.get(..3).and_then(|digits| digits.parse().ok()).ok_or_else(bad)?;
    let header = |line: &str| {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| Broken::Malformed(format!("header {line:?}")))?;
        Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Ok(Head {
        status,
        headers: lines.map(header).collect::<Result<_>>()?,
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers the first request with exactly these bytes and closes.
    async fn canned(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("one client");
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(answer).await;
        });
        address
    }

    async fn get(answer: &'static [u8]) -> Result<Response> {
        fetch(canned(answer).await, &request("GET", "a", "/", &[], b""), 1_000).await
    }

    #[tokio::test]
    async fn bodies_come_counted_chunked_and_until_the_end() {
        let counted = get(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            .await
            .expect("whole");
        assert_eq!((counted.text().as_str(), counted.reusable), ("hi", true));
        let chunked =
            get(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3;x=y\r\n yo\r\n0\r\n\r\n").await;
        let chunked = chunked.expect("whole");
        assert_eq!((chunked.text().as_str(), chunked.reusable), ("hi yo", true));
        let open = get(b"HTTP/1.1 200 OK\r\n\r\nhi").await.expect("whole");
        assert_eq!((open.text().as_str(), open.reusable), ("hi", false));
        let interim = get(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(interim.expect("whole").status(), 503);
    }

    #[tokio::test]
    async fn it_tells_where_an_answer_broke_off() {
        assert!(matches!(get(b"").await, Err(Broken::BeforeFirstByte(_))));
        assert!(matches!(get(b"HTTP/1.1 2").await, Err(Broken::AfterFirstByte(_))));
        let short = get(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi").await;
        assert!(matches!(short, Err(Broken::AfterFirstByte(_))));
        let unfinished = get(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n").await;
        assert!(matches!(unfinished, Err(Broken::AfterFirstByte(_))));
        assert!(matches!(get(b"SSH-2.0\r\n\r\n").await, Err(Broken::Malformed(_))));
        let nobody = fetch("127.0.0.1:1".parse().expect("an address"), b"", 1).await;
        assert!(matches!(nobody, Err(Broken::Connect(_))));
    }
}
