//! A graph index as its search sees it, exact scores of candidates, and range search.

use redkite_types::StopFlag;

use super::candidates::{Reach, Wanted};
use super::scratch::{PoolSize, Scratch};
use crate::allowed::Allowed;
use crate::error::Result;
use crate::flat::allowed_rows;
use crate::index::{Hit, VectorIndex};
use crate::kernel::LINE_BYTES;
use crate::margin::Margin;
use crate::params::RangeBounds;
use crate::raw::{Element, ExactScorer, RawRow, RawVectors, RowRoom, flip};
use crate::rerank::{RAW_LINES_AHEAD, RAW_ROWS_AHEAD};
use crate::scoring::CodeScores;

/// A graph index: how it finds candidates, and where the rows lie that they are scored with.
pub(crate) trait Find: VectorIndex {
    /// Makes a query ready.
    fn prepare(&self, query: &[f32], scratch: &mut Scratch);

    /// Fills the scratch's candidates for the query that was made ready.
    fn candidates(
        &self,
        wanted: Wanted<'_>,
        stop: &StopFlag,
        scratch: &mut Scratch,
    ) -> Result<Reach>;

    /// Compares the codes of all allowed rows with the query that was made ready; `see` gets the key of each, and
    /// answers above which ones it does not matter what they are.
    ///
    /// # Errors
    /// `Cancelled`.
    fn scan_all(
        &self,
        allowed: Allowed<'_>,
        stop: &StopFlag,
        scratch: &mut Scratch,
        see: &mut dyn FnMut(f32, u32) -> f32,
    ) -> Result<()>;

