//! An edge in this process, toy apps behind it, and clients that see every byte.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod plane;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::routing::{Pool, Receipt, RouteMatch, RoutingTable, ServiceEntry, Share, Target};
use domain::{DeploymentId, InstanceId, ProjectId};
use edge::{EdgeClient, EdgeView, HostResolver, Limits, Setup, Sockets, TableDir};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use uuid::Uuid;

/// How long a condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Limits with which deadlines pass quickly.
pub fn hasty() -> Limits {
    Limits {
        tick_ms: 20,
        ..Limits::default()
    }
}

/// What names inside are answered with.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// A running edge and the control plane's end of it.
pub struct Rig {
    pub home: tempfile::TempDir,
    pub address: SocketAddr,
    pub internal: SocketAddr,
    /// Where names are asked for by UDP and by TCP.
    pub names: [SocketAddr; 2],
    pub client: EdgeClient,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    epoch: u64,
}

impl Rig {
    pub fn start() -> Rig {
        Rig::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Rig {
        Rig::with_names(limits, Vec::new())
    }

    /// `resolvers` are asked for names of the outside.
    pub fn with_names(limits: Limits, resolvers: Vec<HostResolver>) -> Rig {
        let home = tempfile::tempdir().expect("a temporary directory");
        let public = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let internal = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let dns = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let dns_tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let names = [dns.local_addr(), dns_tcp.local_addr()].map(|address| address.expect("bound"));
        let (address, inside) = (
            public.local_addr().expect("bound"),
            internal.local_addr().expect("bound"),
        );
        let dir = TableDir::open(home.path()).expect("opens");
        let setup = Setup {
            lock: dir.lock().expect("locks"),
            control: edge::bind_control(home.path()).expect("binds"),
            dir,
            sockets: Sockets {
                public: vec![public],
                internal: Some(internal),
                dns: Some(dns),
                dns_tcp: Some(dns_tcp),
            },
            owner: nix::unistd::geteuid().as_raw(),
            gateway: Some(GATEWAY),
            upstream_dns: resolvers,
            workers: 2,
            limits,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            edge::run(setup, || async { drop(stopped.await) }).expect("the edge runs");
        });
        let client = EdgeClient::new(home.path().to_owned());
        Rig {
            home,
            address,
            internal: inside,
            names,
            client,
            stop: Some(stop),
            thread: Some(thread),
            epoch: 0,
        }
    }

    /// Publishes the services as the next table and waits until it is acknowledged.
    pub async fn publish(&mut self, services: Vec<ServiceEntry>) -> EdgeView {
        self.publish_with(services, &[]).await
    }

    pub async fn publish_with(&mut self, services: Vec<ServiceEntry>, callers: &[(IpAddr, ProjectId)]) -> EdgeView {
        self.epoch += 1;
        let epoch = self.epoch;
        self.client.publish(RoutingTable {
            epoch,
            services,
            callers: callers.iter().copied().collect(),
        });
        self.view(|view| view.acked_epoch == epoch).await
    }

    /// Waits until the view of the edge is as wanted.
    pub async fn view(&self, wanted: impl FnMut(&EdgeView) -> bool) -> EdgeView {
        let mut watch = self.client.watch();
        let view = tokio::time::timeout(PATIENCE, watch.wait_for(wanted)).await;
        view.unwrap_or_else(|_| panic!("the view stays {:?}", self.client.watch().borrow()))
            .expect("alive")
            .clone()
    }

    /// Waits until a deployment's receipt is as wanted.
    pub async fn receipt(&self, deployment: DeploymentId, mut wanted: impl FnMut(&Receipt) -> bool) -> Receipt {
        let mut watch = self.client.receipts();
        self.client.ask_receipts();
        let found = tokio::time::timeout(PATIENCE, watch.wait_for(|all| wanted(&all.sum(deployment)))).await;
        let found = found.unwrap_or_else(|_| {
            panic!(
                "the receipt stays {:?}",
                self.client.receipts().borrow().sum(deployment)
            )
        });
        found.expect("alive").sum(deployment)
    }

    pub async fn connect(&self) -> Conn {
        Conn::to(self.address).await
    }

    /// One GET on a connection of its own.
    pub async fn get(&self, host: &str, path: &str) -> Answer {
        self.connect().await.ask(&get(host, path)).await
    }

