//! Rows and their links together in pages: one read brings all that a step of a walk needs.
//!
//! A record is the row's vector, one over its length, and its links, a number that is no row ending a
//! list that is not full; all 32 bits wide. As many records as fit share a page; one that is longer
//! starts on a page of its own.

use bytes::Bytes;
use redkite_types::MetricType;

use crate::buffer::{AlignedBuffer, view};
use crate::file::PAGE_BYTES;
use crate::hnsw::build::BuildLevel;
use crate::hnsw::graph::{Layer, NO_LINK};
use crate::kernel::prefetch;
use crate::raw::RawVectors;

/// Numbers in a page.
const PAGE_WORDS: usize = PAGE_BYTES / 4;

/// Where the records lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) dim: usize,
    pub(super) degree: usize,
    pub(super) rows: usize,
}

impl Shape {
    /// Numbers of a record.
    fn record(self) -> usize {
        self.dim + 1 + self.degree
    }

    /// Where a row's record begins, in numbers.
    #[inline]
    fn at(self, row: usize) -> usize {
        let record = self.record();
        if record <= PAGE_WORDS {
            let shared = PAGE_WORDS / record;
            row / shared * PAGE_WORDS + row % shared * record
        } else {
            row * record.next_multiple_of(PAGE_WORDS)
        }
    }

    /// Bytes of all pages.
    pub(super) fn bytes(self) -> usize {
        let words = match self.rows {
            0 => 0,
            rows => (self.at(rows - 1) + self.record()).next_multiple_of(PAGE_WORDS),
        };
        words * 4
    }
}

/// The pages of all rows.
pub(super) struct Pages {
    pub(super) shape: Shape,
    pub(super) bytes: Bytes,
}

impl Pages {
    /// Writes row-major vectors and the links of a finished graph.
    pub(super) fn write(
        shape: Shape,
        metric: MetricType,
        raw: &dyn RawVectors,
        graph: &BuildLevel,
    ) -> Self {
        let mut buffer = AlignedBuffer::zeroed(shape.bytes());
        let words: &mut [u32] = buffer.values_mut();
        let mut links = Vec::with_capacity(shape.degree);
        for number in 0..shape.rows {
            let row = raw.row(number as u32);
            let record = &mut words[shape.at(number)..][..shape.record()];
            let (values, rest) = record.split_at_mut(shape.dim);
            row.widen_from(0, bytemuck::cast_slice_mut(values));
            let norm = match metric {
                MetricType::Cosine => row.inverse_norm(),
                MetricType::L2 | MetricType::Ip | MetricType::Hamming | MetricType::Jaccard => 1.0,
            };
            rest[0] = norm.to_bits();
            graph.copy_links(number as u32, &mut links);
            rest[1..].fill(NO_LINK);
            rest[1..=links.len()].copy_from_slice(&links);
        }
        Self {
            shape,
            bytes: buffer.into_bytes(),
        }
    }

    #[inline]
    fn record(&self, row: u32) -> &[u32] {
        let words: &[u32] = view(&self.bytes);
        &words[self.shape.at(row as usize)..][..self.shape.record()]
    }

    /// A row's vector, and one over its length (1 where the metric has no use for it).
    #[inline]
    pub(super) fn row(&self, row: u32) -> (&[f32], f32) {
        let (values, rest) = self.record(row).split_at(self.shape.dim);
        (bytemuck::cast_slice(values), f32::from_bits(rest[0]))
    }
}

impl Layer for &Pages {
    fn nodes(&self) -> usize {
        self.shape.rows
    }

    #[inline]
    fn neighbours<'a>(&'a self, node: u32, _out: &'a mut Vec<u32>) -> &'a [u32] {
        let links = &self.record(node)[self.shape.dim + 1..];
        // Looking at every link when a file is opened would read all of it, so a damaged one that
        // points nowhere ends its list here.
        let rows = self.shape.rows as u32;
        let end = links.iter().position(|link| *link >= rows);
        &links[..end.unwrap_or(links.len())]
    }

    #[inline]
    fn rows<'a>(&self, nodes: &'a [u32], _: &'a mut Vec<u32>) -> &'a [u32] {
        nodes
    }

    #[inline]
    fn prefetch(&self, node: u32) {
        prefetch(&self.record(node)[self.shape.dim + 1..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_lie_apart_and_cross_no_page_that_they_fit_in() {
        for (dim, degree) in [(1, 1), (16, 8), (128, 56), (967, 56), (968, 56), (1536, 64)] {
            let shape = |rows| Shape { dim, degree, rows };
            assert_eq!(shape(0).bytes(), 0);
            let record = shape(1).record();
            let mut end = 0;
            for row in 0..300 {
                let at = shape(row + 1).at(row);
                assert!(at >= end, "{dim} {degree} row {row}");
                end = at + record;
                if record <= PAGE_WORDS {
                    assert_eq!(at / PAGE_WORDS, (end - 1) / PAGE_WORDS, "{dim} {degree}");
                } else {
                    assert_eq!(at % PAGE_WORDS, 0);
                }
                assert!(shape(row + 1).bytes() >= end * 4);
                assert_eq!(shape(row + 1).bytes() % PAGE_BYTES, 0);
            }
        }
    }
}
