//! Images for the reconciler: the local store first, then the registry.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use images::{Digest, ImageError, ImageStore, Progress, Reference};
use reconcile::{ImageSource, ObtainError};
use tokio::sync::watch;

/// [`ImageSource`] over the content store.
pub struct Images(pub ImageStore);

#[async_trait]
impl ImageSource for Images {
    async fn obtain(
        &self,
        reference: &str,
        digest: Option<&str>,
        progress: watch::Sender<String>,
    ) -> Result<String, ObtainError> {
        let wanted = match digest {
            // A rollback: exactly what ran then, whatever the tag means today.
            Some(digest) => pinned(reference, digest)?,
            None => reference.parse::<Reference>().map_err(translate)?,
        };
        if let Some(found) = self.0.resolve_local(&wanted).map_err(translate)? {
            return Ok(found.to_string());
        }
        let told = Mutex::new(Told::default());
        let tell = move |news: Progress| {
            let mut told = told.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if let Some(sentence) = told.take(news) {
                progress.send_replace(sentence);
            }
        };
        let pulled = self.0.pull(&wanted, None, tell).await.map_err(translate)?;
        Ok(pulled.to_string())
    }
}

/// What has arrived so far, as a sentence. Told by whole percents, so that a large layer is no flood.
#[derive(Default)]
struct Told {
    missing: u64,
    layers: HashMap<Digest, u64>,
    percent: Option<u64>,
}

impl Told {
    fn take(&mut self, news: Progress) -> Option<String> {
        match news {
            Progress::Resolved { missing_bytes, .. } => {
                self.missing = missing_bytes;
                Some(format!("pulling the image: {} to fetch", megabytes(missing_bytes)))
            }
            Progress::Layer { digest, done, .. } => {
                self.layers.insert(digest, done);
                let arrived = self.layers.values().sum::<u64>().min(self.missing);
                let percent = arrived * 100 / self.missing.max(1);
                let said = self.percent.replace(percent);
                (said != Some(percent)).then(|| {
                    format!(
                        "pulling the image: {} of {} ({percent} %)",
                        megabytes(arrived),
                        megabytes(self.missing)
                    )
                })
            }
            Progress::Retrying { what, reason, wait } => Some(format!(
                "pulling the image: {what} failed ({reason}); trying again in {} ms",
                wait.as_millis()
            )),
        }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// The same name, but exactly this image of it.
fn pinned(reference: &str, digest: &str) -> Result<Reference, ObtainError> {
    let written = reference.parse::<Reference>().map_err(translate)?;
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    let name = written
        .tag()
        .and_then(|tag| name.strip_suffix(&format!(":{tag}")))
        .unwrap_or(name);
    format!("{name}@{digest}").parse().map_err(translate)
}

fn translate(error: ImageError) -> ObtainError {
    if error.is_transient() {
        ObtainError::Transient(error.to_string())
    } else {
        ObtainError::Permanent(error.to_string())
    }
}
