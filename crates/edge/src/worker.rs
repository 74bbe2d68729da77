//! One worker: one thread, one current-thread runtime, its own accepts, connections and idle upstream connections.
//! Nothing of a request ever moves to another worker.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use domain::InstanceId;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_local};

use crate::client::{Client, Entrance, Signal};
use crate::crowd::Crowd;
use crate::headers::RequestIds;
use crate::hold::Rooms;
use crate::limits::Limits;
use crate::table::Table;
use crate::upstream::Upstreams;

/// How long to wait after a failed accept, or at the limit of connections, before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that are parked before memory is given back: about 5 MB of buffers.
const TRIM_AFTER: usize = 256;

/// Orders that may wait for a worker before the control thread waits too.
const ORDERS: usize = 16;

/// What all workers share.
pub struct Shared {
    pub table: Arc<ArcSwap<Table>>,
    pub limits: Limits,
    pub workers: usize,
    pub rooms: Rooms,
    pub crowd: Arc<Crowd>,
    /// Client connections of all workers.
    pub connections: AtomicUsize,
}

/// What the control thread asks of every worker.
pub enum Order {
    /// A new table is in force: drop idle connections to instances that left, then answer.
    Settle(oneshot::Sender<()>),
    /// Cut every connection whose request is with one of these instances.
    Cut(Arc<HashSet<InstanceId>>),
    /// Accept nothing more, finish what is there, answer when nothing is left.
    Drain(oneshot::Sender<()>),
}

/// The thread-local world of one worker.
pub struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub upstreams: Upstreams,
    /// Requests that wait for the head of their answer.
    pub pending: Cell<usize>,
    pub request_ids: RefCell<RequestIds>,
    table: RefCell<arc_swap::Cache<Arc<ArcSwap<Table>>, Arc<Table>>>,
    began: Instant,
    now: Cell<u64>,
    clients: RefCell<HashMap<u64, Rc<Client>>>,
    next_client: Cell<u64>,
    turn: Cell<usize>,
    /// Connections that were parked since memory was last given back.
    parked: Cell<usize>,
    /// Wakes the ticker, which sleeps while there is nothing to look after.
    busy: Notify,
    /// Rung when the last client connection ends.
    emptied: Notify,
    accepting: RefCell<Vec<JoinHandle<()>>>,
}

/// Starts a worker that accepts from all `entrances`. It ends when its orders do, or when it has drained.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn start(index: usize, shared: Arc<Shared>, entrances: Vec<Entrance>) -> std::io::Result<mpsc::Sender<Order>> {
    let (orders, inbox) = mpsc::channel(ORDERS);
    let runtime = move || {
        Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
    };
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name(format!("edge-{index}"))
        .spawn(move || {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            runtime.block_on(async move {
                let worker = Rc::new(Worker::new(index, shared));
                let listening = worker.listen(entrances);
                let listens = listening.is_ok();
                if ready.send(listening).is_ok() && listens {
                    worker.run(inbox).await;
                }
            });
        })?;
    is_ready
        .recv()
        .unwrap_or_else(|_| Err(std::io::Error::other("the worker's thread ended at once")))?;
    Ok(orders)
}

impl Worker {
    fn new(index: usize, shared: Arc<Shared>) -> Self {
        Worker {
            index,
            upstreams: Upstreams::new(),
            pending: Cell::new(0),
            request_ids: RefCell::new(RequestIds::new()),
            table: RefCell::new(arc_swap::Cache::new(Arc::clone(&shared.table))),
            began: Instant::now(),
            now: Cell::new(0),
            clients: RefCell::default(),
            next_client: Cell::new(0),
            turn: Cell::new(index),
            parked: Cell::new(0),
            busy: Notify::new(),
            emptied: Notify::new(),
            accepting: RefCell::default(),
            shared,
        }
    }

