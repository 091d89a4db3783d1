//! Walking one level of a graph.

use super::graph::Layer;
use super::scratch::{PoolSize, Walk};
use crate::codes::Comparable;
use crate::error::Result;
use redkite_types::StopFlag;

/// Moves to the nearest neighbour until none is nearer.
///
/// # Source
/// Malkov & Yashunin 2016, Algorithm 2 with ef = 1.
pub(super) fn greedy<C: Comparable>(
    layer: &impl Layer,
    codes: &C,
    prepared: &mut C::Query,
    walk: &mut Walk,
    entry: u32,
) -> u32 {
    let mut best = entry;
    walk.keys.clear();
    let first = [entry];
    let rows = layer.rows(&first, &mut walk.rows);
    codes.keys(prepared, rows, f32::INFINITY, &mut walk.keys);
    let mut best_key = walk.keys[0];
    walk.climbed.reset(layer.nodes());
    walk.climbed.insert(entry);
    loop {
        let from = best;
        // Half of a node's neighbours are those of the node before.
        walk.fresh.clear();
        let links = layer.neighbours(from, &mut walk.nodes);
        walk.climbed.insert_all(links, &mut walk.fresh);
        let rows = layer.rows(&walk.fresh, &mut walk.rows);
        codes.prefetch(rows, best_key);
        // Before it is known which of them is next: its links would be waited for after its codes.
        walk.fresh.iter().for_each(|node| layer.prefetch(*node));
        walk.keys.clear();
        codes.keys(prepared, rows, best_key, &mut walk.keys);
        for (node, key) in walk.fresh.iter().zip(&walk.keys) {
            if *key < best_key {
                (best, best_key) = (*node, *key);
            }
        }
        if best == from {
            return best;
        }
    }
}

/// Fills the walk's pool with the nearest nodes it can find from `entry`.
///
/// # Errors
/// `Cancelled`.
///
/// # Source
/// Malkov & Yashunin 2016, Algorithm 2, with one sorted pool instead of two heaps, and one node ahead: the
/// neighbours of the next one come from memory while those of the one before are compared. Nearly always it would
/// have been next anyway.
pub(crate) fn beam<C: Comparable>(
    layer: &impl Layer,
    codes: &C,
    prepared: &mut C::Query,
    walk: &mut Walk,
    entry: u32,
    size: PoolSize,
    stop: &StopFlag,
) -> Result<()> {
    beam_seen(layer, codes, prepared, walk, entry, size, stop, |_, _| ())
}

/// As [`beam`]; `see` is called whenever the fresh nodes have got their keys, some of which may be estimates.
#[allow(
    clippy::too_many_arguments,
    reason = "the graph, the query and the limits of one walk"
)]
pub(super) fn beam_seen<C: Comparable>(
    layer: &impl Layer,
    codes: &C,
    prepared: &mut C::Query,
    walk: &mut Walk,
    entry: u32,
    size: PoolSize,
    stop: &StopFlag,
    mut see: impl FnMut(&mut C::Query, &mut Walk),
) -> Result<()> {
    walk.visited.reset(layer.nodes());
    walk.pool.reset(size);
    walk.visited.insert(entry);
    walk.fresh.clear();
    walk.fresh.push(entry);
    score_fresh(layer, codes, prepared, walk);
    see(prepared, walk);
    walk.fresh.clear();
    walk.asked = 0;
    loop {
        stop.check()?;
        let is_last = !take_next(layer, walk);
        score_streaming(layer, codes, prepared, walk);
        if !walk.fresh.is_empty() {
            see(prepared, walk);
        } else if is_last {
            return Ok(());
        }
        std::mem::swap(&mut walk.fresh, &mut walk.coming);
    }
}

/// Takes the next node and makes those of its neighbours that are new the ones that come; whether there was one.
#[inline]
fn take_next(layer: &impl Layer, walk: &mut Walk) -> bool {
    walk.coming.clear();
    let Some(node) = walk.pool.next() else {
        return false;
    };
    let links = layer.neighbours(node, &mut walk.nodes);
    walk.visited.insert_all(links, &mut walk.coming);
    let soon = walk.pool.upcoming(NEXT_LINKS);
    soon.for_each(|node| layer.prefetch(node));
    true
}

/// Cache lines that are on their way from memory at once. When more are asked for, a processor waits for room
/// before it goes on, and compares nothing meanwhile.
const LINES_IN_FLIGHT: usize = 24;

/// Rows that are compared between two looks at what else to ask for.
const ROWS_AT_ONCE: usize = 4;

/// Rows of more lines are asked for all at once: so few of them are on their way that those of a whole node had
/// better be among them.
const STEADY_LINES: usize = 3;

/// Offers the fresh nodes to the pool, and asks for rows at a steady distance ahead: first theirs, then of the nodes
/// that come.
#[inline]
pub(super) fn score_streaming<C: Comparable>(
    layer: &impl Layer,
    codes: &C,
    prepared: &mut C::Query,
    walk: &mut Walk,
) {
    let Walk {
        fresh,
        coming,
        rows,
        coming_rows,
        asked,
        pool,
        keys,
        ..
    } = walk;
    let rows = layer.rows(fresh, rows);
    let coming_rows = layer.rows(coming, coming_rows);
    let mut ask = |to: usize, limit: f32| {
        let to = to.min(rows.len() + coming_rows.len()).max(*asked);
        let of = |at: usize| (at.min(rows.len()), at.saturating_sub(rows.len()));
        let (first, last) = (of(*asked), of(to));
        codes.prefetch(&rows[first.0..last.0], limit);
        codes.prefetch(&coming_rows[first.1..last.1], limit);
        *asked = to;
    };
    keys.clear();
    let mut limit = pool.limit();
    let lines = codes.lines(limit);
    // Rows that are compared at once, and how far ahead others are asked for before and while they are.
    let (at_once, before, meanwhile) = match lines <= STEADY_LINES {
        true => {
            let ahead = LINES_IN_FLIGHT / lines;
            (ROWS_AT_ONCE, ahead, ahead)
        }
        // What their keys still need is asked for before what comes next.
        false => (
            rows.len().max(1),
            rows.len(),
            rows.len() + coming_rows.len(),
        ),
    };
    for (number, nodes) in fresh.chunks(at_once).enumerate() {
        let start = number * at_once;
        ask(start + before, limit);
        let compared = &rows[start..start + nodes.len()];
        codes.begin_keys(prepared, compared, limit, keys);
        ask(start + meanwhile, limit);
        codes.finish_keys(prepared, keys);
        for (node, key) in nodes.iter().zip(&keys[start..]) {
            pool.insert(*key, *node);
        }
        limit = pool.limit();
    }
    // Where nothing was fresh, nothing was asked for yet.
    ask(meanwhile, limit);
    *asked -= rows.len();
}

/// Offers the fresh nodes to the pool.
#[inline]
pub(crate) fn score_fresh<C: Comparable>(
    layer: &impl Layer,
    codes: &C,
    prepared: &mut C::Query,
    walk: &mut Walk,
) {
    let rows = layer.rows(&walk.fresh, &mut walk.rows);
    codes.prefetch(rows, walk.pool.limit());
    let soon = walk.pool.upcoming(NEXT_LINKS);
    soon.for_each(|node| layer.prefetch(node));
    walk.keys.clear();
    codes.keys(prepared, rows, walk.pool.limit(), &mut walk.keys);
    for (node, key) in walk.fresh.iter().zip(&walk.keys) {
        walk.pool.insert(*key, *node);
    }
}

/// Nodes whose links are asked for while others are scored: they are next unless those are nearer.
const NEXT_LINKS: usize = 4;
