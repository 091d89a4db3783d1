//! Lists of rows by dimension.

use bytes::Bytes;
use redkite_types::StopFlag;

use super::{BLOCK_ROWS, SparseRows};
use crate::{
    buffer::{aligned_copy, view},
    error::{Error, Result},
    file::{Section, Stored},
};

/// The rows that have a value in a dimension, for each dimension that any row has one in.
#[derive(Default)]
pub(super) struct Postings {
    /// `[dims]` u32, in order.
    dims: Bytes,
    /// `[dims + 1]` u64, where lists begin; empty without any list.
    offsets: Bytes,
    /// `[postings]` u32, in order in each list.
    rows: Bytes,
    /// `[postings]` f32.
    values: Bytes,
    /// `[dims]` f32, the largest value of each list.
    maxima: Bytes,
}

/// One list.
#[derive(Clone, Copy)]
pub(super) struct List<'a> {
    pub(super) rows: &'a [u32],
    pub(super) values: &'a [f32],
    pub(super) max: f32,
}

impl Postings {
    /// Makes lists of the values that `keep` wants; zeros are near to nothing and left out.
    pub(super) fn build(
        rows: &SparseRows<'_>,
        keep: impl Fn(f32) -> bool,
        stop: &StopFlag,
    ) -> Result<Self> {
        let mut postings: Vec<(u32, u32, f32)> = Vec::new();
        for row in 0..rows.rows() {
            if row % BLOCK_ROWS == 0 {
                stop.check()?;
            }
            let kept = rows
                .pairs(row)
                .filter(|(_, value)| *value > 0.0 && keep(*value));
            postings.extend(kept.map(|(dim, value)| (dim, row as u32, value)));
        }
        postings.sort_unstable_by_key(|(dim, row, _)| (*dim, *row));
        let (mut dims, mut offsets, mut maxima) = (Vec::new(), Vec::new(), Vec::new());
        for list in postings.chunk_by(|a, b| a.0 == b.0) {
            dims.push(list[0].0);
            offsets.push(list.len() as u64);
            let values = list.iter().map(|(_, _, value)| *value);
            maxima.push(values.fold(0.0, f32::max));
        }
        if dims.is_empty() {
            return Ok(Self::default());
        }
        let mut end = 0;
        for length in &mut offsets {
            end += std::mem::replace(length, end);
        }
        offsets.push(end);
        let rows: Vec<u32> = postings.iter().map(|(_, row, _)| *row).collect();
        let values: Vec<f32> = postings.iter().map(|(_, _, value)| *value).collect();
        Ok(Self {
            dims: aligned_copy(&dims),
            offsets: aligned_copy(&offsets),
            rows: aligned_copy(&rows),
            values: aligned_copy(&values),
            maxima: aligned_copy(&maxima),
        })
    }

    /// Reads lists out of a file of so many rows, and checks their shape.
    pub(super) fn from_stored(stored: &mut Stored, level: usize, rows: usize) -> Result<Self> {
        let dims = stored.len_of(Section::SparseDims, level)?;
        let postings = stored.len_of(Section::SparseRows, level)?;
        let offsets = match dims {
            0 => 0,
            dims => dims / 4 * 8 + 8,
        };
        let lists = Self {
            dims: stored.take(Section::SparseDims, level, dims)?,
            offsets: stored.take(Section::SparseOffsets, level, offsets)?,
            rows: stored.take(Section::SparseRows, level, postings)?,
            values: stored.take(Section::SparseValues, level, postings)?,
            maxima: stored.take(Section::SparseMaxima, level, dims)?,
        };
        match lists.is_whole(rows) {
            true => Ok(lists),
            false => Err(Error::corrupt("lists")),
        }
    }

    fn is_whole(&self, rows: usize) -> bool {
        if !self.dims.len().is_multiple_of(4) || !self.rows.len().is_multiple_of(4) {
            return false;
        }
        let (dims, offsets): (&[u32], &[u64]) = (view(&self.dims), view(&self.offsets));
        let postings: &[u32] = view(&self.rows);
        let in_order = |list: &[u32]| {
            list.is_sorted_by(|a, b| a < b) && list.last().is_none_or(|row| (*row as usize) < rows)
        };
        if dims.is_empty() {
            return postings.is_empty();
        }
        dims.is_sorted_by(|a, b| a < b)
            && offsets.first() == Some(&0)
            && offsets.last() == Some(&(postings.len() as u64))
            && offsets.is_sorted()
            && offsets
                .windows(2)
                .all(|ends| in_order(&postings[ends[0] as usize..ends[1] as usize]))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.dims.is_empty()
    }

    /// The list of a dimension, if any row has a value in it.
    pub(super) fn list(&self, dim: u32) -> Option<List<'_>> {
        let at = view::<u32>(&self.dims).binary_search(&dim).ok()?;
        let offsets: &[u64] = view(&self.offsets);
        let place = offsets[at] as usize..offsets[at + 1] as usize;
        Some(List {
            rows: &view(&self.rows)[place.clone()],
            values: &view(&self.values)[place],
            max: view(&self.maxima)[at],
        })
    }

    /// A row's value in a dimension, if it has one.
    pub(super) fn value(&self, dim: u32, row: u32) -> Option<f32> {
        let list = self.list(dim)?;
        let at = list.rows.binary_search(&row).ok()?;
        Some(list.values[at])
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let parts = [
            &self.dims,
            &self.offsets,
            &self.rows,
            &self.values,
            &self.maxima,
        ];
        parts.iter().map(|part| part.len()).sum()
    }

    pub(super) fn sections(&self, level: usize) -> Vec<(Section, usize, &[u8])> {
        vec![
            (Section::SparseDims, level, &self.dims),
            (Section::SparseOffsets, level, &self.offsets),
            (Section::SparseRows, level, &self.rows),
            (Section::SparseValues, level, &self.values),
            (Section::SparseMaxima, level, &self.maxima),
        ]
    }
}
