//! Which host a request is for, and whether it may be forwarded at all (C6.8, C6.9).

use domain::names::HOST_MAX;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Uri};

use crate::pages::Refusal;

/// A host name as the table writes it: lower case, no port, no final dot.
pub struct Host {
    /// As the client wrote it.
    written: HeaderValue,
    /// How much of that is the name, where that is all the difference.
    len: usize,
    /// The name, where it was written otherwise. Seldom: clients send small letters.
    lowered: Option<Box<str>>,
}

impl Host {
    /// # Errors
    /// [`Refusal::BadHost`] for anything that is not a name or an address with an optional port.
    pub fn parse(written: &HeaderValue) -> Result<Host, Refusal> {
        let name = strip_port(written.as_bytes()).ok_or(Refusal::BadHost)?;
        let name = name.strip_suffix(b".").unwrap_or(name);
        if name.is_empty() || name.len() > HOST_MAX {
            return Err(Refusal::BadHost);
        }
        let bracketed = name[0] == b'[';
        let fits = |byte: &u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => true,
            b':' | b'[' | b']' => bracketed,
            _ => false,
        };
        if !name.iter().all(fits) {
            return Err(Refusal::BadHost);
        }
        let lowered = || String::from_utf8_lossy(name).to_ascii_lowercase().into();
        Ok(Host {
            written: written.clone(),
            len: name.len(),
            lowered: name.iter().any(u8::is_ascii_uppercase).then(lowered),
        })
    }

    pub fn as_str(&self) -> &str {
        let name = || std::str::from_utf8(&self.written.as_bytes()[..self.len]);
        // Every byte was checked to be ASCII.
        self.lowered.as_deref().unwrap_or_else(|| name().unwrap_or_default())
    }

    /// With port, capitals and all.
    pub fn as_written(&self) -> &HeaderValue {
        &self.written
    }
}

/// The name before an optional `:port`; nothing when what follows the name is no port.
fn strip_port(raw: &[u8]) -> Option<&[u8]> {
    let name_end = match raw.first() {
        Some(b'[') => raw.iter().position(|byte| *byte == b']')? + 1,
        _ => raw.iter().position(|byte| *byte == b':').unwrap_or(raw.len()),
    };
    let (name, port) = raw.split_at(name_end);
    let digits = match port.split_first() {
        None => return Some(name),
        Some((b':', digits)) => digits,
        Some(_) => return None,
    };
    (digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit)).then_some(name)
}

/// Checks the parts of a request that decide where it goes and where it ends. Answers with its host.
///
/// # Errors
/// One `Host` exactly, equal to the authority of an absolute target; a target that is a path; no transfer coding but
/// chunked; no expectation but 100-continue. Everything else is refused, and its connection closed.
pub fn check<B>(request: &Request<B>) -> Result<Host, Refusal> {
    let headers = request.headers();
    if *request.method() == Method::CONNECT {
        return Err(Refusal::Method);
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(written), None) = (hosts.next(), hosts.next()) else {
        return Err(Refusal::BadHost);
    };
    let host = Host::parse(written)?;
    check_target(request.uri(), request.method(), &host)?;
    if headers.contains_key(TRANSFER_ENCODING) {
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let chunked = codings
            .next()
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || codings.next().is_some() || headers.contains_key(CONTENT_LENGTH) {
            return Err(Refusal::Framing);
        }
    }
    if headers.contains_key(EXPECT) {
        let mut all = headers.get_all(EXPECT).iter();
        if !all.all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            return Err(Refusal::Expectation);
        }
    }
    Ok(host)
}

fn check_target(uri: &Uri, method: &Method, host: &Host) -> Result<(), Refusal> {
    if let Some(authority) = uri.authority() {
        let plain = uri.scheme_str() == Some("http");
        let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::BadHost)?;
        let same = Host::parse(&authority)?.as_str() == host.as_str();
        return if plain && same { Ok(()) } else { Err(Refusal::BadHost) };
    }
    let is_path = uri.path().starts_with('/') || (uri.path() == "*" && *method == Method::OPTIONS);
    if is_path { Ok(()) } else { Err(Refusal::Target) }
}

/// The target in the form that an origin server is asked with.
pub fn origin_form(uri: &mut Uri) {
    if uri.authority().is_some() {
        let path = uri.path_and_query().cloned();
        *uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &str) -> Result<Host, Refusal> {
        // What cannot be a header at all, hyper refuses.
        HeaderValue::from_bytes(raw.as_bytes()).map_or(Err(Refusal::BadHost), |value| Host::parse(&value))
    }

    #[test]
    fn a_host_is_normalised() {
        for (raw, expected) in [
            ("a.test", "a.test"),
            ("A.Test:8080", "a.test"),
            ("a.test.", "a.test"),
            ("a.test.:80", "a.test"),
            ("a_b-c.test:", "a_b-c.test"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:80", "[::1]"),
        ] {
            assert_eq!(parse(raw).ok().as_ref().map(Host::as_str), Some(expected), "{raw}");
        }
    }

    #[test]
    fn a_host_with_anything_else_in_it_is_refused() {
        let long = "a".repeat(HOST_MAX + 1);
        for raw in [
            "",
            ".",
            ":80",
            "a b",
            "a@b",
            "user:pw@a.test",
            "a.test:80x",
            "a.test:123456",
            "a.test:80:80",
            "a/b",
            "a%2eb",
            "a\0b",
            "b\u{fc}cher.test",
            "[::1",
            "[::1]x",
            "a.test,b.test",
            "::1",
            "a\"b",
            &long,
        ] {
            assert!(parse(raw).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn an_absolute_target_must_agree_with_the_host() {
        let request = |target: &str| {
            Request::builder()
                .uri(target)
                .header("host", "a.test:8080")
                .body(())
                .expect("a request")
        };
        assert!(check(&request("http://a.test/x")).is_ok());
        assert!(check(&request("http://A.TEST:8080/x")).is_ok());
        for bad in [
            "http://b.test/",
            "http://user@a.test/",
            "https://a.test/",
            "ftp://a.test/",
        ] {
            assert!(check(&request(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_absolute_target_becomes_a_path() {
        for (before, after) in [
            ("http://a.test/x?y", "/x?y"),
            ("http://a.test", "/"),
            ("/p", "/p"),
            ("*", "*"),
        ] {
            let mut uri: Uri = before.parse().unwrap();
            origin_form(&mut uri);
            assert_eq!(uri, after);
        }
    }
}
