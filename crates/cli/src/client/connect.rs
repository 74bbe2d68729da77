//! Which server is meant, and the way to it.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;
use reqwest::redirect::Policy;

use super::login::Login;
use super::{Client, Way};
use crate::environment::Environment;
use crate::error::{Outcome, Result, Trouble};

/// Where `hob up` listens unless told otherwise.
const DEFAULT_URL: &str = "http://127.0.0.1:7700";
const CONNECT_MAX: Duration = Duration::from_secs(10);

impl Client {
    /// `--data-dir` means the control socket there. Else `HOB_URL` and `HOB_API_KEY`, else what `hob login` kept, else
    /// the control socket of this machine's server.
    ///
    /// # Errors
    /// Says how to name a server or get a key. The network is not touched yet; the socket is.
    pub fn connect(environment: &Environment, data_dir: Option<&Path>) -> Result<Client> {
        if data_dir.is_some() {
            return Client::connect_local(environment, data_dir);
        }
        let login = Login::read(environment)?;
        let (url, kept) = match (&environment.url, login) {
            (Some(url), login) => {
                let url = origin(url)?;
                let kept = login.filter(|login| login.url == url).map(|login| login.key);
                (url, kept)
            }
            (None, Some(login)) => (origin(&login.url)?, Some(login.key)),
            (None, None) if environment.api_key.is_some() => (DEFAULT_URL.to_owned(), None),
            (None, None) => return Client::connect_local(environment, None),
        };
        let key = environment.api_key.clone().or(kept).ok_or_else(|| {
            Trouble::new(Outcome::Refused, format!("there is no key for {url}")).advise(
                "On the server run `hob keys create NAME`; then `hob login URL`, or put the key into HOB_API_KEY",
            )
        })?;
        Client::network(&url, Some(&key))
    }

    /// Over the network.
    pub fn network(url: &str, key: Option<&str>) -> Result<Client> {
        let origin = origin(url)?;
        let mut builder = builder();
        if is_loopback(&origin) {
            builder = builder.no_proxy();
        }
        Ok(Client {
            http: build(builder)?,
            key: key.map(header).transpose()?,
            origin,
            way: Way::Network,
        })
    }

    /// By the control socket of the server on this machine.
    pub fn connect_local(environment: &Environment, data_dir: Option<&Path>) -> Result<Client> {
        let data_dir = data_dir.or(environment.data_dir.as_deref());
        let data_dir =
            data_dir.ok_or_else(|| Trouble::usage("the data directory is not known").advise("Give --data-dir"))?;
        let path = data_dir.join("control.sock");
        // Asked for its word before any request is made: the system's reason is clearer than the HTTP library's.
        UnixStream::connect(&path).map_err(|error| no_socket(&path, &error))?;
        Ok(Client {
            http: build(builder().no_proxy().unix_socket(path.clone()))?,
            origin: "http://localhost".to_owned(),
            key: None,
            way: Way::Socket(path),
        })
    }
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(Policy::none())
        .connect_timeout(CONNECT_MAX)
        .user_agent(concat!("hob/", env!("CARGO_PKG_VERSION")))
}

fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client> {
    builder
        .build()
        .map_err(|error| Trouble::failed(format!("cannot make an HTTP client: {error}")))
}

fn header(key: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
        .map_err(|_| Trouble::usage("the key is damaged: it holds a character that no key has"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Scheme, host and port, as in `https://hob.example.com`.
pub(super) fn origin(url: &str) -> Result<String> {
    let bad =
        || Trouble::usage(format!("{url} is no server's URL")).advise("Give an origin such as https://hob.example.com");
    let parsed = Url::parse(url).map_err(|_| bad())?;
    let plain = parsed.username().is_empty() && parsed.password().is_none() && parsed.query().is_none();
    if !matches!(parsed.scheme(), "http" | "https") || !plain || parsed.path() != "/" || !parsed.has_host() {
        return Err(bad());
    }
    Ok(parsed.origin().ascii_serialization())
}

pub fn is_loopback(origin: &str) -> bool {
    let host = Url::parse(origin)
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned))
        .unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn no_socket(path: &Path, error: &std::io::Error) -> Trouble {
    let shown = path.display();
    let (what, advice) = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => (
            format!("no server runs on this machine with that data directory (there is no {shown})"),
            "Start it with `hob up`, name its --data-dir, or reach another one with `hob login URL`",
        ),
        ErrorKind::ConnectionRefused => (
            format!("the server of this machine is down (nobody answers at {shown})"),
            "Start it with `hob up`; what it runs goes on meanwhile",
        ),
        ErrorKind::PermissionDenied => (
            format!("the server of this machine belongs to another user ({shown})"),
            "Run it as that user (sudo), or use a key: `hob login URL`",
        ),
        _ => (
            format!("cannot reach {shown}: {error}"),
            "Check --data-dir, or use `hob login URL`",
        ),
    };
    Trouble::new(Outcome::Refused, what).advise(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_a_host_and_perhaps_a_port() {
        assert_eq!(origin("http://127.0.0.1:7700/").unwrap(), "http://127.0.0.1:7700");
        assert_eq!(origin("https://Hob.Example.com").unwrap(), "https://hob.example.com");
        for bad in [
            "hob.example.com",
            "ftp://a",
            "http://a/b",
            "http://u:p@a",
            "http://a?b",
            "http://",
            "",
        ] {
            assert_eq!(origin(bad).unwrap_err().outcome, Outcome::Usage, "{bad}");
        }
    }

    #[test]
    fn loopback_is_told_from_the_world() {
        for here in [
            "http://127.0.0.1:1",
            "http://[::1]:1",
            "http://localhost",
            "http://a.localhost",
        ] {
            assert!(is_loopback(here), "{here}");
        }
        for there in ["http://10.0.0.1", "https://localhost.example.com", "nonsense"] {
            assert!(!is_loopback(there), "{there}");
        }
    }
}
