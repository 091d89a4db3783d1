//! A segment whose rows never change: one chunk, and the indexes over its vectors.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use redkite_index::ColumnIndex;
use redkite_types::{CollectionSchema, FieldId, PrimaryKey, Timestamp};

use crate::{
    chunk::Chunk,
    delete::{DeleteBatch, Entry, SegmentDeletes},
    error::Result,
    growing::{GrowingSnapshot, check_columns},
    segment::SegmentMeta,
};

/// Rows that never change. Deletes still arrive, and are shared by all versions of the segment.
#[derive(Clone)]
pub struct SealedSegment {
    meta: Arc<SegmentMeta>,
    chunk: [Arc<Chunk>; 1],
    deletes: Arc<SegmentDeletes>,
    indexes: BTreeMap<FieldId, Arc<ColumnIndex>>,
    /// The fields whose index is mapped.
    mapped: BTreeSet<FieldId>,
}

impl std::fmt::Debug for SealedSegment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedSegment")
            .field("segment", &self.meta.segment)
            .field("rows", &self.rows())
            .field("deletes", &self.deletes.count())
            .field("indexes", &self.indexes.keys())
            .finish_non_exhaustive()
    }
}

impl SealedSegment {
    /// Takes rows as they come from a file. Computes the order of the keys and hides rows that have
    /// a newer one of the same key.
    ///
    /// # Errors
    /// `BadRows` when they do not have the schema's columns.
    pub fn new(meta: SegmentMeta, chunk: Chunk) -> Result<Self> {
        check_chunk(&meta, &chunk)?;
        let deletes = Arc::new(SegmentDeletes::new());
        deletes.record(&superseded(&chunk));
        Ok(Self::with_parts(Arc::new(meta), chunk, deletes))
    }

    /// Takes over the rows of a growing segment, with its row numbers and its deletes: a delete
    /// that reaches either of the two from now on is seen in both. Copies the rows.
    ///
    /// # Errors
    /// `BadRows` when there are none.
    pub fn from_growing(snapshot: &GrowingSnapshot) -> Result<Self> {
        let chunk = Chunk::concat(snapshot.chunks().iter().map(Arc::as_ref))
            .ok_or_else(|| snapshot.meta().bad_rows("there are none"))?;
        let meta = snapshot.shared_meta().clone();
        Ok(Self::with_parts(meta, chunk, snapshot.deletes().clone()))
    }

    /// The rows of a growing segment as they were written to a file: its row numbers and its
    /// deletes go on, as in [`SealedSegment::from_growing`], and no row is copied. The interim indexes over
    /// parts of them serve searches until there is an index.
    ///
    /// # Errors
    /// `BadRows` when the file does not have the segment's rows: a bug.
    pub fn from_file_of(snapshot: &GrowingSnapshot, chunk: Chunk) -> Result<Self> {
        let meta = snapshot.shared_meta().clone();
        check_chunk(&meta, &chunk)?;
        if chunk.len() != snapshot.rows() {
            return Err(meta.bad_rows(format!(
                "the file has {} of {}",
                chunk.len(),
                snapshot.rows()
            )));
        }
        chunk
            .interim()
            .0
            .take_over(snapshot.interim(), snapshot.rows());
        Ok(Self::with_parts(meta, chunk, snapshot.deletes().clone()))
    }

    fn with_parts(meta: Arc<SegmentMeta>, chunk: Chunk, deletes: Arc<SegmentDeletes>) -> Self {
        // Made here, off the path of searches and deletes.
        chunk.key_order();
        Self {
            meta,
            chunk: [Arc::new(chunk)],
            deletes,
            indexes: BTreeMap::new(),
            mapped: BTreeSet::new(),
        }
    }

    /// The same segment with an index over a field, sharing everything else. Interim indexes of the
    /// field are let go, which the segment without the index feels too.
    ///
    /// # Errors
    /// `BadRows` when the index does not have the rows or the dimension of the column.
    pub fn with_index(&self, field: FieldId, index: Arc<ColumnIndex>) -> Result<Arc<Self>> {
        let column = self.chunk[0].batch().column(field);
        let dim = match (column, self.chunk[0].file_schema()) {
            (Some(column), _) => column.data.dim(),
            (None, Some(schema)) => schema.field_by_id(field).map_or(0, |field| field.dim),
            (None, None) => 0,
        };
        if index.len() != self.rows() || index.dim() != dim {
            return Err(self.meta.bad_rows(format!(
                "the index of field {field} is [{}, {}], its column [{}, {dim}]",
                index.len(),
                index.dim(),
                self.rows()
            )));
        }
        let mut with = self.clone();
        with.indexes.insert(field, index);
        with.mapped.remove(&field);
        self.chunk[0].interim().0.remove(field);
        Ok(Arc::new(with))
    }