    /// The table in force.
    pub fn with_table<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(self.table.borrow_mut().load())
    }

    /// Milliseconds since this worker began, as of its last tick: good enough for deadlines, free to read.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// A number that grows with every request, for round robin.
    pub fn turn(&self) -> usize {
        self.turn.set(self.turn.get().wrapping_add(1));
        self.turn.get()
    }

    /// A connection has freed its buffers.
    pub fn count_parked(&self) {
        self.parked.set(self.parked.get() + 1);
    }

    /// Gives the memory of many parked connections back to the system: the allocator alone keeps it for ever when the
    /// few bytes of each that stay lie in between.
    fn trim(&self) {
        if self.parked.get() >= TRIM_AFTER {
            self.parked.set(0);
            #[cfg(target_env = "gnu")]
            // SAFETY: takes a number, and may be called by any thread at any time.
            unsafe {
                libc::malloc_trim(0);
            }
        }
    }

    fn refresh_clock(&self) {
        self.now
            .set(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX));
    }

    fn listen(self: &Rc<Self>, entrances: Vec<Entrance>) -> std::io::Result<()> {
        for entrance in entrances {
            let listener = tokio::net::TcpListener::from_std(entrance.listener.try_clone()?)?;
            let task = spawn_local(Rc::clone(self).accept(listener, entrance));
            self.accepting.borrow_mut().push(task);
        }
        Ok(())
    }

    async fn run(self: Rc<Self>, mut orders: mpsc::Receiver<Order>) {
        spawn_local(Rc::clone(&self).tick());
        while let Some(order) = orders.recv().await {
            match order {
                Order::Settle(done) => {
                    self.upstreams.drop_leaving();
                    let _ = done.send(());
                }
                Order::Cut(instances) => self.signal_all(Signal::Cut, |client| {
                    client.instance().is_some_and(|instance| instances.contains(&instance))
                }),
                Order::Drain(done) => {
                    self.drain().await;
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    async fn accept(self: Rc<Self>, listener: tokio::net::TcpListener, entrance: Entrance) {
        loop {
            if self.shared.connections.load(Ordering::Relaxed) >= self.shared.limits.max_connections {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
            match listener.accept().await {
                Ok((stream, peer)) => self.admit(stream, peer.ip().to_canonical(), &entrance),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(error = %error, "cannot accept; trying again in a moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, peer: std::net::IpAddr, entrance: &Entrance) {
        let Some(guest) = self.shared.crowd.admit(peer) else {
            return tracing::debug!(client.address = %peer, "a connection too many of one client");
        };
        // Fails only on a connection that is gone already, which the first read will tell.
        let _ = stream.set_nodelay(true);
        self.refresh_clock();
        let id = self.next_client.get();
        self.next_client.set(id + 1);
        let client = Rc::new(Client::new(Rc::clone(self), entrance, peer, stream.as_raw_fd()));
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        self.clients.borrow_mut().insert(id, Rc::clone(&client));
        self.wake_ticker();
        let worker = Rc::clone(self);
        spawn_local(async move {
            crate::client::serve(stream, client).await;
            drop(guest);
            worker.dismiss(id);
        });
    }

    fn dismiss(&self, id: u64) {
        let gone = self.clients.borrow_mut().remove(&id);
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        drop(gone);
        if self.clients.borrow().is_empty() {
            self.emptied.notify_one();
        }
    }

    /// To be called by whatever leaves something behind that has a deadline.
    pub fn wake_ticker(&self) {
        self.busy.notify_one();
    }

    async fn tick(self: Rc<Self>) {
        loop {
            while self.clients.borrow().is_empty() && self.upstreams.is_empty() {
                self.busy.notified().await;
            }
            tokio::time::sleep(self.shared.limits.tick()).await;
            self.refresh_clock();
            self.trim();
            let now = self.now();
            self.upstreams.drop_stale(now, self.shared.limits.upstream_idle_ms);
            let late: Vec<_> = self
                .clients
                .borrow()
                .values()
                .filter_map(|c| Some((Rc::clone(c), c.due(now)?)))
                .collect();
            late.into_iter().for_each(|(client, signal)| client.signal(signal));
        }
    }

    fn signal_all(&self, signal: Signal, which: impl Fn(&Client) -> bool) {
        let clients: Vec<_> = self
            .clients
            .borrow()
            .values()
            .filter(|client| which(client))
            .cloned()
            .collect();
        clients.into_iter().for_each(|client| client.signal(signal));
    }

    async fn drain(&self) {
        self.accepting.borrow_mut().drain(..).for_each(|task| task.abort());
        self.signal_all(Signal::Drain, |_| true);
        while !self.clients.borrow().is_empty() {
            self.emptied.notified().await;
        }
    }
}

/// Errors of accept(2) that are about the connection that was to be accepted, not about us.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
