//! One task from its record to its end.

use std::time::Duration;

use redkite_catalog::CollectionEntry;
use redkite_proto::{
    convert::schema,
    redkite::{
        datanode::{
            ExportPartRequest, ExportPartResponse, FinishExportRequest, RemoveExportRequest,
        },
        meta::{ExportInfo, ExportPart, ObjectState, SegmentInfo, export_info::State},
    },
};
use redkite_runtime::{Backoff, CancellationToken, Deadline, hold_here};
use redkite_types::{CollectionId, Error, ErrorCode, Result};
use tracing::{info, warn};

use super::{
    Exporter, prepare,
    records::{self, Recorded},
};
use crate::compaction::facts::{self, Moment};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a store in trouble is tried.
const STORE_TRIES: u32 = 3;
/// How often a time is taken that then turns out to be hidden by a compaction.
const TIMES: u32 = 20;
/// How long the metadata may take to show a flush.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
/// Rows that users are shown.
const SAMPLES: usize = 5;

/// Why a task is not worked on any longer.
enum End {
    /// Its record was changed by somebody else, or is gone.
    NotOurs,
    /// It was cancelled: dropped, or the process stops.
    Cancelled,
    /// It cannot be completed.
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Exporter {
    /// Works on a task until it has ended or `stop` is cancelled.
    pub(super) async fn execute(&self, id: &str, stop: CancellationToken) {
        let work = self.attempt(id);
        let end = match stop.run_until_cancelled(work).await {
            Some(Ok(())) => return self.clean_up_dropped(id).await,
            Some(Err(end)) => end,
            None => End::Cancelled,
        };
        match end {
            End::NotOurs | End::Cancelled => {}
            End::Failed(error) => self.fail(id, &error).await,
        }
        if !self.tasks.token().is_cancelled() {
            self.clean_up_dropped(id).await;
        }
    }

    async fn attempt(&self, id: &str) -> Result<(), End> {
        let Some(mut recorded) = records::find(&*self.kv, id).await? else {
            return Err(End::NotOurs);
        };
        if matches!(recorded.task.state(), State::Init | State::Queued) {
            let running = ExportInfo {
                state: State::Running.into(),
                updated_ts: self.now().0,
                ..recorded.task.clone()
            };
            recorded = self.replace(&recorded, running).await?;
        }
        if recorded.task.state() != State::Running {
            return Err(End::NotOurs);
        }
        if recorded.task.timestamp == 0 {
            recorded = self.settle(&recorded).await?;
        }
        while let Some(part) = recorded.task.parts.get(recorded.task.parts_done as usize) {
            let request = order(&recorded.task, part);
            let done = self.patiently(|| self.around.part(request.clone())).await?;
            hold_here(&["export", "part_written"]).await;
            let task = self.with_part(&recorded.task, done);
            recorded = self.replace(&recorded, task).await?;
        }
        let request = FinishExportRequest {
            task_id: id.to_owned(),
            target: recorded.task.target.clone(),
            timestamp: recorded.task.timestamp,
            files: recorded.task.files.clone(),
        };
        hold_here(&["export", "completing"]).await;
        self.patiently(|| self.around.finish(request.clone()))
            .await?;
        hold_here(&["export", "completed"]).await;
        let done = ExportInfo {
            state: State::Done.into(),
            updated_ts: self.now().0,
            segments: Vec::new(),
            deltas: Vec::new(),
            ..recorded.task.clone()
        };
        let done = self.replace(&recorded, done).await?.task;
        info!(
            task = id,
            rows = done.exported_rows,
            files = done.files.len(),
            "export done"
        );
        Ok(())
    }

    async fn replace(&self, before: &Recorded, task: ExportInfo) -> Result<Recorded, End> {
        replaced(records::replace(&*self.kv, before, task).await)
    }

    /// Records a time and what holds its rows, which stays from then on until the task has ended.
    async fn settle(&self, before: &Recorded) -> Result<Recorded, End> {
        let mut tries = 0;
        loop {
            let prepared = self.patiently(|| self.prepare(&before.task)).await?;
            hold_here(&["export", "prepared"]).await;
            let outcome = records::hold(&*self.kv, &self.gate, before, prepared).await;
            tries += 1;
            match outcome {
                // They were compacted and collected since they were looked at.
                Err(error) if error.code == ErrorCode::IoKeyNotFound && tries < STORE_TRIES => {
                    warn!(error = %error.message, "another time is taken for an export");
                }
                outcome => return replaced(outcome),
            }
        }
    }

    /// Tries again what may pass: for long while a service is away, a few times when a store is in
    /// trouble.
    async fn patiently<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let deadline = Deadline::after(self.options.patience.get());
        let mut store_tries = 0;
        loop {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            store_tries += u32::from(error.code == ErrorCode::IoFailed);
            let may_pass = error.retriable || error.code == ErrorCode::MemoryLimitExceeded;
            if !may_pass || store_tries >= STORE_TRIES || deadline.expired() {
                return Err(error);
            }
            warn!(error = %error.message, "a step of an export is tried again");
            backoff.wait().await;
        }
    }

