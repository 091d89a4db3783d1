//! The nearest allowed rows: candidates, and as many of them scored exactly as can count.

use redkite_types::StopFlag;

use super::candidates::{Reach, Wanted};
use super::find::Find;
use super::scratch::Scratch;
use crate::error::Result;
use crate::index::Hit;
use crate::kernel::LINE_BYTES;
use crate::margin::{LIKELY_FAR, Margin, Trend};
use crate::ranked::{Ranked, Scoring};
use crate::raw::{ExactScorer, RawVectors, RowRoom};
use crate::topk::TopK;

/// How many times as large the pool is when it is not likely that the last one held all that counts.
const WIDENING: f64 = 4.0;

/// How candidates are scored.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// Candidates to score where the filter leaves enough around the query.
    pub(crate) reranked: usize,
    /// What exact keys grow by for each one of a code's key.
    pub(crate) slope: f32,
    /// Whether those that cannot count are left out.
    pub(crate) ends_early: bool,
}

/// What a search is for, and where the rows lie that it scores.
pub(crate) struct Search<'a, F: ?Sized> {
    pub(crate) index: &'a F,
    pub(crate) scorer: &'a ExactScorer<'a>,
    pub(crate) raw: &'a dyn RawVectors,
    pub(crate) plan: Plan,
    pub(crate) stop: &'a StopFlag,
}

impl<F: Find + ?Sized> Search<'_, F> {
    /// Appends the `wanted.needed` nearest allowed rows to the query that was made ready, best first.
    ///
    /// Where a filter excludes what lies around the query, the nearest of what it allows are dense, and codes
    /// cannot tell them apart: then candidates are scored until it is unlikely that another one counts, and
    /// looked for further out as long as it is not.
    ///
    /// # Errors
    /// `Cancelled`, and as [`RawVectors::fetch`].
    pub(crate) fn nearest(
        &self,
        mut wanted: Wanted<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<Hit>,
    ) -> Result<()> {
        let (Self { index, plan, .. }, k) = (self, wanted.needed);
        loop {
            let reach = index.candidates(wanted, self.stop, scratch)?;
            if reach == Reach::Near || wanted.allowed.set.is_none() {
                scratch.candidates.truncate(plan.reranked);
                let margin = plan.ends_early.then(|| Margin::new(plan.slope));
                return index.rerank(self.scorer, self.raw, k, margin, scratch, out);
            }
            if self.score_candidates(k, scratch)?
                || scratch.candidates.len() >= wanted.allowed.count
            {
                break;
            }
            if let Reach::Past(factor) = reach {
                wanted.widened = factor * WIDENING;
                continue;
            }
            let mut ranked = Ranked::default();
            let mut see = |key, row| {
                ranked.push(key, row);
                f32::INFINITY
            };
            index.scan_all(wanted.allowed, self.stop, scratch, &mut see)?;
            let Scratch { topk, room, .. } = scratch;
            let mut scoring = self.plan.begin(topk, k);
            let key = |row| self.key(row, room);
            ranked.score(&mut scoring, self.stop, |row| self.ask(row), key)?;
            break;
        }
        scratch.topk.drain_into(index.metric(), out);
        Ok(())
    }

    /// Scores the candidates and keeps the best in the scratch; whether it is unlikely that another row counts.
    fn score_candidates(&self, k: usize, scratch: &mut Scratch) -> Result<bool> {
        let Scratch {
            candidates,
            topk,
            room,
            ..
        } = scratch;
        let mut scoring = self.plan.begin(topk, k);
        let rows = candidates.iter().copied();
        let key = |row| self.key(row, room);
        let has_ended = scoring.offer(rows, |row| self.ask(row), key)?;
        let is_over = |(key, _): &(f32, u32)| scoring.is_over(*key);
        Ok(has_ended || candidates.last().is_none_or(is_over))
    }

    #[inline]
    fn key(&self, row: u32, room: &mut RowRoom) -> Result<f32> {
        let (values, norm) = self.index.fetch(self.raw, row, room)?;
        Ok(self.scorer.key(values, norm))
    }

    #[inline]
    fn ask(&self, row: u32) {
        if !self.index.is_read(self.raw) {
            let (values, _) = self.index.exact(self.raw, row);
            values.prefetch(usize::MAX / LINE_BYTES);
        }
    }
}

impl Plan {
    fn begin(self, best: &mut TopK, k: usize) -> Scoring<'_> {
        best.reset(k);
        Scoring {
            best,
            trend: Trend::new(self.slope, LIKELY_FAR),
            least: self.reranked,
            ends_early: self.ends_early,
            scored: 0,
        }
    }
}
