//! Candidates on a graph, found by the cheapest way that finds enough.

use redkite_types::StopFlag;

use super::filtered::{Ending, Filter, FilteredWalk};
use super::graph::Layer;
use super::scratch::{PoolSize, Walk};
use super::walk::beam;
use crate::allowed::Allowed;
use crate::codes::Comparable;
use crate::error::Result;
use crate::flat::allowed_rows;
use crate::topk::TopK;

/// A row read in order by a scan costs about this fraction of one met on a walk.
const SCAN_ADVANTAGE: f64 = 4.0;

/// Rows that a walk scores until it is where the query is.
const ROWS_ON_THE_WAY: f64 = 300.0;

/// Rows that a walk scores for each node that it expands there.
const ROWS_PER_NODE: f64 = 20.0;

/// The same of a filtered walk, and what it costs to read the links of excluded neighbours besides.
const FILTERED_ROWS_PER_NODE: f64 = 40.0;

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
fn choose(rows: usize, allowed: usize, size: PoolSize) -> Strategy {
    let fraction = allowed as f64 / rows.max(1) as f64;
    let (strategy, per_node) = if fraction >= 0.9 {
        (Strategy::Walk, ROWS_PER_NODE)
    } else {
        let thinned = (WALKABLE_FRACTION / fraction.max(f64::MIN_POSITIVE)).max(1.0);
        (Strategy::FilteredWalk, FILTERED_ROWS_PER_NODE * thinned)
    };
    let walked = ROWS_ON_THE_WAY + per_node * size.expanded as f64;
    if allowed as f64 <= SCAN_ADVANTAGE * walked {
        Strategy::Scan
    } else {
        strategy
    }
}

/// A walk past what a filter excludes may find that it excludes more; so it must cost no more than this part
/// of a scan.
const WALK_PAST_FRACTION: f64 = 0.5;

/// Whether to walk past what a filter excludes, with a pool of this size, rather than to scan what it allows.
fn should_walk_past(allowed: usize, size: PoolSize) -> bool {
    let walked = ROWS_ON_THE_WAY + ROWS_PER_NODE * size.expanded as f64;
    SCAN_ADVANTAGE * walked < WALK_PAST_FRACTION * allowed as f64
}

/// How far candidates were looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reach {
    /// Around the query, where the filter leaves enough.
    Near,
    /// Past what the filter excludes around the query, with a pool so many times as large.
    Past(f64),
    /// Everywhere: all allowed rows were compared.
    All,
}

/// The lowest level of a graph and what its rows are compared by.
pub(crate) struct Graph<'a, L, C> {
    pub(crate) layer: L,
    pub(crate) codes: &'a C,
    pub(crate) rows: usize,
    /// Links of a node, at most.
    pub(crate) degree: usize,
}

/// How many candidates a search needs, and of which rows.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) allowed: Allowed<'a>,
    pub(crate) size: PoolSize,
    /// Candidates there must be, if so many rows are allowed.
    pub(crate) needed: usize,
    /// How many times as large the pool is with which to begin to walk past what the filter excludes; 1
    /// unless a smaller one did not find enough.
    pub(crate) widened: f64,
}

/// Buffers of a search on a graph.
pub(crate) struct Buffers<'a> {
    pub(crate) walk: &'a mut Walk,
    pub(crate) topk: &'a mut TopK,
    /// Keys, which are those of codes, and rows.
    pub(crate) candidates: &'a mut Vec<(f32, u32)>,
}

