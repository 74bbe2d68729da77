//! The control plane's end of the edge: supervised, told, listened to.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use domain::routing::{EdgeView, Receipt, RoutingTable};
use domain::{Behaviour, DeploymentId, InstanceId};
use edge::{EdgeArgs, EdgeClient, EdgeCommand, HeldSockets, Receipts, Supervision};
use engine::{Finding, Level};
use reconcile::EdgePort;
use store::Store;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::runtime::fine;

/// Name servers for names that are not ours, where the host names none.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// More name servers than this help nobody.
const NAME_SERVERS_MAX: usize = 3;
/// What the edge runs as where the platform runs as root: `nobody`, who owns nothing.
const NOBODY: (u32, u32) = (65_534, 65_534);
/// The edge reports receipts about once a second. As long as tables change, and a little longer, it is asked so often:
/// whoever looks at a deployment that has just ended wants to see its requests.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// The edge counts as being in a rollout for so long after its last change.
const ROLLOUT_QUIET: Duration = Duration::from_secs(2);

/// How often it is written how versions behave: for people who compare them later, and not for gates, which hear of it
/// at once.
const KEEP_BEHAVIOURS_EVERY: Duration = Duration::from_secs(10);

/// How long requests in flight may keep the edge from ending.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// Where the edge listens and on which network the instances are.
pub struct EdgePlan {
    pub dir: PathBuf,
    pub program: PathBuf,
    pub listen: SocketAddr,
    /// Most connections of one client; see [`edge::Limits::max_connections_per_client`].
    pub client_connections: Option<usize>,
    /// Whether the edge becomes nobody.
    pub drops_privileges: bool,
    /// The instances' network namespace and the gateway's address in it.
    pub network: Option<(PathBuf, std::net::Ipv4Addr)>,
}

/// A running edge and the line to it.
pub struct EdgeLink {
    client: EdgeClient,
    view: watch::Receiver<EdgeView>,
    supervision: watch::Receiver<Supervision>,
    supervisor: JoinHandle<()>,
}

impl EdgePlan {
    /// The address must be free, or held by our own edge: checked before anything is started, for a clear message.
    pub fn check_listener(&self) -> Result<()> {
        if edge_runs(&self.dir) {
            return Ok(());
        }
        HeldSockets::default().bind(&[self.listen]).map(drop).with_context(|| {
            format!(
                "the edge cannot listen on {}; stop what uses it or give another address with --edge-http",
                self.listen
            )
        })
    }

    fn command(&self) -> EdgeCommand {
        let (netns, gateway) = self.network.clone().unzip();
        let mut limits = edge::Limits::default();
        if let Some(most) = self.client_connections {
            limits.max_connections_per_client = most;
        }
        EdgeCommand {
            program: self.program.clone(),
            leading: vec!["edge".into()],
            listen: vec![self.listen],
            args: EdgeArgs {
                dir: self.dir.clone(),
                netns,
                gateway,
                upstream_dns: name_servers(Path::new(RESOLV_CONF)),
                user: self.drops_privileges.then_some(NOBODY),
                limits,
                ..EdgeArgs::default()
            },
        }
    }
}

/// Ended, and waiting for its parent (which may be us) to notice.
fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

fn edge_runs(dir: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(dir.join("control.sock")).is_ok()
}

/// Read once; names of the outside are asked there.
fn name_servers(path: &Path) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let servers = text.lines().filter_map(|line| {
        let address = line.strip_prefix("nameserver")?.trim();
        Some(SocketAddr::new(address.parse().ok()?, 53))
    });
    servers.take(NAME_SERVERS_MAX).collect()
}

impl EdgeLink {
    /// Adopts the edge that runs, or starts one, and keeps one running for as long as the runtime lives.
    pub fn start(plan: &EdgePlan, store: Store) -> Arc<EdgeLink> {
        let client = EdgeClient::new(plan.dir.clone());
        let (report, supervision) = watch::channel(Supervision::default());
        let command = plan.command();
        let supervisor = tokio::spawn(async move {
            if let Err(error) = edge::supervise(command, report).await {
                tracing::error!(%error, "the edge cannot be kept running");
            }
        });
        let view = client.routing_view();
        tokio::spawn(keep_receipts(client.clone(), store));
        Arc::new(EdgeLink {
            client,
            view,
            supervision,
            supervisor,
        })
    }

    /// Waits until the edge answers, which it does within milliseconds unless something is wrong.
    pub async fn connected(&self, patience: Duration) -> Result<()> {
        let mut view = self.view.clone();
        let answered = tokio::time::timeout(patience, view.wait_for(|view| view.connected)).await;
        answered
            .ok()
            .and_then(Result::ok)
            .map(drop)
            .context("the edge does not answer; its log lines above say why")
    }

    /// Where users' traffic comes in.
    pub fn public(&self) -> Option<SocketAddr> {
        self.supervision.borrow().public.first().copied()
    }

    pub fn pid(&self) -> Option<i32> {
        self.supervision.borrow().pid
    }

