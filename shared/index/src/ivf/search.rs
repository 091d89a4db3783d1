//! Visiting lists, nearest first, until enough rows were looked at.

use std::cell::RefCell;

use redkite_types::{MetricType, StopFlag};

use super::coarse::Order;
use super::fast::FastTable;
use super::pq::{Layout, Pq};
use super::{IvfIndex, Payload};
use crate::allowed::Allowed;
use crate::buffer::view;
use crate::codes::{Codes, Prepared, normalised};
use crate::effort::Effort;
use crate::error::Result;
use crate::flat::{allowed_rows, scan_exact};
use crate::index::Hit;
use crate::kernel::{BLOCK_ROWS, kernels};
use crate::params::{RangeBounds, SearchParams};
use crate::raw::{ExactScorer, RawVectors, flip};
use crate::rerank::{prefetch_raw, rerank};
use crate::topk::TopK;

/// Lists visited when no `nprobe` is given.
const DEFAULT_NPROBE: usize = 8;

/// Empty lists in a row that end a range search when nothing else is said.
const DEFAULT_EMPTY_BUCKETS: usize = 2;

/// How many times more rows are scored exactly under a filter that excludes what lies around the query:
/// what it allows is about equally far, and codes of a few bits a dimension cannot tell it apart.
const SKEWED_POOL: usize = 4;

/// Rows whose codes are compared at once.
const BLOCK: usize = 64;

/// Buffers of one search.
#[derive(Default)]
pub(super) struct Scratch {
    order: Order,
    /// The query as its metric compares it.
    query: Vec<f32>,
    prepared: Prepared,
    parts: Vec<f32>,
    table: Vec<f32>,
    fast: FastTable,
    /// Allowed rows of a list, and where they lie in the lists.
    rows: Vec<u32>,
    places: Vec<u32>,
    keys: Vec<f32>,
    best: TopK,
    topk: TopK,
    candidates: Vec<u32>,
}

impl Scratch {
    /// Offers the gathered rows, each with the key that `key(table, place)` gives.
    #[inline]
    fn offer(&mut self, key: impl Fn(&[f32], usize) -> f32) {
        for (row, place) in self.rows.iter().zip(&self.places) {
            self.best.push(key(&self.table, *place as usize), *row);
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Runs `search` with this thread's buffers.
pub(super) fn with_scratch<T>(search: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => search(&mut scratch),
        // Only if raw vectors themselves search on this thread: correct, if slower.
        Err(_) => search(&mut Scratch::default()),
    })
}

impl IvfIndex {
    fn effort(&self, params: &SearchParams, allowed: Allowed<'_>, needed: usize) -> Effort {
        let nprobe = params.nprobe.unwrap_or(DEFAULT_NPROBE).min(self.nlist());
        Effort::new(nprobe, self.rows, self.nlist(), allowed, needed)
    }

    fn norms(&self) -> &[f32] {
        view(&self.inverse_norms)
    }

    fn list_len(&self, list: u32) -> usize {
        let offsets = self.offsets();
        (offsets[list as usize + 1] - offsets[list as usize]) as usize
    }

    /// Rows to score exactly for `k` results.
    fn rerank_count(&self, params: &SearchParams, k: usize) -> usize {
        match self.payload {
            Payload::Flat => k,
            Payload::Sq8(_) => k + k / 2 + 5,
            // Codes of a few bits a dimension mix up many more.
            Payload::Pq { .. } => params.reorder_k.unwrap_or(k * 10).max(k),
            Payload::Rabitq { .. } => {
                let factor = f64::from(params.refine_k.unwrap_or(10.0));
                ((factor * k as f64).ceil() as usize).max(k)
            }
        }
    }

