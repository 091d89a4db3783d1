//! How much memory a build takes.

use super::build::IndexParams;
use super::kind::IndexType;
use crate::codes::F32_DIM_MAX;
use crate::column::ColumnIndexParams;
use crate::kernel::LINE_BYTES;

/// What every build takes: locks, pools, tables.
const FIXED: u64 = 1 << 20;

/// Bytes of numbers that a build keeps of each row beside its codes: its sum, its length, its list or
/// level, its place, whether it was visited.
const NUMBERS: u64 = 32;

/// Rows of a list, at the least; also those that one is learned from, rounded down.
const ROWS_PER_LIST: u64 = 39;

/// Rows that a word of a book is learned from.
const ROWS_PER_WORD: u64 = 64;

impl ColumnIndexParams {
    /// Bytes that a build over so many rows takes at its peak with so many threads, the index among
    /// them and the vectors not; from above. `vector_bytes` is what the rows take up; of sparse ones it
    /// is all that is known.
    pub fn build_bytes(&self, rows: u64, dim: u64, vector_bytes: u64, threads: usize) -> u64 {
        let bytes = match self {
            Self::Dense(params) => params.build_bytes(rows, dim),
            Self::Binary(params) => match params.index_type {
                IndexType::BinIvfFlat => {
                    let lists = lists(params.nlist, rows);
                    // A counter for each bit, and the centroids twice.
                    rows * NUMBERS + lists * (dim * 4 + dim / 4 + 16)
                }
                _ => 0,
            },
            // Pairs as they are, and by dimension; those that are left out by a ratio are among them.
            Self::Sparse(_) => vector_bytes.saturating_mul(3),
        };
        // Each thread has its own marks of visited rows.
        let others = (threads as u64).saturating_sub(1);
        let of_others = (rows + FIXED).saturating_mul(others);
        bytes.saturating_add(FIXED).saturating_add(of_others)
    }
}

impl IndexParams {
    fn build_bytes(&self, rows: u64, dim: u64) -> u64 {
        match self.index_type {
            IndexType::Flat => rows * NUMBERS,
            IndexType::Hnsw | IndexType::HnswSq | IndexType::AutoIndex => self.graph(rows, dim),
            IndexType::HnswPq => self.graph(rows, dim) + self.product(rows, dim),
            IndexType::DiskAnn => {
                let degree = self.m as u64;
                let links = (degree + degree.div_ceil(3)).next_multiple_of(16) * 4;
                // Records share pages; one may leave nearly half of a page free.
                let pages = (dim + 1 + degree) * 4 * 2;
                rows * (code_bytes(dim) + links + pages + NUMBERS)
            }
            IndexType::IvfFlat | IndexType::IvfSq8 | IndexType::IvfPq => self.inverted(rows, dim),
            IndexType::Scann | IndexType::IvfRabitq => self.inverted(rows, dim),
            IndexType::BinFlat
            | IndexType::BinIvfFlat
            | IndexType::SparseInverted
            | IndexType::SparseWand => 0,
        }
    }

    fn graph(&self, rows: u64, dim: u64) -> u64 {
        let m = self.m.max(2) as u64;
        let lowest = (2 * m).next_multiple_of(16) * 4;
        // A row is on so many upper levels, on average.
        let upper = (m.next_multiple_of(16) * 4 + 8).div_ceil(m - 1);
        rows * (code_bytes(dim) + lowest + upper + NUMBERS)
    }

    fn inverted(&self, rows: u64, dim: u64) -> u64 {
        // The centroids as they are, their sums while they are learned, and as codes.
        let lists = lists(self.nlist, rows) * (dim * 4 * 3 + code_bytes(dim) + 64);
        let payload = match self.index_type {
            IndexType::IvfSq8 => rows * code_bytes(dim),
            IndexType::IvfPq | IndexType::Scann => self.product(rows, dim),
            IndexType::IvfRabitq => rows * (dim.div_ceil(8) + 8),
            _ => 0,
        };
        rows * NUMBERS + lists + payload
    }

    /// Codes, books, and one part of the rows that they are learned from.
    fn product(&self, rows: u64, dim: u64) -> u64 {
        let parts = self.parts(dim as usize).max(1) as u64;
        let words = 1u64 << self.nbits.min(crate::ivf::MAX_NBITS);
        let sample = rows.min(words * ROWS_PER_WORD);
        let bytes = match self.nbits {
            0..=8 => parts + 4,
            _ => 2 * parts,
        };
        rows * (bytes + NUMBERS) + words * dim * 4 * 2 + sample * (dim.div_ceil(parts) * 4 + 16)
    }
}

fn lists(nlist: usize, rows: u64) -> u64 {
    (nlist as u64).min(rows / ROWS_PER_LIST).max(1)
}

/// Bytes of a row's codes and of what belongs to them.
fn code_bytes(dim: u64) -> u64 {
    match dim <= F32_DIM_MAX as u64 {
        true => LINE_BYTES as u64,
        false => dim.next_multiple_of(LINE_BYTES as u64) + 9,
    }
}