impl<L: Layer, C: Comparable> Graph<'_, L, C> {
    /// Fills the candidates with about `size.kept` allowed rows near the prepared query, best first, or with
    /// more where the filter excludes what is nearest. `entry` finds where a walk begins.
    pub(crate) fn candidates(
        &self,
        prepared: &mut C::Query,
        entry: impl FnOnce(&mut C::Query, &mut Walk) -> u32,
        wanted: Wanted<'_>,
        stop: &StopFlag,
        buffers: &mut Buffers<'_>,
    ) -> Result<Reach> {
        let Wanted {
            allowed,
            size,
            widened,
            ..
        } = wanted;
        buffers.candidates.clear();
        let usual = self.rows as f64 / allowed.count.max(1) as f64;
        let strategy = if widened <= 1.0 {
            choose(self.rows, allowed.count, size)
        } else if should_walk_past(allowed.count, size.times(widened)) {
            Strategy::Walk
        } else {
            Strategy::Scan
        };
        let mut past = match strategy {
            Strategy::Scan => None,
            Strategy::Walk => Some(usual.max(widened)),
            Strategy::FilteredWalk => Some(usual * HOLE_WIDENING),
        };
        let entry = match strategy {
            Strategy::Scan => 0,
            Strategy::Walk | Strategy::FilteredWalk => entry(prepared, buffers.walk),
        };
        match strategy {
            Strategy::FilteredWalk => {
                match self.walk_filtered(prepared, entry, wanted, stop, buffers)? {
                    Ending::Found => return Ok(Reach::Near),
                    Ending::Hole => {}
                    Ending::Lost => past = None,
                }
            }
            Strategy::Walk if widened <= 1.0 => {
                self.walk_all(prepared, entry, wanted, usual, stop, buffers)?;
                if !buffers.candidates.is_empty() {
                    return Ok(Reach::Near);
                }
                past = Some(usual * WIDENING);
            }
            Strategy::Walk | Strategy::Scan => {}
        }
        // The filter excludes more around the query than on average: look further out, through what it
        // excludes, until a scan is cheaper.
        while let Some(factor) = past.filter(|f| should_walk_past(allowed.count, size.times(*f))) {
            self.walk_all(prepared, entry, wanted, factor, stop, buffers)?;
            if !buffers.candidates.is_empty() {
                return Ok(Reach::Past(factor));
            }
            past = Some(factor * WIDENING);
        }
        let Buffers {
            walk,
            topk,
            candidates,
        } = buffers;
        // After a walk that met a hole it is known that codes will not tell apart what is nearest.
        topk.reset(match strategy {
            Strategy::Scan => size.kept,
            Strategy::Walk | Strategy::FilteredWalk => size.kept * KEPT_BEHIND_HOLE,
        });
        self.scan_codes(prepared, allowed, stop, walk, |key, row| {
            topk.push(key, row);
            topk.limit()
        })?;
        candidates.extend(topk.drain());
        Ok(Reach::All)
    }

    /// Walks as if there were no filter with a pool so many times as large, and leaves what is allowed of it
    /// in the candidates; none if that is too little.
    fn walk_all(
        &self,
        prepared: &mut C::Query,
        entry: u32,
        wanted: Wanted<'_>,
        widened: f64,
        stop: &StopFlag,
        buffers: &mut Buffers<'_>,
    ) -> Result<()> {
        let Wanted {
            allowed,
            size,
            needed,
            ..
        } = wanted;
        let Buffers {
            walk, candidates, ..
        } = buffers;
        let (layer, codes) = (&self.layer, self.codes);
        let wide = size.times(widened);
        beam(layer, codes, prepared, walk, entry, wide, stop)?;
        let is_allowed = |(_, row): &(f32, u32)| allowed.has(*row);
        candidates.extend(walk.pool.iter().filter(is_allowed));
        if candidates.len() < needed.max(size.kept * 3 / 4).min(allowed.count) {
            candidates.clear();
        }
        Ok(())
    }

    /// Walks among the allowed rows.
    fn walk_filtered(
        &self,
        prepared: &mut C::Query,
        entry: u32,
        wanted: Wanted<'_>,
        stop: &StopFlag,
        buffers: &mut Buffers<'_>,
    ) -> Result<Ending> {
        let Wanted { allowed, size, .. } = wanted;
        let Some(set) = allowed.set else {
            return Ok(Ending::Lost);
        };
        let Buffers {
            walk, candidates, ..
        } = buffers;
        let filter = Filter {
            set,
            fraction: allowed.count as f64 / self.rows as f64,
            budget: allowed.count,
        };
        let filtered = FilteredWalk {
            graph: self,
            filter,
            stop,
        };
        let ending = filtered.run(prepared, walk, entry, size)?;
        if ending == Ending::Found && walk.pool.len() < size.kept.min(allowed.count) {
            return Ok(Ending::Lost);
        }
        if ending == Ending::Found {
            candidates.extend(walk.pool.iter());
        }
        Ok(ending)
    }

    /// Compares the codes of all allowed rows; `see` gets the key of each, and answers above which ones it does not
    /// matter what they are.
    pub(crate) fn scan_codes(
        &self,
        prepared: &mut C::Query,
        allowed: Allowed<'_>,
        stop: &StopFlag,
        walk: &mut Walk,
        mut see: impl FnMut(f32, u32) -> f32,
    ) -> Result<()> {
        let mut pending = allowed_rows(allowed.set, self.rows);
        walk.fresh.clear();
        let mut limit = f32::INFINITY;
        loop {
            stop.check()?;
            // One block is scored while the next is on its way from memory.
            std::mem::swap(&mut walk.rows, &mut walk.fresh);
            walk.fresh.clear();
            walk.fresh.extend(pending.by_ref().take(SCAN_BLOCK));
            self.codes.prefetch(&walk.fresh, limit);
            if walk.rows.is_empty() && walk.fresh.is_empty() {
                return Ok(());
            }
            walk.keys.clear();
            self.codes.keys(prepared, &walk.rows, limit, &mut walk.keys);
            for (row, key) in walk.rows.iter().zip(&walk.keys) {
                limit = see(*key, *row);
            }
        }
    }
}

/// How many times as large the next pool is when one did not reach past what the filter excludes.
const WIDENING: f64 = 4.0;

/// The same of the first one after scouts that met no allowed row.
const HOLE_WIDENING: f64 = 8.0;

/// How many times as many candidates a scan keeps where the filter excludes what lies around the query.
const KEPT_BEHIND_HOLE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_allowed_rows_are_scanned_and_many_walked() {
        let of_40 = |rows, allowed| choose(rows, allowed, PoolSize::of(40));
        assert_eq!(of_40(100_000, 100_000), Strategy::Walk);
        assert_eq!(of_40(100_000, 50_000), Strategy::FilteredWalk);
        assert_eq!(of_40(100_000, 10_000), Strategy::FilteredWalk);
        assert_eq!(of_40(100_000, 1_000), Strategy::Scan);
        assert_eq!(of_40(1_000_000, 10_000), Strategy::Scan);
        assert_eq!(of_40(100_000, 0), Strategy::Scan);
        assert_eq!(of_40(500, 500), Strategy::Scan);
        assert_eq!(of_40(0, 0), Strategy::Scan);
        // The wider the pool, the more a walk costs.
        let wide = choose(100_000, 10_000, PoolSize::of(200));
        assert_eq!(wide, Strategy::Scan);
    }
}