    /// Stops supervising and asks the edge to finish what is in flight and end.
    pub async fn end(&self) {
        self.supervisor.abort();
        let Some(pid) = self.pid() else { return };
        let target = nix::unistd::Pid::from_raw(pid);
        if nix::sys::signal::kill(target, nix::sys::signal::Signal::SIGTERM).is_err() {
            return;
        }
        let gone = async {
            while nix::sys::signal::kill(target, None).is_ok() && !is_zombie(pid) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(END_PATIENCE, gone).await.is_err() {
            tracing::warn!(edge.pid = pid, "the edge takes long to end; it is left to itself");
        }
    }

    pub fn finding(&self) -> Finding {
        let view = self.client.watch().borrow().clone();
        let trouble = match (&view.refused, view.connected) {
            (Some((epoch, why)), _) => format!("the edge refused routing table {epoch}: {why}"),
            (None, false) => "the edge does not answer".to_owned(),
            (None, true) => return fine("edge", format!("serves routing table {}", view.acked_epoch)),
        };
        Finding {
            level: Level::Error,
            subject: "edge".to_owned(),
            message: trouble,
            advice: "look at the log of `hob up`; the last acknowledged table is served on".to_owned(),
        }
    }

    pub fn status(&self) -> serde_json::Value {
        let view = self.client.watch().borrow().clone();
        serde_json::json!({
            "listen": self.public().map(|address| address.to_string()),
            "pid": self.pid(),
            "connected": view.connected,
            "epoch": view.acked_epoch,
            "starts": self.supervision.borrow().starts,
        })
    }
}

impl EdgePort for EdgeLink {
    fn publish(&self, table: RoutingTable) {
        self.client.publish(table);
    }

    fn view(&self) -> watch::Receiver<EdgeView> {
        self.view.clone()
    }

    fn behaviour(&self, deployment: DeploymentId) -> Behaviour {
        self.client.behaviour(deployment)
    }

    fn close_busy(&self, instances: &[InstanceId]) {
        self.client.close_busy(instances.iter().copied());
    }
}

/// Writes what the edge has counted beside the deployments. Cumulative per run of the edge, so writing twice is
/// writing once, and what one write misses the next one brings.
async fn keep_receipts(client: EdgeClient, store: Store) {
    let (mut receipts, mut view) = (client.receipts(), client.watch());
    let mut ask = tokio::time::interval(ASK_EVERY);
    ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changed_at = Instant::now();
    let mut written = Receipts::default();
    let mut keep = tokio::time::interval(KEEP_BEHAVIOURS_EVERY);
    keep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unkept = HashSet::new();
    loop {
        tokio::select! {
            changed = receipts.changed() => {
                if changed.is_err() {
                    return;
                }
                let newest = receipts.borrow_and_update().clone();
                let changed = changed_since(&newest, &written);
                for (boot, counted) in &changed {
                    unkept.extend(counted.iter().map(|(id, _)| (*boot, *id)));
                }
                if write_receipts(&store, &changed).await {
                    written = newest;
                }
            }
            Ok(()) = view.changed() => {
                view.mark_unchanged();
                changed_at = Instant::now();
            }
            _ = keep.tick(), if !unkept.is_empty() => write_behaviours(&client, &store, &mut unkept).await,
            _ = ask.tick(), if changed_at.elapsed() < ROLLOUT_QUIET => client.ask_receipts(),
        }
    }
}

/// What one run of the edge has counted.
type Counted = (Uuid, Vec<(DeploymentId, Receipt)>);

/// The receipts that differ from what was written before.
fn changed_since(newest: &Receipts, written: &Receipts) -> Vec<Counted> {
    let of_run = |(boot, counted): &(Uuid, HashMap<DeploymentId, Receipt>)| {
        let before = written.by_boot.iter().find(|(known, _)| known == boot);
        let is_news =
            |(id, receipt): &(&DeploymentId, &Receipt)| before.and_then(|(_, before)| before.get(id)) != Some(receipt);
        let changed = counted.iter().filter(is_news);
        (*boot, changed.map(|(id, receipt)| (*id, *receipt)).collect())
    };
    newest.by_boot.iter().map(of_run).collect()
}

/// Writes how those deployments behave. What one write misses the next one brings.
async fn write_behaviours(client: &EdgeClient, store: &Store, unkept: &mut HashSet<(Uuid, DeploymentId)>) {
    let mut by_run: HashMap<Uuid, Vec<(DeploymentId, Behaviour)>> = HashMap::new();
    for (boot, deployment) in unkept.iter() {
        if let Some(seen) = client.behaviour_of_run(*boot, *deployment) {
            by_run.entry(*boot).or_default().push((*deployment, seen));
        }
    }
    for (boot, seen) in &by_run {
        if let Err(error) = store.system().add_behaviours(*boot, seen).await {
            tracing::warn!(
                error = error.context,
                "how versions behave could not be written; it will be with the next figures"
            );
            return;
        }
    }
    unkept.clear();
}

/// Says whether all of them could be written.
async fn write_receipts(store: &Store, changed: &[Counted]) -> bool {
    let mut is_complete = true;
    for (boot, counted) in changed {
        if let Err(error) = store.system().add_receipts(*boot, counted).await {
            is_complete = false;
            tracing::warn!(
                error = error.context,
                "receipts could not be written; they will be with the next ones"
            );
        }
    }
    is_complete
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_and_nonsense_is_passed_over() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "search x\nnameserver 9.9.9.9\nnameserver nonsense\n# nameserver 1.1.1.1\nnameserver ::1\n";
        std::fs::write(file.path(), text).unwrap();
        let servers: Vec<String> = name_servers(file.path()).iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["9.9.9.9:53", "[::1]:53"]);
        assert!(name_servers(Path::new("/nonexistent")).is_empty());
    }
}
