//! From the rows that lists gave to the hits of a query: how many are scored exactly, and which further
//! lists are visited because of what was found.

use redkite_types::StopFlag;

use super::coarse::Order;
use super::compare::{Asked, Gathered, compare_blocks};
use super::search::{Scratch, Wanted};
use super::{IvfIndex, Payload};
use crate::codes::key_share;
use crate::effort::Met;
use crate::error::Result;
use crate::index::Hit;
use crate::kernel::LINE_BYTES;
use crate::margin::{LIKELY_FAR, LIKELY_FAR_IN_LISTS, Trend};
use crate::ranked::{Ranked, Scoring};
use crate::raw::{ExactScorer, RawVectors, RowRoom};
use crate::rerank::rerank;
use crate::topk::TopK;

/// As a part of the lists up to the last one that gave a hit: those behind it without one that end a search
/// under a skewed filter.
const PATIENCE: f64 = 2.0;

/// What a search is for, and where the rows lie that it scores.
#[derive(Clone, Copy)]
pub(super) struct Search<'a> {
    pub(super) index: &'a IvfIndex,
    pub(super) wanted: Wanted<'a>,
    pub(super) scorer: &'a ExactScorer<'a>,
    pub(super) raw: &'a dyn RawVectors,
    pub(super) stop: &'a StopFlag,
}

