//! As much of HTTP/1.1 as a server behind a proxy needs.

use std::io::{self, BufRead, ErrorKind, Read, Write};

/// Most bytes of a request's head.
const HEAD_MAX: u64 = 64 * 1024;
/// Most header fields.
const HEADERS_MAX: usize = 100;
/// Most bytes of a request's body.
pub const BODY_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The client wants to use the connection again.
    pub keep_alive: bool,
}

impl Request {
    /// Names in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The value of a query parameter; `%XX` and `+` are resolved.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self
            .query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs
            .into_iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| decode(value))
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.parameter(name)?.parse().ok()
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

/// Waits for the first byte of the next request. `false`: the client has closed the connection.
pub fn arrives(reader: &mut impl BufRead) -> io::Result<bool> {
    Ok(!reader.fill_buf()?.is_empty())
}

/// Reads one whole request. `to_client` is told to go on where the client waits for that (`Expect: 100-continue`).
///
/// # Errors
/// `InvalidData` for what is no request; whatever the connection says.
pub fn read(reader: &mut impl BufRead, to_client: &mut impl Write) -> io::Result<Request> {
    let mut head = reader.take(HEAD_MAX);
    let first = line(&mut head)?;
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Err(bad("no request line"));
    };
    let headers = read_headers(&mut head)?;
    let connection = find(&headers, "connection").unwrap_or_default().to_ascii_lowercase();
    if find(&headers, "expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue")) {
        to_client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        body: read_body(reader, &headers)?,
        headers,
        keep_alive: version == "HTTP/1.1" && !connection.contains("close"),
    })
}

fn read_headers(head: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let text = line(head)?;
        if text.is_empty() {
            return Ok(headers);
        }
        if headers.len() == HEADERS_MAX {
            return Err(bad("too many headers"));
        }
        let (name, value) = text.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn read_body(reader: &mut impl BufRead, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if find(headers, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let size = line(&mut reader.take(HEAD_MAX))?;
            let size = size.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size.trim(), 16).map_err(|_| bad("a chunk without a size"))?;
            read_more(reader, &mut body, size)?;
            let end = line(&mut reader.take(HEAD_MAX))?;
            if size == 0 && end.is_empty() {
                return Ok(body);
            }
        }
    }
    let length = match find(headers, "content-length") {
        None => 0,
        Some(text) => text.parse().map_err(|_| bad("a length that is no number"))?,
    };
    read_more(reader, &mut body, length)?;
    Ok(body)
}

fn read_more(reader: &mut impl Read, body: &mut Vec<u8>, size: usize) -> io::Result<()> {
    if size > BODY_MAX || body.len() + size > BODY_MAX {
        return Err(bad("the body is too large"));
    }
    let start = body.len();
    body.resize(start + size, 0);
    reader.read_exact(&mut body[start..])
}

/// Without its end. A line that is cut off is an error.
fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Err(bad("the head is cut off or too long"));
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|_| bad("the head is no text"))
}

fn bad(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why.to_owned())
}

fn decode(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match (*first, hex.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            (byte, _) => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The head of an answer. `length` of `None` means that the connection's end is the body's.
pub fn head(status: u16, content_type: &str, length: Option<u64>, keep_alive: bool) -> String {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Status",
    };
    let length = length.map(|n| format!("Content-Length: {n}\r\n")).unwrap_or_default();
    let connection = if keep_alive { "keep-alive" } else { "close" };
    format!("HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\n{length}Connection: {connection}\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> io::Result<Request> {
        read(&mut text.as_bytes(), &mut Vec::new())
    }

    #[test]
    fn bodies_come_with_a_length_or_in_chunks() {
        let whole = parse("POST /a?b=c%20d+e HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello").unwrap();
        assert_eq!((whole.path.as_str(), whole.body.as_slice()), ("/a", &b"hello"[..]));
        assert_eq!(whole.parameter("b").as_deref(), Some("c d e"));
        assert!(whole.keep_alive);
        let chunks = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n";
        assert_eq!(parse(chunks).unwrap().body, b"hello");
    }

    #[test]
    fn a_client_that_waits_is_told_to_go_on() {
        let mut told = Vec::new();
        let text = "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(read(&mut text.as_bytes(), &mut told).unwrap().body, b"x");
        assert!(told.starts_with(b"HTTP/1.1 100 "));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(70_000));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101));
        let huge = "POST / HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n".to_owned();
        let cut = "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel".to_owned();
        let chunk = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned();
        for text in [
            long,
            many,
            huge,
            cut,
            chunk,
            "GET\r\n\r\n".to_owned(),
            "GET / HT".to_owned(),
        ] {
            assert!(parse(&text).is_err(), "{}", &text[..text.len().min(60)]);
        }
    }

    #[test]
    fn old_clients_and_those_that_say_so_close_the_connection() {
        assert!(!parse("GET / HTTP/1.0\r\n\r\n").unwrap().keep_alive);
        assert!(!parse("GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap().keep_alive);
    }
}
