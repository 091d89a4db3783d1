//! Comparing a query with what lists hold.

use std::ops::Range;

use super::fast::FastTable;
use super::pq::{Layout, Pq};
use super::{IvfIndex, Payload, rabitq};
use crate::allowed::Allowed;
use crate::buffer::view;
use crate::codes::{Codes, Prepared, normalised};
use crate::error::Result;
use crate::kernel::{BLOCK_ROWS, kernels};
use crate::params::SearchParams;
use crate::raw::{ExactScorer, RawVectors, RowRoom};
use crate::rerank::prefetch_raw;
use crate::topk::TopK;
use redkite_types::MetricType;

/// Rows whose codes are compared at once.
const BLOCK: usize = 64;

/// A query, ready to be compared with what lists hold, and the best of it so far.
#[derive(Default)]
pub(super) struct Asked {
    /// The query as its metric compares it.
    pub(super) query: Vec<f32>,
    pub(super) prepared: Prepared,
    table: Vec<f32>,
    fast: FastTable,
    pub(super) best: TopK,
}

/// Allowed rows of a list, or of a part of it.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) rows: Vec<u32>,
    /// Where they lie in the lists, counted from the first place whose codes were read, if they were.
    places: Vec<u32>,
    keys: Vec<f32>,
    /// Codes that were read from the file.
    read: Option<Read>,
    room: RowRoom,
}

/// Codes of places in a row.
struct Read {
    first: usize,
    bytes: usize,
}

impl Asked {
    /// Offers rows, each with the key that `key(table, place)` gives.
    #[inline]
    fn offer(&mut self, gathered: &Gathered, key: impl Fn(&[f32], usize) -> f32) {
        for (row, place) in gathered.rows.iter().zip(&gathered.places) {
            self.best.push(key(&self.table, *place as usize), *row);
        }
    }
}

impl IvfIndex {
    /// Makes a query ready for the payload.
    pub(super) fn prepare(
        &self,
        query: &[f32],
        params: &SearchParams,
        parts: &mut Vec<f32>,
        asked: &mut Asked,
    ) {
        asked.query.resize(self.dim, 0.0);
        normalised(self.metric, query, &mut asked.query);
        let query = &asked.query;
        match &self.payload {
            Payload::Flat => {}
            Payload::Sq8 { codes, .. } => codes.prepare(query, &mut asked.prepared),
            Payload::Pq { pq, .. } => match pq.layout {
                Layout::Rows => pq.table(query, parts, &mut asked.table),
                Layout::Blocks => pq.fast_table(query, parts, &mut asked.fast),
            },
            Payload::Rabitq { signs, .. } => {
                let bits = params.query_bits.unwrap_or(0);
                signs.table(query, bits, parts, &mut asked.table);
            }
        }
    }

    /// Bytes that a prepared query takes, its best rows left out.
    pub(super) fn prepared_bytes(&self) -> usize {
        let tables = match &self.payload {
            Payload::Flat => 0,
            Payload::Sq8 { codes, .. } => codes.stride() + self.dim * size_of::<f32>(),
            Payload::Pq { pq, .. } => match pq.layout {
                Layout::Rows => pq.table_len() * size_of::<f32>(),
                Layout::Blocks => pq.shape.block_bytes(),
            },
            Payload::Rabitq { .. } => rabitq::row_bytes(self.dim) * 256 * size_of::<f32>(),
        };
        tables + self.dim * size_of::<f32>() + size_of::<Asked>()
    }

    pub(super) fn list_rows(&self) -> &[u32] {
        view(&self.list_rows)
    }

    /// The codes, if they lie in blocks.
    pub(super) fn in_blocks(&self) -> Option<&Pq> {
        match &self.payload {
            Payload::Pq { pq, .. } if pq.layout == Layout::Blocks => Some(pq),
            _ => None,
        }
    }

    /// Whether lists are read from the file: a part at a time, so that what is read stays in the cache.
    pub(super) fn is_read(&self) -> bool {
        matches!(
            self.payload,
            Payload::Sq8 {
                in_file: Some(_),
                ..
            }
        )
    }

    /// As [`IvfIndex::gather`], with the codes of the rows, if they are to be read.
    ///
    /// # Errors
    /// `Io` when they cannot be.
    pub(super) fn gather_codes(
        &self,
        places: Range<usize>,
        allowed: Allowed<'_>,
        out: &mut Gathered,
    ) -> Result<()> {
        self.gather(places, allowed, out);
        let Payload::Sq8 {
            codes,
            in_file: Some(file),
        } = &self.payload
        else {
            return Ok(());
        };
        if let (Some(first), Some(last)) = (out.places.first(), out.places.last()) {
            let (first, end) = (*first as usize, *last as usize + 1);
            let stride = codes.stride();
            let part = first * stride..end * stride;
            let bytes = file.read(part, &mut out.room)?.len();
            out.places
                .iter_mut()
                .for_each(|place| *place -= first as u32);
            out.read = Some(Read { first, bytes });
        }
        Ok(())
    }

