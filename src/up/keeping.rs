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

/// Removes blobs and layers that no name, no kept deployment and no instance needs, now and then, until told to stop.
pub async fn collect_images(store: Store, engine: Embedded, images: ImageStore, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(COLLECT_EVERY) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        let in_use = match digests_in_use(&store, &engine).await {
            Ok(digests) => digests,
            Err(why) => {
                tracing::warn!(error = why, "unused images are kept this time");
                continue;
            }
        };
        match images.collect_garbage(&in_use, COLLECT_MIN_AGE).await {
            Ok(freed) => tracing::info!(?freed, "unused images removed"),
            Err(error) => tracing::warn!(%error, "unused images could not be removed"),
        }
    }
}

/// What must stay: what the record names, and what instances were made from, the record's or not. On an error nothing is
/// known to be unused.
pub async fn digests_in_use(store: &Store, engine: &Embedded) -> Result<HashSet<Digest>, String> {
    let named = store
        .system()
        .image_digests_in_use()
        .await
        .map_err(|error| error.context)?;
    let engine = engine.clone();
    let running = tokio::task::spawn_blocking(move || engine.image_digests_in_use()).await;
    let running = running
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("the instances' records: {error}"))?;
    let parsed = named.iter().chain(&running).map(|digest| digest.parse::<Digest>());
    parsed
        .collect::<Result<_, _>>()
        .map_err(|error| format!("an image is named by a strange digest: {error}"))
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
