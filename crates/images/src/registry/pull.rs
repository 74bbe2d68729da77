//! From a reference to a complete image in the store.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE};
use tokio::sync::mpsc;

use super::client::{Attempt, Get, Repository, Setback};
use super::{Credentials, Progress};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::manifest::{
    ConfigFile, DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, Document, Manifest, OCI_INDEX, OCI_MANIFEST, choose_platform,
};
use crate::reference::Reference;
use crate::store::{BlobWriter, ImageStore, Origin, blocking};
use crate::stream::{Cap, Piece, pipe};

/// Times that one blob may be continued, however much progress each makes.
const RESUMES_MAX: u32 = 50;
/// Bytes between two reports of progress.
const REPORT_BYTES: u64 = 1 << 20;

impl ImageStore {
    /// Fetches an image and answers the digest of its manifest for this machine.
    ///
    /// # Expected flow
    /// A caller first asks [`ImageStore::resolve_local`]. A pull always asks the registry what a tag means now; blobs
    /// that are here already are not fetched again.
    ///
    /// # Guarantees
    /// Every blob has the content that the manifest promises, and the manifest that of the digest that led to it.
    /// Dropped, stalled and truncated transfers are continued where they stopped, a bounded number of times. A pull that
    /// fails or is dropped leaves whole blobs for the next one and nothing else. The image stays until it is collected:
    /// put its digest into use within the collector's minimum age.
    ///
    /// # Errors
    /// [`ImageError::is_transient`] tells whether trying again can help.
    pub async fn pull(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Digest> {
        let repository = Repository::new(reference, credentials, self.registry_options(), &progress).await?;
        let pull = Pull {
            store: self,
            repository,
            reference,
            shown: reference.to_string(),
        };
        pull.run().await
    }
}

struct Pull<'a> {
    store: &'a ImageStore,
    repository: Repository<'a>,
    reference: &'a Reference,
    shown: String,
}

