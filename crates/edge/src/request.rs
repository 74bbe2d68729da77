//! Which host a request is for, and whether it may be forwarded at all (C6.8, C6.9).

use domain::names::HOST_MAX;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Uri};

use crate::pages::Refusal;

/// A host name as the table writes it: lower case, no port, no final dot.
pub struct Host {
    text: [u8; HOST_MAX],
    len: usize,
}

impl Host {
    /// # Errors
    /// [`Refusal::BadHost`] for anything that is not a name or an address with an optional port.
    pub fn parse(raw: &[u8]) -> Result<Host, Refusal> {
        let name = strip_port(raw).ok_or(Refusal::BadHost)?;
        let name = name.strip_suffix(b".").unwrap_or(name);
        if name.is_empty() || name.len() > HOST_MAX {
            return Err(Refusal::BadHost);
        }
        let mut host = Host {
            text: [0; HOST_MAX],
            len: name.len(),
        };
        let bracketed = name[0] == b'[';
        for (to, from) in host.text.iter_mut().zip(name) {
            let fits = match from {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => true,
                b':' | b'[' | b']' => bracketed,
                _ => false,
            };
            if !fits {
                return Err(Refusal::BadHost);
            }
            *to = from.to_ascii_lowercase();
        }
        Ok(host)
    }

    pub fn as_str(&self) -> &str {
        // Every byte was checked to be ASCII.
        std::str::from_utf8(&self.text[..self.len]).unwrap_or_default()
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

/// Checks the parts of a request that decide where it goes and where it ends. Answers with its host, as written and
/// normalised.
///
/// # Errors
/// One `Host` exactly, equal to the authority of an absolute target; a target that is a path; no transfer coding but
/// chunked; no expectation but 100-continue. Everything else is refused, and its connection closed.
pub fn check<B>(request: &Request<B>) -> Result<(HeaderValue, Host), Refusal> {
    let headers = request.headers();
    if *request.method() == Method::CONNECT {
        return Err(Refusal::Method);
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(written), None) = (hosts.next(), hosts.next()) else {
        return Err(Refusal::BadHost);
    };
    let host = Host::parse(written.as_bytes())?;
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
    Ok((written.clone(), host))
}

fn check_target(uri: &Uri, method: &Method, host: &Host) -> Result<(), Refusal> {
    if let Some(authority) = uri.authority() {
        let plain = uri.scheme_str() == Some("http");
        let same = Host::parse(authority.as_str().as_bytes())?.as_str() == host.as_str();
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
            assert_eq!(
                Host::parse(raw.as_bytes()).ok().as_ref().map(Host::as_str),
                Some(expected),
                "{raw}"
            );
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
            assert!(Host::parse(raw.as_bytes()).is_err(), "{raw:?}");
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