    /// Asks the edge to stop; it goes on finishing.
    pub fn stop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
    }

    /// Waits until the edge has stopped.
    pub async fn join(&mut self) {
        let thread = self.thread.take().expect("not joined yet");
        wait_for("the edge to end", || thread.is_finished()).await;
        thread.join().expect("ended well");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ends a supervised edge process when a test does, however that does.
pub struct EndWithTest {
    pub supervisor: tokio::task::AbortHandle,
    pub report: tokio::sync::watch::Receiver<edge::Supervision>,
}

impl Drop for EndWithTest {
    fn drop(&mut self) {
        self.supervisor.abort();
        if let Some(pid) = self.report.borrow().pid {
            // SAFETY: takes numbers. The process is one that this test has started.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

pub fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

pub async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A service that answers on `host` with these apps behind it.
pub fn service(host: &str, apps: &[&App]) -> ServiceEntry {
    ServiceEntry {
        service: Uuid::new_v4().into(),
        project: Uuid::new_v4().into(),
        name: host.split('.').next().unwrap_or_default().to_owned(),
        receipt: Uuid::new_v4().into(),
        matches: vec![RouteMatch {
            host: host.to_owned(),
            path: "/".to_owned(),
        }],
        pools: vec![Pool::new(
            Uuid::new_v4().into(),
            1,
            apps.iter().map(|app| app.target()).collect(),
        )],
        sticky: false,
        hold: None,
    }
}

/// A version of a service with these apps.
pub fn pool(version: i64, share: Share, apps: &[&App]) -> Pool {
    let targets = apps.iter().map(|app| app.target()).collect();
    Pool {
        share,
        ..Pool::new(Uuid::new_v4().into(), version, targets)
    }
}

/// Everything on this host.
pub fn host(host: &str) -> RouteMatch {
    RouteMatch {
        host: host.to_owned(),
        path: "/".to_owned(),
    }
}

/// Clients of `a.test` that ask again and again, every fourth on a new connection each time.
pub struct Load {
    stop: Arc<AtomicBool>,
    /// What each client looks at before it asks and after it was answered.
    pub mark: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<(usize, usize)>>,
}

impl Load {
    /// `is_good` is given the mark of before the question and of after the answer.
    pub fn begin(address: SocketAddr, clients: usize, is_good: fn([usize; 2], &Answer) -> bool) -> Load {
        let (stop, mark) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |index: usize| {
            let (stop, mark) = (Arc::clone(&stop), Arc::clone(&mark));
            tokio::spawn(async move {
                let mut conn = Conn::to(address).await;
                let (mut good, mut bad) = (0, 0);
                while !stop.load(Ordering::SeqCst) {
                    if index.is_multiple_of(4) {
                        conn = Conn::to(address).await;
                    }
                    let before = mark.load(Ordering::SeqCst);
                    conn.write(get("a.test", "/")).await;
                    let answer = conn.answer().await;
                    let marks = [before, mark.load(Ordering::SeqCst)];
                    match answer {
                        Some(answer) if is_good(marks, &answer) => good += 1,
                        _ => bad += 1,
                    }
                }
                (good, bad)
            })
        };
        let clients = (0..clients).map(client).collect();
        Load { stop, mark, clients }
    }

    /// Good and bad answers.
    pub async fn end(self) -> (usize, usize) {
        self.stop.store(true, Ordering::SeqCst);
        let mut sum = (0, 0);
        for client in self.clients {
            let (good, bad) = client.await.expect("no panic");
            sum = (sum.0 + good, sum.1 + bad);
        }
        sum
    }
}

pub type AppBody = BoxBody<Bytes, Infallible>;

pub fn text(text: impl Into<Bytes>) -> AppBody {
    Full::new(text.into()).boxed()
}

/// A toy instance.
pub struct App {
    pub id: InstanceId,
    pub address: SocketAddr,
    /// Requests that have begun here.
    pub seen: Arc<AtomicUsize>,
    /// Connections that were made to it.
    pub connections: Arc<AtomicUsize>,
    /// Connections that are open.
    pub open: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl App {
    pub fn target(&self) -> Target {
        Target {
            instance: self.id,
            address: self.address.ip(),
            port: self.address.port(),
        }
    }

    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// Answers requests with a function.
    pub async fn http<F, R>(handler: F) -> App
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<AppBody>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let seen = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&seen);
        let mut app = App::raw(move |stream| {
            let (handler, count) = (Arc::clone(&handler), Arc::clone(&count));
            async move {
                let service = service_fn(move |request| {
                    count.fetch_add(1, Ordering::SeqCst);
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let conn = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let _ = conn.with_upgrades().await;
            }
        })
        .await;
        app.seen = seen;
        app
    }

    /// Always the same words.
    pub async fn says(words: &'static str) -> App {
        App::http(move |_| async move { Response::new(text(words)) }).await
    }

    /// Tells what it was asked: the request's head, then its body.
    pub async fn mirror() -> App {
        App::http(|request| async move {
            let (parts, body) = request.into_parts();
            let mut told = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
            for (name, value) in &parts.headers {
                told.push_str(&format!("{name}: {}\n", value.to_str().unwrap_or("?")));
            }
            let body = body.collect().await;
            let trailers = body.as_ref().ok().and_then(|body| body.trailers().cloned());
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            told.push_str(&format!("\n{}", String::from_utf8_lossy(&body)));
            for (name, value) in &trailers.unwrap_or_default() {
                told.push_str(&format!("\ntrailer {name}: {}", value.to_str().unwrap_or("?")));
            }
            Response::new(text(told))
        })
        .await
    }

    /// Does what it likes with its connections.
    pub async fn raw<F, R>(serve: F) -> App
    where
        F: Fn(TcpStream) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        let (connections, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (made, now) = (Arc::clone(&connections), Arc::clone(&open));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                made.fetch_add(1, Ordering::SeqCst);
                now.fetch_add(1, Ordering::SeqCst);
                let serving = serve(stream);
                let now = Arc::clone(&now);
                tokio::spawn(async move {
                    serving.await;
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        App {
            id: Uuid::now_v7().into(),
            address,
            seen: Arc::default(),
            connections,
            open,
            task,
        }
    }

    /// Connections that fill the queue of a silent app.
    pub const SILENT_FILL: usize = 4;

    /// Connections to it that are made or being made on this machine, as the kernel lists them.
    pub fn callers(&self) -> usize {
        let port = format!(":{:04X}", self.address.port());
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's list");
        let remote = |line: &str| {
            line.split_whitespace()
                .nth(2)
                .is_some_and(|address| address.ends_with(&port))
        };
        table.lines().filter(|line| remote(line)).count()
    }

    /// An address where connections hang: its queue is full and nobody takes them. What was there before a power failure
    /// looks like this.
    pub fn silent() -> App {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).expect("a backlog")).expect("listens");
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            let fill = (0..App::SILENT_FILL).map(|_| TcpStream::connect(address));
            futures_util::future::join_all(fill).await;
            drop(listener);
        });
        App {
            id: Uuid::now_v7().into(),
            address,
            seen: Arc::default(),
            connections: Arc::default(),
            open: Arc::default(),
            task,
        }
    }

    /// An address where nobody listens.
    pub fn absent() -> App {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(async {});
        App {
            id: Uuid::now_v7().into(),
            address,
            seen: Arc::default(),
            connections: Arc::default(),
            open: Arc::default(),
            task,
        }
    }
}

/// What came back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// A client that writes what it is told and reads answers with as little understanding as possible.
pub struct Conn {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Conn {
    pub async fn to(address: SocketAddr) -> Conn {
        let stream = TcpStream::connect(address).await.expect("the edge accepts");
        stream.set_nodelay(true).expect("a socket");
        Conn::over(stream)
    }

    pub fn over(stream: TcpStream) -> Conn {
        Conn {
            stream,
            buffer: Vec::new(),
        }
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the edge reads");
    }

    /// Writes and reads one answer.
    pub async fn ask(&mut self, request: &str) -> Answer {
        self.write(request).await;
        self.answer().await.expect("an answer")
    }

    /// One answer, chunks joined; `None` when the connection ends before it is complete.
    pub async fn answer(&mut self) -> Option<Answer> {
        let head = self.until(b"\r\n\r\n").await?;
        let head = String::from_utf8(head).expect("a head is text");
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut answer = Answer {
            status,
            head,
            body: String::new(),
        };
        let body = match (answer.header("content-length"), answer.header("transfer-encoding")) {
            (Some(len), _) => self.exactly(len.parse().ok()?).await?,
            (None, Some(_)) => self.chunks().await?,
            (None, None) => Vec::new(),
        };
        answer.body = String::from_utf8_lossy(&body).into_owned();
        Some(answer)
    }

    pub async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut whole = Vec::new();
        loop {
            let line = self.until(b"\r\n").await?;
            let size = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
            if size == 0 {
                loop {
                    let trailer = self.until(b"\r\n").await?;
                    if trailer == b"\r\n" {
                        return Some(whole);
                    }
                    whole.extend_from_slice(&trailer);
                }
            }
            whole.extend(self.exactly(size).await?);
            self.exactly(2).await?;
        }
    }

    /// Everything up to and with `end`.
    pub async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                let rest = self.buffer.split_off(at + end.len());
                return Some(std::mem::replace(&mut self.buffer, rest));
            }
            self.more().await?;
        }
    }

    pub async fn exactly(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < len {
            self.more().await?;
        }
        let rest = self.buffer.split_off(len);
        Some(std::mem::replace(&mut self.buffer, rest))
    }

    /// Everything until the edge closes the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await.is_some() {}
        std::mem::take(&mut self.buffer)
    }

    async fn more(&mut self) -> Option<()> {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
        match read.expect("the edge answers in time") {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }
}
