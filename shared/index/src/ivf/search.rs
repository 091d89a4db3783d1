//! Visiting lists, nearest first, until enough rows were looked at.

use std::cell::RefCell;
use std::ops::Range;

use redkite_types::StopFlag;

use super::coarse::Order;
use super::compare::{Asked, Gathered};
use super::finish::Search;
use super::{IvfIndex, Payload};
use crate::allowed::Allowed;
use crate::buffer::view;
use crate::codes::normalised;
use crate::effort::Effort;
use crate::error::Result;
use crate::flat::{allowed_rows, scan_exact};
use crate::index::Hit;
use crate::params::{RangeBounds, SearchParams};
use crate::raw::{ExactScorer, RawVectors, RowRoom, flip};
use crate::together::parts;
use crate::topk::TopK;

/// Lists visited when no `nprobe` is given.
const DEFAULT_NPROBE: usize = 8;

/// Empty lists in a row that end a range search when nothing else is said.
const DEFAULT_EMPTY_BUCKETS: usize = 2;

/// How many times as many rows a search under a filter keeps as it scores: it goes on with them where the
/// filter excludes so much around the query that codes cannot tell apart what is nearest.
const WIDE_POOL: usize = 4;

/// Rows that a search under a filter keeps of 8-bit codes, at least: as many as say whether they suffice.
const SQ8_POOL: usize = 16;

/// Buffers of one search.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) order: Order,
    pub(super) asked: Asked,
    pub(super) parts: Vec<f32>,
    pub(super) gathered: Gathered,
    pub(super) topk: TopK,
    pub(super) candidates: Vec<(f32, u32)>,
    pub(super) room: RowRoom,
}

/// What is the same for all queries of a search.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) allowed: Allowed<'a>,
    /// Hits, at most as many as there are allowed rows.
    pub(super) k: usize,
    pub(super) effort: Effort,
    /// Rows to score exactly, at least.
    pub(super) pool: usize,
    /// Rows to keep for that, before it is known how many are.
    pub(super) wide_pool: usize,
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

    pub(super) fn norms(&self) -> &[f32] {
        view(&self.inverse_norms)
    }

    /// The places of a list's rows.
    pub(super) fn places(&self, list: u32) -> Range<usize> {
        let offsets = self.offsets();
        offsets[list as usize] as usize..offsets[list as usize + 1] as usize
    }

    /// Places that are compared together.
    pub(super) fn at_once(
        &self,
        places: Range<usize>,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let (whole, divided) = match self.is_read() {
            true => (None, Some(parts(places))),
            false => (Some(places), None),
        };
        whole.into_iter().chain(divided.into_iter().flatten())
    }

    /// Rows to score exactly for `k` results.
    fn rerank_count(&self, params: &SearchParams, k: usize) -> usize {
        match self.payload {
            Payload::Flat => k,
            Payload::Sq8 { .. } => k + k / 2 + 5,
            // The codes have the last word, so none but the best of them count.
            Payload::Pq { .. } | Payload::Rabitq { .. } if !self.is_refined => k,
            // Codes of a few bits a dimension mix up many more.
            Payload::Pq { .. } => params.reorder_k.unwrap_or(k * 10).max(k),
            Payload::Rabitq { .. } => {
                let factor = f64::from(params.refine_k.unwrap_or(10.0));
                ((factor * k as f64).ceil() as usize).max(k)
            }
        }
    }

    /// What a search looks for, and how far.
    pub(super) fn wanted<'a>(
        &self,
        params: &SearchParams,
        allowed: Allowed<'a>,
        k: usize,
    ) -> Wanted<'a> {
        let k = k.min(allowed.count);
        let pool = self.rerank_count(params, k).min(allowed.count);
        let wide_pool = match (&self.payload, allowed.set) {
            (Payload::Flat, _) | (_, None) => pool,
            (Payload::Sq8 { .. }, Some(_)) => pool.max(SQ8_POOL),
            (Payload::Pq { .. } | Payload::Rabitq { .. }, Some(_)) if self.is_refined => {
                pool * WIDE_POOL
            }
            (Payload::Pq { .. } | Payload::Rabitq { .. }, Some(_)) => pool,
        };
        Wanted {
            allowed,
            k,
            effort: self.effort(params, allowed, k),
            pool,
            wide_pool: wide_pool.min(allowed.count),
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
        let wanted = self.wanted(params, allowed, k);
        let effort = wanted.effort;
        let scorer = ExactScorer::new(self.metric, query, raw.element());
        if self.scans_instead(&wanted) {
            let norm = |row: u32| self.norms().get(row as usize).copied().unwrap_or(1.0);
            let rows = allowed_rows(allowed.set, self.rows);
            let topk = &mut scratch.topk;
            topk.reset(wanted.k);
            scan_exact(&scorer, raw, norm, rows, stop, |row, key| {
                topk.push(key, row)
            })?;
            topk.drain_into(self.metric, out);
            return Ok(());
        }
        let Scratch {
            order,
            asked,
            parts,
            gathered,
            ..
        } = scratch;
        self.prepare(query, params, parts, asked);
        order.rank(&self.coarse, &asked.query, effort.nprobe);
        asked.best.reset(wanted.wide_pool);
        let mut visits = effort.begin(allowed, self.rows);
        let search = Search {
            index: self,
            wanted,
            scorer: &scorer,
            raw,
            stop,
        };
        let mut rank = 0;
        while rank < effort.nprobe || !visits.are_enough() {
            stop.check()?;
            let Some(list) = order.get(rank) else {
                break;
            };
            rank += 1;
            let found = search.visit(list, gathered, asked)?;
            visits.add(self.places(list).len(), found);
        }
        let mut asked = std::mem::take(&mut scratch.asked);
        let finished = search.finish(visits.met(), &mut asked, scratch, out);
        scratch.asked = asked;
        finished
    }

    /// The best `limit` allowed rows within a range; everything was checked.
    ///
    /// Scores the rows of the lists exactly, or by their codes where hits have such scores; ends when enough
    /// lists were visited and then some in a row had nothing to give.
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
        let Scratch {
            order,
            asked,
            parts,
            gathered,
            topk,
            ..
        } = scratch;
        asked.query.resize(self.dim, 0.0);
        normalised(self.metric, query, &mut asked.query);
        if !self.is_refined {
            self.prepare(query, params, parts, asked);
        }
        order.rank(&self.coarse, &asked.query, effort.nprobe);
        let norms = self.norms();
        topk.reset(limit.min(allowed.count));
        let mut visits = effort.begin(allowed, self.rows);
        let (mut rank, mut empty) = (0, 0);
        while rank < effort.nprobe || !visits.are_enough() || empty < patience {
            stop.check()?;
            let Some(list) = order.get(rank) else {
                break;
            };
            rank += 1;
            let places = self.places(list);
            let rows = places.len();
            self.gather(places, allowed, gathered);
            visits.add(rows, gathered.rows.len());
            empty += 1;
            let mut offer = |key: f32, row: u32| {
                if range.contains(self.metric, flip(self.metric, key)) {
                    empty = 0;
                    topk.push(key, row);
                }
            };
            if !self.is_refined {
                self.score_by_codes((list, allowed), (&scorer, raw), gathered, asked, &mut offer);
                continue;
            }
            for row in &gathered.rows {
                let norm = norms.get(*row as usize).copied().unwrap_or(1.0);
                offer(scorer.key(raw.row(*row), norm), *row);
            }
        }
        topk.drain_into(self.metric, out);
        Ok(())
    }
}
