//! Lists of rows by dimension.

use std::collections::HashMap;

use bytes::Bytes;

use super::{BLOCK_ROWS, SparseRows};
use crate::{
    buffer::{AlignedBuffer, aligned_copy, view},
    error::{Error, Result},
    file::{Section, Stored},
    index::BuildOptions,
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
        options: &BuildOptions<'_>,
    ) -> Result<Self> {
        // Counted first, so that every posting is written to its place: lists that are sorted would be
        // in memory three times.
        let mut places: HashMap<u32, u64> = HashMap::new();
        let kept = |row: usize| {
            rows.pairs(row)
                .filter(|(_, value)| *value > 0.0 && keep(*value))
        };
        for row in 0..rows.rows() {
            if row % BLOCK_ROWS == 0 {
                options.stop.check()?;
            }
            for (dim, _) in kept(row) {
                *places.entry(dim).or_default() += 1;
            }
        }
        if places.is_empty() {
            options.count(rows.rows());
            return Ok(Self::default());
        }
        let mut dims: Vec<u32> = places.keys().copied().collect();
        dims.sort_unstable();
        let mut offsets = Vec::with_capacity(dims.len() + 1);
        let mut end = 0;
        for dim in &dims {
            offsets.push(end);
            let place = places.entry(*dim).or_default();
            end += std::mem::replace(place, end);
        }
        offsets.push(end);
        let bytes = end as usize * size_of::<u32>();
        let (mut list_rows, mut list_values) =
            (AlignedBuffer::zeroed(bytes), AlignedBuffer::zeroed(bytes));
        let (numbers, values) = (
            list_rows.values_mut::<u32>(),
            list_values.values_mut::<f32>(),
        );
        for row in 0..rows.rows() {
            if row % BLOCK_ROWS == 0 {
                options.stop.check()?;
            }
            for (dim, value) in kept(row) {
                let place = places.entry(dim).or_default();
                (numbers[*place as usize], values[*place as usize]) = (row as u32, value);
                *place += 1;
            }
            options.count(1);
        }
        let largest = |ends: &[u64]| {
            let list = &values[ends[0] as usize..ends[1] as usize];
            list.iter().copied().fold(0.0, f32::max)
        };
        let maxima: Vec<f32> = offsets.windows(2).map(largest).collect();
        Ok(Self {
            dims: aligned_copy(&dims),
            offsets: aligned_copy(&offsets),
            maxima: aligned_copy(&maxima),
            rows: list_rows.into_bytes(),
            values: list_values.into_bytes(),
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

    pub(super) fn sections(&self, level: usize) -> Vec<(Section, usize, Bytes)> {
        vec![
            (Section::SparseDims, level, self.dims.clone()),
            (Section::SparseOffsets, level, self.offsets.clone()),
            (Section::SparseRows, level, self.rows.clone()),
            (Section::SparseValues, level, self.values.clone()),
            (Section::SparseMaxima, level, self.maxima.clone()),
        ]
    }
}
