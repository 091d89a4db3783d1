//! Finding candidates by the cheapest way that finds enough, and scoring them exactly.

use super::HnswIndex;
use super::scratch::{Scratch, Walk};
use super::walk::{Filter, beam, filtered_beam, greedy};
use crate::allowed::Allowed;
use crate::buffer::view;
use crate::codes::Prepared;
use crate::error::Result;
use crate::flat::{allowed_rows, scan_exact};
use crate::index::Hit;
use crate::params::{RangeBounds, SearchParams};
use crate::raw::{ExactScorer, RawVectors, flip};
use crate::rerank::rerank;
use redkite_types::StopFlag;

/// A row read in order by a scan costs about this fraction of one met on a walk.
const SCAN_ADVANTAGE: f64 = 2.0;

/// Rows that a walk scores for each place of its pool.
const ROWS_PER_PLACE: f64 = 20.0;

/// The same of a filtered walk, which reads many more links besides.
const FILTERED_ROWS_PER_PLACE: f64 = 50.0;

/// Below this part of rows allowed, two hops no longer meet enough of them to keep a walk together.
const WALKABLE_FRACTION: f64 = 0.1;

/// Rows whose keys a scan computes at once.
const SCAN_BLOCK: usize = 64;

/// How candidates are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strategy {
    /// Compare the codes of all allowed rows.
    Scan,
    /// Walk through allowed rows only, two hops at a time.
    FilteredWalk,
    /// Walk as if there were no filter, with a pool large enough to lose what it excludes.
    Walk,
}

/// Chooses by the expected number of rows compared.
fn choose(rows: usize, allowed: usize, pool_size: usize) -> Strategy {
    let fraction = allowed as f64 / rows.max(1) as f64;
    let (strategy, per_place) = if fraction >= 0.9 {
        (Strategy::Walk, ROWS_PER_PLACE)
    } else {
        let thinned = (WALKABLE_FRACTION / fraction.max(f64::MIN_POSITIVE)).max(1.0);
        (Strategy::FilteredWalk, FILTERED_ROWS_PER_PLACE * thinned)
    };
    if allowed as f64 <= per_place * pool_size as f64 * SCAN_ADVANTAGE {
        Strategy::Scan
    } else {
        strategy
    }
}

/// Candidates to score exactly for `k` results: enough to undo what rounding to 8 bits mixed up, or
/// as many as were asked for.
fn rerank_count(k: usize, params: &SearchParams) -> usize {
    let refined = (f64::from(params.refine_k.unwrap_or(1.0)) * k as f64).ceil();
    (k + k / 2 + 5).max(refined as usize)
}

