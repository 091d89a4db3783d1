//! A segment that grows: one writer, any number of readers that never wait for it.
//!
//! Each append publishes a new list of chunks. Small chunks are merged with their neighbours like
//! the digits of a binary counter, so that n single-row inserts make about log n chunks and copy a
//! row about log n times. Those that are no longer small are added to one before them that has a graph, so
//! that it can grow with its rows. An append leaves chunks of `MERGED_ROWS` rows alone; several of
//! them can be joined beside it ([`Joined`]), for the sake of larger graphs over their rows.

use std::{collections::HashMap, ops::Range, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use redkite_types::{
    CollectionSchema, FieldId, MetricType, PrimaryKey, RowBatch, RowId, Timestamp,
};

use crate::{
    chunk::Chunk,
    delete::{DeleteBatch, Entry, SegmentDeletes},
    error::{Error, Result},
    interim::{InterimIndexes, InterimKind, MANY_GRAPHS, MIN_ADDED},
    segment::SegmentMeta,
};

/// A merged chunk has at most so many rows.
const MERGED_ROWS: usize = 8_192;
/// A chunk of so many rows is added to one before it that has a graph, so that it can grow by them. All rows of both
/// are copied, which is too much while rows come so fast that there are no graphs.
const ADDED_ROWS: usize = MIN_ADDED;
/// So many neighbours are joined at once: each is in one more graph then, and a search walks through
/// one instead of all of theirs.
const JOINED_CHUNKS: usize = 8;

/// The writer's side. Its methods take `&self`, but there must be only one writer, whose writes
/// come in the order of their timestamps.
#[derive(Debug)]
pub struct GrowingSegment {
    published: ArcSwap<GrowingSnapshot>,
    keys: Mutex<NewestRows>,
}

/// The rows of a growing segment as of some moment.
#[derive(Debug)]
pub struct GrowingSnapshot {
    meta: Arc<SegmentMeta>,
    chunks: Vec<Arc<Chunk>>,
    rows: usize,
    deletes: Arc<SegmentDeletes>,
    /// Over rows of all chunks; it goes on growing.
    interim: Arc<InterimIndexes>,
}

/// Neighbouring chunks in one, to take their place.
#[derive(Debug)]
pub struct Joined {
    parts: Vec<Arc<Chunk>>,
    whole: Chunk,
}

impl Joined {
    /// Copies the rows of chunks that [`GrowingSnapshot::next_join`] has named.
    pub fn new(parts: Vec<Arc<Chunk>>) -> Option<Self> {
        let whole = Chunk::concat(parts.iter().map(Arc::as_ref))?;
        let (interim, first) = parts.first()?.interim();
        let whole = whole.with_interim(interim.clone(), first);
        Some(Self { parts, whole })
    }
}

/// The newest row of each key that was not deleted since: only it can be hit by a delete.
#[derive(Debug)]
enum NewestRows {
    Int(HashMap<i64, Newest>),
    Str(HashMap<String, Newest>),
}

#[derive(Clone, Copy, Debug)]
struct Newest {
    row: u32,
    ts: Timestamp,
}

impl NewestRows {
    /// Makes `newest` the newest row of a key; answers the one that was.
    fn insert(&mut self, key: PrimaryKey, newest: Newest) -> Option<Newest> {
        match (self, key) {
            (Self::Int(rows), PrimaryKey::Int(key)) => rows.insert(key, newest),
            (Self::Str(rows), PrimaryKey::Str(key)) => rows.insert(key, newest),
            (Self::Int(_), PrimaryKey::Str(_)) | (Self::Str(_), PrimaryKey::Int(_)) => None,
        }
    }

    /// Takes out the newest row of a key if it was written before `ts`.
    fn delete(&mut self, key: &PrimaryKey, ts: Timestamp) -> Option<Newest> {
        match (self, key) {
            (Self::Int(rows), PrimaryKey::Int(key)) => match rows.get(key) {
                Some(newest) if newest.ts < ts => rows.remove(key),
                _ => None,
            },
            (Self::Str(rows), PrimaryKey::Str(key)) => match rows.get(key) {
                Some(newest) if newest.ts < ts => rows.remove(key),
                _ => None,
            },
            (Self::Int(_), PrimaryKey::Str(_)) | (Self::Str(_), PrimaryKey::Int(_)) => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Int(rows) => rows.len(),
            Self::Str(rows) => rows.len(),
        }
    }
}

impl GrowingSegment {
    /// A segment without rows.
    ///
    /// # Panics
    /// When the schema has no primary key, see
    /// [`redkite_types::CollectionSchema::primary_key`].
    pub fn new(meta: SegmentMeta) -> Self {
        let keys = match meta.schema.primary_key().data_type {
            redkite_types::DataType::VarChar => NewestRows::Str(HashMap::new()),
            _ => NewestRows::Int(HashMap::new()),
        };
        let empty = GrowingSnapshot {
            meta: Arc::new(meta),
            chunks: Vec::new(),
            rows: 0,
            deletes: Arc::new(SegmentDeletes::new()),
            interim: Arc::default(),
        };
        Self {
            published: ArcSwap::from_pointee(empty),
            keys: Mutex::new(keys),
        }
    }

    /// Which segment it is.
    pub fn meta(&self) -> Arc<SegmentMeta> {
        self.published.load().meta.clone()
    }

    /// Answers for the fields of a later schema too, as far as rows go that were appended before: a
    /// segment that has adopted a schema takes no more rows.
    pub fn adopt(&self, schema: &Arc<CollectionSchema>) {
        let _keys = self.keys.lock();
        for chunk in &self.published.load().chunks {
            chunk.adopt(schema);
        }
    }

    /// The rows as they are now; later writes do not show in it, except deletes.
    pub fn snapshot(&self) -> Arc<GrowingSnapshot> {
        self.published.load_full()
    }

    /// Appends rows. A row hides older ones of its key, those of the same batch included.
    ///
    /// # Shapes
    /// `batch` has every field of the schema in its order; `row_ids` and `timestamps` one value a
    /// row, timestamps not before those of earlier writes.
    ///
    /// # Errors
    /// `BadRows` (a bug; nothing was appended) · `Full` (seal the segment and begin another)
    pub fn append(
        &self,
        batch: RowBatch,
        row_ids: Vec<RowId>,
        timestamps: Vec<Timestamp>,
    ) -> Result<()> {
        let mut keys = self.keys.lock();
        let before = self.published.load_full();
        let meta = &before.meta;
        check_columns(meta, &batch)?;
        if u32::try_from(before.rows + batch.len()).is_err() {
            return Err(Error::Full {
                segment: meta.segment,
            });
        }
        let key_field = meta.schema.primary_key().id;
        let chunk = Chunk::new(key_field, batch, row_ids, timestamps)
            .map_err(|reason| meta.bad_rows(reason))?
            .with_interim(before.interim.clone(), before.rows);
        if chunk.is_empty() {
            return Ok(());
        }
        let mut superseded = Vec::new();
        for row in 0..chunk.len() {
            let newest = Newest {
                row: (before.rows + row) as u32,
                ts: chunk.timestamps()[row],
            };
            if let Some(older) = keys.insert(chunk.key(row), newest) {
                superseded.push(Entry {
                    since: newest.ts,
                    row: older.row,
                });
            }
        }
        let rows = before.rows + chunk.len();
        let mut chunks = before.chunks.clone();
        push_chunk(&mut chunks, chunk);
        before.deletes.record(&superseded);
        self.published.store(Arc::new(GrowingSnapshot {
            meta: meta.clone(),
            chunks,
            rows,
            deletes: before.deletes.clone(),
            interim: before.interim.clone(),
        }));
        Ok(())
    }

    /// Puts joined chunks in the place of their parts, if these are still there and have adopted no
    /// later schema; answers whether.
    pub fn join(&self, joined: Joined) -> bool {
        let Joined { parts, whole } = joined;
        // Nothing is appended meanwhile.
        let _keys = self.keys.lock();
        let before = self.published.load_full();
        let is_there =
            |at: usize| (before.chunks[at..].iter().zip(&parts)).all(|(a, b)| Arc::ptr_eq(a, b));
        let starts = 0..(before.chunks.len() + 1).saturating_sub(parts.len());
        let Some(at) = starts.into_iter().find(|at| is_there(*at)) else {
            return false;
        };
        if parts.iter().any(|part| part.has_adopted()) {
            return false;
        }
        let mut chunks = before.chunks.clone();
        chunks.splice(at..at + parts.len(), [Arc::new(whole)]);
        self.published.store(Arc::new(GrowingSnapshot {
            meta: before.meta.clone(),
            chunks,
            rows: before.rows,
            deletes: before.deletes.clone(),
            interim: before.interim.clone(),
        }));
        true
    }

    /// Deletes the keys of a batch that concern this segment's partition; answers how many rows
    /// were hit.
    pub fn delete(&self, batch: &DeleteBatch) -> usize {
        let mut keys = self.keys.lock();
        let published = self.published.load();
        let mut entries = Vec::new();
        for index in batch.concerning(published.meta.partition) {
            let since = batch.timestamps[index];
            if let Some(hit) = keys.delete(&batch.keys.get(index), since) {
                entries.push(Entry {
                    since,
                    row: hit.row,
                });
            }
        }
        published.deletes.record(&entries);
        entries.len()
    }

    /// Memory taken, in bytes, the writer's key map included.
    pub fn memory_bytes(&self) -> usize {
        const MAP_ENTRY_BYTES: usize = 48;
        self.snapshot().memory_bytes() + self.keys.lock().len() * MAP_ENTRY_BYTES
    }
}

/// Checks that a batch has the schema's columns.
pub(crate) fn check_columns(meta: &SegmentMeta, batch: &RowBatch) -> Result<()> {
    let fields = &meta.schema.fields;
    if batch.columns().len() != fields.len() {
        return Err(meta.bad_rows(format!(
            "{} columns for {} fields",
            batch.columns().len(),
            fields.len()
        )));
    }
    for (field, column) in fields.iter().zip(batch.columns()) {
        let dim = column.data.dim();
        let fits = column.field == field.id
            && column.data.data_type() == field.data_type
            && (!field.data_type.is_vector() || dim == field.dim);
        if !fits {
            return Err(meta.bad_rows(format!(
                "column {} is {} with dim {dim} where field {} is {} with dim {}",
                column.field,
                column.data.data_type(),
                field.id,
                field.data_type,
                field.dim
            )));
        }
    }
    Ok(())
}

/// Appends a chunk and merges the small ones at the end.
fn push_chunk(chunks: &mut Vec<Arc<Chunk>>, chunk: Chunk) {
    let mut rows = chunk.len();
    let mut from = chunks.len();
    while from > 0 {
        let before = &chunks[from - 1];
        let neighbour = before.len();
        let stays_apart = || neighbour >= rows * 2 && (rows < ADDED_ROWS || !before.has_graph());
        if neighbour + rows > MERGED_ROWS || stays_apart() {
            break;
        }
        rows += neighbour;
        from -= 1;
    }
    let small = chunks.split_off(from);
    let merged = small.first().and_then(|first| {
        let merged = Chunk::concat(small.iter().map(Arc::as_ref).chain([&chunk]))?;
        let (interim, first) = first.interim();
        Some(merged.with_interim(interim.clone(), first))
    });
    chunks.push(Arc::new(merged.unwrap_or(chunk)));
}

impl GrowingSnapshot {
    /// Which segment it is.
    pub fn meta(&self) -> &SegmentMeta {
        &self.meta
    }

    pub(crate) fn shared_meta(&self) -> &Arc<SegmentMeta> {
        &self.meta
    }

    /// The rows, in order.
    pub fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// Number of rows, deleted ones included.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Earliest and latest timestamp of its rows; `None` of no rows.
    pub fn times(&self) -> Option<(Timestamp, Timestamp)> {
        let times = self.chunks.iter().map(|chunk| chunk.times());
        times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// The next chunk, and which of its rows, that an interim index of a field would make faster to
    /// search. One of joined rows that have many graphs gets one in their place when nothing else is due.
    pub fn next_interim(
        &self,
        field: FieldId,
        metric: MetricType,
        kind: InterimKind,
    ) -> Option<(&Arc<Chunk>, Range<usize>)> {
        let mut chunks = self.chunks.iter();
        let lacking =
            chunks.find_map(|chunk| Some((chunk, chunk.lacks_interim(field, metric, kind)?)));
        let crowded = || {
            let mut crowded = self.chunks.iter();
            crowded.find(|chunk| chunk.graphs(field, metric) >= MANY_GRAPHS)
        };
        lacking.or_else(|| match kind {
            InterimKind::Codes => None,
            InterimKind::Graph => crowded().map(|chunk| (chunk, 0..chunk.len())),
        })
    }

    /// Neighbours that are worth joining: a field has many graphs over their rows, which one over all of
    /// them can replace.
    pub fn next_join(&self, field: FieldId, metric: MetricType) -> Option<Vec<Arc<Chunk>>> {
        let pays = |window: &&[Arc<Chunk>]| {
            let graphs = window.iter().map(|chunk| chunk.graphs(field, metric));
            window.iter().all(|chunk| chunk.len() <= MERGED_ROWS)
                && graphs.sum::<usize>() >= MANY_GRAPHS
        };
        let mut windows = self.settled().windows(JOINED_CHUNKS);
        windows.find(pays).map(<[_]>::to_vec)
    }

    /// The chunks that no append will merge with its rows any more.
    pub(crate) fn settled(&self) -> &[Arc<Chunk>] {
        let mut behind = 0;
        let is_settled = |chunk: &Arc<Chunk>| {
            behind += chunk.len();
            behind >= MERGED_ROWS
        };
        let last = self.chunks.iter().rposition(is_settled);
        &self.chunks[..last.map_or(0, |last| last + 1)]
    }

    pub(crate) fn interim(&self) -> &InterimIndexes {
        &self.interim
    }

    /// The segment's deletes, which go on growing.
    pub fn deletes(&self) -> &Arc<SegmentDeletes> {
        &self.deletes
    }

    /// Memory taken, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let rows: usize = self.chunks.iter().map(|chunk| chunk.memory_bytes()).sum();
        rows + self.deletes.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rows, meta};

    #[test]
    fn single_rows_make_few_chunks_and_keep_their_order() {
        let segment = GrowingSegment::new(meta());
        for key in 0..3_000 {
            let rows = Rows::new().row(key, 1 + key as u64);
            segment
                .append(rows.batch(), rows.row_ids(), rows.timestamps())
                .unwrap();
            let chunks = segment.snapshot().chunks().len();
            assert!(chunks <= 16, "{chunks} chunks after {key} rows");
        }
        let snapshot = segment.snapshot();
        assert_eq!(snapshot.rows(), 3_000);
        let keys: Vec<PrimaryKey> = snapshot
            .chunks()
            .iter()
            .flat_map(|chunk| (0..chunk.len()).map(|row| chunk.key(row)))
            .collect();
        assert_eq!(keys, (0..3_000).map(PrimaryKey::Int).collect::<Vec<_>>());
        assert_eq!(snapshot.times(), Some((Timestamp(1), Timestamp(3_000))));
    }

    #[test]
    fn a_snapshot_does_not_see_later_rows() {
        let segment = GrowingSegment::new(meta());
        let first = Rows::new().row(1, 10);
        segment
            .append(first.batch(), first.row_ids(), first.timestamps())
            .unwrap();
        let snapshot = segment.snapshot();
        let second = Rows::new().row(2, 11);
        segment
            .append(second.batch(), second.row_ids(), second.timestamps())
            .unwrap();
        assert_eq!(snapshot.rows(), 1);
        assert_eq!(segment.snapshot().rows(), 2);
    }

    #[test]
    fn rows_of_another_shape_are_refused_as_a_whole() {
        let segment = GrowingSegment::new(meta());
        let rows = Rows::new().row(1, 10).row(2, 10);
        let fewer = RowBatch::new(2, rows.batch().into_columns()[..1].to_vec()).unwrap();
        let refused = segment.append(fewer, rows.row_ids(), rows.timestamps());
        assert!(matches!(refused, Err(Error::BadRows { .. })), "{refused:?}");
        let refused = segment.append(rows.batch(), vec![RowId(1)], rows.timestamps());
        assert!(matches!(refused, Err(Error::BadRows { .. })), "{refused:?}");
        assert_eq!(segment.snapshot().rows(), 0);
    }
}
