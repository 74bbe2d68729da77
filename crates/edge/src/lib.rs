//! The data plane: a process of its own that holds the listeners and the routing table, and forwards users' requests.
//!
//! **Architecture invariant:** the edge has no database, no secrets and no engine. It knows nothing but the last
//! [`domain::routing::RoutingTable`] that it acknowledged, and goes on serving by it whatever becomes of the control
//! plane (invariant 21).
//!
//! # Expected flow
//! [`edge_main`] takes over the listening sockets, enters the instances' network and gives up its privileges
//! (`process`). It starts one `worker` per core; each accepts from the same listeners and serves its connections
//! (`client`) to their end. A request is checked (`request`), routed (`table`), given to the least loaded instance of a
//! version (`service`, `shares`, `wish`), perhaps after a wait (`hold`), forwarded (`forward`, `upstream`) and counted
//! (`exchange`, `tally`). The control thread takes tables from the control socket,
//! puts them in force and on disk, and only then acknowledges them (`control`, `edge`, `persist`).
//!
//! The control plane's end is [`EdgeClient`], which publishes tables and watches what became of them, and
//! [`supervise()`], which keeps an edge running.

mod args;
mod behaviours;
mod body;
mod client;
mod client_io;
mod control;
mod crowd;
mod dns;
mod dns_tcp;
mod edge;
mod edge_client;
mod exchange;
mod forward;
mod head_guard;
mod headers;
mod hold;
mod instance;
mod joined;
mod limits;
mod pages;
mod persist;
mod pool;
mod privileges;
mod process;
pub mod protocol;
mod request;
mod service;
mod shares;
mod supervise;
mod table;
mod tally;
mod upgrade;
mod upstream;
mod wish;
mod worker;

pub use args::EdgeArgs;
pub use dns::HostResolver;
pub use edge::Sockets;
pub use edge_client::{EdgeClient, EdgeView, Receipts};
pub use limits::Limits;
pub use persist::TableDir;
pub use process::{EXIT_LOCKED, Setup, edge_main, prepare, run};
pub use supervise::{EdgeCommand, HeldSockets, Supervision, stop, supervise};

/// Makes the control socket of an edge in `dir`; see [`Setup::control`].
///
/// # Errors
/// As the file system says.
pub fn bind_control(dir: &std::path::Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    control::bind(dir)
}