impl HnswIndex {
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
        let reranked = rerank_count(k, params).min(allowed.count.max(k));
        let pool_size = params.pool_size(k)?.min(allowed.count).max(reranked);
        self.codes.prepare(query, &mut scratch.prepared);
        self.candidates(allowed, pool_size, k, stop, scratch)?;
        scratch.candidates.truncate(reranked);
        let scorer = ExactScorer::new(self.codes.metric, query, raw.element());
        self.rerank(&scorer, raw, k, scratch, out);
        Ok(())
    }

    /// Fills the scratch's candidates with about `pool_size` allowed rows near the prepared query,
    /// best first: at least `needed`, if so many are allowed.
    fn candidates(
        &self,
        allowed: Allowed<'_>,
        pool_size: usize,
        needed: usize,
        stop: &StopFlag,
        scratch: &mut Scratch,
    ) -> Result<()> {
        scratch.candidates.clear();
        let strategy = choose(self.codes.rows, allowed.count, pool_size);
        let Scratch {
            walk,
            prepared,
            candidates,
            ..
        } = scratch;
        let entry = match strategy {
            Strategy::Scan => 0,
            Strategy::Walk | Strategy::FilteredWalk => self.descend(prepared, walk),
        };
        if strategy == Strategy::Walk {
            let mut widened = pool_size * self.codes.rows / allowed.count.max(1);
            loop {
                beam(
                    &self.view(0),
                    &self.codes,
                    prepared,
                    walk,
                    entry,
                    widened,
                    stop,
                )?;
                let is_allowed = |row: &u32| allowed.set.is_none_or(|set| set.get(*row as usize));
                candidates.extend(walk.pool.iter().map(|(_, row)| row).filter(is_allowed));
                if candidates.len() >= needed.max(pool_size * 3 / 4).min(allowed.count) {
                    return Ok(());
                }
                // The filter excludes more around the query than on average: look further out,
                // through what it excludes, until a scan is cheaper.
                candidates.clear();
                widened *= 4;
                if choose(self.codes.rows, allowed.count, widened) == Strategy::Scan {
                    break;
                }
            }
        }
        if let (Strategy::FilteredWalk, Some(set)) = (strategy, allowed.set) {
            let filter = Filter {
                set,
                fraction: allowed.count as f64 / self.codes.rows as f64,
                budget: allowed.count,
            };
            let degree = super::graph::max_links(self.m, 0);
            let layer = self.view(0);
            let is_done = filtered_beam(
                &layer,
                &self.codes,
                prepared,
                walk,
                entry,
                &filter,
                pool_size,
                degree,
                stop,
            )?;
            if is_done && walk.pool.len() >= pool_size.min(allowed.count) {
                candidates.extend(walk.pool.iter().map(|(_, row)| row));
                return Ok(());
            }
        }
        self.scan_codes(allowed, pool_size, stop, scratch)
    }

    /// Goes down the upper levels to the entry of level 0.
    fn descend(&self, prepared: &mut Prepared, walk: &mut Walk) -> u32 {
        let mut entry = 0;
        for level in (1..self.levels.len()).rev() {
            let layer = self.view(level);
            entry = greedy(&layer, &self.codes, prepared, walk, entry);
            entry = layer.below(entry);
        }
        entry
    }

    /// Compares the codes of all allowed rows.
    fn scan_codes(
        &self,
        allowed: Allowed<'_>,
        pool_size: usize,
        stop: &StopFlag,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let Scratch {
            walk,
            prepared,
            topk,
            candidates,
        } = scratch;
        topk.reset(pool_size);
        let mut pending = allowed_rows(allowed.set, self.codes.rows);
        loop {
            stop.check()?;
            walk.rows.clear();
            walk.rows.extend(pending.by_ref().take(SCAN_BLOCK));
            if walk.rows.is_empty() {
                break;
            }
            walk.keys.clear();
            self.codes.keys(prepared, &walk.rows, &mut walk.keys);
            for (row, key) in walk.rows.iter().zip(&walk.keys) {
                topk.push(*key, *row);
            }
        }
        candidates.clear();
        topk.drain_rows(candidates);
        Ok(())
    }

    /// Scores the candidates exactly and appends the best `k`.
    fn rerank(
        &self,
        scorer: &ExactScorer<'_>,
        raw: &dyn RawVectors,
        k: usize,
        scratch: &mut Scratch,
        out: &mut Vec<Hit>,
    ) {
        let norms: &[f32] = view(&self.inverse_norms);
        let (candidates, topk) = (&scratch.candidates, &mut scratch.topk);
        let metric = self.codes.metric;
        rerank(scorer, metric, raw, norms, candidates, k, topk, out);
    }

    /// The best `limit` allowed rows within a range; everything was checked.
    ///
    /// Looks at ever more of the nearest rows until there are enough in the range or the last lies
    /// beyond it; when that would be a good part of all, scores every row instead.
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
        let metric = self.codes.metric;
        let scorer = ExactScorer::new(metric, query, raw.element());
        let start = out.len();
        self.codes.prepare(query, &mut scratch.prepared);
        // Here `ef` says where to begin, so one below the limit is no error.
        let mut pool_size = params.ef.unwrap_or(RANGE_FIRST_POOL).max(RANGE_FIRST_POOL);
        while pool_size * RANGE_SCAN_FRACTION < allowed.count {
            self.candidates(allowed, pool_size, pool_size, stop, scratch)?;
            let found = scratch.candidates.len();
            self.rerank(&scorer, raw, found, scratch, out);
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
        let norms: &[f32] = view(&self.inverse_norms);
        let norm = |row: u32| norms.get(row as usize).copied().unwrap_or(1.0);
        let rows = allowed_rows(allowed.set, self.codes.rows);
        scratch.topk.reset(limit.min(allowed.count));
        scan_exact(&scorer, raw, norm, rows, stop, |row, key| {
            if range.contains(metric, flip(metric, key)) {
                scratch.topk.push(key, row);
            }
        })?;
        scratch.topk.drain_into(metric, out);
        Ok(())
    }
}

/// Rows that a range search looks at first.
const RANGE_FIRST_POOL: usize = 64;

/// A range search that would look at more than this part of the allowed rows looks at all.
const RANGE_SCAN_FRACTION: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_allowed_rows_are_scanned_and_many_walked() {
        assert_eq!(choose(100_000, 100_000, 40), Strategy::Walk);
        assert_eq!(choose(100_000, 50_000, 40), Strategy::FilteredWalk);
        assert_eq!(choose(100_000, 10_000, 40), Strategy::FilteredWalk);
        assert_eq!(choose(100_000, 1_000, 40), Strategy::Scan);
        assert_eq!(choose(1_000_000, 10_000, 40), Strategy::Scan);
        assert_eq!(choose(100_000, 0, 40), Strategy::Scan);
        assert_eq!(choose(500, 500, 40), Strategy::Scan);
        assert_eq!(choose(0, 0, 40), Strategy::Scan);
    }
}
