//! Health checks, made from Hob's side of the instances' network.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use domain::HealthCheck;
use domain::spec::CheckKind;
use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::ProbeFailure;

/// Checks that wait for their turn to be begun; they are not begun one after the other, so this is never many.
const QUEUE: usize = 256;
/// Bytes of an answer's head that are read; only the first line is looked at.
const HEAD_MAX: usize = 8 << 10;
const PATH_MAX: usize = 2 << 10;
/// Longest that one check may take, whatever was asked for.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// A thread that lives inside the namespace, with a small runtime of its own.
#[derive(Debug)]
pub struct Prober(mpsc::Sender<Request>);

struct Request {
    target: SocketAddr,
    check: HealthCheck,
    answer: oneshot::Sender<Result<(), ProbeFailure>>,
}

impl Prober {
    /// The thread ends when the prober is dropped.
    pub fn start(namespace: &Path) -> io::Result<Prober> {
        let namespace = std::fs::File::open(namespace)?;
        let (sender, mut requests) = mpsc::channel::<Request>(QUEUE);
        let (entered, has_entered) = std::sync::mpsc::sync_channel(1);
        thread::Builder::new().name("hob-probe".to_owned()).spawn(move || {
            let runtime = setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .and_then(|()| {
                    tokio::runtime::Builder::new_current_thread()
                        .enable_io()
                        .enable_time()
                        .build()
                });
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(entered.send(Err(error))),
            };
            let _ = entered.send(Ok(()));
            runtime.block_on(async {
                while let Some(request) = requests.recv().await {
                    tokio::spawn(async move {
                        let _ = request.answer.send(check(request.target, &request.check).await);
                    });
                }
            });
        })?;
        has_entered
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the probe thread ended early")))?;
        Ok(Prober(sender))
    }

    /// One check of what listens on a port of an instance.
    pub async fn probe(&self, address: Ipv4Addr, port: u16, check: &HealthCheck) -> Result<(), ProbeFailure> {
        let (answer, answered) = oneshot::channel();
        let request = Request {
            target: SocketAddr::from((address, port)),
            check: check.clone(),
            answer,
        };
        let lost = || ProbeFailure("the check could not be made: the engine is shutting down".to_owned());
        self.0.send(request).await.map_err(|_| lost())?;
        answered.await.map_err(|_| lost())?
    }
}

async fn check(target: SocketAddr, check: &HealthCheck) -> Result<(), ProbeFailure> {
    let limit = Duration::from_millis(check.timeout_ms).clamp(Duration::from_millis(1), TIMEOUT_MAX);
    let port = target.port();
    let attempt = async {
        let stream = TcpStream::connect(target).await;
        let stream = stream.map_err(|error| ProbeFailure(format!("no answer on port {port}: {}", plain(&error))))?;
        match &check.kind {
            CheckKind::Http { path, status } => http(stream, target, path, *status).await,
            CheckKind::Tcp | CheckKind::Process => Ok(()),
        }
    };
    let late = || ProbeFailure(format!("no answer on port {port} within {} ms", limit.as_millis()));
    timeout(limit, attempt).await.unwrap_or_else(|_| Err(late()))
}

async fn http(mut stream: TcpStream, target: SocketAddr, path: &str, wanted: Option<u16>) -> Result<(), ProbeFailure> {
    let sound = path.starts_with('/') && path.len() <= PATH_MAX && path.bytes().all(|byte| byte.is_ascii_graphic());
    if !sound {
        return Err(ProbeFailure(format!(
            "the check's path `{}` is not a path that can be asked for",
            path.escape_debug()
        )));
    }
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: hob-health/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    let broken = |error: io::Error| ProbeFailure(format!("GET {path}: the connection broke: {}", plain(&error)));
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut head = Vec::new();
    while !head.contains(&b'\n') && head.len() < HEAD_MAX {
        if stream.read_buf(&mut head).await.map_err(broken)? == 0 {
            break;
        }
    }
    let status = status_of(&head)
        .ok_or_else(|| ProbeFailure(format!("GET {path}: the answer on port {} is not HTTP", target.port())))?;
    let (passes, expected) = match wanted {
        Some(wanted) => (status == wanted, wanted.to_string()),
        None => ((200..400).contains(&status), "2xx or 3xx".to_owned()),
    };
    if passes {
        Ok(())
    } else {
        Err(ProbeFailure(format!(
            "GET {path} answered {status}, expected {expected}"
        )))
    }
}

fn status_of(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?;
    let rest = text.strip_prefix("HTTP/1.")?;
    let status = rest.split_ascii_whitespace().nth(1)?;
    status.parse().ok().filter(|status| (100..600).contains(status))
}

/// Without "(os error 111)".
fn plain(error: &io::Error) -> String {
    let text = error.to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_status_line_is_a_status_line() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\nX: y\r\n"), Some(204));
        assert_eq!(status_of(b"HTTP/1.0 200\r\n"), Some(200));
        for bad in [
            &b""[..],
            b"SSH-2.0-x\r\n",
            b"HTTP/1.1\r\n",
            b"HTTP/1.1 2000 x\r\n",
            b"HTTP/2 200\r\n",
            b"\xff\n",
        ] {
            assert_eq!(status_of(bad), None);
        }
    }

    async fn serve_once(answer: &'static [u8]) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
            // Held open: a check must not wait for the end of the answer.
            std::future::pending::<()>().await;
        });
        target
    }

    fn http_check(path: &str, status: Option<u16>) -> HealthCheck {
        HealthCheck {
            kind: CheckKind::Http {
                path: path.into(),
                status,
            },
            timeout_ms: 2000,
            ..HealthCheck::default()
        }
    }

    #[tokio::test]
    async fn an_http_check_reads_the_status_and_follows_nothing() {
        let target = serve_once(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n").await;
        assert_eq!(check(target, &http_check("/", None)).await, Ok(()));
        let target = serve_once(b"HTTP/1.1 500 Oops\r\n\r\n").await;
        let failure = check(target, &http_check("/up", Some(200))).await.expect_err("500");
        assert_eq!(failure.0, "GET /up answered 500, expected 200");
        let target = serve_once(b"+OK ready\r\n").await;
        assert!(
            check(target, &http_check("/", None))
                .await
                .expect_err("not HTTP")
                .0
                .contains("is not HTTP")
        );
        let target = serve_once(b"").await;
        let failure = check(target, &http_check("/ HTTP/1.1\r\nX: y", None))
            .await
            .expect_err("injection");
        assert!(failure.0.contains("not a path"), "{failure}");
    }
}
