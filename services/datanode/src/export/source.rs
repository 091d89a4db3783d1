//! Which rows of a segment count.

use std::{collections::BTreeSet, sync::Arc};

use redkite_expr::Plan;
use redkite_node::{MemoryBudget, MemoryUse};
use redkite_proto::redkite::{
    datanode::ExportPartRequest,
    meta::{DeltaInfo, SegmentInfo},
};
use redkite_runtime::{CpuPool, Priority};
use redkite_segment::{
    Chunk, ColumnCache, DeleteBatch, FileKind, Placement, ReadView, SealedSegment, Segment,
    SegmentMeta, SegmentRetriever,
    delta::read_delta,
    file::{RemoteVectors, Streamed, open_streamed},
    manifest,
};
use redkite_storage::ObjectStore;
use redkite_types::{
    CollectionId, CollectionSchema, Column, Error, ErrorCode, PartitionId, PrimaryKey, PrimaryKeys,
    Result, SegmentId, StopFlag, Timestamp,
};

/// Bytes of decoded columns that are kept while a segment is read from front to back.
const CACHE_BYTES: usize = 64 << 20;
/// Memory that a row takes whatever its fields: its key, time, id and place.
const ROW_BYTES: u64 = 64;

/// A segment whose rows are read.
pub(super) struct Opened {
    pub(super) segment: Arc<SealedSegment>,
    /// Its vectors, where they are read from the store when they are wanted.
    vectors: Option<RemoteVectors>,
    store: Arc<dyn ObjectStore>,
}

/// Segments of an object store.
#[derive(Debug)]
pub(super) struct Source {
    store: Arc<dyn ObjectStore>,
    cpu: CpuPool,
    memory: Arc<MemoryBudget>,
}

impl Source {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        cpu: CpuPool,
        memory: Arc<MemoryBudget>,
    ) -> Self {
        Self { store, cpu, memory }
    }

    /// Opens a segment: keys and times in memory; the rest mapped where there is a local file, else the scalar columns
    /// in memory as they are encoded, and the vectors left where they are.
    async fn chunk(&self, info: &SegmentInfo, schema: &Arc<CollectionSchema>) -> Result<Streamed> {
        let manifest = manifest::from_info(info);
        let rows = u64::try_from(info.rows).unwrap_or_default();
        let what = format!("segment {} of an export", info.id);
        self.memory
            .claim(MemoryUse::Background, &what, rows.saturating_mul(ROW_BYTES))?;
        let fields = schema.fields.iter().map(|field| field.id);
        let placement = Placement {
            mapped: fields.collect::<BTreeSet<_>>(),
            cache: Arc::new(ColumnCache::new(CACHE_BYTES)),
        };
        let opened = open_streamed(&*self.store, &manifest, schema.clone(), &placement).await;
        opened.map_err(|error| Error::from_coded(&error))
    }

    /// Opens a segment to read its rows.
    pub(super) async fn open(
        &self,
        info: &SegmentInfo,
        schema: Arc<CollectionSchema>,
    ) -> Result<Opened> {
        let Streamed { chunk, vectors } = self.chunk(info, &schema).await?;
        let meta = SegmentMeta {
            collection: CollectionId(info.collection_id),
            partition: PartitionId(info.partition_id),
            segment: SegmentId(info.id),
            schema,
        };
        let open = move |_: &StopFlag| SealedSegment::new(meta, chunk).map(Arc::new);
        Ok(Opened {
            segment: self.on_pool(open).await?,
            vectors,
            store: self.store.clone(),
        })
    }

    /// Reads delete files.
    pub(super) async fn deletes(&self, deltas: &[DeltaInfo]) -> Result<Vec<Arc<DeleteBatch>>> {
        let mut deletes = Vec::with_capacity(deltas.len());
        for delta in deltas {
            let file = delta.file.as_ref().ok_or_else(|| {
                let text = format!("delete file {} has no path", delta.id);
                Error::new(ErrorCode::DataIntegrity, text)
            })?;
            let file = manifest::from_file(FileKind::Delta, file);
            let batch = read_delta(&*self.store, &file).await;
            deletes.push(Arc::new(batch.map_err(|error| Error::from_coded(&error))?));
        }
        Ok(deletes)
    }

    /// The keys of other segments of the same partition and channel that may have a newer row than
    /// this one: to it they are deletes.
    pub(super) async fn newer(
        &self,
        info: &SegmentInfo,
        request: &ExportPartRequest,
        schema: &Arc<CollectionSchema>,
    ) -> Result<Vec<Arc<DeleteBatch>>> {
        let all = request.segments.iter().chain(&request.others);
        let mut newer = Vec::new();
        for other in all.filter(|other| may_replace(other, info)) {
            let chunk = self.chunk(other, schema).await?.chunk;
            let at = Timestamp(request.timestamp);
            let partition = PartitionId(info.partition_id);
            let batch = self
                .on_pool(move |_: &StopFlag| Ok(keys_until(&chunk, at, partition)))
                .await?;
            newer.push(Arc::new(batch));
        }
        Ok(newer)
    }

    /// The rows of a segment that are seen and pass, in the order in which they lie.
    pub(super) async fn rows(
        &self,
        segment: &Arc<SealedSegment>,
        deletes: Vec<Arc<DeleteBatch>>,
        newer: Vec<Arc<DeleteBatch>>,
        view: ReadView,
        filter: &Plan,
    ) -> Result<Vec<u32>> {
        let segment = segment.clone();
        let retriever = SegmentRetriever {
            filter: Arc::new(filter.clone()),
            view,
            limit: None,
        };
        let find = move |stop: &StopFlag| {
            for batch in deletes.iter().chain(&newer) {
                stop.check()
                    .map_err(|_| redkite_segment::Error::Cancelled)?;
                segment.delete(batch);
            }
            retriever.rows(&Segment::Sealed(segment), stop)
        };
        self.on_pool(find).await
    }

    async fn on_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StopFlag) -> redkite_segment::Result<T> + Send + 'static,
    ) -> Result<T> {
        let outcome = self.cpu.run_stoppable(Priority::Build, work).await;
        let outcome = outcome.map_err(|error| Error::from_coded(&error))?;
        outcome.map_err(|error| Error::from_coded(&error))
    }
}

