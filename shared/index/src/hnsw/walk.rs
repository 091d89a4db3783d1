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
    codes.keys(prepared, rows, &mut walk.keys);
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
        rows.iter().for_each(|row| codes.prefetch(*row));
        walk.keys.clear();
        codes.keys(prepared, rows, &mut walk.keys);
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
/// Malkov & Yashunin 2016, Algorithm 2, with one sorted pool instead of two heaps, and two nodes
/// expanded at once: their neighbours come from memory together, and nearly always the second would
/// have been next.
pub(crate) fn beam<C: Comparable>(
    layer: &impl Layer,
    codes: &C,
    prepared: &mut C::Query,
    walk: &mut Walk,
    entry: u32,
    size: PoolSize,
    stop: &StopFlag,
) -> Result<()> {
    beam_seen(layer, codes, prepared, walk, entry, size, stop, |_| ())
}

/// As [`beam`]; `see` is called whenever the fresh nodes have got their keys.
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
    mut see: impl FnMut(&mut Walk),
) -> Result<()> {
    walk.visited.reset(layer.nodes());
    walk.pool.reset(size);
    walk.visited.insert(entry);
    walk.fresh.clear();
    walk.fresh.push(entry);
    score_fresh(layer, codes, prepared, walk);
    see(walk);
    while let Some(node) = walk.pool.next() {
        stop.check()?;
        walk.fresh.clear();
        let second = walk.pool.next();
        for node in [Some(node), second].into_iter().flatten() {
            let links = layer.neighbours(node, &mut walk.nodes);
            walk.visited.insert_all(links, &mut walk.fresh);
        }
        score_fresh(layer, codes, prepared, walk);
        see(walk);
        let upcoming = walk.pool.upcoming(NEXT_LINKS);
        upcoming.for_each(|node| layer.prefetch(node));
    }
    Ok(())
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
    rows.iter().for_each(|row| codes.prefetch(*row));
    let soon = walk.pool.upcoming(NEXT_LINKS);
    soon.for_each(|node| layer.prefetch(node));
    walk.keys.clear();
    codes.keys(prepared, rows, &mut walk.keys);
    for (node, key) in walk.fresh.iter().zip(&walk.keys) {
        walk.pool.insert(*key, *node);
    }
}

/// Nodes whose links are asked for while others are scored: they are next unless those are nearer.
const NEXT_LINKS: usize = 4;
