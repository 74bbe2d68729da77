//! An edge as a process of its own, and who keeps it running.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use domain::routing::RoutingTable;
use edge::{EdgeArgs, EdgeClient, EdgeCommand, Supervision, supervise};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{EndWithTest, PATIENCE};

/// A control plane's hold on an edge process.
pub struct Plane {
    pub client: EdgeClient,
    pub report: watch::Receiver<Supervision>,
    pub supervisor: JoinHandle<std::io::Result<()>>,
    pub end: Option<EndWithTest>,
}

impl Plane {
    pub fn start(dir: &Path, listen: SocketAddr) -> Plane {
        let args = EdgeArgs {
            dir: dir.to_owned(),
            workers: 2,
            ..EdgeArgs::default()
        };
        let program = env!("CARGO_BIN_EXE_hob-edge").into();
        let command = EdgeCommand {
            program,
            leading: Vec::<OsString>::new(),
            listen: vec![listen],
            args,
        };
        let (report, watch) = watch::channel(Supervision::default());
        Plane::supervising(command, report, watch)
    }

    pub fn supervising(
        command: EdgeCommand,
        report: watch::Sender<Supervision>,
        watch: watch::Receiver<Supervision>,
    ) -> Plane {
        let client = EdgeClient::new(command.args.dir.clone());
        let supervisor = tokio::spawn(supervise(command, report));
        let end = EndWithTest {
            supervisor: supervisor.abort_handle(),
            report: watch.clone(),
        };
        Plane {
            client,
            report: watch,
            supervisor,
            end: Some(end),
        }
    }

    /// This control plane dies; its edge does not.
    pub fn die(mut self) {
        self.supervisor.abort();
        std::mem::forget(self.end.take());
    }

    pub async fn report(&mut self, wanted: impl FnMut(&Supervision) -> bool) -> Supervision {
        let found = tokio::time::timeout(PATIENCE, self.report.wait_for(wanted)).await;
        found.expect("the supervisor gets there").expect("it lives").clone()
    }

    pub async fn publish(&self, table: RoutingTable) {
        let epoch = table.epoch;
        self.client.publish(table);
        let mut watch = self.client.watch();
        let acked = tokio::time::timeout(PATIENCE, watch.wait_for(|view| view.acked_epoch == epoch)).await;
        acked.expect("acknowledged in time").expect("alive");
    }

    /// Waits until there is an edge again, and ends it.
    pub async fn end(mut self) {
        self.report(|report| report.pid.is_some()).await;
    }
}

pub fn kill(pid: i32, signal: i32) {
    // SAFETY: takes numbers. The process is one that a test has started.
    assert_eq!(
        unsafe { libc::kill(pid, signal) },
        0,
        "{}",
        std::io::Error::last_os_error()
    );
}

pub fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