impl Search<'_> {
    /// Offers the allowed rows of a list to the best of a query; how many there are.
    #[inline]
    pub(super) fn visit(
        &self,
        list: u32,
        gathered: &mut Gathered,
        asked: &mut Asked,
    ) -> Result<usize> {
        let (index, allowed) = (self.index, self.wanted.allowed);
        let (places, base) = (index.places(list), index.base(list, asked));
        if let Some(pq) = index.in_blocks() {
            let rows = index.list_rows();
            return Ok(compare_blocks(pq, rows, places, base, allowed, asked));
        }
        let mut found = 0;
        for part in index.at_once(places) {
            index.gather_codes(part, allowed, gathered)?;
            index.compare(base, self.scorer, self.raw, gathered, asked);
            found += gathered.rows.len();
        }
        Ok(found)
    }

    /// Appends the hits of a query, after its lists were visited.
    ///
    /// # Errors
    /// `Cancelled`, `Unread` when a row is read from a file and cannot be.
    pub(super) fn finish(
        &self,
        met: Met,
        asked: &mut Asked,
        scratch: &mut Scratch,
        out: &mut Vec<Hit>,
    ) -> Result<()> {
        let metric = self.index.metric;
        // What was kept has its last score, or will only have another one of its codes.
        let is_flat = matches!(self.index.payload, Payload::Flat);
        if is_flat || !self.index.is_refined {
            if met.is_skewed {
                self.visit_further(met.lists, asked, scratch)?;
            }
            if is_flat {
                asked.best.drain_into(metric, out);
            } else {
                self.index
                    .finish_by_codes(&self.wanted, asked, &mut scratch.topk, out);
            }
            return Ok(());
        }
        let Scratch {
            candidates,
            topk,
            room,
            order,
            gathered,
            ..
        } = scratch;
        candidates.clear();
        candidates.extend(asked.best.drain());
        let rows = candidates.iter().copied();
        if self.wanted.allowed.set.is_none() {
            let rows = rows.map(|(_, row)| row);
            let (norms, k) = (self.index.norms(), self.wanted.k);
            let (scorer, raw) = (self.scorer, self.raw);
            return rerank(scorer, metric, raw, norms, rows, k, topk, room, out);
        }
        let mut scoring = self.begin(met, asked, topk);
        let has_ended = scoring.offer(rows, |row| self.ask(row), |row| self.key(row, room))?;
        if met.is_skewed {
            order.rank(&self.index.coarse, &asked.query, met.lists);
            if !has_ended && candidates.len() < self.wanted.allowed.count {
                scoring = self.begin(met, asked, scoring.best);
                self.score_again(met.lists, order, gathered, &mut scoring, asked, room)?;
            }
            self.score_further(met.lists, order, gathered, &mut scoring, asked, room)?;
        }
        topk.drain_into(metric, out);
        Ok(())
    }

    /// Nothing scored yet.
    fn begin<'a>(&self, met: Met, asked: &Asked, best: &'a mut TopK) -> Scoring<'a> {
        best.reset(self.wanted.k);
        // What exact keys grow by for each one of a code's key.
        let slope = match self.index.payload {
            Payload::Sq8 { .. } => asked.prepared.unit,
            Payload::Flat | Payload::Pq { .. } | Payload::Rabitq { .. } => {
                key_share(self.index.metric)
            }
        };
        let far = match met.is_skewed {
            true => LIKELY_FAR_IN_LISTS,
            false => LIKELY_FAR,
        };
        Scoring {
            best,
            trend: Trend::new(slope, far),
            least: self.wanted.pool,
            ends_early: false,
            scored: 0,
        }
    }

    /// Goes on to visit lists, from a rank on, until several in a row give nothing.
    fn visit_further(&self, from: usize, asked: &mut Asked, scratch: &mut Scratch) -> Result<()> {
        let Scratch {
            order, gathered, ..
        } = scratch;
        order.rank(&self.index.coarse, &asked.query, from);
        self.further(from, order, |list| {
            let limit = asked.best.limit();
            self.visit(list, gathered, asked)?;
            Ok(asked.best.limit() < limit)
        })
    }

    /// As [`Search::visit_further`], of rows that are found by codes.
    fn score_further(
        &self,
        from: usize,
        order: &mut Order,
        gathered: &mut Gathered,
        scoring: &mut Scoring<'_>,
        asked: &mut Asked,
        room: &mut RowRoom,
    ) -> Result<()> {
        asked.best.reset(usize::MAX);
        self.further(from, order, |list| {
            let limit = scoring.best.limit();
            self.visit(list, gathered, asked)?;
            self.score(scoring, asked, room)?;
            Ok(scoring.best.limit() < limit)
        })
    }

    /// Visits lists from a rank on, until so many in a row are no gain: the more the further away they are, for
    /// the less does their order say.
    fn further(
        &self,
        from: usize,
        order: &mut Order,
        mut is_gain: impl FnMut(u32) -> Result<bool>,
    ) -> Result<()> {
        let (mut rank, mut end) = (from, with_patience(from));
        while let Some(list) = order.get(rank).filter(|_| rank < end) {
            self.stop.check()?;
            rank += 1;
            if is_gain(list)? {
                end = with_patience(rank);
            }
        }
        Ok(())
    }

    /// Scores all rows of the lists that were visited that are likely to count.
    fn score_again(
        &self,
        visited: usize,
        order: &mut Order,
        gathered: &mut Gathered,
        scoring: &mut Scoring<'_>,
        asked: &mut Asked,
        room: &mut RowRoom,
    ) -> Result<()> {
        // Everything that is offered is kept.
        asked.best.reset(usize::MAX);
        for rank in 0..visited {
            self.stop.check()?;
            if let Some(list) = order.get(rank) {
                self.visit(list, gathered, asked)?;
            }
        }
        self.score(scoring, asked, room)
    }

    /// Scores the rows that were offered, as long as they are likely to count.
    fn score(
        &self,
        scoring: &mut Scoring<'_>,
        asked: &mut Asked,
        room: &mut RowRoom,
    ) -> Result<()> {
        let mut ranked = Ranked::take(&mut asked.best);
        let key = |row| self.key(row, room);
        ranked.score(scoring, self.stop, |row| self.ask(row), key)
    }

    #[inline]
    fn key(&self, row: u32, room: &mut RowRoom) -> Result<f32> {
        let norm = self.index.norms().get(row as usize).copied();
        let values = self.raw.fetch(row, room)?;
        Ok(self.scorer.key(values, norm.unwrap_or(1.0)))
    }

    #[inline]
    fn ask(&self, row: u32) {
        if !self.raw.is_read() {
            self.raw.row(row).prefetch(usize::MAX / LINE_BYTES);
        }
    }
}

/// Lists to visit when the last one that gave a hit is the last of so many.
fn with_patience(lists: usize) -> usize {
    lists + (lists as f64 * PATIENCE).ceil() as usize
}
