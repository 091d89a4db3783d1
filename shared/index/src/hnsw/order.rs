//! In which order the queries of a request walk through a graph.
//!
//! Walks of queries that are near each other meet the same rows. One after the other, the second finds their
//! codes and links in the processor's cache; with many other walks in between they are gone. What it brings,
//! on an index that does not fit there: `docs/benchmarks.md`. Two walks in turns, so that one computes while the
//! other's rows are on their way, gain nothing: what limits a walk is how many lines are on their way at once.

use redkite_types::{BitSet, StopFlag};

use crate::error::Result;
use crate::index::{Hit, VectorIndex};
use crate::kernel::kernels;
use crate::params::SearchParams;
use crate::raw::RawVectors;

/// Smaller indexes stay in the last cache, whatever the order is.
const LEAST_BYTES: usize = 64 << 20;

/// Fewer queries have hardly any that are near each other.
const LEAST_QUERIES: usize = 1_024;

/// Groups of queries: with more, finding the nearest costs more than it brings.
const GROUPS: usize = 256;

/// Queries among which the next one is looked for.
const WINDOW: usize = 256;

/// Searches for each of the queries, `[nq, dim]`, in an order that uses the cache, and appends the answers in
/// the order of the queries. Each search is the same as alone.
///
/// # Errors
/// As [`VectorIndex::search`].
#[allow(
    clippy::too_many_arguments,
    reason = "each is borrowed from a different owner on the hot path"
)]
pub(crate) fn search_many(
    index: &impl VectorIndex,
    queries: &[f32],
    raw: &dyn RawVectors,
    params: &SearchParams,
    allow: Option<&BitSet>,
    k: usize,
    stop: &StopFlag,
    out: &mut Vec<Vec<Hit>>,
) -> Result<()> {
    let queries: Vec<&[f32]> = queries.chunks(index.dim()).collect();
    let is_whole = queries.last().is_some_and(|last| last.len() == index.dim());
    let pays = queries.len() >= LEAST_QUERIES && index.memory_bytes() >= LEAST_BYTES;
    let order = match is_whole && pays {
        true => by_nearness(&queries, stop)?,
        false => (0..queries.len()).collect(),
    };
    let search = |at: usize, hits: &mut Vec<Hit>| {
        index.search(queries[at], raw, params, allow, k, stop, hits)
    };
    in_order(&order, search, out)
}

/// Searches in an order, and appends the answers as if it had been another one: that of the numbers.
fn in_order(
    order: &[usize],
    search: impl Fn(usize, &mut Vec<Hit>) -> Result<()>,
    out: &mut Vec<Vec<Hit>>,
) -> Result<()> {
    let start = out.len();
    out.resize(start + order.len(), Vec::new());
    for at in order {
        search(*at, &mut out[start + at])?;
    }
    Ok(())
}

/// The numbers of the queries, so that neighbours in this order are near each other: grouped around some of
/// them, and then from each to the nearest that is left of the next few.
///
/// # Errors
/// `Cancelled`.
fn by_nearness(queries: &[&[f32]], stop: &StopFlag) -> Result<Vec<usize>> {
    let distance = kernels().l2_f32;
    let groups = GROUPS.min(queries.len());
    let middles: Vec<&[f32]> = (0..groups)
        .map(|group| queries[group * queries.len() / groups])
        .collect();
    let mut grouped = Vec::with_capacity(queries.len());
    for (at, query) in queries.iter().enumerate() {
        stop.check()?;
        let distances = middles.iter().map(|middle| distance(query, middle));
        grouped.push((nearest(distances), at));
    }
    grouped.sort_unstable();
    let mut order: Vec<usize> = grouped.into_iter().map(|(_, at)| at).collect();
    let mut last = queries[order[0]];
    for window in order.chunks_mut(WINDOW) {
        for next in 0..window.len() {
            stop.check()?;
            let left = window[next..].iter();
            let found = nearest(left.map(|at| distance(last, queries[*at])));
            window.swap(next, next + found);
            last = queries[window[next]];
        }
    }
    Ok(order)
}

/// Where the smallest of the distances is; the first if there is none.
fn nearest(distances: impl Iterator<Item = f32>) -> usize {
    let mut best = (f32::INFINITY, 0);
    for (at, distance) in distances.enumerate() {
        if distance < best.0 {
            best = (distance, at);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use redkite_types::MetricType;

    use super::*;
    use crate::hnsw::HnswIndex;
    use crate::index::BuildOptions;
    use crate::params::IndexParams;
    use crate::raw::RawSlice;
    use crate::testing::{Clusters, Rng};

    #[test]
    fn the_order_changes_no_answer() {
        let (dim, k) = (16, 10);
        let mut clusters = Clusters::new(dim, 40, Rng::from_env());
        let (rows, queries) = (clusters.rows(2_000), clusters.rows(300));
        let stop = StopFlag::new();
        let options = BuildOptions {
            threads: 1,
            seed: 7,
            progress: None,
            stop: &stop,
        };
        let params = IndexParams::hnsw(MetricType::L2, 8, 60);
        let index = HnswIndex::build(&params, &rows, dim, &options).unwrap();
        let raw = RawSlice::new(&rows, dim).unwrap();
        let params = SearchParams::default();
        let search = |at: usize, hits: &mut Vec<Hit>| {
            let query = &queries[at * dim..][..dim];
            index.search(query, &raw, &params, None, k, &stop, hits)
        };
        let each: Vec<&[f32]> = queries.chunks(dim).collect();
        let order = by_nearness(&each, &stop).unwrap();
        // Behind answers that are there already.
        let (mut together, mut alone) = (vec![Vec::new()], vec![Vec::new()]);
        in_order(&order, search, &mut together).unwrap();
        for at in 0..each.len() {
            let mut hits = Vec::new();
            search(at, &mut hits).unwrap();
            alone.push(hits);
        }
        assert_eq!(together, alone);
    }

    #[test]
    fn every_query_has_its_turn_and_neighbours_are_near() {
        let (dim, count) = (16, 3_000);
        let values = Clusters::new(dim, 40, Rng::from_env()).rows(count);
        let queries: Vec<&[f32]> = values.chunks(dim).collect();
        let order = by_nearness(&queries, &StopFlag::new()).unwrap();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..count).collect::<Vec<_>>());
        let steps = |order: &[usize]| -> f32 {
            let pairs = order.windows(2);
            pairs
                .map(|pair| (kernels().l2_f32)(queries[pair[0]], queries[pair[1]]))
                .sum()
        };
        let (ordered, as_they_came) = (steps(&order), steps(&sorted));
        assert!(ordered < 0.5 * as_they_came, "{ordered} {as_they_came}");
        assert_eq!(order, by_nearness(&queries, &StopFlag::new()).unwrap());
    }

    #[test]
    fn queries_that_are_no_numbers_or_all_the_same_have_their_turn() {
        let stop = StopFlag::new();
        for value in [f32::NAN, f32::INFINITY, 1.0] {
            let query = [value; 4];
            let queries = vec![&query[..]; 600];
            let mut order = by_nearness(&queries, &stop).unwrap();
            order.sort_unstable();
            assert_eq!(order, (0..600).collect::<Vec<_>>());
        }
        stop.stop();
        assert!(by_nearness(&[&[1.0][..]; 70], &stop).is_err());
    }
}
