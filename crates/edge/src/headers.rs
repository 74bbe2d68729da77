//! What a proxy adds to and takes from the headers that pass through it.

use std::cell::RefCell;
use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Request ids that are cut from one allocation.
const IDS_PER_CHUNK: usize = 128;
const ID_LEN: usize = 32;

/// Removes what is meant for this hop only: the fixed names of RFC 9110 section 7.6.1 and those that `Connection` lists.
/// `Trailer` stays: it announces what passes through.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        strip_listed(headers);
        headers.remove(CONNECTION);
    }
    for name in [&KEEP_ALIVE, &PROXY_CONNECTION, &TE, &TRANSFER_ENCODING, &UPGRADE] {
        headers.remove(name);
    }
}

fn strip_listed(headers: &mut HeaderMap) {
    let is_plain = |value: &HeaderValue| {
        let value = value.as_bytes();
        value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
    };
    if headers.get_all(CONNECTION).iter().all(is_plain) {
        return;
    }
    let lists: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    for name in lists.iter().flat_map(tokens) {
        // Nobody may talk us into dropping what routes or frames the message.
        if let Ok(name) = HeaderName::from_bytes(name)
            && ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(&name)
        {
            headers.remove(name);
        }
    }
}

/// The members of a comma-separated list.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// Whether some line of `name` lists `token`.
pub fn lists(headers: &HeaderMap, name: &HeaderName, token: &[u8]) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(tokens)
        .any(|found| found.eq_ignore_ascii_case(token))
}

/// The protocol that a request or an answer upgrades to, if it does. `h2c` is refused a passage: behind it other
/// requests would travel past the routing.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let wanted = lists(headers, &CONNECTION, b"upgrade") && !lists(headers, &UPGRADE, b"h2c");
    wanted.then(|| protocol.clone())
}

/// Says again, for the next hop, that the connection is to be upgraded.
pub fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(UPGRADE, protocol);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
}

/// How the client speaks to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// What the app is told about the client, computed once for each connection.
pub struct Forwarding {
    peer: IpAddr,
    scheme: Scheme,
    address: HeaderValue,
    port: HeaderValue,
    /// `Forwarded` for the host of the last request: seldom another one on the same connection.
    last: RefCell<Option<(HeaderValue, HeaderValue)>>,
}

impl Forwarding {
    pub fn new(peer: IpAddr, scheme: Scheme, port: &HeaderValue) -> Self {
        let address = text(peer.to_string());
        Forwarding {
            peer,
            scheme,
            address,
            port: port.clone(),
            last: RefCell::default(),
        }
    }

    /// Frees what is kept for the next request.
    pub fn forget(&self) {
        self.last.take();
    }

    /// Whether nobody on the way can have read along.
    pub fn is_secure(&self) -> bool {
        self.scheme == Scheme::Https
    }

    /// Sets `X-Forwarded-*`, `X-Real-IP` and `Forwarded` from what is known, in place of whatever came in.
    pub fn apply(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        headers.insert(X_FORWARDED_FOR, self.address.clone());
        headers.insert(X_REAL_IP, self.address.clone());
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(self.scheme.as_str()));
        headers.insert(X_FORWARDED_HOST, host.clone());
        headers.insert(X_FORWARDED_PORT, self.port.clone());
        headers.insert(FORWARDED, self.forwarded(host));
    }

    fn forwarded(&self, host: &HeaderValue) -> HeaderValue {
        let mut last = self.last.borrow_mut();
        if let Some((of, value)) = last.as_ref()
            && of == host
        {
            return value.clone();
        }
        // The host has been checked: it holds nothing that would end the quotes.
        let quoted = host.to_str().unwrap_or_default();
        let scheme = self.scheme.as_str();
        let value = text(match self.peer {
            IpAddr::V4(peer) => format!("for={peer};host=\"{quoted}\";proto={scheme}"),
            IpAddr::V6(peer) => format!("for=\"[{peer}]\";host=\"{quoted}\";proto={scheme}"),
        });
        // A copy: the host itself keeps the whole buffer alive that the request was read into.
        let of = HeaderValue::from_bytes(host.as_bytes()).unwrap_or_else(|_| HeaderValue::from_static(""));
        *last = Some((of, value.clone()));
        value
    }
}

fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// Prepares a request's headers for an instance. `TE: trailers` is a wish that the next hop may be asked again.
pub fn prepare_request(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    let trailers = headers.contains_key(TE) && lists(headers, &TE, b"trailers");
    strip_hop_by_hop(headers);
    for name in [&PROXY_AUTHORIZATION, &HTTP2_SETTINGS, &EXPECT] {
        headers.remove(name);
    }
    if let Some(protocol) = upgrade {
        set_upgrade(headers, protocol);
    } else if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Makes ids for requests that came without: 64 random bits of this worker, then a counter, in hexadecimal.
pub struct RequestIds {
    prefix: u64,
    count: u64,
    chunk: BytesMut,
}

impl RequestIds {
    pub fn new() -> Self {
        RequestIds {
            prefix: uuid::Uuid::new_v4().as_u64_pair().1,
            count: 0,
            chunk: BytesMut::new(),
        }
    }

    /// Sets `X-Request-Id` where there is none.
    pub fn ensure(&mut self, headers: &mut HeaderMap) {
        if let http::header::Entry::Vacant(vacant) = headers.entry(X_REQUEST_ID)
            && let Ok(id) = HeaderValue::from_maybe_shared(self.next())
        {
            vacant.insert(id);
        }
    }

    fn next(&mut self) -> Bytes {
        self.count += 1;
        if self.chunk.capacity() < ID_LEN {
            self.chunk = BytesMut::with_capacity(ID_LEN * IDS_PER_CHUNK);
        }
        for word in [self.prefix, self.count] {
            for nibble in (0..16).rev() {
                self.chunk
                    .put_u8(b"0123456789abcdef"[(word >> (nibble * 4)) as usize & 0xf]);
            }
        }
        self.chunk.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn headers_named_in_connection_do_not_pass() {
        let mut headers = map(&[
            ("connection", "close, X-Private"),
            ("connection", "x-other"),
            ("x-private", "1"),
            ("x-other", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("x-stays", "3"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("x-stays", "3")]));
    }

    #[test]
    fn connection_cannot_remove_what_routes_or_frames() {
        let mut headers = map(&[
            ("connection", "host, content-length"),
            ("host", "a"),
            ("content-length", "3"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("host", "a"), ("content-length", "3")]));
    }

    #[test]
    fn what_a_client_says_about_itself_is_replaced() {
        let mut headers = map(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "7.7.7.7"),
            ("forwarded", "for=6.6.6.6"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-proto", "gopher"),
        ]);
        let port = HeaderValue::from_static("8080");
        let forwarding = Forwarding::new("2001:db8::7".parse().unwrap(), Scheme::Https, &port);
        forwarding.apply(&mut headers, &HeaderValue::from_static("a.test:8080"));
        let expected = map(&[
            ("x-forwarded-for", "2001:db8::7"),
            ("x-real-ip", "2001:db8::7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a.test:8080"),
            ("x-forwarded-port", "8080"),
            ("forwarded", "for=\"[2001:db8::7]\";host=\"a.test:8080\";proto=https"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn request_ids_are_unique_and_given_ones_stay() {
        let mut ids = RequestIds::new();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..3 * IDS_PER_CHUNK {
            let mut headers = HeaderMap::new();
            ids.ensure(&mut headers);
            let id = headers[X_REQUEST_ID].to_str().unwrap().to_owned();
            assert_eq!(id.len(), ID_LEN);
            assert!(seen.insert(id));
        }
        let mut headers = map(&[("x-request-id", "mine")]);
        ids.ensure(&mut headers);
        assert_eq!(headers[X_REQUEST_ID], "mine");
    }

    #[test]
    fn h2c_is_no_upgrade() {
        assert_eq!(upgrade(&map(&[("connection", "Upgrade"), ("upgrade", "h2c")])), None);
        assert_eq!(upgrade(&map(&[("upgrade", "websocket")])), None);
        let websocket = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(upgrade(&websocket), Some(HeaderValue::from_static("websocket")));
    }
}