    /// Takes a time and what holds its rows.
    async fn prepare(&self, task: &ExportInfo) -> Result<ExportInfo> {
        let id = CollectionId(task.collection_id);
        for _ in 0..TIMES {
            let at = self.around.now().await?;
            let entry = self.collection(id)?;
            self.around.flush(&entry, at).await?;
            // What was flushed is on record by now: the view must show that.
            let failed = |error: redkite_metastore::Error| Error::from_coded(&error);
            let now = self.kv.range("", None, 1).await.map_err(failed)?.revision;
            let seen = self.catalog.at_least(now, SEEN_WITHIN).await;
            seen.map_err(|error| Error::from_coded(&error))?;
            let entry = self.collection(id)?;
            let Some((segments, deltas)) = prepare::as_of(&entry, at) else {
                warn!(task = %task.task_id, "another time is taken for an export");
                continue;
            };
            let message = schema::to_proto(entry.name(), entry.schema());
            // A row that a reader of this time does not see is not exported, compacted yet or not.
            let moment = Moment {
                now: at,
                retention_ms: 0,
            };
            return Ok(ExportInfo {
                schema: Some(message),
                timestamp: at.0,
                expired_before: facts::expired_before(&entry, moment).0,
                parts: prepare::parts(&segments),
                total_rows: segments.iter().map(|segment| segment.rows).sum(),
                segments,
                deltas,
                updated_ts: self.now().0,
                ..task.clone()
            });
        }
        let text = "compactions are faster than the export, which found no time to read at";
        Err(Error::new(ErrorCode::ServiceUnavailable, text))
    }

    fn collection(&self, id: CollectionId) -> Result<std::sync::Arc<CollectionEntry>> {
        let view = self.catalog.view();
        let found = view.collection_by_id(id);
        let found = found.filter(|entry| entry.state() == ObjectState::Created);
        found
            .cloned()
            .ok_or_else(|| Error::new(ErrorCode::CollectionNotFound, "the collection was dropped"))
    }

    fn with_part(&self, task: &ExportInfo, done: ExportPartResponse) -> ExportInfo {
        let mut samples: Vec<serde_json::Value> =
            serde_json::from_str(&task.samples).unwrap_or_default();
        let more = done
            .samples
            .iter()
            .filter_map(|text| serde_json::from_str(text).ok());
        samples.extend(more);
        samples.truncate(SAMPLES);
        let mut files = task.files.clone();
        files.extend(done.files);
        ExportInfo {
            parts_done: task.parts_done + 1,
            files,
            scanned_rows: task.scanned_rows + done.scanned_rows,
            exported_rows: task.exported_rows + done.exported_rows,
            samples: serde_json::Value::Array(samples).to_string(),
            updated_ts: self.now().0,
            ..task.clone()
        }
    }

