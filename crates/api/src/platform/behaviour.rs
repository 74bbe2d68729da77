//! How versions behaved, as documents tell it.

use domain::Behaviour;
use serde::Serialize;

/// How a version behaved, as the edge measured it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BehaviourView {
    requests: u64,
    failed: u64,
    /// 0 to 1.
    error_rate: f64,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
}

impl From<&Behaviour> for BehaviourView {
    fn from(seen: &Behaviour) -> Self {
        let ms = |share| seen.quantile(share).map(|time| time.as_secs_f64() * 1e3);
        BehaviourView {
            requests: seen.requests,
            failed: seen.failed,
            error_rate: seen.error_rate(),
            p50_ms: ms(0.5),
            p95_ms: ms(0.95),
        }
    }
}