    /// The `k` nearest allowed rows; everything was checked.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    pub(super) fn nearest(
        &self,
        query: &[f32],
        raw: &dyn RawVectors,
        params: &SearchParams,
        allowed: Allowed<'_>,
        k: usize,
        stop: &StopFlag,
        scratch: &mut Scratch,
        out: &mut Vec<Hit>,
    ) -> Result<()> {
        let k = k.min(allowed.count);
        let pool = self.rerank_count(params, k).min(allowed.count);
        let effort = self.effort(params, allowed, k);
        let scorer = ExactScorer::new(self.metric, query, raw.element());
        if allowed.count <= effort.rows {
            let norm = |row: u32| self.norms().get(row as usize).copied().unwrap_or(1.0);
            let rows = allowed_rows(allowed.set, self.rows);
            let topk = &mut scratch.topk;
            topk.reset(k);
            scan_exact(&scorer, raw, norm, rows, stop, |row, key| {
                topk.push(key, row)
            })?;
            topk.drain_into(self.metric, out);
            return Ok(());
        }
        self.begin(query, params, &effort, scratch);
        let wide_pool = match (&self.payload, allowed.set) {
            (Payload::Pq { .. } | Payload::Rabitq { .. }, Some(_)) => pool * SKEWED_POOL,
            _ => pool,
        };
        scratch.best.reset(wide_pool.min(allowed.count));
        let mut visits = effort.begin(allowed, self.rows);
        let mut rank = 0;
        while rank < effort.nprobe || !visits.are_enough() {
            stop.check()?;
            let Some(list) = scratch.order.get(rank) else {
                break;
            };
            rank += 1;
            let found = match &self.payload {
                Payload::Pq { centroids, pq } if pq.layout == Layout::Blocks => {
                    let base = self.base_key(centroids, list, &scratch.query);
                    self.compare_blocks(list, pq, base, allowed, scratch)
                }
                _ => {
                    self.collect(list, allowed, scratch);
                    self.compare(list, &scorer, raw, scratch);
                    scratch.rows.len()
                }
            };
            visits.add(self.list_len(list), found);
        }
        if let Payload::Flat = self.payload {
            scratch.best.drain_into(self.metric, out);
            return Ok(());
        }
        scratch.candidates.clear();
        scratch.best.drain_rows(&mut scratch.candidates);
        if !visits.are_skewed() {
            scratch.candidates.truncate(pool);
        }
        let (candidates, topk) = (&scratch.candidates, &mut scratch.topk);
        rerank(
            &scorer,
            self.metric,
            raw,
            self.norms(),
            candidates,
            k,
            topk,
            out,
        );
        Ok(())
    }

    /// Ranks the lists and makes the query ready for the payload.
    fn begin(&self, query: &[f32], params: &SearchParams, effort: &Effort, scratch: &mut Scratch) {
        scratch.query.resize(self.dim, 0.0);
        normalised(self.metric, query, &mut scratch.query);
        let query = &scratch.query;
        scratch.order.rank(&self.coarse, query, effort.nprobe);
        match &self.payload {
            Payload::Flat => {}
            Payload::Sq8(codes) => codes.prepare(query, &mut scratch.prepared),
            Payload::Pq { pq, .. } => match pq.layout {
                Layout::Rows => pq.table(query, &mut scratch.parts, &mut scratch.table),
                Layout::Blocks => pq.fast_table(query, &mut scratch.parts, &mut scratch.fast),
            },
            Payload::Rabitq { signs, .. } => {
                let bits = params.query_bits.unwrap_or(0);
                signs.table(query, bits, &mut scratch.parts, &mut scratch.table);
            }
        }
    }

    /// Gathers the allowed rows of a list and their places.
    fn collect(&self, list: u32, allowed: Allowed<'_>, scratch: &mut Scratch) {
        let offsets = self.offsets();
        let (start, end) = (offsets[list as usize], offsets[list as usize + 1]);
        let list_rows: &[u32] = view(&self.list_rows);
        let rows = &list_rows[start as usize..end as usize];
        scratch.rows.clear();
        scratch.places.clear();
        match allowed.set {
            None => {
                scratch.rows.extend_from_slice(rows);
                scratch.places.extend(start..end);
            }
            Some(_) => {
                for (place, row) in (start..end).zip(rows) {
                    if allowed.has(*row) {
                        scratch.rows.push(*row);
                        scratch.places.push(place);
                    }
                }
            }
        }
    }

    /// Offers the gathered rows of a list to the pool.
    fn compare(
        &self,
        list: u32,
        scorer: &ExactScorer<'_>,
        raw: &dyn RawVectors,
        scratch: &mut Scratch,
    ) {
        match &self.payload {
            Payload::Flat => self.compare_exact(scorer, raw, scratch),
            Payload::Sq8(codes) => compare_codes(codes, scratch),
            Payload::Pq { centroids, pq } => {
                let base = self.base_key(centroids, list, &scratch.query);
                let add = pq.adds();
                if self.metric == MetricType::Ip {
                    scratch.offer(|table, place| base - pq.product(table, place));
                } else {
                    scratch
                        .offer(|table, place| base + add[place] - 2.0 * pq.product(table, place));
                }
            }
            Payload::Rabitq { centroids, signs } => {
                let base = self.base_key(centroids, list, &scratch.query);
                let dim = self.dim;
                scratch.offer(|table, place| base + signs.key(table, dim, place));
            }
        }
    }

