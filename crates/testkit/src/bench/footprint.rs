//! What the platform takes when it does nothing, and how soon it does something.

use std::time::{Duration, Instant};

use super::host::memory_mib;
use super::rollout::{deploy, platform};
use super::{Bench, Measure, Row, median};
use crate::system::{Hob, Role, eventually};

const SERVICES: usize = 50;
const MEMORY_AIM_MIB: f64 = 40.0;
const COLD_AIM_MS: f64 = 150.0;
const STARTS: usize = 7;

pub(super) fn memory(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let hob = platform(bench)?;
    let row = |count: usize| {
        let what = format!("resident memory of control plane and edge, {count} services");
        Row::new(what).at_most(Measure::new(resident(&hob), "MiB"), MEMORY_AIM_MIB)
    };
    let mut rows = vec![row(0)];
    (0..SERVICES).for_each(|n| deploy(&hob, &format!("web-{n}"), "web:0", 1, &[]));
    rows.push(row(SERVICES));
    let shims: Vec<f64> = hob.processes(Role::Shim).into_iter().map(memory_mib).collect();
    let each = Measure::new(shims.iter().sum::<f64>() / shims.len().max(1) as f64, "MiB");
    rows.push(Row {
        ours: each.text(),
        ..Row::new("resident memory of one shim")
    });
    Ok(rows)
}

/// The smallest of a few looks: what is kept, not what is in use for a moment.
fn resident(hob: &Hob) -> f64 {
    let look = || {
        std::thread::sleep(Duration::from_millis(500));
        memory_mib(hob.pid()) + hob.processes(Role::Edge).into_iter().map(memory_mib).sum::<f64>()
    };
    (0..5).map(|_| look()).fold(f64::INFINITY, f64::min)
}

/// From the start of `hob up` until a request to an instance that had to be started is answered.
pub(super) fn cold_start(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut hob = platform(bench)?;
    deploy(&hob, "web", "web:0", 1, &[]);
    let mut times = Vec::new();
    for _ in 0..STARTS {
        hob.shut_down();
        eventually(Duration::from_secs(30), "nothing runs", || {
            hob.processes(Role::Shim).is_empty()
        });
        let began = Instant::now();
        hob.launch();
        eventually(Duration::from_secs(30), "the first request is answered", || {
            hob.get("web.localhost", "/")
                .is_ok_and(|response| response.status() == 200)
        });
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let row = Row::new("cold start to the first proxied request");
    Ok(vec![row.at_most(Measure::new(median(times), "ms"), COLD_AIM_MS)])
}
