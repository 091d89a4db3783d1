//! Hits with the scores of the codes, of lists that were built to do without the vectors.

use super::IvfIndex;
use super::compare::{Asked, Gathered, compare_blocks};
use super::search::Wanted;
use crate::allowed::Allowed;
use crate::index::Hit;
use crate::raw::{ExactScorer, RawVectors};
use crate::scoring::{CodeScores, Line};
use crate::topk::TopK;

impl IvfIndex {
    /// Whether so many rows are to be looked at that scoring all allowed ones exactly is no more work.
    pub(super) fn scans_instead(&self, wanted: &Wanted<'_>) -> bool {
        self.is_refined && wanted.allowed.count <= wanted.effort.rows
    }

    /// How keys become scores for a query as its metric compares it: these codes leave nothing out.
    fn code_scores(&self, query: &[f32]) -> CodeScores<'_> {
        let line = Line::of_estimates(self.metric, 0.0);
        CodeScores::new(self.metric, line, query, self.norms())
    }

    /// Appends the hits among the rows that were kept.
    pub(super) fn finish_by_codes(
        &self,
        wanted: &Wanted<'_>,
        asked: &mut Asked,
        topk: &mut TopK,
        out: &mut Vec<Hit>,
    ) {
        let scores = self.code_scores(&asked.query);
        topk.reset(wanted.k);
        for (of_codes, row) in asked.best.drain() {
            topk.push(scores.key(of_codes, row), row);
        }
        topk.drain_into(self.metric, out);
    }

    /// Calls `see` with the key of the score of each allowed row of a list, which were gathered. No vector is
    /// looked at.
    pub(super) fn score_by_codes(
        &self,
        (list, allowed): (u32, Allowed<'_>),
        (scorer, raw): (&ExactScorer<'_>, &dyn RawVectors),
        gathered: &mut Gathered,
        asked: &mut Asked,
        see: &mut dyn FnMut(f32, u32),
    ) {
        let base = self.base(list, asked);
        // Room for all of them: none is left out for being far.
        asked.best.reset(gathered.rows.len());
        match self.in_blocks() {
            Some(pq) => {
                let (rows, places) = (self.list_rows(), self.places(list));
                compare_blocks(pq, rows, places, base, allowed, asked);
            }
            None => self.compare(base, scorer, raw, gathered, asked),
        }
        let scores = self.code_scores(&asked.query);
        for (of_codes, row) in asked.best.drain() {
            see(scores.key(of_codes, row), row);
        }
    }
}
