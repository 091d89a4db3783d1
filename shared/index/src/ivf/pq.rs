//! Product quantisation of what is left of a row when its list's centroid is taken off.
//!
//! A row is cut into `m` parts; each part becomes the number of the nearest of `2^nbits` words of a
//! book of its own. A query is compared by looking up, part by part, what each word adds to the inner
//! product.
//!
//! Codes of up to 4 bits come in blocks of 32 rows, part by part, and are looked up 16 at a time in
//! tables of bytes ([`FastTable`]); files of version 2 have two parts of a row in each byte instead.
//!
//! # Source
//! Jégou, Douze, Schmid 2011, "Product quantization for nearest neighbor search", §III and §IV; the
//! blocks as in faiss's fast scan, after André, Kermarrec, Le Scouarnec 2015, "Cache locality is not
//! enough".

use bytes::Bytes;
use redkite_types::MetricType;

use super::coarse::Run;
use super::fast::FastTable;
use super::kmeans;
use crate::buffer::{AlignedBuffer, aligned_copy, view};
use crate::error::{Error, Result};
use crate::file::{Header, Section, Stored};
use crate::kernel::{BLOCK_ROWS, BlockQuery, PARTS_ALIGN, kernels};
use crate::raw::RawVectors;

/// Rows that a word is learned from, at most.
const SAMPLE_PER_WORD: usize = 64;

/// The most bits a code may have here: one of more would need more rows to learn from than a segment
/// has.
pub(crate) const MAX_NBITS: usize = 16;

/// How the codes of the rows lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Row by row.
    Rows,
    /// Blocks of 32 rows, part by part; of up to 4 bits.
    Blocks,
}

impl Layout {
    /// How codes of so many bits lie in the lists of a file of a version.
    pub(super) fn of_lists(nbits: usize, version: u32) -> Self {
        if nbits <= 4 && version >= 3 {
            Self::Blocks
        } else {
            Self::Rows
        }
    }
}

/// The shape of the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) dim: usize,
    pub(crate) m: usize,
    pub(crate) nbits: usize,
}

impl Shape {
    fn part(self) -> usize {
        self.dim / self.m
    }

    /// Places of a book; not all are words if there were few rows.
    pub(super) fn places(self) -> usize {
        1 << self.nbits
    }

    /// Bytes of a row's codes.
    pub(crate) fn row_bytes(self) -> usize {
        match self.nbits {
            0..=4 => self.m.div_ceil(2),
            5..=8 => self.m,
            _ => 2 * self.m,
        }
    }

    /// Bytes of a block of rows.
    pub(super) fn block_bytes(self) -> usize {
        16 * self.m.next_multiple_of(PARTS_ALIGN)
    }

    /// Bytes of the codes of so many rows.
    pub(crate) fn codes_len(self, layout: Layout, rows: usize) -> usize {
        match layout {
            Layout::Rows => rows * self.row_bytes(),
            Layout::Blocks => rows.div_ceil(BLOCK_ROWS) * self.block_bytes(),
        }
    }

    /// Floats of all books.
    pub(crate) fn book_len(self) -> usize {
        self.m * self.places() * self.part()
    }
}

/// The codes of all rows, in the order of the lists.
pub(crate) struct Pq {
    pub(crate) shape: Shape,
    pub(crate) layout: Layout,
    /// `[m, part, 2^nbits]` f32: dimension by dimension, so that all words are compared at once.
    pub(crate) books: Bytes,
    /// `[rows, row_bytes]`, or blocks.
    pub(crate) codes: Bytes,
    /// `[rows]` f32, what a row adds to its key: `|c + p|² − |c|²`; empty for IP.
    pub(crate) add: Bytes,
}

/// What encoding needs to know of the lists.
pub(crate) struct Lists<'a> {
    /// `[nlist, dim]`.
    pub(crate) centroids: &'a [f32],
    /// `[rows]`, list of each row.
    pub(crate) list_of: &'a [u32],
    /// `[rows]`, rows in the order of the lists.
    pub(crate) rows: &'a [u32],
}