impl Pull<'_> {
    async fn run(&self) -> Result<Digest> {
        let (digest, bytes, manifest) = self.manifest().await?;
        manifest.check(&self.shown, self.store.limits())?;
        let lease = self
            .store
            .lease(manifest.blobs().map(|blob| blob.digest).chain([digest]));
        self.config(&manifest).await?;

        let mut missing: Vec<Descriptor> = Vec::new();
        for layer in &manifest.layers {
            let known = missing.iter().any(|other| other.digest == layer.digest);
            if !known && !self.store.has(&layer.digest, layer.size) {
                missing.push(layer.clone());
            }
        }
        self.repository.tell(Progress::Resolved {
            digest,
            layers: manifest.layers.len(),
            missing_bytes: missing.iter().map(|layer| layer.size).sum(),
        });
        let parallel = self.repository.options.parallel.max(1);
        let downloads = stream::iter(missing).map(|layer| async move { self.layer(&layer).await });
        downloads.buffer_unordered(parallel).try_collect::<()>().await?;

        let (store, reference) = (self.store.clone(), self.reference.clone());
        blocking(move || {
            let digest = store.put(&bytes)?;
            store.record(&reference, digest, Origin::Pulled)?;
            drop(lease);
            Ok(digest)
        })
        .await
    }

    /// The manifest for this machine, going through at most one index.
    async fn manifest(&self) -> Result<(Digest, Vec<u8>, Manifest)> {
        let promised = self.reference.digest().copied();
        let (digest, bytes, declared) = self.document(&self.reference.selector(), promised).await?;
        let index = match Document::parse(&bytes, declared.as_deref(), &self.shown)? {
            Document::Manifest(manifest) => return Ok((digest, bytes, manifest)),
            Document::Index(index) => index,
        };
        let chosen = choose_platform(&index.manifests, &self.shown)?;
        let (digest, bytes, declared) = self.document(&chosen.digest.to_string(), Some(chosen.digest)).await?;
        match Document::parse(&bytes, declared.as_deref(), &self.shown)? {
            Document::Manifest(manifest) => Ok((digest, bytes, manifest)),
            Document::Index(_) => Err(ImageError::corrupt(
                format!("the manifest of {}", self.shown),
                "it is an index inside an index",
            )),
        }
    }

    async fn document(&self, selector: &str, promised: Option<Digest>) -> Result<(Digest, Vec<u8>, Option<String>)> {
        let accept = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST].join(", ");
        let get = Get {
            path: format!("manifests/{selector}"),
            accept: Some(&accept),
            from: 0,
        };
        let cap = self.store.manifest_cap(&self.shown);
        let mut failures = 0;
        loop {
            let response = self.repository.get(&get).await?;
            let header = |name: &str| {
                response
                    .headers()
                    .get(name)
                    .and_then(|v| v.to_str().ok())
                    .map(str::to_owned)
            };
            let declared =
                header(CONTENT_TYPE.as_str()).map(|kind| kind.split(';').next().unwrap_or("").trim().to_owned());
            // For a tag, what the registry itself says about its answer is all that there is to compare with.
            let promised = promised.or_else(|| header("docker-content-digest").and_then(|text| text.parse().ok()));
            let bytes = match self.repository.body(response, cap.clone()).await? {
                Attempt::Done(bytes) => bytes,
                Attempt::Again(setback) => {
                    self.repository.back_off(&mut failures, &get.path, setback).await?;
                    continue;
                }
            };
            let actual = Digest::of(&bytes);
            return match promised {
                Some(expected) if expected != actual => Err(ImageError::DigestMismatch {
                    what: format!("the manifest of {}", self.shown),
                    expected,
                    actual,
                }),
                _ => Ok((actual, bytes, declared)),
            };
        }
    }

    async fn config(&self, manifest: &Manifest) -> Result<()> {
        if !self.store.has(&manifest.config.digest, manifest.config.size) {
            self.blob(&manifest.config, self.store.config_cap(&self.shown), Report::Nothing)
                .await?;
        }
        let config: ConfigFile = self.store.config_file(manifest)?;
        config.check_platform(&self.shown)?;
        config.check_layers(manifest, &self.shown)
    }

    async fn layer(&self, layer: &Descriptor) -> Result<()> {
        self.blob(layer, self.store.layer_cap(&layer.digest.to_string()), Report::Layer)
            .await
    }

    /// Downloads one blob: this side reads the network, a blocking thread hashes and writes.
    async fn blob(&self, blob: &Descriptor, cap: Cap, report: Report) -> Result<()> {
        let (pieces, receiver) = pipe();
        let (store, expected) = (self.store.clone(), blob.digest);
        let what = format!("the blob {} of {}", blob.digest, self.shown);
        let write = blocking(move || {
            let writer = store.stage(cap)?;
            receive(&store, writer, receiver, &expected, what)
        });
        let (written, fed) = tokio::join!(write, self.feed(blob, pieces, report));
        // The feed fails for reasons of its own, or because the writer stopped listening, which then knows why.
        match (fed, written) {
            (Err(error), _) => Err(error),
            (Ok(()), written) => written,
        }
    }

    async fn feed(&self, blob: &Descriptor, pieces: mpsc::Sender<Piece>, report: Report) -> Result<()> {
        let mut transfer = Transfer {
            offset: 0,
            reported: 0,
            report,
        };
        let (mut failures, mut resumes) = (0, 0);
        loop {
            let before = transfer.offset;
            match self.transfer(blob, &mut transfer, &pieces).await? {
                Attempt::Done(()) => return Ok(()),
                Attempt::Again(setback) => {
                    if transfer.offset > before {
                        failures = 0;
                    }
                    resumes += 1;
                    if resumes >= RESUMES_MAX {
                        return Err(self
                            .repository
                            .failed(format!("{} (continued {resumes} times)", setback.reason)));
                    }
                    self.repository
                        .back_off(&mut failures, &format!("blob {}", blob.digest), setback)
                        .await?;
                }
            }
        }
    }

    /// One request for the rest of a blob. `Done` also when nobody listens any more.
    async fn transfer(
        &self,
        blob: &Descriptor,
        transfer: &mut Transfer,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<Attempt<()>> {
        if transfer.offset > 0 && transfer.offset == blob.size {
            // All bytes came, only the end of the answer did not.
            let _ = pieces.send(Piece::End).await;
            return Ok(Attempt::Done(()));
        }
        let path = format!("blobs/{}", blob.digest);
        let get = Get {
            path,
            accept: None,
            from: transfer.offset,
        };
        let mut response = match self.repository.attempt(&get).await? {
            Attempt::Done(response) => response,
            Attempt::Again(setback) => return Ok(Attempt::Again(setback)),
        };
        if transfer.offset > 0 && !continues_at(&response, transfer.offset) {
            transfer.offset = 0;
            let _ = pieces.send(Piece::Restart).await;
            if response.status() == StatusCode::PARTIAL_CONTENT {
                return Ok(Attempt::Again(broke_off("it continued at the wrong place")));
            }
        }
        let mut pace = Pace::new(self.repository.options.stall);
        loop {
            let chunk = match pace.watch(response.chunk()).await {
                Some(Ok(Some(chunk))) => chunk,
                Some(Ok(None)) if transfer.offset == blob.size => {
                    let _ = pieces.send(Piece::End).await;
                    return Ok(Attempt::Done(()));
                }
                Some(Ok(None)) => return Ok(Attempt::Again(broke_off("the answer was too short"))),
                Some(Err(error)) => return Ok(Attempt::Again(broke_off(&error.without_url().to_string()))),
                None => return Ok(Attempt::Again(self.repository.stalled())),
            };
            transfer.offset += chunk.len() as u64;
            pace.count(chunk.len());
            if transfer.offset > blob.size {
                let what = format!("the blob {} of {}", blob.digest, self.shown);
                let problem = format!("the registry sends more than the promised {} bytes", blob.size);
                return Err(ImageError::corrupt(what, problem));
            }
            if pieces.send(Piece::Data(chunk)).await.is_err() {
                return Ok(Attempt::Done(()));
            }
            if let Some(done) = transfer.report(blob.size) {
                self.repository.tell(Progress::Layer {
                    digest: blob.digest,
                    done,
                    total: blob.size,
                });
            }
        }
    }
}

