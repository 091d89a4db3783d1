//! Rows of one segment by filter or key, in the order of their keys.

use std::sync::Arc;

use redkite_expr::Plan;
use redkite_types::StopFlag;

use crate::{
    chunk::Chunk,
    error::{Error, Result},
    reduce::{Keyed, RowAt, merge_keyed},
    segment::{Allowed, ReadView, Reader, Segment},
};

/// Rows looked at between two looks at the stop flag.
const STRIDE: usize = 16_384;

/// A query, prepared once and run on any number of segments.
#[derive(Clone, Debug)]
pub struct SegmentRetriever {
    /// Which rows are asked for.
    pub filter: Arc<Plan>,
    /// Which rows are seen.
    pub view: ReadView,
    /// Rows at most; the first ones in the order of the keys.
    pub limit: Option<usize>,
}

impl SegmentRetriever {
    /// The rows of a segment that pass the filter, in the order of their keys, each key once.
    ///
    /// # Errors
    /// `Filter` · `Cancelled`
    pub fn retrieve(&self, segment: &Segment, stop: &StopFlag) -> Result<Vec<Keyed>> {
        let reader = Reader::new(segment, self.view, &self.filter);
        let mut lists = Vec::new();
        for (start, chunk) in segment.spans() {
            stop.check().map_err(|_| Error::Cancelled)?;
            let rows = match reader.allowed(start, chunk)? {
                Allowed::None => continue,
                Allowed::All if segment.is_growing() => self.sorted(chunk, 0..chunk.len()),
                Allowed::Some(rows) if segment.is_growing() => self.sorted(chunk, rows.iter()),
                allowed => self.in_order(chunk, &allowed, stop)?,
            };
            lists.push(
                rows.into_iter()
                    .map(|row| Keyed {
                        key: chunk.key(row),
                        ts: chunk.timestamps()[row],
                        at: RowAt {
                            segment: segment.id(),
                            row: (start + row) as u32,
                        },
                    })
                    .collect(),
            );
        }
        Ok(merge_keyed(lists, self.limit))
    }

    /// Numbers of the rows that pass the filter, in the order in which they lie; the limit is not
    /// looked at.
    ///
    /// # Errors
    /// As [`SegmentRetriever::retrieve`].
    pub fn rows(&self, segment: &Segment, stop: &StopFlag) -> Result<Vec<u32>> {
        let reader = Reader::new(segment, self.view, &self.filter);
        let mut rows = Vec::new();
        for (start, chunk) in segment.spans() {
            stop.check().map_err(|_| Error::Cancelled)?;
            match reader.allowed(start, chunk)? {
                Allowed::None => {}
                Allowed::All => rows.extend((start..start + chunk.len()).map(|row| row as u32)),
                Allowed::Some(bits) => rows.extend(bits.iter().map(|row| (start + row) as u32)),
            }
        }
        Ok(rows)
    }

    /// The number of rows that pass the filter; the limit is not looked at.
    ///
    /// # Errors
    /// As [`SegmentRetriever::retrieve`].
    pub fn count(&self, segment: &Segment, stop: &StopFlag) -> Result<usize> {
        let reader = Reader::new(segment, self.view, &self.filter);
        let mut count = 0;
        for (start, chunk) in segment.spans() {
            stop.check().map_err(|_| Error::Cancelled)?;
            count += match reader.allowed(start, chunk)? {
                Allowed::None => 0,
                Allowed::All => chunk.len(),
                Allowed::Some(rows) => rows.count_ones(),
            };
        }
        Ok(count)
    }

    /// Sorts the rows of a small chunk, without making the chunk's own order.
    fn sorted(&self, chunk: &Chunk, rows: impl Iterator<Item = usize>) -> Vec<usize> {
        let keys = chunk.keys();
        let mut rows: Vec<usize> = rows.collect();
        let limit = self.limit.unwrap_or(usize::MAX);
        if limit < rows.len() {
            if limit > 0 {
                rows.select_nth_unstable_by(limit - 1, |&a, &b| keys.compare(a, b));
            }
            rows.truncate(limit);
        }
        rows.sort_unstable_by(|&a, &b| keys.compare(a, b));
        rows
    }

    /// Walks a sealed segment's rows in the order of their keys until there are enough.
    fn in_order(&self, chunk: &Chunk, allowed: &Allowed, stop: &StopFlag) -> Result<Vec<usize>> {
        let bits = allowed.bits();
        if let Some(bits) = bits {
            let members = bits.count_ones();
            // Few rows are sorted faster than all rows are walked.
            if members < chunk.len() / 32 {
                return Ok(self.sorted(chunk, bits.iter()));
            }
        }
        let limit = self.limit.unwrap_or(usize::MAX);
        let mut rows = Vec::new();
        for (index, &row) in chunk.key_order().iter().enumerate() {
            if index % STRIDE == 0 {
                stop.check().map_err(|_| Error::Cancelled)?;
            }
            if rows.len() >= limit {
                break;
            }
            let row = row as usize;
            if bits.is_none_or(|bits| bits.get(row)) {
                rows.push(row);
            }
        }
        Ok(rows)
    }
}
