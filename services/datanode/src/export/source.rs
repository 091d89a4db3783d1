//! Which rows of a segment count.

use std::sync::Arc;

use redkite_expr::Plan;
use redkite_proto::redkite::{
    datanode::ExportPartRequest,
    meta::{DeltaInfo, SegmentInfo},
};
use redkite_runtime::{CpuPool, Priority};
use redkite_segment::{
    FileKind, KeyLimits, NewestRows, ReadView,
    delta::stream_delta,
    file::{CheckedFiles, InOrder, Piece, StreamedColumns, open_streamed},
    manifest,
};
use redkite_storage::ObjectStore;
use redkite_types::{
    BitSet, CollectionSchema, Error, ErrorCode, FieldId, PartitionId, PrimaryKey, Result, StopFlag,
    Timestamp,
};

use super::batches::{Batches, Limits};

/// Bytes and rows that a filter looks at together.
const FILTER_AT_ONCE: Limits = Limits {
    bytes: 8 << 20,
    rows: 65_536,
};

/// Segments that stay open for their keys to be read again; of each it is in memory where its pages are.
const KEPT_OPEN: usize = 16;

/// Segments of an object store.
#[derive(Debug)]
pub(super) struct Source {
    store: Arc<dyn ObjectStore>,
    cpu: CpuPool,
}

/// The rows of a segment that are to be written.
pub(super) struct Rows {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) columns: Arc<StreamedColumns>,
    pub(super) rows: BitSet,
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
}

impl Source {
    pub(super) fn new(store: Arc<dyn ObjectStore>, cpu: CpuPool) -> Self {
        Self { store, cpu }
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
        }
    }

    // Beside the encoding of other rows, which is what an export waits for.
    async fn on_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StopFlag) -> redkite_segment::Result<T> + Send + 'static,
    ) -> Result<T> {
        let outcome = self.cpu.run_stoppable(Priority::Segment, work).await;
        let outcome = outcome.map_err(|error| Error::from_coded(&error))?;
        outcome.map_err(coded)
    }
}