    /// As [`SealedSegment::with_index`], for an index that is mapped and takes no memory but for what it pins.
    ///
    /// # Errors
    /// As [`SealedSegment::with_index`].
    pub fn with_mapped_index(&self, field: FieldId, index: Arc<ColumnIndex>) -> Result<Arc<Self>> {
        let mut with = Self::clone(&*self.with_index(field, index)?);
        with.mapped.insert(field);
        Ok(Arc::new(with))
    }

    /// The same segment without the index over a field.
    #[must_use]
    pub fn without_index(&self, field: FieldId) -> Arc<Self> {
        let mut without = self.clone();
        without.indexes.remove(&field);
        without.mapped.remove(&field);
        Arc::new(without)
    }

    /// Answers for the fields of a later schema too, to all who hold the segment: its rows have
    /// their defaults, or no value.
    pub fn adopt(&self, schema: &Arc<CollectionSchema>) {
        self.chunk[0].adopt(schema);
    }

    /// Which segment it is.
    pub fn meta(&self) -> &SegmentMeta {
        &self.meta
    }

    /// Its rows; always one chunk.
    pub fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunk
    }

    /// Number of rows, deleted ones included.
    pub fn rows(&self) -> usize {
        self.chunk[0].len()
    }

    /// Earliest and latest timestamp of its rows.
    pub fn times(&self) -> (Timestamp, Timestamp) {
        self.chunk[0].times()
    }

    /// Smallest and largest primary key; `None` of no rows.
    pub fn key_range(&self) -> Option<(PrimaryKey, PrimaryKey)> {
        let chunk = &self.chunk[0];
        let order = chunk.key_order();
        let (first, last) = (order.first()?, order.last()?);
        Some((chunk.key(*first as usize), chunk.key(*last as usize)))
    }

    /// The index over a vector field, if there is one.
    pub fn index(&self, field: FieldId) -> Option<&Arc<ColumnIndex>> {
        self.indexes.get(&field)
    }

    /// Whether the index over a vector field is mapped rather than in memory.
    pub(crate) fn has_mapped_index(&self, field: FieldId) -> bool {
        self.mapped.contains(&field)
    }

    /// The fields that have an index.
    pub fn indexed_fields(&self) -> impl Iterator<Item = FieldId> + '_ {
        self.indexes.keys().copied()
    }

    /// The segment's deletes, which go on growing.
    pub fn deletes(&self) -> &Arc<SegmentDeletes> {
        &self.deletes
    }

    /// Deletes the keys of a batch that concern this segment's partition; answers how many rows
    /// were hit, those included that had been deleted before. May be called from several threads,
    /// in any order of time, and again with the same deletes.
    pub fn delete(&self, batch: &DeleteBatch) -> usize {
        let chunk = &self.chunk[0];
        let mut entries = Vec::new();
        for index in batch.concerning(self.meta.partition) {
            let (key, since) = (batch.keys.get(index), batch.timestamps[index]);
            if !chunk.may_hold(&key) {
                continue;
            }
            let older = |row: &&u32| chunk.timestamps()[**row as usize] < since;
            let hit = chunk.rows_of(&key).iter().filter(older);
            entries.extend(hit.map(|&row| Entry { since, row }));
        }
        self.deletes.record(&entries);
        entries.len()
    }

    /// Memory taken, in bytes: columns, key order, deletes and indexes; what is mapped does not
    /// count.
    pub fn memory_bytes(&self) -> usize {
        let indexes = self.indexes.iter();
        let indexes = indexes.map(|(field, index)| match self.mapped.contains(field) {
            true => index.pinned_bytes(),
            false => index.memory_bytes(),
        });
        let indexes: usize = indexes.sum();
        self.chunk[0].memory_bytes() + self.deletes.memory_bytes() + indexes
    }
}

/// Checks that rows have the schema's columns, in memory or in their file.
fn check_chunk(meta: &SegmentMeta, chunk: &Chunk) -> Result<()> {
    match chunk.file_schema() {
        None => check_columns(meta, chunk.batch()),
        Some(schema) if schema.fields == meta.schema.fields => Ok(()),
        Some(_) => Err(meta.bad_rows("the file was opened with another schema")),
    }
}

/// Each row that has a newer one of the same key, hidden from the newer one's time on.
fn superseded(chunk: &Chunk) -> Vec<Entry> {
    let (keys, times) = (chunk.keys(), chunk.timestamps());
    let pairs = chunk.key_order().windows(2);
    let same = pairs.filter(|pair| keys.compare(pair[0] as usize, pair[1] as usize).is_eq());
    same.map(|pair| Entry {
        since: times[pair[1] as usize],
        row: pair[0],
    })
    .collect()
}
