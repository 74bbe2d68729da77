//! Housekeeping: images that nothing needs, and the end of everything when that is asked for.

use std::collections::HashSet;
use std::time::Duration;

use engine::Engine;
use engine::embedded::Embedded;
use images::{Digest, ImageStore};
use store::Store;
use tokio::sync::watch;

use super::edge::EdgeLink;

/// How often images are looked through.
const COLLECT_EVERY: Duration = Duration::from_secs(3_600);
/// What is younger may belong to a deployment that is being written down.
const COLLECT_MIN_AGE: Duration = Duration::from_secs(3_600);
/// Between stop signal and kill when everything is stopped.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Removes blobs and layers that neither a name nor a kept deployment needs, now and then, until told to stop.
pub async fn collect_images(store: Store, images: ImageStore, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(COLLECT_EVERY) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        let in_use: HashSet<Digest> = match store.system().image_digests_in_use().await {
            // A digest that cannot be read must not make an image look unused: then nothing is removed this time.
            Ok(digests) => match digests.iter().map(|digest| digest.parse()).collect() {
                Ok(digests) => digests,
                Err(error) => {
                    tracing::warn!(%error, "unused images are kept: a deployment names a strange digest");
                    continue;
                }
            },
            Err(error) => {
                tracing::warn!(
                    error = error.context,
                    "unused images are kept: the store does not answer"
                );
                continue;
            }
        };
        match images.collect_garbage(&in_use, COLLECT_MIN_AGE).await {
            Ok(freed) => tracing::info!(?freed, "unused images removed"),
            Err(error) => tracing::warn!(%error, "unused images could not be removed"),
        }
    }
}

/// `--stop-instances`: every instance, the edge, the network. The record still wants them: the next start brings them
/// back.
pub async fn stop_everything(engine: &Embedded, edge: &EdgeLink) {
    edge.end().await;
    let instances = match engine.list().await {
        Ok(instances) => instances,
        Err(error) => {
            tracing::error!(%error, "instances cannot be listed; they run on");
            return;
        }
    };
    let stop = |id| async move {
        let stopped = engine.stop(id, STOP_GRACE).await;
        match stopped {
            Ok(()) => engine.remove(id).await,
            Err(error) => Err(error),
        }
    };
    let outcomes = futures_util::future::join_all(instances.into_iter().map(|instance| stop(instance.id))).await;
    for error in outcomes.into_iter().filter_map(Result::err) {
        tracing::error!(%error, "an instance could not be stopped");
    }
    if let Err(error) = engine.teardown().await {
        tracing::error!(%error, "the instances' network could not be removed");
    }
}
