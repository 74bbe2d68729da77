//! An edge with a table that never changes, without a control plane: for measurements.
//!
//! `static_edge LISTEN BACKEND [WORKERS]`, e.g. `static_edge 127.0.0.1:8080 127.0.0.1:9000 1`. Every request for the host
//! of LISTEN goes to BACKEND. Set `HOSTS` to have that many other hosts in the table.

use std::error::Error;
use std::net::{SocketAddr, TcpListener};

use domain::routing::{Pool, RouteMatch, RoutingTable, ServiceEntry, Target};
use edge::{Limits, Setup, Sockets, TableDir};
use uuid::Uuid;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut address =
        || -> Result<SocketAddr, Box<dyn Error>> { Ok(args.next().ok_or("an address is missing")?.parse()?) };
    let (listen, backend) = (address()?, address()?);
    let workers = args.next().map_or(Ok(1), |workers| workers.parse())?;
    let hosts: usize = std::env::var("HOSTS").map_or(Ok(0), |hosts| hosts.parse())?;

    let home = tempfile::tempdir()?;
    let dir = TableDir::open(home.path())?;
    let others = (0..hosts).map(|host| format!("host-{host}.example.com"));
    let services = others
        .chain([listen.ip().to_string()])
        .map(|host| service(&host, backend));
    dir.store(&RoutingTable {
        epoch: 1,
        services: services.collect(),
        ..RoutingTable::default()
    })?;
    let setup = Setup {
        lock: dir.lock()?,
        control: edge::bind_control(home.path())?,
        dir,
        sockets: Sockets {
            public: vec![TcpListener::bind(listen)?],
            ..Sockets::default()
        },
        owner: 0,
        gateway: None,
        upstream_dns: Vec::new(),
        workers,
        limits: Limits::default(),
    };
    edge::run(setup, std::future::pending::<()>)?;
    Ok(())
}

fn service(host: &str, backend: SocketAddr) -> ServiceEntry {
    let target = Target {
        instance: Uuid::new_v4().into(),
        address: backend.ip(),
        port: backend.port(),
    };
    ServiceEntry {
        service: Uuid::new_v4().into(),
        project: Uuid::new_v4().into(),
        name: "bench".to_owned(),
        receipt: Uuid::new_v4().into(),
        matches: vec![RouteMatch {
            host: host.to_owned(),
            path: "/".to_owned(),
        }],
        pools: vec![Pool::new(Uuid::new_v4().into(), 1, vec![target])],
        sticky: false,
        hold: None,
    }
}
