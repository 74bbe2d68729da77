//! A running edge: its workers, the table that they serve by, and the books.

use std::collections::HashSet;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use domain::InstanceId;
use domain::routing::RoutingTable;
use http::HeaderValue;
use nix::sys::socket::{Backlog, listen};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use uuid::Uuid;

use crate::client::{Entrance, Side};
use crate::crowd::Crowd;
use crate::headers::Scheme;
use crate::hold::Rooms;
use crate::limits::Limits;
use crate::persist::TableDir;
use crate::protocol::{Busy, SocketRole, Status};
use crate::table::Register;
use crate::tally::Books;
use crate::worker::{self, Order, Shared};

/// After a table could not be written: how long until the next try.
const PERSIST_PAUSE: Duration = Duration::from_secs(1);

/// Connections that the kernel may hold ready: those of the time between two edges. It has a limit of its own.
const BACKLOG: i32 = 4096;

/// The sockets of an edge. They are made before it and may outlive it.
#[derive(Default)]
pub struct Sockets {
    pub public: Vec<TcpListener>,
    pub internal: Option<TcpListener>,
    pub dns: Option<UdpSocket>,
    pub dns_tcp: Option<TcpListener>,
}

impl Sockets {
    /// A duplicate of every socket, with what it is for.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn duplicates(&self) -> io::Result<Vec<(SocketRole, OwnedFd)>> {
        let mut all = Vec::new();
        for listener in &self.public {
            all.push((SocketRole::Public(listener.local_addr()?), listener.try_clone()?.into()));
        }
        if let Some(listener) = &self.internal {
            all.push((
                SocketRole::Internal(listener.local_addr()?),
                listener.try_clone()?.into(),
            ));
        }
        if let Some(socket) = &self.dns {
            all.push((SocketRole::Dns(socket.local_addr()?), socket.try_clone()?.into()));
        }
        if let Some(listener) = &self.dns_tcp {
            all.push((SocketRole::DnsTcp(listener.local_addr()?), listener.try_clone()?.into()));
        }
        Ok(all)
    }
}

/// What has been settled about tables, for whoever tells the control plane.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settled {
    /// Served by every worker, and on disk.
    pub epoch: u64,
    /// A newer one that could not be written, and why.
    pub refused: Option<(u64, String)>,
}

/// Belongs to the control thread; workers see only [`Shared`].
pub struct Edge {
    pub boot: Uuid,
    pub books: Books,
    pub shared: Arc<Shared>,
    sockets: Mutex<Sockets>,
    workers: Vec<mpsc::Sender<Order>>,
    register: Mutex<Register>,
    dir: Arc<TableDir>,
    wanted: watch::Sender<Arc<RoutingTable>>,
    settled: watch::Sender<Settled>,
    idle: Arc<Notify>,
}

impl Edge {
    /// Loads the table that was acknowledged last and begins to serve by it.
    ///
    /// # Errors
    /// When threads cannot be started or sockets are of the wrong kind.
    pub fn start(sockets: Sockets, dir: TableDir, workers: usize, limits: Limits) -> io::Result<Edge> {
        let workers = workers.max(1);
        let books = Books::new(workers);
        let idle = Arc::new(Notify::new());
        let mut register = Register::new(Arc::clone(&idle));
        let first = Arc::new(dir.load());
        let rooms = Rooms::new(&limits);
        let (table, _) = register.compile(&first, &books, &rooms);
        let table = Arc::new(ArcSwap::from_pointee(table));
        let shared = Arc::new(Shared {
            table,
            crowd: Arc::new(Crowd::new(limits.max_connections_per_client)),
            limits,
            workers,
            rooms,
            connections: AtomicUsize::new(0),
        });
        let entrances = entrances(&sockets)?;
        let start = |index| {
            let own = entrances
                .iter()
                .map(Entrance::try_clone)
                .collect::<io::Result<Vec<_>>>()?;
            worker::start(index, Arc::clone(&shared), own)
        };
        let handles = (0..workers).map(start).collect::<io::Result<Vec<_>>>()?;
        tracing::info!(
            epoch = first.epoch,
            services = first.services.len(),
            workers,
            "the edge serves"
        );
        Ok(Edge {
            boot: Uuid::new_v4(),
            books,
            shared,
            sockets: Mutex::new(sockets),
            workers: handles,
            register: Mutex::new(register),
            dir: Arc::new(dir),
            settled: watch::Sender::new(Settled {
                epoch: first.epoch,
                refused: None,
            }),
            wanted: watch::Sender::new(first),
            idle,
        })
    }

    /// Asks for a table to be served. Of several, the newest is.
    ///
    /// # Errors
    /// Says why when it is older than one that was asked for before, or another one of the same epoch.
    pub fn want(&self, table: RoutingTable) -> Result<(), String> {
        let mut refused = None;
        self.wanted.send_if_modified(|wanted| {
            if table.epoch > wanted.epoch {
                *wanted = Arc::new(table);
                return true;
            }
            if table.epoch < wanted.epoch {
                refused = Some(format!("epoch {} is older than epoch {}", table.epoch, wanted.epoch));
            } else if **wanted != table {
                refused = Some(format!("epoch {} was another table before", table.epoch));
            }
            false
        });
        refused.map_or(Ok(()), Err)
    }