/// How far a download is.
struct Transfer {
    offset: u64,
    reported: u64,
    report: Report,
}

/// What of a download is told.
#[derive(Clone, Copy, PartialEq)]
enum Report {
    Nothing,
    Layer,
}

impl Transfer {
    /// The offset, whenever it is worth telling.
    fn report(&mut self, total: u64) -> Option<u64> {
        let far = self.offset == total || self.offset.abs_diff(self.reported) >= REPORT_BYTES;
        let due = far && self.report == Report::Layer;
        due.then(|| {
            self.reported = self.offset;
            self.offset
        })
    }
}

/// Slowest transfer that is waited for, on average over each stretch of waiting.
const PACE_BYTES_PER_S: f64 = 1024.0;

/// Tells a slow line from a registry that drips just enough to keep us waiting. Only time spent waiting for the
/// network counts, not that spent writing.
struct Pace {
    stall: Duration,
    waited: Duration,
    bytes: f64,
}

impl Pace {
    fn new(stall: Duration) -> Pace {
        Pace {
            stall,
            waited: Duration::ZERO,
            bytes: 0.0,
        }
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes as f64;
    }

    /// The next piece; `None` when nothing came for the time of a stall, or too little.
    async fn watch<T>(&mut self, next: impl Future<Output = T>) -> Option<T> {
        let started = Instant::now();
        let came = tokio::time::timeout(self.stall, next).await.ok();
        self.waited += started.elapsed();
        if self.waited >= self.stall {
            if self.bytes < PACE_BYTES_PER_S * self.waited.as_secs_f64() {
                return None;
            }
            (self.waited, self.bytes) = (Duration::ZERO, 0.0);
        }
        came
    }
}

fn broke_off(reason: &str) -> Setback {
    Setback {
        reason: format!("the transfer broke off: {reason}"),
        wait: None,
    }
}

fn continues_at(response: &reqwest::Response, offset: u64) -> bool {
    let range = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}

/// The writing side of a download. Keeps nothing unless the content came to its end and is what was promised.
fn receive(
    store: &ImageStore,
    mut writer: BlobWriter,
    mut pieces: mpsc::Receiver<Piece>,
    expected: &Digest,
    what: String,
) -> Result<()> {
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Data(bytes)) => writer.append(&bytes)?,
            Some(Piece::Restart) => writer.restart()?,
            Some(Piece::End) => break,
            None => return Err(ImageError::corrupt(what, "its download was given up")),
        }
    }
    let staged = writer.finish()?;
    if staged.digest != *expected {
        return Err(ImageError::DigestMismatch {
            what,
            expected: *expected,
            actual: staged.digest,
        });
    }
    store.commit(staged).map(drop)
}