    /// Records why a task has failed, and removes its output.
    async fn fail(&self, id: &str, error: &Error) {
        warn!(task = id, code = error.code.number(), error = %error.message, "export failed");
        let recorded = match records::find(&*self.kv, id).await {
            Ok(Some(recorded)) if recorded.task.state() == State::Running => recorded,
            Ok(_) | Err(_) => return,
        };
        self.remove_output(&recorded.task).await;
        let failed = ExportInfo {
            state: State::Failed.into(),
            fail_reason: error.message.clone(),
            updated_ts: self.now().0,
            segments: Vec::new(),
            deltas: Vec::new(),
            ..recorded.task.clone()
        };
        if let Err(error) = records::replace(&*self.kv, &recorded, failed).await {
            warn!(task = id, error = %error.message, "an export's failure is not recorded");
        }
    }

    /// Removes the output and the record of a task that was dropped while it ran.
    async fn clean_up_dropped(&self, id: &str) {
        let recorded = match records::find(&*self.kv, id).await {
            Ok(Some(recorded)) if recorded.task.state() == State::Dropping => recorded,
            Ok(_) | Err(_) => return,
        };
        self.remove_output(&recorded.task).await;
        match records::remove(&*self.kv, &recorded).await {
            Ok(_) => info!(task = id, "export dropped"),
            Err(error) => warn!(task = id, error = %error.message, "a dropped export stays"),
        }
    }

    async fn remove_output(&self, task: &ExportInfo) {
        let request = RemoveExportRequest {
            task_id: task.task_id.clone(),
            target: task.target.clone(),
        };
        let removed = self.patiently(|| self.around.remove(request.clone())).await;
        if let Err(error) = removed {
            let task = &task.task_id;
            warn!(%task, error = %error.message, "an export's output is left where it is");
        }
    }
}

/// What became of a change of a record.
fn replaced(outcome: Result<Option<Recorded>>) -> Result<Recorded, End> {
    // It may be unknown; then the next round goes on from what is recorded.
    match outcome {
        Ok(Some(recorded)) => Ok(recorded),
        Ok(None) => Err(End::NotOurs),
        Err(error) if error.retriable => {
            warn!(error = %error.message, "an export's progress is not recorded");
            Err(End::Cancelled)
        }
        Err(error) => Err(End::Failed(error)),
    }
}

/// The request for a part.
fn order(task: &ExportInfo, part: &ExportPart) -> ExportPartRequest {
    let is_here = |segment: &&SegmentInfo| part.segments.contains(&segment.id);
    let segments: Vec<SegmentInfo> = task.segments.iter().filter(is_here).cloned().collect();
    let is_beside = |other: &&SegmentInfo| {
        let beside = segments
            .iter()
            .any(|one| (one.partition_id, &one.channel) == (other.partition_id, &other.channel));
        beside && !is_here(other)
    };
    let others: Vec<SegmentInfo> = task.segments.iter().filter(is_beside).cloned().collect();
    let may_hit = |channel: &str| segments.iter().any(|one| one.channel == *channel);
    let deltas = task.deltas.iter().filter(|delta| may_hit(&delta.channel));
    let known: Vec<serde_json::Value> = serde_json::from_str(&task.samples).unwrap_or_default();
    let is_last = task.parts_done as usize + 1 == task.parts.len();
    ExportPartRequest {
        task_id: task.task_id.clone(),
        target: task.target.clone(),
        schema: task.schema.clone(),
        int_list_fields: task.int_list_fields.clone(),
        text_list_fields: task.text_list_fields.clone(),
        filter: task.filter.clone(),
        timestamp: task.timestamp,
        expired_before: task.expired_before,
        deltas: deltas.cloned().collect(),
        first_file: task.files.len() as u32 + 1,
        even_if_empty: is_last && task.files.is_empty(),
        samples: SAMPLES.saturating_sub(known.len()) as u32,
        segments,
        others,
    }
}
