//! Images on their way: one obtaining task per queued deployment, tried again while that can help.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::{DeploymentId, ServiceId};
use store::Deployment;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::seams::{ImageSource, ObtainError};

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// Rounds after which a registry that does not answer is given up. Each round has retries of its own inside.
const TRIES_MAX: u32 = 3;

/// News of an image.
#[derive(Debug)]
pub struct PullNews {
    pub service: ServiceId,
    pub deployment: DeploymentId,
    pub event: PullEvent,
}

#[derive(Debug)]
pub enum PullEvent {
    Progress,
    Ended(Result<String, ObtainError>),
}

/// What a queued deployment's image is doing.
pub enum PullState {
    /// Under way, with the newest sentence about it.
    Waiting(String),
    /// It failed for a passing reason and is tried again then.
    RetryAt(Instant, String),
    Ready(String),
    Failed(String),
}

pub struct Pulls {
    images: Arc<dyn ImageSource>,
    news: mpsc::UnboundedSender<PullNews>,
    pulls: HashMap<DeploymentId, Pull>,
}

struct Pull {
    task: Option<JoinHandle<()>>,
    progress: watch::Receiver<String>,
    tries: u32,
    outcome: Option<Result<String, ObtainError>>,
    retry_at: Instant,
}

impl Drop for Pull {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Pulls {
    /// `news` holds at most one progress message per pull at a time (they come from a watch channel) and one end.
    pub fn new(images: Arc<dyn ImageSource>, news: mpsc::UnboundedSender<PullNews>) -> Self {
        Pulls {
            images,
            news,
            pulls: HashMap::new(),
        }
    }

    /// Starts or continues to obtain the image of a queued deployment, and says where that stands.
    pub fn drive(&mut self, deployment: &Deployment, now: Instant) -> PullState {
        let pull = self.pulls.entry(deployment.id).or_insert_with(|| Pull {
            task: None,
            progress: watch::channel(String::new()).1,
            tries: 0,
            outcome: None,
            retry_at: now,
        });
        match &pull.outcome {
            Some(Ok(digest)) => return PullState::Ready(digest.clone()),
            Some(Err(ObtainError::Permanent(why))) => return PullState::Failed(why.clone()),
            Some(Err(ObtainError::Transient(why))) if pull.tries >= TRIES_MAX => {
                let image = &deployment.spec.image;
                return PullState::Failed(format!("image {image}: {why}; deploy again when that is mended"));
            }
            Some(Err(ObtainError::Transient(why))) if pull.retry_at > now => {
                return PullState::RetryAt(pull.retry_at, why.clone());
            }
            _ => {}
        }
        if pull.task.is_none() {
            pull.outcome = None;
            let (sender, progress) = watch::channel(format!("looking for image {}", deployment.spec.image));
            pull.progress = progress;
            pull.task = Some(spawn(self.images.clone(), deployment, sender, self.news.clone()));
        }
        PullState::Waiting(pull.progress.borrow().clone())
    }

    pub fn ended(&mut self, deployment: DeploymentId, outcome: Result<String, ObtainError>, now: Instant) {
        let Some(pull) = self.pulls.get_mut(&deployment) else {
            return;
        };
        pull.task = None;
        pull.tries += 1;
        pull.retry_at = now
            + RETRY_FIRST
                .saturating_mul(1 << (pull.tries - 1).min(10))
                .min(RETRY_LONGEST);
        pull.outcome = Some(outcome);
    }

    pub fn forget(&mut self, deployment: DeploymentId) {
        self.pulls.remove(&deployment);
    }
}

fn spawn(
    images: Arc<dyn ImageSource>,
    deployment: &Deployment,
    progress: watch::Sender<String>,
    news: mpsc::UnboundedSender<PullNews>,
) -> JoinHandle<()> {
    let (service, id) = (deployment.service, deployment.id);
    let (reference, digest) = (deployment.spec.image.clone(), deployment.spec.digest.clone());
    let mut changes = progress.subscribe();
    tokio::spawn(async move {
        let tell = |event| {
            // Nobody listens any more when the reconciler has ended.
            let _ = news.send(PullNews {
                service,
                deployment: id,
                event,
            });
        };
        let obtain = images.obtain(&reference, digest.as_deref(), progress);
        tokio::pin!(obtain);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut obtain => break outcome,
                Ok(()) = changes.changed() => tell(PullEvent::Progress),
            }
        };
        tell(PullEvent::Ended(outcome));
    })
}
