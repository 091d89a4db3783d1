//! Product quantisation of what is left of a row when its list's centroid is taken off.
//!
//! A row is cut into `m` parts; each part becomes the number of the nearest of `2^nbits` words of a
//! book of its own. A query is compared by looking up, part by part, what each word adds to the inner
//! product. `nbits` up to 4 put two parts into a byte.
//!
//! # Source
//! Jégou, Douze, Schmid 2011, "Product quantization for nearest neighbor search", §III and §IV.

use bytes::Bytes;
use redkite_types::MetricType;

use super::coarse::Run;
use super::kmeans;
use crate::buffer::{AlignedBuffer, aligned_copy, view};
use crate::codes::normalised;
use crate::error::Result;

/// Rows that a word is learned from, at most.
const SAMPLE_PER_WORD: usize = 64;

/// The most bits a code may have here: one of more would need more rows to learn from than a segment
/// has.
pub(crate) const MAX_NBITS: usize = 16;

/// The shape of the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) dim: usize,
    pub(super) m: usize,
    pub(super) nbits: usize,
}

impl Shape {
    fn part(self) -> usize {
        self.dim / self.m
    }

    /// Places of a book; not all are words if there were few rows.
    fn places(self) -> usize {
        1 << self.nbits
    }

    /// Bytes of a row's codes.
    pub(super) fn row_bytes(self) -> usize {
        match self.nbits {
            0..=4 => self.m.div_ceil(2),
            5..=8 => self.m,
            _ => 2 * self.m,
        }
    }

    /// Floats of all books.
    pub(super) fn book_len(self) -> usize {
        self.m * self.places() * self.part()
    }
}

/// The codes of all rows, in the order of the lists.
pub(super) struct Pq {
    pub(super) shape: Shape,
    /// `[m, part, 2^nbits]` f32: dimension by dimension, so that all words are compared at once.
    pub(super) books: Bytes,
    /// `[rows, row_bytes]`.
    pub(super) codes: Bytes,
    /// `[rows]` f32, what a row adds to its key: `|c + p|² − |c|²`; empty for IP.
    pub(super) add: Bytes,
}

/// What encoding needs to know of the lists.
pub(super) struct Lists<'a> {
    /// `[nlist, dim]`.
    pub(super) centroids: &'a [f32],
    /// `[rows]`, list of each row.
    pub(super) list_of: &'a [u32],
    /// `[rows]`, rows in the order of the lists.
    pub(super) rows: &'a [u32],
}

impl Pq {
    /// Learns the books from an even sample and encodes all rows.
    pub(super) fn build(
        metric: MetricType,
        shape: Shape,
        vectors: &[f32],
        lists: &Lists<'_>,
        seed: u64,
        run: Run<'_>,
    ) -> Result<Self> {
        let dim = shape.dim;
        let residual = |row: u32, out: &mut [f32]| {
            normalised(metric, &vectors[row as usize * dim..][..dim], out);
            let list = lists.list_of[row as usize] as usize;
            let centroid = &lists.centroids[list * dim..][..dim];
            out.iter_mut().zip(centroid).for_each(|(x, c)| *x -= c);
        };
        let count = lists.rows.len();
        let sampled = count.min(shape.places() * SAMPLE_PER_WORD);
        let mut sample = vec![0f32; sampled * dim];
        for (i, out) in sample.chunks_exact_mut(dim).enumerate() {
            residual((i * count / sampled) as u32, out);
        }
        let books = learn_books(shape, &sample, seed, run)?;
        drop(sample);

        let mut codes = AlignedBuffer::zeroed(count * shape.row_bytes());
        let mut add = Vec::new();
        let (mut values, mut decoded) = (vec![0f32; dim], vec![0f32; dim]);
        let mut words = vec![0u32; shape.m];
        let mut keys = vec![0f32; shape.places()];
        let slots = codes.as_mut().chunks_exact_mut(shape.row_bytes());
        for (at, (row, slot)) in lists.rows.iter().zip(slots).enumerate() {
            if at % 256 == 0 {
                run.stop.check()?;
            }
            residual(*row, &mut values);
            for (part, word) in words.iter_mut().enumerate() {
                *word = nearest_word(shape, &books, part, &values, &mut keys);
            }
            pack(shape, &words, slot);
            if metric != MetricType::Ip {
                decode(shape, &books, &words, &mut decoded);
                let list = lists.list_of[*row as usize] as usize;
                let centroid = &lists.centroids[list * dim..][..dim];
                let terms = decoded.iter().zip(centroid);
                add.push(terms.map(|(p, c)| p * (p + 2.0 * c)).sum::<f32>());
            }
        }
        Ok(Self {
            shape,
            books: aligned_copy(&books),
            codes: codes.into_bytes(),
            add: aligned_copy(&add),
        })
    }

    /// Fills `table` with what each code byte adds to the inner product with the query: `[bytes of a
    /// row, 256]`, or `[m, 2^nbits]` where a code is wider than a byte.
    pub(super) fn table(&self, query: &[f32], parts: &mut Vec<f32>, table: &mut Vec<f32>) {
        let Shape { m, nbits, .. } = self.shape;
        let (part, places) = (self.shape.part(), self.shape.places());
        let books: &[f32] = view(&self.books);
        parts.clear();
        parts.resize(m * places, 0.0);
        for (number, products) in parts.chunks_exact_mut(places).enumerate() {
            let book = &books[number * part * places..][..part * places];
            for (value, column) in query[number * part..][..part]
                .iter()
                .zip(book.chunks_exact(places))
            {
                for (product, word) in products.iter_mut().zip(column) {
                    *product += value * word;
                }
            }
        }
        table.clear();
        match nbits {
            9.. => table.extend_from_slice(parts),
            5..=8 => {
                table.resize(m * 256, 0.0);
                for (row, products) in table.chunks_exact_mut(256).zip(parts.chunks_exact(places)) {
                    row[..places].copy_from_slice(products);
                }
            }
            _ => {
                table.resize(m.div_ceil(2) * 256, 0.0);
                for (row, pair) in table.chunks_exact_mut(256).zip(parts.chunks(2 * places)) {
                    let (low, high) = pair.split_at(places);
                    for (byte, sum) in row.iter_mut().enumerate() {
                        let first = low.get(byte & 15).copied().unwrap_or(0.0);
                        *sum = first + high.get(byte >> 4).copied().unwrap_or(0.0);
                    }
                }
            }
        }
    }