    /// How keys of codes become scores of hits for the query that was made ready, if candidates are not to be
    /// scored with their vectors.
    fn code_scores<'a>(&'a self, _query: &[f32], _scratch: &Scratch) -> Option<CodeScores<'a>> {
        None
    }

    /// A row's vector where it lies, and one over its length (which matters for cosine only).
    fn exact<'a>(&'a self, raw: &'a dyn RawVectors, row: u32) -> (RawRow<'a>, f32);

    /// Whether [`Find::fetch`] reads rows from a file.
    fn is_read(&self, raw: &dyn RawVectors) -> bool {
        raw.is_read()
    }

    /// As [`Find::exact`], of one of a few rows, which may be read.
    ///
    /// # Errors
    /// As [`RawVectors::fetch`].
    fn fetch<'a>(
        &'a self,
        raw: &'a dyn RawVectors,
        row: u32,
        room: &'a mut RowRoom,
    ) -> Result<(RawRow<'a>, f32)>;

    /// What the values of those vectors are.
    fn element(&self, raw: &dyn RawVectors) -> Element {
        raw.element()
    }

    /// Scores the candidates exactly and appends the best `k`, best first. Where `margin` says that no
    /// candidate that is left can be one of them, those are not looked at.
    ///
    /// # Errors
    /// As [`RawVectors::fetch`].
    fn rerank(
        &self,
        scorer: &ExactScorer<'_>,
        raw: &dyn RawVectors,
        k: usize,
        mut margin: Option<Margin>,
        scratch: &mut Scratch,
        out: &mut Vec<Hit>,
    ) -> Result<()> {
        let Scratch {
            candidates,
            topk,
            room,
            ..
        } = scratch;
        let in_place = !self.is_read(raw);
        let ask = |(_, row): &(f32, u32), lines| {
            if in_place {
                self.exact(raw, *row).0.prefetch(lines);
            }
        };
        candidates.iter().for_each(|row| ask(row, RAW_LINES_AHEAD));
        topk.reset(k);
        for (at, (coarse, row)) in candidates.iter().enumerate() {
            if margin
                .as_ref()
                .is_some_and(|margin| margin.is_beyond(*coarse, topk.limit()))
            {
                break;
            }
            if let Some(soon) = candidates.get(at + RAW_ROWS_AHEAD) {
                ask(soon, usize::MAX / LINE_BYTES);
            }
            let (values, norm) = self.fetch(raw, *row, room)?;
            let exact = scorer.key(values, norm);
            topk.push(exact, *row);
            if let Some(margin) = &mut margin {
                margin.learn(*coarse, exact);
            }
        }
        topk.drain_into(self.metric(), out);
        Ok(())
    }

    /// The best `limit` allowed rows within a range; everything was checked.
    ///
    /// Looks at ever more of the nearest rows, `first_pool` of them first, until there are enough in
    /// the range or the last lies beyond it; when that would be a good part of all, scores every row
    /// instead: with their vectors, or by their codes where hits have such scores.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    fn within(
        &self,
        query: &[f32],
        raw: &dyn RawVectors,
        first_pool: Option<usize>,
        range: RangeBounds,
        allowed: Allowed<'_>,
        limit: usize,
        stop: &StopFlag,
        scratch: &mut Scratch,
        out: &mut Vec<Hit>,
    ) -> Result<()> {
        let metric = self.metric();
        let scorer = ExactScorer::new(metric, query, self.element(raw));
        let start = out.len();
        self.prepare(query, scratch);
        let by_codes = self.code_scores(query, scratch);
        // Here the effort says where to begin, so one below the limit is no error.
        let mut pool_size = first_pool.unwrap_or(RANGE_FIRST_POOL).max(RANGE_FIRST_POOL);
        while pool_size * RANGE_SCAN_FRACTION < allowed.count {
            let wanted = Wanted {
                allowed,
                size: PoolSize::of(pool_size),
                needed: pool_size,
                widened: 1.0,
            };
            self.candidates(wanted, stop, scratch)?;
            let found = scratch.candidates.len();
            match &by_codes {
                None => self.rerank(&scorer, raw, found, None, scratch, out)?,
                Some(scores) => score_by_codes(scores, found, scratch, out),
            }
            let is_past = out.last().is_some_and(|last| {
                let score = last.score;
                !range.contains(metric, score) && range.far_enough(metric, score)
            });
            let mut kept = start;
            for at in start..out.len() {
                if range.contains(metric, out[at].score) {
                    out.swap(kept, at);
                    kept += 1;
                }
            }
            out.truncate(kept.min(start + limit));
            if is_past || kept - start >= limit {
                return Ok(());
            }
            out.truncate(start);
            pool_size *= 4;
        }
        let mut topk = std::mem::take(&mut scratch.topk);
        topk.reset(limit.min(allowed.count));
        let mut offer = |key: f32, row: u32| {
            if range.contains(metric, flip(metric, key)) {
                topk.push(key, row);
            }
        };
        match by_codes {
            Some(scores) => self.scan_all(allowed, stop, scratch, &mut |key, row| {
                offer(scores.key(key, row), row);
                f32::INFINITY
            })?,
            None => {
                for (count, row) in allowed_rows(allowed.set, self.len()).enumerate() {
                    if count % RANGE_BLOCK == 0 {
                        stop.check()?;
                    }
                    let (values, norm) = self.exact(raw, row);
                    offer(scorer.key(values, norm), row);
                }
            }
        }
        topk.drain_into(metric, out);
        scratch.topk = topk;
        Ok(())
    }
}

/// Gives the candidates the scores of their codes and appends the best `k`, best first.
pub(super) fn score_by_codes(
    scores: &CodeScores<'_>,
    k: usize,
    scratch: &mut Scratch,
    out: &mut Vec<Hit>,
) {
    let Scratch {
        candidates, topk, ..
    } = scratch;
    topk.reset(k);
    for (of_codes, row) in candidates.iter() {
        topk.push(scores.key(*of_codes, *row), *row);
    }
    topk.drain_into(scores.metric, out);
}

/// Rows that a range search looks at first.
const RANGE_FIRST_POOL: usize = 64;

/// A range search that would look at more than this part of the allowed rows looks at all.
const RANGE_SCAN_FRACTION: usize = 16;

/// Rows scored between two looks at the stop flag.
const RANGE_BLOCK: usize = 256;
