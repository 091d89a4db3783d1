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
    loop {
        stop.check()?;
        let is_last = !fetch_next(layer, codes, walk);
        if !walk.fresh.is_empty() {
            score_fetched(layer, codes, prepared, walk);
            see(prepared, walk);
        } else if is_last {
            return Ok(());
        }
        std::mem::swap(&mut walk.fresh, &mut walk.coming);
    }
}

/// Takes the next node and asks for the rows of those of its neighbours that are new; whether there was one.
#[inline]
fn fetch_next<C: Comparable>(layer: &impl Layer, codes: &C, walk: &mut Walk) -> bool {
    walk.coming.clear();
    let Some(node) = walk.pool.next() else {
        return false;
    };
    let links = layer.neighbours(node, &mut walk.nodes);
    walk.visited.insert_all(links, &mut walk.coming);
    let rows = layer.rows(&walk.coming, &mut walk.rows);
    codes.prefetch(rows, walk.pool.limit());
    let soon = walk.pool.upcoming(NEXT_LINKS);
    soon.for_each(|node| layer.prefetch(node));
    true
}

/// Offers the fresh nodes, whose rows were asked for, to the pool.
#[inline]
pub(super) fn score_fetched<C: Comparable>(
    layer: &impl Layer,
    codes: &C,
    prepared: &mut C::Query,
    walk: &mut Walk,
) {
    let rows = layer.rows(&walk.fresh, &mut walk.rows);
    walk.keys.clear();
    codes.keys(prepared, rows, walk.pool.limit(), &mut walk.keys);
    for (node, key) in walk.fresh.iter().zip(&walk.keys) {
        walk.pool.insert(*key, *node);
    }
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
    score_fetched(layer, codes, prepared, walk);
}

/// Nodes whose links are asked for while others are scored: they are next unless those are nearer.
const NEXT_LINKS: usize = 4;
