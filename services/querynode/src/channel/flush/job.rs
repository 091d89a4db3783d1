//! The work of one flush: files first, then the commit that makes them count.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use redkite_node::DiskUse;
use redkite_proto::redkite::{
    datacoord::CommitFlushRequest,
    meta::{ChannelCheckpoint, DeltaInfo, SegmentInfo},
};
use redkite_runtime::{Backoff, Priority};
use redkite_segment::{
    DeleteBatch, FileKind, GrowingSegment, SealedSegment,
    delta::write_delta,
    file::{EncodedSegment, FileEntry, open_segment},
    manifest,
};
use redkite_storage::ObjectStore;
use redkite_types::{Error, ErrorCode, FieldId, PartitionId, Result, Revision};
use tracing::{info, warn};

use super::super::{Channel, mapping::Mapping, state::Checkpoint};
use crate::deps::Shared;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What was committed.
pub(in crate::channel) struct Flushed {
    pub(super) revision: Revision,
    pub(super) segments: Vec<FlushedSegment>,
    pub(super) delta: Option<DeltaInfo>,
    /// Deletes with lower numbers are in delete files.
    pub(super) deletes_below: u64,
    pub(super) log_bytes: u64,
}

pub(super) struct FlushedSegment {
    pub(super) info: SegmentInfo,
    /// The rows, if they were to be served when the flush began.
    pub(super) rows: Option<Arc<SealedSegment>>,
    /// The fields whose columns `rows` has left in the file.
    pub(super) in_file: BTreeSet<FieldId>,
}

/// The work of one flush.
pub(super) struct Job {
    pub(super) channel: Arc<Channel>,
    pub(super) segments: Vec<Arc<GrowingSegment>>,
    /// Partitions whose rows stay in memory.
    pub(super) served: BTreeSet<PartitionId>,
    /// What of those rows stays in files.
    pub(super) mapping: Arc<Mapping>,
    pub(super) deletes: Option<DeleteBatch>,
    pub(super) deletes_below: u64,
    pub(super) checkpoint: Checkpoint,
    pub(super) log_bytes: u64,
}

impl Job {
    pub(super) async fn run(self) -> Result<Flushed> {
        let shared = &self.channel.shared;
        let mut segments = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            segments.push(self.write_segment(shared, segment).await?);
        }
        let delta = self.write_deletes(shared).await?;
        let request = CommitFlushRequest {
            channel: self.channel.name.clone(),
            collection_id: self.channel.snapshot().collection.0,
            epoch: self.channel.epoch,
            segments: segments
                .iter()
                .map(|segment| segment.info.clone())
                .collect(),
            delta: delta.clone(),
            checkpoint: Some(ChannelCheckpoint {
                channel: self.channel.name.clone(),
                collection_id: self.channel.snapshot().collection.0,
                lsn: self.checkpoint.lsn.0,
                ts: self.checkpoint.ts.0,
            }),
        };
        // What becomes of a try that was not answered is unknown: only the same one again, until it
        // is answered, tells. Rows that another flush committed a second time could meet the
        // segments that a compaction has made of the first.
        let commit = || shared.deps.coordinators.commit_flush(request.clone());
        let revision = retrying("commit", commit).await?;
        info!(segments = segments.len(), revision = revision.0, "flushed");
        let (deletes_below, log_bytes) = (self.deletes_below, self.log_bytes);
        Ok(Flushed {
            revision,
            segments,
            delta,
            deletes_below,
            log_bytes,
        })
    }

    async fn write_segment(
        &self,
        shared: &Shared,
        segment: &GrowingSegment,
    ) -> Result<FlushedSegment> {
        // Encoding takes about as much memory again: only so many at a time.
        let _permit = shared.flush_permits.acquire().await;
        let (cpu, snapshot) = (&shared.deps.cpu, segment.snapshot());
        let bytes = snapshot.memory_bytes() as u64;
        shared.deps.disk.claim(DiskUse::Background, bytes)?;
        let keep = self.served.contains(&snapshot.meta().partition);
        let store = || {
            let rows = snapshot.clone();
            let encode = move || EncodedSegment::of_growing(&rows);
            async move {
                let encoded = coded(cpu.run(Priority::Segment, encode).await?)?;
                coded(encoded.store(&*shared.deps.store).await)
            }
            .boxed()
        };
        let manifest = retrying("write segment", store).await?;
        let rows = match keep {
            true => {
                // From the file that was just written: so it is known to be whole before the commit
                // counts on it, and the growing rows can go.
                let (manifest, rows) = (&manifest, &snapshot);
                let placement = shared.placement(self.mapping.columns.clone());
                let (store, placement) = (&*shared.deps.store, &placement);
                let open = || {
                    let schema = rows.meta().schema.clone();
                    async move { coded(open_segment(store, manifest, schema, placement).await) }
                        .boxed()
                };
                let chunk = retrying("read a segment back", open).await?;
                let build = move || SealedSegment::from_file_of(&snapshot, chunk);
                Some(Arc::new(coded(cpu.run(Priority::Segment, build).await?)?))
            }
            false => None,
        };
        let was_read = |file: &&FileEntry| keep && file.kind == FileKind::Data;
        for file in manifest.files.iter().filter(|file| !was_read(file)) {
            verified(&*shared.deps.store, file).await?;
        }
        let info = manifest::to_info(&manifest, &self.channel.name, self.checkpoint.ts);
        Ok(FlushedSegment {
            info,
            rows,
            in_file: self.mapping.columns.clone(),
        })
    }

    async fn write_deletes(&self, shared: &Shared) -> Result<Option<DeltaInfo>> {
        let Some(batch) = &self.deletes else {
            return Ok(None);
        };
        let coordinators = &shared.deps.coordinators;
        let id = retrying("allocate an id", || coordinators.ids(1)).await?;
        let store = || {
            let (store, name) = (&*shared.deps.store, &self.channel.name);
            async move { coded(write_delta(store, name, id, batch.clone()).await) }.boxed()
        };
        let file = retrying("write deletes", store).await?;
        verified(&*shared.deps.store, &file).await?;
        let times = batch.timestamps.iter();
        Ok(Some(DeltaInfo {
            id,
            collection_id: self.channel.snapshot().collection.0,
            channel: self.channel.name.clone(),
            rows: batch.len() as i64,
            min_ts: times.clone().min().map_or(0, |ts| ts.0),
            max_ts: times.max().map_or(0, |ts| ts.0),
            file: Some(manifest::to_file(&file)),
        }))
    }
}

/// Compares a file with what was written, before a commit counts on it.
async fn verified(store: &dyn ObjectStore, file: &FileEntry) -> Result<()> {
    let verify = || async move { coded(file.verify(store).await) }.boxed();
    retrying("verify a file", verify).await
}

fn coded<T>(result: redkite_segment::Result<T>) -> Result<T> {
    result.map_err(|error| Error::from_coded(&error))
}

/// Tries until it succeeds or fails for good. A call whose time was over may have been carried out.
///
/// Code 1000 of a commit is for good: files were lost or collected, and only the next flush, which
/// writes all of them again, helps.
async fn retrying<'a, T>(what: &str, attempt: impl Fn() -> BoxFuture<'a, Result<T>>) -> Result<T> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        match attempt().await {
            Err(error) if may_pass(&error) => {
                warn!(%error, what, "flush is held up, will retry");
                backoff.wait().await;
            }
            answer => return answer,
        }
    }
}

fn may_pass(error: &Error) -> bool {
    let unanswered = matches!(error.code, ErrorCode::Timeout | ErrorCode::Canceled);
    (error.retriable || unanswered) && error.code != ErrorCode::ChannelMisrouted
}
