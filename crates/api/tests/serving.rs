//! Listeners, over real sockets.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use api::{SocketError, serve, serve_unix};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(10);

/// Sends bytes and reads until the other side closes.
async fn talk(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, bytes: &[u8]) -> String {
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let sent = String::from_utf8_lossy(bytes);
    assert!(ended.is_ok(), "the server does not close after {sent:?}: {answer}");
    answer
}

struct Server {
    address: std::net::SocketAddr,
    end: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(world: &World) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (end, shutdown) = watch::channel(false);
        let task = tokio::spawn(serve(listener, world.router.clone(), shutdown));
        Server { address, end, task }
    }

    async fn talk(&self, bytes: &[u8]) -> String {
        talk(TcpStream::connect(self.address).await.expect("a connection"), bytes).await
    }

    async fn stop(self) {
        self.end.send_replace(true);
        timeout(PATIENCE, self.task)
            .await
            .expect("it ends in time")
            .expect("it ends well");
    }
}

#[tokio::test]
async fn tcp_serves_and_ends_when_asked() {
    let world = World::new().await;
    let server = Server::start(&world).await;
    let answer = server
        .talk(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok\n"),
        "{answer}"
    );
    // An idle kept-alive connection does not hold the server up.
    let mut idle = TcpStream::connect(server.address).await.expect("a connection");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("written");
    let mut some = [0; 15];
    idle.read_exact(&mut some).await.expect("an answer");
    server.stop().await;
}

/// What has begun is finished: the body arrives after the server was asked to end, and is answered.
#[tokio::test]
async fn a_request_in_flight_is_finished_at_shutdown() {
    let world = World::new().await;
    let key = world.alice().await.headers()[http::header::AUTHORIZATION].clone();
    let key = key.to_str().expect("a key is ASCII");
    let server = Server::start(&world).await;
    let mut stream = TcpStream::connect(server.address).await.expect("a connection");
    let body = r#"{"name": "late"}"#;
    let head = format!(
        "POST /api/projects/ HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let begun = async {
        // The one that asks is the other.
        while !world
            .anonymous()
            .get("/metrics")
            .await
            .text
            .contains("hob_api_requests_in_flight 2")
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, begun).await.expect("the handler runs");
    server.end.send_replace(true);
    stream.write_all(body.as_bytes()).await.expect("written");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .expect("in time")
        .expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    server.stop().await;
}

/// A sender who writes everything before they read sees why it was refused, and not a broken pipe.
#[tokio::test]
async fn a_refused_upload_is_read_to_its_end() {
    let world = World::new().await;
    let server = Server::start(&world).await;
    let upload = vec![0; 16 * 1024 * 1024];
    let head = |rest: &str| format!("POST /api/images/ HTTP/1.1\r\nHost: x\r\n{rest}Connection: close\r\n\r\n");
    for (sent, refusal) in [("", "401"), ("Authorization: Bearer gob_wrong\r\n", "401")] {
        let mut stream = TcpStream::connect(server.address).await.expect("a connection");
        let head = head(&format!("{sent}Content-Length: {}\r\n", upload.len()));
        stream.write_all(head.as_bytes()).await.expect("the head is taken");
        stream.write_all(&upload).await.expect("all of it is taken");
        let mut answer = String::new();
        let ended = timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
        ended.expect("in time").expect("an answer, and no reset");
        assert!(answer.starts_with(&format!("HTTP/1.1 {refusal} ")), "{answer}");
    }
    // Who waits for a word is told at once.
    let expecting = head("Expect: 100-continue\r\nContent-Length: 99999999\r\n");
    let answer = server.talk(expecting.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    server.stop().await;
}

/// The control socket's rights cannot be had by saying so.
#[tokio::test]
async fn over_tcp_nobody_is_local() {
    let world = World::new().await;
    let server = Server::start(&world).await;
    let request = b"GET /local/status HTTP/1.1\r\nHost: x\r\nLocalOperator: 1\r\nConnection: close\r\n\r\n";
    assert!(server.talk(request).await.starts_with("HTTP/1.1 404"));
    server.stop().await;
}

/// C6.9, C6.12: smuggling and oversize are turned away before anybody looks at them.
#[tokio::test]
async fn hostile_heads_are_refused() {
    let world = World::new().await;
    let server = Server::start(&world).await;
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = "y".repeat(100 * 1024);
    let heads = [
        "POST /api/services/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello".to_owned(),
        "POST /api/services/ HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello".to_owned(),
        "POST /api/services/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n".to_owned(),
        format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{many}\r\n"),
        format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"),
        "\u{0}\u{1}\u{2}\r\n\r\n".to_owned(),
    ];
    for head in heads {
        let answer = server.talk(head.as_bytes()).await;
        assert!(
            !answer.contains("HTTP/1.1 2"),
            "{:?} was served: {answer}",
            &head[..head.len().min(80)]
        );
    }
    server.stop().await;
}

fn private_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).expect("private");
    directory
}

async fn until_answered(path: &Path) -> UnixStream {
    let connect = async {
        loop {
            match UnixStream::connect(path).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    timeout(PATIENCE, connect).await.expect("the socket answers")
}

#[tokio::test]
async fn the_control_socket_is_private_and_replaces_a_dead_one() {
    let world = World::new().await;
    let directory = private_directory();
    let path = directory.path().join("control.sock");
    // What a killed server leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));

    let (end, shutdown) = watch::channel(false);
    let (router, at) = (world.router.clone(), path.clone());
    let task = tokio::spawn(async move { serve_unix(&at, router, shutdown).await });
    let stream = until_answered(&path).await;
    let answer = talk(
        stream,
        b"GET /api/account/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.contains("\"admin\":true"), "{answer}");
    let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let (_keep, second) = watch::channel(false);
    let refused = serve_unix(&path, world.router.clone(), second).await;
    assert!(matches!(refused, Err(SocketError::InUse { .. })), "{refused:?}");

    end.send_replace(true);
    timeout(PATIENCE, task)
        .await
        .expect("in time")
        .expect("no panic")
        .expect("no error");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_directory_that_others_may_enter_is_refused() {
    let world = World::new().await;
    let directory = private_directory();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("open");
    let (_keep, shutdown) = watch::channel(false);
    let refused = serve_unix(&directory.path().join("s"), world.router.clone(), shutdown).await;
    assert!(matches!(refused, Err(SocketError::OpenDirectory { .. })), "{refused:?}");
    let (_keep, shutdown) = watch::channel(false);
    let long = directory.path().join("x".repeat(120));
    let refused = serve_unix(&long, world.router.clone(), shutdown).await;
    assert!(matches!(refused, Err(SocketError::PathTooLong { .. })), "{refused:?}");
}
