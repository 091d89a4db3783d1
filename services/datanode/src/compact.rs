//! Writes the rows of some segments that still count as new segments.

use std::{sync::Arc, time::Instant};

use redkite_node::{DiskSpace, DiskUse, MemoryBudget, MemoryUse};
use redkite_proto::{
    convert::schema,
    redkite::{
        datanode::{CompactRequest, CompactResponse},
        meta::{DeltaInfo, SegmentInfo},
    },
};
use redkite_runtime::{CpuPool, Priority};
use redkite_segment::{
    Cut, DeleteBatch, FileKind, SegmentMeta, Survivors,
    delta::read_delta,
    file::{EncodedSegment, read_segment},
    manifest,
};
use redkite_storage::ObjectStore;
use redkite_types::{
    CollectionId, CollectionSchema, Error, ErrorCode, PartitionId, Result, SegmentId, StopFlag,
    Timestamp,
};
use tracing::info;

/// Compacts segments from an object store into the same one.
#[derive(Clone, Debug)]
pub struct Compactor {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) cpu: CpuPool,
    pub(crate) disk: Arc<DiskSpace>,
    pub(crate) memory: Arc<MemoryBudget>,
}

/// Memory that a compaction takes for each byte of its sources: the rows as read, those that are left,
/// and their files.
const COPIES: u64 = 3;

/// What a request asks for, checked.
struct Job {
    plan: i64,
    schema: Arc<CollectionSchema>,
    sources: Vec<SegmentInfo>,
    deltas: Vec<DeltaInfo>,
    cut: Cut,
    targets: Vec<SegmentId>,
    collection: CollectionId,
    partition: PartitionId,
    channel: String,
}

impl Compactor {
    /// Compacts on these threads; `disk` is the store's, where it is a local one.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        cpu: CpuPool,
        disk: Arc<DiskSpace>,
        memory: Arc<MemoryBudget>,
    ) -> Self {
        Self {
            store,
            cpu,
            disk,
            memory,
        }
    }

    /// Reads the sources, leaves out what no longer counts, and writes the rest under the ids of the
    /// targets. The same request writes the same bytes to the same keys.
    ///
    /// Holds the rows of all sources in memory, and those that are left a second time. With a
    /// `delta_target` delete files are merged instead.
    ///
    /// # Errors
    /// Code 1009 when a file is damaged, 7 while the disk is full, 3 while memory is. Others as the store says.
    ///
    /// # Cancel safety
    /// Dropping the future stops the work; files that were being written may be there or not.
    pub async fn compact(&self, request: CompactRequest) -> Result<CompactResponse> {
        if request.delta_target != 0 {
            return self.merge_deletes(request).await;
        }
        let started = Instant::now();
        let job = Job::read(request)?;
        let files = job.sources.iter().flat_map(|source| &source.files);
        let bytes: u64 = files.map(|file| file.size).sum();
        let what = format!("compaction plan {}", job.plan);
        let claimed = bytes.saturating_mul(COPIES);
        self.memory.claim(MemoryUse::Background, &what, claimed)?;
        let mut chunks = Vec::with_capacity(job.sources.len());
        for source in job.sources.iter().filter(|source| job.has_rows(source)) {
            let manifest = manifest::from_info(source);
            let chunk = read_segment(&*self.store, &manifest, job.schema.clone()).await;
            chunks.push(chunk.map_err(|error| Error::from_coded(&error))?);
        }
        let mut deletes = Vec::with_capacity(job.deltas.len());
        for delta in &job.deltas {
            deletes.push(read_deletes(&*self.store, delta).await?);
        }
        let encoded = self.encode(&job, chunks, deletes).await?;
        let mut segments = Vec::with_capacity(encoded.len());
        for segment in encoded {
            let files = &segment.manifest.files;
            let bytes = files.iter().map(|file| file.size_bytes).sum();
            self.disk.claim(DiskUse::Background, bytes)?;
            let stored = segment.store(&*self.store).await;
            let manifest = stored.map_err(|error| Error::from_coded(&error))?;
            // Once it is committed its sources go.
            for file in &manifest.files {
                let verified = file.verify(&*self.store).await;
                verified.map_err(|error| Error::from_coded(&error))?;
            }
            segments.push(job.record(&manifest));
        }
        let elapsed = started.elapsed();
        let rows = |segments: &[SegmentInfo]| segments.iter().map(|one| one.rows).sum::<i64>();
        let (rows_read, rows_written) = (rows(&job.sources), rows(&segments));
        metrics::histogram!("redkite_datanode_compaction_seconds").record(elapsed);
        metrics::counter!("redkite_datanode_compacted_rows_total").increment(rows_read as u64);
        info!(
            plan = job.plan,
            sources = job.sources.len(),
            segments = segments.len(),
            rows_read,
            rows_written,
            elapsed_ms = elapsed.as_millis(),
            "segments compacted"
        );
        Ok(CompactResponse {
            segments,
            rows_read,
            rows_written,
            delta: None,
        })
    }

    /// Sorts out the rows and encodes the new segments on the pool.
    async fn encode(
        &self,
        job: &Job,
        chunks: Vec<redkite_segment::Chunk>,
        deletes: Vec<DeleteBatch>,
    ) -> Result<Vec<EncodedSegment>> {
        let (cut, partition, collection) = (job.cut, job.partition, job.collection);
        let (schema, targets) = (job.schema.clone(), job.targets.clone());
        let work = move |stop: &StopFlag| {
            let found = Survivors::find(&chunks, partition, &deletes, cut, stop)?;
            let parts = found.into_chunks(targets.len(), schema.primary_key().id, stop)?;
            drop((chunks, deletes));
            let mut encoded = Vec::with_capacity(parts.len());
            for (segment, chunk) in targets.into_iter().zip(parts) {
                if stop.is_stopped() {
                    return Err(redkite_segment::Error::Cancelled);
                }
                let meta = SegmentMeta {
                    collection,
                    partition,
                    segment,
                    schema: schema.clone(),
                };
                encoded.push(EncodedSegment::encode(&meta, &[Arc::new(chunk)])?);
            }
            Ok(encoded)
        };
        let encoded: redkite_segment::Result<_> = self
            .cpu
            .run_stoppable(Priority::Build, work)
            .await
            .map_err(|error| Error::from_coded(&error))?;
        encoded.map_err(|error| Error::from_coded(&error))
    }
}

