//! A segment of either kind, and what of it a read sees.

use std::{collections::BTreeSet, sync::Arc};

use redkite_expr::Plan;
use redkite_index::ColumnIndex;
use redkite_types::{
    BitSet, CollectionId, CollectionSchema, FieldId, PartitionId, SegmentId, Timestamp,
};

use crate::{
    chunk::Chunk,
    delete::{Hidden, SegmentDeletes},
    error::{Error, Result},
    growing::GrowingSnapshot,
    sealed::SealedSegment,
};

/// Which segment it is and what its rows look like.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentMeta {
    /// The collection.
    pub collection: CollectionId,
    /// The partition that all rows belong to.
    pub partition: PartitionId,
    /// The segment.
    pub segment: SegmentId,
    /// The collection's schema when the segment was begun.
    pub schema: Arc<CollectionSchema>,
}

impl SegmentMeta {
    pub(crate) fn bad_rows(&self, reason: impl Into<String>) -> Error {
        Error::BadRows {
            segment: self.segment,
            reason: reason.into(),
        }
    }
}

/// The point in time at which a read sees a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadView {
    /// Rows and deletes up to here are seen, this timestamp included.
    pub at: Timestamp,
    /// Rows written before this one have expired; zero when rows live for ever.
    pub expired_before: Timestamp,
}

impl ReadView {
    /// Everything up to a timestamp.
    pub const fn at(at: Timestamp) -> Self {
        Self {
            at,
            expired_before: Timestamp::ZERO,
        }
    }

    /// Everything there is.
    pub const fn latest() -> Self {
        Self::at(Timestamp::MAX)
    }
}

/// A segment as a read holds it: it does not change underneath, except that deletes arrive.
#[derive(Clone, Debug)]
pub enum Segment {
    /// Rows of the channel's head, as of some moment.
    Growing(Arc<GrowingSnapshot>),
    /// Rows that will never change.
    Sealed(Arc<SealedSegment>),
}

impl Segment {
    /// Which segment it is.
    pub fn meta(&self) -> &SegmentMeta {
        match self {
            Self::Growing(segment) => segment.meta(),
            Self::Sealed(segment) => segment.meta(),
        }
    }

    /// The segment's id.
    pub fn id(&self) -> SegmentId {
        self.meta().segment
    }

    /// The partition that all rows belong to.
    pub fn partition(&self) -> PartitionId {
        self.meta().partition
    }

    /// Whether it is growing.
    pub fn is_growing(&self) -> bool {
        matches!(self, Self::Growing(_))
    }

    /// Number of rows, deleted ones included.
    pub fn rows(&self) -> usize {
        match self {
            Self::Growing(segment) => segment.rows(),
            Self::Sealed(segment) => segment.rows(),
        }
    }

    /// Its rows, in order; row numbers go on from one chunk to the next.
    pub fn chunks(&self) -> &[Arc<Chunk>] {
        match self {
            Self::Growing(segment) => segment.chunks(),
            Self::Sealed(segment) => segment.chunks(),
        }
    }

    /// The index over a vector field, if there is one.
    pub fn index(&self, field: FieldId) -> Option<&Arc<ColumnIndex>> {
        match self {
            Self::Growing(_) => None,
            Self::Sealed(segment) => segment.index(field),
        }
    }

    /// Whether the index over a vector field is mapped rather than in memory.
    pub(crate) fn has_mapped_index(&self, field: FieldId) -> bool {
        match self {
            Self::Growing(_) => false,
            Self::Sealed(segment) => segment.has_mapped_index(field),
        }
    }

    /// Whether some columns may have to be read from a file.
    pub fn is_in_file(&self) -> bool {
        let in_file = |chunk: &Arc<Chunk>| chunk.file_schema().is_some();
        self.chunks().iter().any(in_file)
    }

    pub(crate) fn deletes(&self) -> &SegmentDeletes {
        match self {
            Self::Growing(segment) => segment.deletes(),
            Self::Sealed(segment) => segment.deletes(),
        }
    }

    /// The chunks with the number of their first row in the segment.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (usize, &Arc<Chunk>)> {
        self.chunks().iter().scan(0, |next, chunk| {
            let start = *next;
            *next += chunk.len();
            Some((start, chunk))
        })
    }
}

/// What of one chunk a read is to look at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Every row.
    All,
    /// No row.
    None,
    /// These; at least one, not all.
    Some(BitSet),
}

impl Allowed {
    pub(crate) fn bits(&self) -> Option<&BitSet> {
        match self {
            Self::All | Self::None => None,
            Self::Some(rows) => Some(rows),
        }
    }

    pub(crate) fn from_bits(rows: BitSet) -> Self {
        match rows.count_ones() {
            0 => Self::None,
            all if all == rows.len() => Self::All,
            _ => Self::Some(rows),
        }
    }
}

/// One read of one segment: what is hidden at its time, and its filter.
pub(crate) struct Reader<'a> {
    segment: SegmentId,
    view: ReadView,
    filter: &'a Plan,
    /// The fields that the filter looks at.
    fields: BTreeSet<FieldId>,
    hidden: Hidden,
    /// Whether keys are looked up in the chunk's order rather than compared one by one.
    keys_in_order: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(segment: &Segment, view: ReadView, filter: &'a Plan) -> Self {
        Self {
            segment: segment.id(),
            view,
            filter,
            fields: filter.fields(),
            hidden: segment.deletes().at(view.at),
            // A growing chunk may be merged away before sorting it pays.
            keys_in_order: !segment.is_growing(),
        }
    }

    /// The rows of a chunk that are visible and pass the filter.
    pub(crate) fn allowed(&self, start: usize, chunk: &Chunk) -> Result<Allowed> {
        if chunk.is_empty() || self.filter.is_none() {
            return Ok(Allowed::None);
        }
        let keys = self.filter.primary_key_in().filter(|_| self.keys_in_order);
        if let Some(keys) = &keys {
            let mut rows = BitSet::new(chunk.len());
            for key in keys.iter() {
                for row in chunk.rows_of(&key) {
                    rows.set(*row as usize);
                }
            }
            if !rows.any() {
                return Ok(Allowed::None);
            }
            self.keep_visible(start, chunk, &mut rows);
            return Ok(Allowed::from_bits(rows));
        }
        let everything_visible = self.all_in_time(chunk) && self.hidden.is_empty();
        if everything_visible && self.filter.is_all() {
            return Ok(Allowed::All);
        }
        let mut visible = BitSet::full(chunk.len());
        self.keep_visible(start, chunk, &mut visible);
        if self.filter.is_all() || !visible.any() {
            return Ok(Allowed::from_bits(visible));
        }
        let columns = chunk.columns(&self.fields)?;
        let passed = redkite_expr::eval_among(self.filter, &columns, &visible);
        let passed = passed.map_err(|source| Error::Filter {
            segment: self.segment,
            source,
        })?;
        Ok(Allowed::from_bits(passed))
    }

    fn all_in_time(&self, chunk: &Chunk) -> bool {
        let (first, last) = chunk.times();
        last <= self.view.at && first >= self.view.expired_before
    }

    fn keep_visible(&self, start: usize, chunk: &Chunk, rows: &mut BitSet) {
        if !self.all_in_time(chunk) {
            let times = chunk.timestamps();
            let view = self.view;
            rows.and(&BitSet::from_fn(chunk.len(), |row| {
                times[row] <= view.at && times[row] >= view.expired_before
            }));
        }
        self.hidden.take_out(chunk.span(start), rows);
    }
}