impl Pq {
    /// Learns the books from an even sample and encodes all rows.
    #[allow(
        clippy::too_many_arguments,
        reason = "what to encode, how, and how to run"
    )]
    pub(crate) fn build(
        metric: MetricType,
        shape: Shape,
        layout: Layout,
        raw: &dyn RawVectors,
        lists: &Lists<'_>,
        seed: u64,
        run: Run<'_>,
    ) -> Result<Self> {
        let dim = shape.dim;
        let residual = |row: u32, out: &mut [f32]| {
            raw.row(row).normalised(metric, out);
            let list = lists.list_of[row as usize] as usize;
            let centroid = &lists.centroids[list * dim..][..dim];
            out.iter_mut().zip(centroid).for_each(|(x, c)| *x -= c);
        };
        let count = lists.rows.len();
        let sampled = count.min(shape.places() * SAMPLE_PER_WORD);
        // Only one part of the sample is there at a time: all of it may be as large as the vectors.
        let row_of = |i: usize| i * count / sampled;
        let inverse: Vec<f32> = match metric {
            MetricType::Cosine => (0..sampled)
                .map(|i| raw.row(row_of(i) as u32).inverse_norm())
                .collect(),
            MetricType::L2 | MetricType::Ip | MetricType::Hamming | MetricType::Jaccard => {
                vec![1.0; sampled]
            }
        };
        let width = shape.part();
        let books = learn_books(shape, seed, run, |number, cut| {
            let mut values = vec![0f32; width];
            cut.reserve_exact(sampled * width);
            for (i, inverse) in inverse.iter().enumerate() {
                let list = lists.list_of[row_of(i)] as usize;
                let centroid = &lists.centroids[list * dim + number * width..][..width];
                let row = raw.row(row_of(i) as u32);
                row.widen_from(number * width, &mut values);
                let pairs = values.iter().zip(centroid);
                cut.extend(pairs.map(|(value, centre)| value * inverse - centre));
            }
        })?;

        let mut codes = AlignedBuffer::zeroed(shape.codes_len(layout, count));
        let adds = match metric {
            MetricType::Ip => 0,
            _ => count,
        };
        let mut add = AlignedBuffer::zeroed(adds * size_of::<f32>());
        // Whole blocks, which are written by one thread each.
        let part = run.part(count).next_multiple_of(BLOCK_ROWS);
        let part_bytes = shape.codes_len(layout, part);
        let mut adds = add.values_mut::<f32>().chunks_mut(part);
        let rows = lists.rows.chunks(part);
        let parts = rows.zip(codes.as_mut().chunks_mut(part_bytes));
        let parts = parts.map(|(rows, codes)| (rows, codes, adds.next().unwrap_or_default()));
        run.each(parts, |(rows, codes, add)| {
            let (mut values, mut decoded) = (vec![0f32; dim], vec![0f32; dim]);
            let mut words = vec![0u32; shape.m];
            let mut keys = vec![0f32; shape.places()];
            for (at, row) in rows.iter().enumerate() {
                run.begin(at)?;
                residual(*row, &mut values);
                for (part, word) in words.iter_mut().enumerate() {
                    *word = nearest_word(shape, &books, part, &values, &mut keys);
                }
                match layout {
                    Layout::Rows => {
                        let width = shape.row_bytes();
                        pack(shape, &words, &mut codes[at * width..][..width]);
                    }
                    Layout::Blocks => pack_block(shape, &words, codes, at),
                }
                // IP has nothing to add.
                if let Some(add) = add.get_mut(at) {
                    decode(shape, &books, &words, &mut decoded);
                    let list = lists.list_of[*row as usize] as usize;
                    let centroid = &lists.centroids[list * dim..][..dim];
                    let terms = decoded.iter().zip(centroid);
                    *add = terms.map(|(p, c)| p * (p + 2.0 * c)).sum::<f32>();
                }
                run.end(at, rows.len());
            }
            Ok(())
        })?;
        Ok(Self {
            shape,
            layout,
            books: aligned_copy(&books),
            codes: codes.into_bytes(),
            add: add.into_bytes(),
        })
    }

    /// Takes books and codes out of a file of this shape.
    pub(crate) fn from_stored(shape: Shape, layout: Layout, stored: &mut Stored) -> Result<Self> {
        let Shape { dim, m, nbits } = shape;
        if m == 0 || dim % m != 0 || !(1..=MAX_NBITS).contains(&nbits) {
            return Err(Error::corrupt("shape of the codes"));
        }
        let Header { rows, metric, .. } = stored.header;
        let adds = if metric == MetricType::Ip { 0 } else { rows };
        Ok(Self {
            shape,
            layout,
            books: stored.take(Section::Books, 0, shape.book_len() * 4)?,
            codes: stored.take(Section::ProductCodes, 0, shape.codes_len(layout, rows))?,
            add: stored.take(Section::Add, 0, adds * 4)?,
        })
    }

    /// The sections of a file.
    pub(crate) fn sections(&self) -> [(Section, usize, Bytes); 3] {
        [
            (Section::Books, 0, self.books.clone()),
            (Section::ProductCodes, 0, self.codes.clone()),
            (Section::Add, 0, self.add.clone()),
        ]
    }

    /// Fills `parts` with the inner product of the query's parts and each word: `[m, 2^nbits]`.
    fn products(&self, query: &[f32], parts: &mut Vec<f32>) {
        let (part, places) = (self.shape.part(), self.shape.places());
        let books: &[f32] = view(&self.books);
        parts.clear();
        parts.resize(self.shape.m * places, 0.0);
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
    }

    /// Makes the table of a query for codes in blocks.
    pub(super) fn fast_table(&self, query: &[f32], parts: &mut Vec<f32>, table: &mut FastTable) {
        self.products(query, parts);
        table.fill(self.shape, self.factor(), parts);
    }

    /// What an inner product is multiplied by in a key.
    pub(crate) fn factor(&self) -> f32 {
        // Only IP has nothing to add.
        if self.add.is_empty() { -1.0 } else { -2.0 }
    }

    /// The keys of a block's rows, less what is the same for a whole list, and which of them are not
    /// above `limit` with it.
    #[inline]
    pub(super) fn score_block(
        &self,
        block: usize,
        table: &FastTable,
        base: f32,
        limit: f32,
        keys: &mut [f32; BLOCK_ROWS],
    ) -> u32 {
        let width = self.shape.block_bytes();
        let query = BlockQuery {
            tables: &table.tables,
            base: base + table.base,
            step: table.step,
            limit,
        };
        let adds = self.adds();
        let own = adds.get(block * BLOCK_ROWS..).unwrap_or_default();
        let mut last = [0f32; BLOCK_ROWS];
        let add = own.first_chunk::<BLOCK_ROWS>().unwrap_or_else(|| {
            last[..own.len()].copy_from_slice(own);
            &last
        });
        let codes = &self.codes[block * width..][..width];
        (kernels().score_block)(codes, &query, add, keys)
    }

    /// Entries of the table of a query, for codes row by row.
    pub(super) fn table_len(&self) -> usize {
        match self.shape.nbits {
            9.. => self.shape.m * self.shape.places(),
            _ => self.shape.row_bytes() * 256,
        }
    }

    /// Fills `table` with what each code byte adds to the inner product with the query: `[bytes of a
    /// row, 256]`, or `[m, 2^nbits]` where a code is wider than a byte. For codes row by row.
    pub(crate) fn table(&self, query: &[f32], parts: &mut Vec<f32>, table: &mut Vec<f32>) {
        let Shape { m, nbits, .. } = self.shape;
        let places = self.shape.places();
        self.products(query, parts);
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

    /// The codes of the row at a position; of codes row by row.
    #[inline]
    pub(crate) fn row(&self, at: usize) -> &[u8] {
        let width = self.shape.row_bytes();
        &self.codes[at * width..][..width]
    }

    /// The inner product of the query that the table was made for with what the codes at a position
    /// of the lists stand for.
    #[inline]
    pub(crate) fn product(&self, table: &[f32], at: usize) -> f32 {
        let codes = self.row(at);
        if self.shape.nbits > 8 {
            let rows = table.chunks_exact(self.shape.places());
            let pairs = codes.as_chunks::<2>().0.iter().zip(rows);
            return pairs
                .map(|(code, row)| row[usize::from(u16::from_le_bytes(*code))])
                .sum();
        }
        sum_bytes(table, codes)
    }

    pub(crate) fn adds(&self) -> &[f32] {
        view(&self.add)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
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

/// `[m, part, 2^nbits]`, learned from what `sample(part, out)` writes; places without a word repeat the last one.
fn learn_books(
    shape: Shape,
    seed: u64,
    run: Run<'_>,
    sample: impl Fn(usize, &mut Vec<f32>),
) -> Result<Vec<f32>> {
    let (part, places) = (shape.part(), shape.places());
    let mut books = vec![0f32; shape.book_len()];
    let mut cut = Vec::new();
    for number in 0..shape.m {
        cut.clear();
        sample(number, &mut cut);
        let book = &mut books[number * part * places..][..part * places];
        let words = kmeans::train(
            part,
            places,
            cut.len() / part,
            |at, out| out.copy_from_slice(&cut[at * part..][..part]),
            seed ^ number as u64,
            |words, nearest| {
                run.stop.check()?;
                columns(part, words, book);
                let book = &*book;
                let rows = run.part(nearest.len());
                let parts = cut.chunks(rows * part).zip(nearest.chunks_mut(rows));
                run.each(parts, |(rows, nearest)| {
                    let mut keys = vec![0f32; places];
                    for (row, nearest) in rows.chunks_exact(part).zip(nearest) {
                        *nearest = nearest_in(book, row, &mut keys);
                    }
                    Ok(())
                })
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

/// Puts the words of the row at a position into its block, whose codes are zero so far.
fn pack_block(shape: Shape, words: &[u32], codes: &mut [u8], at: usize) {
    let width = shape.block_bytes();
    let block = &mut codes[at / BLOCK_ROWS * width..][..width];
    let row = at % BLOCK_ROWS;
    for (part, word) in words.iter().enumerate() {
        block[part * 16 + row % 16] |= (*word as u8) << (4 * (row / 16));
    }
}