    /// The inner product of the query that the table was made for with what the codes at a position
    /// of the lists stand for.
    #[inline]
    pub(super) fn product(&self, table: &[f32], at: usize) -> f32 {
        let width = self.shape.row_bytes();
        let codes = &self.codes[at * width..][..width];
        if self.shape.nbits > 8 {
            let rows = table.chunks_exact(self.shape.places());
            let pairs = codes.as_chunks::<2>().0.iter().zip(rows);
            return pairs
                .map(|(code, row)| row[usize::from(u16::from_le_bytes(*code))])
                .sum();
        }
        sum_bytes(table, codes)
    }

    pub(super) fn adds(&self) -> &[f32] {
        view(&self.add)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.books.len() + self.codes.len() + self.add.len()
    }
}

/// Sums what a `[bytes, 256]` table says of each byte.
#[inline]
pub(super) fn sum_bytes(table: &[f32], codes: &[u8]) -> f32 {
    let (rows, _) = table.as_chunks::<256>();
    let mut sums = [0f32; 4];
    let (quads, rest) = codes.as_chunks::<4>();
    let (row_quads, row_rest) = rows.as_chunks::<4>();
    for (quad, rows) in quads.iter().zip(row_quads) {
        for lane in 0..4 {
            sums[lane] += rows[lane][usize::from(quad[lane])];
        }
    }
    let tail: f32 = rest
        .iter()
        .zip(row_rest)
        .map(|(code, row)| row[usize::from(*code)])
        .sum();
    sums[0] + sums[1] + sums[2] + sums[3] + tail
}

/// `[m, part, 2^nbits]`; places without a word repeat the last one.
fn learn_books(shape: Shape, sample: &[f32], seed: u64, run: Run<'_>) -> Result<Vec<f32>> {
    let (dim, part, places) = (shape.dim, shape.part(), shape.places());
    let mut books = vec![0f32; shape.book_len()];
    let mut cut = Vec::with_capacity(sample.len() / shape.m);
    for number in 0..shape.m {
        cut.clear();
        for row in sample.chunks_exact(dim) {
            cut.extend_from_slice(&row[number * part..][..part]);
        }
        let book = &mut books[number * part * places..][..part * places];
        let mut keys = vec![0f32; places];
        let words = kmeans::train(
            part,
            places,
            &cut,
            seed ^ number as u64,
            |words, nearest| {
                run.stop.check()?;
                columns(part, words, book);
                for (row, nearest) in cut.chunks_exact(part).zip(nearest) {
                    *nearest = nearest_in(book, row, &mut keys);
                }
                Ok(())
            },
        )?;
        columns(part, &words, book);
    }
    Ok(books)
}

/// Turns `[words, part]` into `[part, places]`, the last word filling up.
fn columns(part: usize, words: &[f32], book: &mut [f32]) {
    let places = book.len() / part;
    let count = words.len() / part;
    for (at, column) in book.chunks_exact_mut(places).enumerate() {
        for (word, value) in column.iter_mut().enumerate() {
            *value = words[word.min(count - 1) * part + at];
        }
    }
}

fn nearest_word(shape: Shape, books: &[f32], part: usize, row: &[f32], keys: &mut [f32]) -> u32 {
    let (width, places) = (shape.part(), shape.places());
    let book = &books[part * width * places..][..width * places];
    nearest_in(book, &row[part * width..][..width], keys)
}

/// The first of the nearest words.
fn nearest_in(book: &[f32], values: &[f32], keys: &mut [f32]) -> u32 {
    keys.fill(0.0);
    for (value, column) in values.iter().zip(book.chunks_exact(keys.len())) {
        for (key, word) in keys.iter_mut().zip(column) {
            *key += (value - word) * (value - word);
        }
    }
    let smallest = keys.iter().copied().fold(f32::INFINITY, f32::min);
    keys.iter().position(|key| *key == smallest).unwrap_or(0) as u32
}

fn decode(shape: Shape, books: &[f32], words: &[u32], out: &mut [f32]) {
    let (part, places) = (shape.part(), shape.places());
    for (number, word) in words.iter().enumerate() {
        let book = &books[number * part * places..][..part * places];
        for (value, column) in out[number * part..][..part]
            .iter_mut()
            .zip(book.chunks_exact(places))
        {
            *value = column[*word as usize];
        }
    }
}

fn pack(shape: Shape, words: &[u32], slot: &mut [u8]) {
    match shape.nbits {
        0..=4 => {
            for (byte, pair) in slot.iter_mut().zip(words.chunks(2)) {
                let high = pair.get(1).copied().unwrap_or(0);
                *byte = (pair[0] | high << 4) as u8;
            }
        }
        5..=8 => {
            for (byte, word) in slot.iter_mut().zip(words) {
                *byte = *word as u8;
            }
        }
        _ => {
            for (bytes, word) in slot.chunks_exact_mut(2).zip(words) {
                bytes.copy_from_slice(&(*word as u16).to_le_bytes());
            }
        }
    }
}