    /// Offers the allowed rows of a list to the pool, a block at a time; how many there are.
    ///
    /// Blocks do not end where lists do: rows of other lists in the first and the last are left out.
    fn compare_blocks(
        &self,
        list: u32,
        pq: &Pq,
        base: f32,
        allowed: Allowed<'_>,
        scratch: &mut Scratch,
    ) -> usize {
        let Scratch { fast, best, .. } = scratch;
        let offsets = self.offsets();
        let (start, end) = (
            offsets[list as usize] as usize,
            offsets[list as usize + 1] as usize,
        );
        if start == end {
            return 0;
        }
        let list_rows: &[u32] = view(&self.list_rows);
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

    /// The key of a row that is its list's centroid.
    fn base_key(&self, centroids: &bytes::Bytes, list: u32, query: &[f32]) -> f32 {
        let centroids: &[f32] = view(centroids);
        let centroid = &centroids[list as usize * self.dim..][..self.dim];
        match self.metric {
            MetricType::Ip => -(kernels().ip_f32)(query, centroid),
            _ => (kernels().l2_f32)(query, centroid),
        }
    }

    fn compare_exact(&self, scorer: &ExactScorer<'_>, raw: &dyn RawVectors, scratch: &mut Scratch) {
        let norms = self.norms();
        for (at, row) in scratch.rows.iter().enumerate() {
            if let Some(next) = scratch.rows.get(at + 2) {
                prefetch_raw(raw, *next);
            }
            let norm = norms.get(*row as usize).copied().unwrap_or(1.0);
            scratch.best.push(scorer.key(raw.row(*row), norm), *row);
        }
    }

    /// The best `limit` allowed rows within a range; everything was checked.
    ///
    /// Scores the rows of the lists exactly; ends when enough lists were visited and then some in
    /// a row had nothing to give.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    pub(super) fn within(
        &self,
        query: &[f32],
        raw: &dyn RawVectors,
        params: &SearchParams,
        range: RangeBounds,
        allowed: Allowed<'_>,
        limit: usize,
        stop: &StopFlag,
        scratch: &mut Scratch,
        out: &mut Vec<Hit>,
    ) -> Result<()> {
        let effort = self.effort(params, allowed, 0);
        let patience = params.max_empty_buckets.unwrap_or(DEFAULT_EMPTY_BUCKETS);
        let scorer = ExactScorer::new(self.metric, query, raw.element());
        self.begin(query, params, &effort, scratch);
        let norms = self.norms();
        scratch.best.reset(limit.min(allowed.count));
        let mut visits = effort.begin(allowed, self.rows);
        let (mut rank, mut empty) = (0, 0);
        while rank < effort.nprobe || !visits.are_enough() || empty < patience {
            stop.check()?;
            let Some(list) = scratch.order.get(rank) else {
                break;
            };
            rank += 1;
            self.collect(list, allowed, scratch);
            visits.add(self.list_len(list), scratch.rows.len());
            empty += 1;
            for row in &scratch.rows {
                let norm = norms.get(*row as usize).copied().unwrap_or(1.0);
                let key = scorer.key(raw.row(*row), norm);
                if range.contains(self.metric, flip(self.metric, key)) {
                    empty = 0;
                    scratch.best.push(key, *row);
                }
            }
        }
        scratch.best.drain_into(self.metric, out);
        Ok(())
    }
}

fn compare_codes(codes: &Codes, scratch: &mut Scratch) {
    let Scratch {
        prepared,
        rows,
        places,
        keys,
        best,
        ..
    } = scratch;
    for (rows, places) in rows.chunks(BLOCK).zip(places.chunks(BLOCK)) {
        keys.clear();
        codes.keys(prepared, places, keys);
        for (row, key) in rows.iter().zip(&*keys) {
            best.push(*key, *row);
        }
    }
}