impl Job {
    fn read(request: CompactRequest) -> Result<Self> {
        let absent = |what| Error::internal(format!("the compaction request has no {what}"));
        let schema = request.schema.ok_or_else(|| absent("schema"))?;
        let first = request.sources.first().ok_or_else(|| absent("source"))?;
        let place = |segment: &SegmentInfo| {
            let ids = (segment.collection_id, segment.partition_id);
            (ids, segment.channel.clone())
        };
        if request.sources.iter().any(|one| place(one) != place(first)) {
            return Err(Error::internal(
                "the sources of a compaction are of several partitions or channels",
            ));
        }
        if request.targets.is_empty() {
            return Err(absent("target"));
        }
        let schema = schema::from_proto(schema)?;
        if !schema.fields.iter().any(|field| field.is_primary_key) {
            return Err(absent("primary key"));
        }
        let ((collection, partition), channel) = place(first);
        Ok(Self {
            plan: request.plan_id,
            schema: Arc::new(schema),
            collection: CollectionId(collection),
            partition: PartitionId(partition),
            channel,
            sources: request.sources,
            deltas: request.deltas,
            cut: Cut {
                deletes_until: Timestamp(request.deletes_until),
                expired_before: Timestamp(request.expired_before),
            },
            targets: request.targets.into_iter().map(SegmentId).collect(),
        })
    }

    /// Whether a source has rows that have not all expired.
    fn has_rows(&self, source: &SegmentInfo) -> bool {
        source.max_ts >= self.cut.expired_before.0
    }

    fn record(&self, manifest: &redkite_segment::SegmentManifest) -> SegmentInfo {
        let sources = self.sources.iter();
        let flushed_ts = sources.clone().map(|source| source.flushed_ts).max();
        let flushed_ts = Timestamp(flushed_ts.unwrap_or_default());
        // An earlier compaction may have gone further, but only what all of them have had counts.
        let applied = sources.map(|source| source.deletes_applied_ts).min();
        let applied = applied.unwrap_or_default().max(self.cut.deletes_until.0);
        SegmentInfo {
            deletes_applied_ts: applied,
            compacted_from: self.sources.iter().map(|source| source.id).collect(),
            ..manifest::to_info(manifest, &self.channel, flushed_ts)
        }
    }
}

pub(crate) async fn read_deletes(
    store: &dyn ObjectStore,
    delta: &DeltaInfo,
) -> Result<DeleteBatch> {
    let file = delta.file.as_ref().ok_or_else(|| {
        let text = format!("delete file {} has no path", delta.id);
        Error::new(ErrorCode::DataIntegrity, text)
    })?;
    let batch = read_delta(store, &manifest::from_file(FileKind::Delta, file)).await;
    batch.map_err(|error| Error::from_coded(&error))
}
