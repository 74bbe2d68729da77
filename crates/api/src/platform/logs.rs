//! `/api/services/{id}/logs/`: the output of a service's instances, merged, as NDJSON.

use std::collections::{HashMap, HashSet};

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use domain::{DeploymentId, InstanceId, Result, ServiceId};
use engine::{Exit, LogCursor, LogLine, Stream};
use serde::Serialize;
use store::{InstanceRow, InstanceState, Scope, ServiceKind};
use tokio::time::{Instant, sleep};

use super::caller::Caller;
use super::error::Reply;
use super::extract::{At, Params};
use super::instances::Versions;
use super::services::find;
use crate::ApiState;
use crate::limits::{LOG_CHUNK_BYTES_MAX, LOG_FOLLOW_PACE, LOG_TAIL_DEFAULT, LOG_TAIL_MAX, STREAM_HEARTBEAT};
use crate::ndjson::{self, Gone, Lines};
use crate::time::micros;

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// With microseconds: the order matters here.
    at: String,
    instance: InstanceId,
    version: Option<i64>,
    stream: Stream,
    text: &'a str,
}

/// `?tail=` lines of each instance to begin with, `?instance=` for a single one, `?follow=1` to stay.
///
/// Where no instance is chosen, the last lines of those that crashed and are gone come first: they are usually what one
/// is looking for.
pub async fn stream(
    State(api): State<ApiState>,
    Extension(kind): Extension<ServiceKind>,
    caller: Caller,
    At(id): At<ServiceId>,
    params: Params,
) -> Reply<Response> {
    find(&caller.scope, kind, id).await?;
    let tail = params.number("tail", LOG_TAIL_DEFAULT as u64, LOG_TAIL_MAX as u64)?;
    let scope = caller.scope.clone();
    let reader = Reader {
        api: api.clone(),
        service: id,
        only: params.uuid("instance")?,
        tail: usize::try_from(tail).unwrap_or(LOG_TAIL_MAX),
        follow: params.flag("follow"),
        asked_at_us: api.now_us(),
        wake: api.store.wake(),
        cursors: HashMap::new(),
        finished: HashSet::new(),
        versions: HashMap::new(),
        scope: caller.scope,
    };
    Ok(ndjson::answer(&api, &scope, |lines| reader.run(lines))?)
}

struct Reader {
    api: ApiState,
    scope: Scope,
    service: ServiceId,
    only: Option<InstanceId>,
    tail: usize,
    follow: bool,
    /// Who does not follow is done when only later lines come: an app may write faster than anybody reads.
    asked_at_us: i64,
    wake: tokio::sync::watch::Receiver<u64>,
    /// How far each instance has been read. Absent: not at all.
    cursors: HashMap<InstanceId, LogCursor>,
    /// Nothing more will come of these.
    finished: HashSet<InstanceId>,
    versions: HashMap<DeploymentId, Option<i64>>,
}

type Merged = Vec<(DeploymentId, InstanceId, LogLine)>;

impl Reader {
    /// Reads in rounds: one piece of each instance, merged by time, until nothing is left; then, if asked to follow,
    /// again and again. Memory is bounded by one piece of each instance.
    async fn run(mut self, lines: Lines) -> Result<(), Gone> {
        let mut instances = match self.instances().await {
            Ok(instances) => instances,
            Err(_) => return Ok(()),
        };
        self.send(&lines, remembered(&instances, self.only, self.tail)).await?;
        let mut spoken_at = Instant::now();
        loop {
            let round = self.round(&instances).await;
            let silent = round.is_empty();
            let up_to_date = round.iter().all(|(_, _, line)| line.at_us > self.asked_at_us);
            self.send(&lines, round).await?;
            if !self.follow && up_to_date {
                return Ok(());
            }
            if !silent {
                spoken_at = Instant::now();
                continue;
            }
            if self.only.is_some_and(|id| self.finished.contains(&id)) {
                return Ok(());
            }
            if spoken_at.elapsed() >= STREAM_HEARTBEAT {
                lines.heartbeat().await?;
                spoken_at = Instant::now();
            }
            sleep(LOG_FOLLOW_PACE).await;
            if self.wake.has_changed().unwrap_or(false) {
                self.wake.mark_unchanged();
                instances = match self.instances().await {
                    Ok(instances) => instances,
                    // The service was deleted, or is no longer the caller's.
                    Err(_) => return Ok(()),
                };
            }
        }
    }

    async fn instances(&mut self) -> Result<Vec<InstanceRow>> {
        let rows = self.scope.instances(self.service).await?;
        let versions = Versions::of(&self.scope, &rows).await?;
        for row in &rows {
            self.versions.insert(row.deployment, versions.get(row.deployment));
        }
        Ok(rows)
    }

    async fn round(&mut self, instances: &[InstanceRow]) -> Merged {
        let mut merged = Merged::new();
        for row in instances {
            let wanted = self.only.is_none_or(|only| only == row.id);
            if !wanted || row.state == InstanceState::Gone || self.finished.contains(&row.id) {
                continue;
            }
            let cursor = self.cursors.get(&row.id).cloned();
            match self
                .api
                .runtime
                .logs(row.id, cursor, self.tail, LOG_CHUNK_BYTES_MAX)
                .await
            {
                Ok(chunk) => {
                    merged.extend(chunk.lines.into_iter().map(|line| (row.deployment, row.id, line)));
                    match chunk.next {
                        Some(next) => {
                            self.cursors.insert(row.id, next);
                        }
                        None => {
                            self.finished.insert(row.id);
                        }
                    }
                }
                // Not started yet, or cleared away just now: the rows will tell.
                Err(error) => tracing::debug!(
                    instance.id = %row.id, error.context = %error.context, "no log to read"
                ),
            }
        }
        merged.sort_by_key(|(_, _, line)| line.at_us);
        merged
    }

    async fn send(&self, lines: &Lines, merged: Merged) -> Result<(), Gone> {
        for (deployment, instance, line) in &merged {
            let line = Line {
                at: micros(line.at_us),
                instance: *instance,
                version: self.versions.get(deployment).copied().flatten(),
                stream: line.stream,
                text: &line.text,
            };
            lines.send(&line).await?;
        }
        Ok(())
    }
}

/// The last lines of instances that are gone, as they were kept with their exit.
fn remembered(instances: &[InstanceRow], only: Option<InstanceId>, tail: usize) -> Merged {
    let mut merged = Merged::new();
    for row in instances.iter().filter(|row| row.state == InstanceState::Gone) {
        let wanted = only.map_or(row.crashed, |only| only == row.id);
        let exit = row
            .exit
            .clone()
            .and_then(|exit| serde_json::from_value::<Exit>(exit).ok());
        let Some(exit) = exit.filter(|_| wanted) else {
            continue;
        };
        let skipped = exit.tail.len().saturating_sub(tail);
        for text in exit.tail.into_iter().skip(skipped) {
            let line = LogLine {
                at_us: exit.at_us,
                stream: Stream::Stdout,
                text,
            };
            merged.push((row.deployment, row.id, line));
        }
    }
    merged.sort_by_key(|(_, _, line)| line.at_us);
    merged
}