    pub fn settled(&self) -> watch::Receiver<Settled> {
        self.settled.subscribe()
    }

    pub fn idle(&self) -> &Notify {
        &self.idle
    }

    /// Requests in flight with instances that are in no table.
    pub fn busy(&self) -> Busy {
        self.register().busy()
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sockets, for somebody who is to hold duplicates.
    pub fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn status(&self) -> Status {
        Status {
            edge_boot: self.boot,
            pid: std::process::id(),
            epoch: self.settled.borrow().epoch,
            connections: self.shared.connections.load(Ordering::Relaxed),
            held: self.shared.rooms.held(),
            workers: self.shared.workers,
            instances: self.register().routed().len(),
        }
    }

    /// Puts every wanted table in force, one after the other, those that were overtaken left out. Runs for as long as
    /// the edge does.
    pub async fn settle_tables(&self) {
        let mut wanted = self.wanted.subscribe();
        loop {
            let table = Arc::clone(&wanted.borrow_and_update());
            if table.epoch > self.settled.borrow().epoch {
                self.apply(&table).await;
                if let Err(error) = self.persist(&table).await {
                    tracing::error!(epoch = table.epoch, error = %error, "the routing table cannot be written; trying again");
                    let refused = Some((table.epoch, format!("the table cannot be written: {error}")));
                    self.settled.send_modify(|settled| settled.refused = refused);
                    let _ = tokio::time::timeout(PERSIST_PAUSE, wanted.changed()).await;
                    continue;
                }
                self.settled.send_replace(Settled {
                    epoch: table.epoch,
                    refused: None,
                });
            }
            if wanted.changed().await.is_err() {
                return;
            }
        }
    }

    /// Serves by `table` from now on: in this order, requests can find the new table; the instances that are not in it
    /// are marked; requests that wait look for a target; every worker has seen both and dropped its idle connections to
    /// the marked ones.
    async fn apply(&self, table: &RoutingTable) {
        {
            let mut register = self.register();
            let (compiled, leaving) = register.compile(table, &self.books, &self.shared.rooms);
            self.shared.table.store(Arc::new(compiled));
            register.retire(leaving);
        }
        self.shared.rooms.knock();
        for settled in self.tell_all(Order::Settle).await {
            let _ = settled.await;
        }
    }

    async fn tell_all<T>(&self, order: impl Fn(oneshot::Sender<T>) -> Order) -> Vec<oneshot::Receiver<T>> {
        let mut answers = Vec::new();
        for worker in &self.workers {
            let (done, answer) = oneshot::channel();
            // A worker that is gone has nothing left to settle.
            let _ = worker.send(order(done)).await;
            answers.push(answer);
        }
        answers
    }

    async fn persist(&self, table: &Arc<RoutingTable>) -> io::Result<()> {
        let (dir, table) = (Arc::clone(&self.dir), Arc::clone(table));
        tokio::task::spawn_blocking(move || dir.store(&table))
            .await
            .unwrap_or_else(|join| Err(io::Error::other(join)))
    }

    /// Cuts what is still with these instances. Those that are in the table are left alone: nobody drains them.
    pub async fn close_busy(&self, instances: Vec<InstanceId>) {
        let routed = self.register().routed();
        let instances: Arc<HashSet<_>> = Arc::new(
            instances
                .into_iter()
                .filter(|instance| !routed.contains(instance))
                .collect(),
        );
        for worker in &self.workers {
            let _ = worker.send(Order::Cut(Arc::clone(&instances))).await;
        }
    }

    /// Accepts nothing more and waits for what is in flight, up to the limit. The listeners stay open only where
    /// somebody else holds them. Requests that wait for a target are refused: no table will come any more.
    pub async fn drain(&self) {
        self.shared.rooms.close();
        drop(std::mem::take(&mut *self.sockets()));
        let all = async {
            for drained in self.tell_all(Order::Drain).await {
                let _ = drained.await;
            }
        };
        if tokio::time::timeout(self.shared.limits.drain(), all).await.is_err() {
            let left = self.shared.connections.load(Ordering::Relaxed);
            tracing::warn!(
                connections = left,
                "the time to finish has passed; cutting what is left"
            );
        }
    }
}

fn entrances(sockets: &Sockets) -> io::Result<Vec<Entrance>> {
    let entrance = |listener: &TcpListener, side| {
        listener.set_nonblocking(true)?;
        listen(listener, Backlog::new(BACKLOG)?)?;
        let port = HeaderValue::from(listener.local_addr()?.port());
        Ok(Entrance {
            listener: listener.try_clone()?,
            side,
            scheme: Scheme::Http,
            port,
        })
    };
    let public = sockets.public.iter().map(|listener| entrance(listener, Side::Public));
    let internal = sockets
        .internal
        .iter()
        .map(|listener| entrance(listener, Side::Internal));
    public.chain(internal).collect()
}
