//! Walking one level of a graph.

use redkite_types::BitSet;

use super::graph::Layer;
use super::scratch::Walk;
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
    walk.visited.reset(layer.nodes());
    walk.visited.insert(entry);
    loop {
        let from = best;
        layer.neighbours(from, &mut walk.nodes);
        // Half of a node's neighbours are those of the node before.
        walk.fresh.clear();
        walk.visited.insert_all(&walk.nodes, &mut walk.fresh);
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

/// Fills the walk's pool with the `pool_size` nearest nodes it can find from `entry`.
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
    pool_size: usize,
    stop: &StopFlag,
) -> Result<()> {
    walk.visited.reset(layer.nodes());
    walk.pool.reset(pool_size);
    walk.visited.insert(entry);
    walk.fresh.clear();
    walk.fresh.push(entry);
    score_fresh(layer, codes, prepared, walk);
    while let Some(node) = walk.pool.next() {
        stop.check()?;
        walk.fresh.clear();
        let second = walk.pool.next();
        for node in [Some(node), second].into_iter().flatten() {
            layer.neighbours(node, &mut walk.nodes);
            walk.visited.insert_all(&walk.nodes, &mut walk.fresh);
        }
        score_fresh(layer, codes, prepared, walk);
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

/// Nodes of the unfiltered walk that leads a filtered one to the query's surroundings.
const SCOUT_POOL: usize = 12;

/// What a filtered walk may return.
pub(super) struct Filter<'a> {
    pub(super) set: &'a BitSet,
    /// Part of all rows that the filter allows.
    pub(super) fraction: f64,
    /// Nodes to touch before giving up.
    pub(super) budget: usize,
}

/// From this fraction on, twelve scouts without one allowed row are no accident.
const SCOUTS_TELL_FROM: f64 = 0.3;

/// Like [`beam`] on level 0, but only allowed rows enter the pool: a walk on the graph that the
/// allowed rows would form, each linked to the allowed neighbours of its neighbours.
///
/// Gives up, and answers `false`, when a scan is the better way: after touching more nodes than the
/// budget, or when the query lies in a hole of the filter, on whose rim a walk would find one side.
///
/// # Source
/// ACORN-1 (Patel et al. 2024): two hops through neighbours that do not pass.
#[allow(
    clippy::too_many_arguments,
    reason = "the graph, the query, the filter and the limits of one walk"
)]
pub(super) fn filtered_beam<C: Comparable>(
    layer: &impl Layer,
    codes: &C,
    prepared: &mut C::Query,
    walk: &mut Walk,
    entry: u32,
    filter: &Filter<'_>,
    pool_size: usize,
    degree: usize,
    stop: &StopFlag,
) -> Result<bool> {
    let allow = filter.set;
    beam(layer, codes, prepared, walk, entry, SCOUT_POOL, stop)?;
    let scouts: [u32; SCOUT_POOL] = {
        let mut nodes = walk.pool.iter().map(|(_, node)| node);
        std::array::from_fn(|_| nodes.next().unwrap_or(entry))
    };
    let is_hole = !scouts.iter().any(|scout| allow.get(*scout as usize));
    if is_hole && filter.fraction >= SCOUTS_TELL_FROM {
        return Ok(false);
    }
    walk.visited.reset(layer.nodes());
    walk.pool.reset(pool_size);
    walk.fresh.clear();
    for scout in scouts {
        if allow.get(scout as usize) && walk.visited.insert(scout) {
            walk.fresh.push(scout);
        }
    }
    score_fresh(layer, codes, prepared, walk);
    let mut touched = 0;
    for scout in scouts {
        touched += expand_filtered(layer, walk, scout, allow, degree);
        score_fresh(layer, codes, prepared, walk);
    }
    while let Some(node) = walk.pool.next() {
        stop.check()?;
        if touched > filter.budget {
            return Ok(false);
        }
        touched += expand_filtered(layer, walk, node, allow, degree);
        score_fresh(layer, codes, prepared, walk);
        if let Some(next) = walk.pool.peek() {
            layer.prefetch(next);
        }
    }
    Ok(true)
}

/// Collects the allowed nodes within two hops that are new, about `degree` of them, into `fresh`;
/// answers how many nodes it touched.
fn expand_filtered(
    layer: &impl Layer,
    walk: &mut Walk,
    node: u32,
    allow: &BitSet,
    degree: usize,
) -> usize {
    layer.neighbours(node, &mut walk.nodes);
    walk.fresh.clear();
    walk.blocked.clear();
    for neighbour in &walk.nodes {
        if allow.get(*neighbour as usize) {
            if walk.visited.insert(*neighbour) {
                walk.fresh.push(*neighbour);
            }
        } else if !walk.visited.contains(*neighbour) {
            layer.prefetch(*neighbour);
            walk.blocked.push(*neighbour);
        }
    }
    let mut hops = 0;
    for between in &walk.blocked {
        if walk.fresh.len() >= degree {
            break;
        }
        // Marked only now: one that was not looked through may still be, from elsewhere.
        walk.visited.insert(*between);
        hops += 1;
        layer.neighbours(*between, &mut walk.nodes);
        for neighbour in &walk.nodes {
            if allow.get(*neighbour as usize) && walk.visited.insert(*neighbour) {
                walk.fresh.push(*neighbour);
            }
        }
    }
    hops + walk.fresh.len()
}
