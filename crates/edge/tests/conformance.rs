//! What is proven with the fake edge holds for real ones: the suite that the fake one is held to, against a process.

mod rig;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use async_trait::async_trait;
use domain::InstanceId;
use domain::routing::{EdgeView, RoutingTable, Target};
use edge::{EdgeClient, Supervision};
use hyper::Response;
use rig::plane::{Plane, anywhere, kill};
use rig::{App, Conn, PATIENCE, get, text, wait_for};
use testkit::conformance::{EdgeSubject, check_edge};
use tokio::sync::watch;

/// Requests to this path are kept.
const KEEP: &str = "/keep";

/// A process, real requests, and toy instances.
struct Process {
    client: EdgeClient,
    report: watch::Receiver<Supervision>,
    address: SocketAddr,
    view: watch::Receiver<EdgeView>,
    instances: Mutex<HashMap<InstanceId, Instance>>,
    /// Connections of requests that an instance keeps; one instance does at a time.
    kept: Mutex<Vec<Conn>>,
}

struct Instance {
    app: App,
    finish: watch::Sender<bool>,
}

impl Instance {
    /// Answers with its own name; what it keeps, when it is told to.
    async fn start() -> Instance {
        let name = Arc::new(OnceLock::new());
        let finish = watch::Sender::new(false);
        let (own, finished) = (Arc::clone(&name), finish.subscribe());
        let app = App::http(move |request| {
            let (own, mut finished) = (Arc::clone(&own), finished.clone());
            async move {
                if request.uri().path() == KEEP {
                    let _ = finished.wait_for(|finished| *finished).await;
                }
                Response::new(text(own.get().cloned().unwrap_or_default()))
            }
        })
        .await;
        let _ = name.set(app.id.to_string());
        Instance { app, finish }
    }
}

impl Process {
    fn instances(&self) -> MutexGuard<'_, HashMap<InstanceId, Instance>> {
        self.instances.lock().expect("no test panics with the lock")
    }

    fn seen(&self, instance: InstanceId) -> usize {
        self.instances()[&instance].app.seen()
    }
}

#[async_trait]
impl EdgeSubject for Process {
    fn publish(&self, table: RoutingTable) {
        self.client.publish(table);
    }

    fn view(&self) -> watch::Receiver<EdgeView> {
        self.view.clone()
    }

    fn close_busy(&self, instances: &[InstanceId]) {
        self.client.close_busy(instances.iter().copied());
    }

    async fn restart(&self) {
        let mut report = self.report.clone();
        let before = report.borrow().pid.expect("it runs");
        kill(before, libc::SIGKILL);
        let another = report.wait_for(|report| report.pid.is_some_and(|pid| pid != before));
        let found = tokio::time::timeout(PATIENCE, another).await;
        found.expect("another one begins").expect("its supervisor lives");
    }

    async fn instance(&self) -> Target {
        let instance = Instance::start().await;
        let target = instance.app.target();
        self.instances().insert(target.instance, instance);
        target
    }

    async fn ask(&self, host: &str) -> Option<InstanceId> {
        let answer = Conn::to(self.address).await.ask(&get(host, "/")).await;
        answer.body.parse().ok().filter(|_| answer.status == 200)
    }

    async fn begin(&self, host: &str, instance: InstanceId) {
        let before = self.seen(instance);
        let mut connection = Conn::to(self.address).await;
        connection.write(get(host, KEEP)).await;
        wait_for("the request to get there", || self.seen(instance) > before).await;
        self.kept.lock().expect("no test panics with the lock").push(connection);
    }

    async fn finish(&self, instance: InstanceId) -> usize {
        self.instances()[&instance].finish.send_replace(true);
        let kept = std::mem::take(&mut *self.kept.lock().expect("no test panics with the lock"));
        let mut answered = 0;
        for mut connection in kept {
            let answer = connection.answer().await;
            answered += usize::from(answer.is_some_and(|answer| answer.status == 200));
        }
        answered
    }
}

/// Invariants 3, 4 and 21 rest on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_edge_does_what_the_fake_one_does() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut plane = Plane::start(home.path(), anywhere());
    let address = plane.report(|report| !report.public.is_empty()).await.public[0];
    let process = Process {
        client: plane.client.clone(),
        report: plane.report.clone(),
        address,
        view: plane.client.routing_view(),
        instances: Mutex::default(),
        kept: Mutex::default(),
    };
    check_edge(&process).await;
}