impl Opened {
    /// The vectors of some rows that are in no column of the segment.
    ///
    /// # Errors
    /// Code 1009 when they are not what they were when the segment was opened; else as the store says.
    pub(super) async fn vectors(&self, rows: &[u32]) -> Result<Vec<Column>> {
        let Some(vectors) = &self.vectors else {
            return Ok(Vec::new());
        };
        let taken = vectors.take(&*self.store, rows).await;
        taken.map_err(|error| Error::from_coded(&error))
    }
}

/// Whether a row of `other` may be newer than one of the same key in `info`.
fn may_replace(other: &SegmentInfo, info: &SegmentInfo) -> bool {
    let is_beside = other.id != info.id
        && other.partition_id == info.partition_id
        && other.channel == info.channel
        && other.max_ts > info.min_ts;
    let bounds = |segment: &SegmentInfo| -> Option<(PrimaryKey, PrimaryKey)> {
        let manifest = manifest::from_info(segment);
        Some((manifest.min_key?, manifest.max_key?))
    };
    let overlaps = match (bounds(other), bounds(info)) {
        (Some((first, last)), Some((min, max))) => first <= max && min <= last,
        // Older records do not say.
        _ => true,
    };
    is_beside && overlaps
}

/// The rows up to a time, as deletes of their keys.
fn keys_until(chunk: &Chunk, at: Timestamp, partition: PartitionId) -> DeleteBatch {
    let rows: Vec<usize> = (0..chunk.len())
        .filter(|row| chunk.timestamps()[*row] <= at)
        .collect();
    let mut ints = Vec::new();
    let mut texts = Vec::new();
    for &row in &rows {
        match chunk.key(row) {
            PrimaryKey::Int(key) => ints.push(key),
            PrimaryKey::Str(key) => texts.push(key),
        }
    }
    let keys = match texts.is_empty() {
        true => PrimaryKeys::Int(ints),
        false => PrimaryKeys::Str(texts),
    };
    DeleteBatch {
        keys,
        timestamps: rows.iter().map(|&row| chunk.timestamps()[row]).collect(),
        partitions: vec![partition; rows.len()],
    }
}
