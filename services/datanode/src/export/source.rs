//! Which rows of a segment count.

use std::sync::Arc;

use redkite_expr::Plan;
use redkite_node::{MemoryBudget, MemoryUse};
use redkite_proto::redkite::{
    datanode::ExportPartRequest,
    meta::{DeltaInfo, SegmentInfo},
};
use redkite_runtime::{CpuPool, Priority};
use redkite_segment::{
    Chunk, DeleteBatch, FileKind, ReadView, SealedSegment, Segment, SegmentMeta, SegmentRetriever,
    delta::read_delta,
    file::{CheckedFiles, Streamed, StreamedColumns, open_streamed},
    manifest,
};
use redkite_storage::ObjectStore;
use redkite_types::{
    CollectionId, CollectionSchema, Error, ErrorCode, FieldId, PartitionId, PrimaryKey,
    PrimaryKeys, Result, SegmentId, StopFlag, Timestamp,
};

/// Memory that a row takes whatever its fields: its key, time, id and place.
const ROW_BYTES: u64 = 64;
/// Bytes of deletes that are kept from one segment to the next; more are read again for each.
const KEPT_DELETES_BYTES: usize = 32 << 20;
/// Bytes and rows that a filter looks at together.
const FILTER_AT_ONCE: (u64, usize) = (8 << 20, 65_536);

/// Segments of an object store.
#[derive(Debug)]
pub(super) struct Source {
    store: Arc<dyn ObjectStore>,
    cpu: CpuPool,
    memory: Arc<MemoryBudget>,
}

/// The rows of a segment that are to be written.
pub(super) struct Rows {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) columns: Arc<StreamedColumns>,
    /// In the order in which they lie.
    pub(super) rows: Arc<[u32]>,
}

/// Which rows are asked for.
pub(super) struct Wanted {
    pub(super) schema: Arc<CollectionSchema>,
    pub(super) view: ReadView,
    pub(super) filter: Arc<Plan>,
}

/// Segments of one part as they are read one after the other, and what is kept in between.
pub(super) struct Reading<'a> {
    source: &'a Source,
    request: &'a ExportPartRequest,
    wanted: Wanted,
    checked: CheckedFiles,
    deletes: Vec<Option<Arc<DeleteBatch>>>,
    kept_bytes: usize,
}