impl Reading<'_> {
    async fn open(&self, info: &SegmentInfo) -> Result<Arc<StreamedColumns>> {
        let manifest = manifest::from_info(info);
        let schema = self.wanted.schema.clone();
        let opened = open_streamed(&*self.source.store, &manifest, schema, &self.checked).await;
        opened.map_err(coded)
    }

    /// The rows of a segment that are seen and pass.
    pub(super) async fn rows(&self, info: &SegmentInfo) -> Result<Rows> {
        let columns = self.open(info).await?;
        let (seen, _) = self.seen(info, &columns, Timestamp::MAX).await?;
        let rows = Rows {
            store: self.source.store.clone(),
            columns,
            rows: seen,
        };
        match self.wanted.filter.is_all() {
            true => Ok(rows),
            false => self.passing(rows).await,
        }
    }

    /// How many rows of a segment are seen, and how many of them were written after a time.
    pub(super) async fn count(&self, info: &SegmentInfo, since: u64) -> Result<(i64, i64)> {
        let columns = self.open(info).await?;
        let (seen, later) = self.seen(info, &columns, Timestamp(since)).await?;
        Ok((seen.count_ones() as i64, later as i64))
    }

    /// The rows of a segment that are seen, and how many of them were written after a time.
    async fn seen(
        &self,
        info: &SegmentInfo,
        columns: &Arc<StreamedColumns>,
        since: Timestamp,
    ) -> Result<(BitSet, usize)> {
        let (rows, partition) = (columns.rows(), PartitionId(info.partition_id));
        let limits = KeyLimits::default();
        let mut newest = NewestRows::new(rows, partition, self.wanted.view, since, limits);
        let all = self.request.segments.iter().chain(&self.request.others);
        let others: Vec<_> = all.filter(|other| may_replace(other, info)).collect();
        let mut open = Vec::new();
        for other in others.iter().take(KEPT_OPEN) {
            open.push(self.open(other).await?);
        }
        let may_hit = |delta: &&DeltaInfo| may_hit(delta, info, self.wanted.view.at);
        let deltas: Vec<_> = self.request.deltas.iter().filter(may_hit).collect();
        loop {
            let own = columns.keys_in_order().map_err(coded)?;
            newest = self.show(newest, own, add).await?;
            for (index, other) in others.iter().enumerate() {
                if !newest.is_empty() {
                    let other = match open.get(index) {
                        Some(open) => open.clone(),
                        None => self.open(other).await?,
                    };
                    let keys = other.keys_in_order().map_err(coded)?;
                    newest = self.show(newest, keys, replace).await?;
                }
            }
            for delta in &deltas {
                if !newest.is_empty() {
                    let deletes = self.deletes(delta).await?;
                    newest = self.show(newest, deletes, delete).await?;
                }
            }
            let is_last;
            let end = move |_: &StopFlag| {
                let is_last = !newest.end_range();
                Ok((newest, is_last))
            };
            (newest, is_last) = self.source.on_pool(end).await?;
            if is_last {
                return Ok(newest.into_rows());
            }
        }
    }

    /// Shows keys or deletes, all of a file's. While some are looked at, the next are read.
    async fn show(
        &self,
        mut newest: NewestRows,
        mut rows: InOrder,
        how: fn(&mut NewestRows, Piece) -> redkite_segment::Result<()>,
    ) -> Result<NewestRows> {
        let store = &*self.source.store;
        let mut next = rows.read(store).await.map_err(coded)?;
        while let Some(piece) = next {
            let look = self.source.on_pool(move |_: &StopFlag| {
                how(&mut newest, piece)?;
                Ok(newest)
            });
            let read = async { rows.read(store).await.map_err(coded) };
            (newest, next) = futures::try_join!(look, read)?;
        }
        Ok(newest)
    }

    async fn deletes(&self, delta: &DeltaInfo) -> Result<InOrder> {
        let file = delta.file.as_ref().ok_or_else(|| {
            let text = format!("delete file {} has no path", delta.id);
            Error::new(ErrorCode::DataIntegrity, text)
        })?;
        let file = manifest::from_file(FileKind::Delta, file);
        let key = self.wanted.schema.primary_key().data_type;
        let deletes = stream_delta(&*self.source.store, &file, key, &self.checked).await;
        deletes.map_err(coded)
    }

    /// Those of some rows that pass the filter. While some are looked at, the next are read.
    async fn passing(&self, rows: Rows) -> Result<Rows> {
        let fields: Vec<FieldId> = self.wanted.filter.fields().into_iter().collect();
        let mut passing = BitSet::new(rows.rows.len());
        let mut batches = Batches::new(&self.source.cpu, &rows, &fields, FILTER_AT_ONCE);
        let mut next = batches.read().await?;
        while let Some(piece) = next {
            let filter = self.wanted.filter.clone();
            let look = self
                .source
                .on_pool(move |_: &StopFlag| piece.passing(&filter));
            let found;
            (found, next) = futures::try_join!(look, batches.read())?;
            found.iter().for_each(|row| passing.set(*row as usize));
        }
        drop(batches);
        Ok(Rows {
            rows: passing,
            ..rows
        })
    }
}

fn coded(error: redkite_segment::Error) -> Error {
    Error::from_coded(&error)
}

fn add(newest: &mut NewestRows, rows: Piece) -> redkite_segment::Result<()> {
    newest.add(rows.into_keys()?)
}

fn replace(newest: &mut NewestRows, rows: Piece) -> redkite_segment::Result<()> {
    newest.replace(&rows.into_keys()?);
    Ok(())
}

fn delete(newest: &mut NewestRows, rows: Piece) -> redkite_segment::Result<()> {
    newest.delete(&rows.into_deletes()?);
    Ok(())
}

/// Whether a delete of a file may concern a row of a segment that was written up to a time.
fn may_hit(delta: &DeltaInfo, info: &SegmentInfo, at: Timestamp) -> bool {
    // Older records do not say.
    let is_known = delta.max_ts > 0;
    !is_known || (delta.max_ts > info.min_ts && delta.min_ts <= at.0)
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