    /// Gathers the allowed rows of a list, or of a part of it, and their places.
    pub(super) fn gather(&self, places: Range<usize>, allowed: Allowed<'_>, out: &mut Gathered) {
        let rows = &self.list_rows()[places.clone()];
        let places = places.start as u32..places.end as u32;
        out.rows.clear();
        out.places.clear();
        out.read = None;
        match allowed.set {
            None => {
                out.rows.extend_from_slice(rows);
                out.places.extend(places);
            }
            Some(_) => {
                for (place, row) in places.zip(rows) {
                    if allowed.has(*row) {
                        out.rows.push(*row);
                        out.places.push(place);
                    }
                }
            }
        }
    }

    /// What all keys of a list's rows have in common.
    pub(super) fn base(&self, list: u32, asked: &Asked) -> f32 {
        match &self.payload {
            Payload::Flat | Payload::Sq8 { .. } => 0.0,
            Payload::Pq { centroids, .. } | Payload::Rabitq { centroids, .. } => {
                self.base_key(centroids, list, &asked.query)
            }
        }
    }

    /// Offers the gathered rows of a list to the pool.
    pub(super) fn compare(
        &self,
        base: f32,
        scorer: &ExactScorer<'_>,
        raw: &dyn RawVectors,
        gathered: &mut Gathered,
        asked: &mut Asked,
    ) {
        match &self.payload {
            Payload::Flat => self.compare_exact(scorer, raw, gathered, asked),
            Payload::Sq8 { codes, .. } => compare_codes(codes, gathered, asked),
            Payload::Pq { pq, .. } => {
                let add = pq.adds();
                if self.metric == MetricType::Ip {
                    asked.offer(gathered, |table, place| base - pq.product(table, place));
                } else {
                    asked.offer(gathered, |table, place| {
                        base + add[place] - 2.0 * pq.product(table, place)
                    });
                }
            }
            Payload::Rabitq { signs, .. } => {
                let dim = self.dim;
                asked.offer(gathered, |table, place| base + signs.key(table, dim, place));
            }
        }
    }

    /// The key of a row that is its list's centroid.
    fn base_key(&self, centroids: &bytes::Bytes, list: u32, query: &[f32]) -> f32 {
        let centroids: &[f32] = view(centroids);
        let centroid = &centroids[list as usize * self.dim..][..self.dim];
        match self.metric {
            MetricType::Ip => -(kernels().ip_f32)(query, centroid),
            _ => (kernels().l2_f32)(query, centroid),
        }
    }

    fn compare_exact(
        &self,
        scorer: &ExactScorer<'_>,
        raw: &dyn RawVectors,
        gathered: &Gathered,
        asked: &mut Asked,
    ) {
        let norms = self.norms();
        for (at, row) in gathered.rows.iter().enumerate() {
            if let Some(next) = gathered.rows.get(at + 2) {
                prefetch_raw(raw, *next);
            }
            let norm = norms.get(*row as usize).copied().unwrap_or(1.0);
            asked.best.push(scorer.key(raw.row(*row), norm), *row);
        }
    }
}

fn compare_codes(codes: &Codes, gathered: &mut Gathered, asked: &mut Asked) {
    let Gathered {
        rows,
        places,
        keys,
        read,
        room,
    } = gathered;
    for (rows, places) in rows.chunks(BLOCK).zip(places.chunks(BLOCK)) {
        keys.clear();
        match read {
            None => codes.keys(&mut asked.prepared, places, keys),
            Some(Read { first, bytes }) => {
                codes.keys_from(
                    room.bytes(*bytes),
                    *first,
                    &mut asked.prepared,
                    places,
                    keys,
                );
            }
        }
        for (row, key) in rows.iter().zip(&*keys) {
            asked.best.push(*key, *row);
        }
    }
}

/// Offers the allowed rows of a list, or of a part of it, to the pool, a block at a time; how many there
/// are. `list_rows` are the rows of all lists.
///
/// Blocks do not end where lists do: rows of other lists in the first and the last are left out.
pub(super) fn compare_blocks(
    pq: &Pq,
    list_rows: &[u32],
    places: Range<usize>,
    base: f32,
    allowed: Allowed<'_>,
    asked: &mut Asked,
) -> usize {
    let Asked { fast, best, .. } = asked;
    let Range { start, end } = places;
    if start == end {
        return 0;
    }
    let mut keys = [0f32; BLOCK_ROWS];
    let mut seen = 0;
    for block in start / BLOCK_ROWS..end.div_ceil(BLOCK_ROWS) {
        let first = block * BLOCK_ROWS;
        let rows = &list_rows[first..end.min(first + BLOCK_ROWS)];
        let mut mask = u32::MAX << start.saturating_sub(first);
        mask &= u32::MAX >> (BLOCK_ROWS - rows.len());
        if let Some(set) = allowed.set {
            for (lane, row) in rows.iter().enumerate() {
                mask &= !(u32::from(!set.get(*row as usize)) << lane);
            }
            if mask == 0 {
                continue;
            }
        }
        seen += mask.count_ones() as usize;
        mask &= pq.score_block(block, fast, base, best.limit(), &mut keys);
        while mask != 0 {
            let lane = mask.trailing_zeros() as usize;
            best.push(keys[lane], rows[lane]);
            mask &= mask - 1;
        }
    }
    seen
}