impl Source {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        cpu: CpuPool,
        memory: Arc<MemoryBudget>,
    ) -> Self {
        Self { store, cpu, memory }
    }

    /// Begins to read the segments of a part.
    pub(super) fn reading<'a>(
        &'a self,
        request: &'a ExportPartRequest,
        wanted: Wanted,
    ) -> Reading<'a> {
        Reading {
            source: self,
            request,
            wanted,
            checked: CheckedFiles::new(),
            deletes: vec![None; request.deltas.len()],
            kept_bytes: 0,
        }
    }

    async fn delta(&self, delta: &DeltaInfo) -> Result<Arc<DeleteBatch>> {
        let file = delta.file.as_ref().ok_or_else(|| {
            let text = format!("delete file {} has no path", delta.id);
            Error::new(ErrorCode::DataIntegrity, text)
        })?;
        let file = manifest::from_file(FileKind::Delta, file);
        let batch = read_delta(&*self.store, &file).await;
        Ok(Arc::new(batch.map_err(|error| Error::from_coded(&error))?))
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

impl Reading<'_> {
    /// Opens a segment: keys and times in memory, the rest left where it is.
    async fn open(&self, info: &SegmentInfo) -> Result<Streamed> {
        let manifest = manifest::from_info(info);
        let rows = u64::try_from(info.rows).unwrap_or_default();
        let what = format!("segment {} of an export", info.id);
        let memory = &self.source.memory;
        memory.claim(MemoryUse::Background, &what, rows.saturating_mul(ROW_BYTES))?;
        let schema = self.wanted.schema.clone();
        let opened = open_streamed(&*self.source.store, &manifest, schema, &self.checked).await;
        opened.map_err(|error| Error::from_coded(&error))
    }

    /// The rows of a segment that are seen and pass. Deletes, and keys of newer rows, are in memory one file at a time.
    pub(super) async fn rows(&mut self, info: &SegmentInfo) -> Result<Rows> {
        let Streamed { keys, columns } = self.open(info).await?;
        let segment = self.seen(info, keys).await?;
        let key_only = |field: &FieldId| segment.meta().schema.field_by_id(*field).is_some();
        let fields: Vec<FieldId> = self.wanted.filter.fields().into_iter().collect();
        let by_key = fields.iter().all(key_only);
        let retriever = SegmentRetriever {
            filter: match by_key {
                true => self.wanted.filter.clone(),
                false => Arc::new(Plan::all()),
            },
            view: self.wanted.view,
            limit: None,
        };
        let find = move |stop: &StopFlag| retriever.rows(&Segment::Sealed(segment), stop);
        let mut rows = self.source.on_pool(find).await?;
        if !by_key && !rows.is_empty() {
            rows = self.passing(&columns, rows, fields).await?;
        }
        Ok(Rows {
            store: self.source.store.clone(),
            columns,
            rows: rows.into(),
        })
    }

    /// How many rows of a segment are seen, and how many of them were written after a time.
    pub(super) async fn count(&mut self, info: &SegmentInfo, since: u64) -> Result<(i64, i64)> {
        let keys = self.open(info).await?.keys;
        let segment = self.seen(info, keys).await?;
        let retriever = SegmentRetriever {
            filter: Arc::new(Plan::all()),
            view: self.wanted.view,
            limit: None,
        };
        let count = move |stop: &StopFlag| {
            let rows = retriever.rows(&Segment::Sealed(segment.clone()), stop)?;
            let times = segment.chunks()[0].timestamps();
            let later = rows.iter().filter(|row| times[**row as usize].0 > since);
            Ok((rows.len() as i64, later.count() as i64))
        };
        self.source.on_pool(count).await
    }

    /// A segment's keys, with all deletes that concern them.
    async fn seen(&mut self, info: &SegmentInfo, keys: Chunk) -> Result<Arc<SealedSegment>> {
        let meta = SegmentMeta {
            collection: CollectionId(info.collection_id),
            partition: PartitionId(info.partition_id),
            segment: SegmentId(info.id),
            schema: Arc::new(key_schema(&self.wanted.schema)),
        };
        let open = move |_: &StopFlag| SealedSegment::new(meta, keys).map(Arc::new);
        let segment = self.source.on_pool(open).await?;
        for index in 0..self.request.deltas.len() {
            let batch = self.deletes(index).await?;
            self.delete(&segment, move || batch).await?;
        }
        let (request, at) = (self.request, Timestamp(self.request.timestamp));
        let all = request.segments.iter().chain(&request.others);
        for other in all.filter(|other| may_replace(other, info)) {
            let keys = self.open(other).await?.keys;
            let partition = PartitionId(info.partition_id);
            let newer = move || Arc::new(keys_until(&keys, at, partition));
            self.delete(&segment, newer).await?;
        }
        Ok(segment)
    }

    async fn delete(
        &self,
        segment: &Arc<SealedSegment>,
        batch: impl FnOnce() -> Arc<DeleteBatch> + Send + 'static,
    ) -> Result<()> {
        let segment = segment.clone();
        let delete = move |_: &StopFlag| {
            segment.delete(&batch());
            Ok(())
        };
        self.source.on_pool(delete).await
    }

    /// A file of deletes, read once unless there are too many to keep.
    async fn deletes(&mut self, index: usize) -> Result<Arc<DeleteBatch>> {
        if let Some(batch) = &self.deletes[index] {
            return Ok(batch.clone());
        }
        let batch = self.source.delta(&self.request.deltas[index]).await?;
        let bytes = delete_bytes(&batch);
        if self.kept_bytes + bytes <= KEPT_DELETES_BYTES {
            self.kept_bytes += bytes;
            self.deletes[index] = Some(batch.clone());
        }
        Ok(batch)
    }

    /// Those of some rows that pass the filter. While some are looked at, the next are read.
    async fn passing(
        &self,
        columns: &Arc<StreamedColumns>,
        rows: Vec<u32>,
        fields: Vec<FieldId>,
    ) -> Result<Vec<u32>> {
        let coded = |error: redkite_segment::Error| Error::from_coded(&error);
        let (bytes, most) = FILTER_AT_ONCE;
        let parts = columns.divide(&rows, &fields, bytes, most).map_err(coded)?;
        let mut parts = parts.into_iter();
        let mut passing = Vec::new();
        let mut part = parts.next().unwrap_or_default();
        let store = &*self.source.store;
        let mut piece = columns
            .read(store, &rows[part], &fields)
            .await
            .map_err(coded)?;
        loop {
            let filter = self.wanted.filter.clone();
            let look = self
                .source
                .on_pool(move |_: &StopFlag| piece.passing(&filter));
            let Some(next) = parts.next() else {
                passing.extend(look.await?);
                return Ok(passing);
            };
            part = next;
            let read = async {
                columns
                    .read(store, &rows[part], &fields)
                    .await
                    .map_err(coded)
            };
            let found;
            (found, piece) = futures::try_join!(look, read)?;
            passing.extend(found);
        }
    }
}

/// The schema of a segment's keys.
fn key_schema(schema: &CollectionSchema) -> CollectionSchema {
    let mut keys = schema.clone();
    keys.fields.retain(|field| field.is_primary_key);
    keys
}

/// Memory that deletes take, in bytes.
fn delete_bytes(batch: &DeleteBatch) -> usize {
    let texts = match &batch.keys {
        PrimaryKeys::Int(_) => 0,
        PrimaryKeys::Str(keys) => keys.iter().map(|key| key.len() + 16).sum(),
    };
    batch.len() * 24 + texts
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
