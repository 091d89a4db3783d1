//! Walking the lowest level of a graph among the rows that a filter allows.

use redkite_types::{BitSet, StopFlag};

use super::candidates::Graph;
use super::graph::Layer;
use super::scratch::{PoolSize, Walk};
use super::walk::{beam_seen, score_streaming};
use crate::codes::Comparable;
use crate::error::Result;

/// Nodes of the unfiltered walk that leads a filtered one to the query's surroundings.
const SCOUTS: usize = 8;

/// From this fraction on, eight scouts without one allowed row are no accident: it happens to one search in eighty.
const SCOUTS_TELL_FROM: f64 = 0.42;

/// When scouts meet less than this part of the allowed rows that they should, and less than by chance, the
/// filter excludes what lies around the query: two hops from a few rows on the rim lead to one side of it only.
const HOLE: f64 = 0.5;

/// Standard deviations that are no chance.
const SKEW: f64 = 3.5;

/// What a filtered walk may return.
pub(super) struct Filter<'a> {
    pub(super) set: &'a BitSet,
    /// Part of all rows that the filter allows.
    pub(super) fraction: f64,
    /// Nodes to touch before giving up.
    pub(super) budget: usize,
}

/// How a filtered walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Found,
    /// The filter excludes what lies around the query.
    Hole,
    /// The allowed rows hang together too little to walk.
    Lost,
}

/// A walk on the graph that the allowed rows would form, each linked to the allowed neighbours of its
/// neighbours.
///
/// # Source
/// ACORN-1 (Patel et al. 2024): two hops through neighbours that do not pass.
pub(super) struct FilteredWalk<'a, L, C> {
    pub(super) graph: &'a Graph<'a, L, C>,
    pub(super) filter: Filter<'a>,
    pub(super) stop: &'a StopFlag,
}

impl<L: Layer, C: Comparable> FilteredWalk<'_, L, C> {
    /// Fills the walk's pool with the nearest allowed rows it can find from `entry`.
    ///
    /// Gives up after touching more nodes than the budget, or when the query lies in a hole of the filter, on
    /// whose rim a walk would find one side.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(super) fn run(
        &self,
        prepared: &mut C::Query,
        walk: &mut Walk,
        entry: u32,
        size: PoolSize,
    ) -> Result<Ending> {
        let scouts = self.scout(prepared, walk, entry, size)?;
        let allow = self.filter.set;
        let none_allowed = !scouts.iter().any(|scout| allow.get(*scout as usize));
        if none_allowed && self.filter.fraction >= SCOUTS_TELL_FROM
            || self.are_too_few(&walk.scouted)
            || self.are_too_few(nearer_half(&mut walk.scouted))
        {
            return Ok(Ending::Hole);
        }
        // Also where they met enough rows: those allowed within two hops of the scouts are the nearest.
        let mut scouts = scouts.into_iter();
        walk.fresh.clear();
        walk.met.clear();
        walk.blocked.clear();
        walk.asked = 0;
        let (mut touched, mut has_looked) = (0, false);
        loop {
            // One node's rows are compared while those of the next and the links around the one after come from
            // memory.
            self.stop.check()?;
            if touched > self.filter.budget {
                return Ok(Ending::Lost);
            }
            touched += self.hop(walk);
            let next = scouts.next().or_else(|| walk.pool.next());
            if let Some(node) = next {
                self.look_around(walk, node);
            }
            score_streaming(&self.graph.layer, self.graph.codes, prepared, walk);
            if walk.fresh.is_empty() && next.is_none() && !has_looked {
                return Ok(Ending::Found);
            }
            has_looked = next.is_some();
            std::mem::swap(&mut walk.fresh, &mut walk.coming);
            if let Some(next) = walk.pool.peek() {
                self.graph.layer.prefetch(next);
            }
        }
    }

    /// Walks as if there were no filter, and leaves the nearest allowed rows that it met in the pool.
    /// Answers the nodes where it ended.
    fn scout(
        &self,
        prepared: &mut C::Query,
        walk: &mut Walk,
        entry: u32,
        size: PoolSize,
    ) -> Result<[u32; SCOUTS]> {
        let Graph { layer, codes, .. } = self.graph;
        walk.found.reset(size);
        walk.scouted.clear();
        let words = self.filter.set.words();
        let keep_allowed = |prepared: &mut C::Query, walk: &mut Walk| {
            let Walk {
                fresh,
                keys,
                met,
                found,
                scouted,
                ..
            } = walk;
            let keyed = fresh.iter().zip(&*keys);
            scouted.extend(keyed.map(|(node, key)| (*key, bit(words, *node) == 1)));
            keep(words, fresh, met);
            // What was good enough to tell the way is not for what is found.
            keys.clear();
            codes.keys(prepared, met, found.limit(), keys);
            for (node, key) in met.iter().zip(&*keys) {
                found.insert(*key, *node);
            }
        };
        let few = PoolSize::of(SCOUTS);
        beam_seen(
            layer,
            *codes,
            prepared,
            walk,
            entry,
            few,
            self.stop,
            keep_allowed,
        )?;
        let scouts: [u32; SCOUTS] = {
            let mut ends = walk.pool.iter().map(|(_, node)| node);
            std::array::from_fn(|_| ends.next().unwrap_or(entry))
        };
        std::mem::swap(&mut walk.pool, &mut walk.found);
        walk.passed.reset(layer.nodes());
        for scout in scouts {
            walk.passed.insert(scout);
        }
        Ok(scouts)
    }

    /// Whether fewer of the rows that scouts met are allowed than by chance.
    fn are_too_few(&self, met: &[(f32, bool)]) -> bool {
        let fraction = self.filter.fraction;
        let allowed = met.iter().filter(|(_, is_allowed)| *is_allowed).count();
        let expected = met.len() as f64 * fraction;
        let chance = SKEW * (expected * (1.0 - fraction).max(0.0)).sqrt();
        (allowed as f64) < (HOLE * expected).min(expected - chance)
    }

    /// Parts the neighbours of a node into those allowed and others, and asks for the links of these.
    fn look_around(&self, walk: &mut Walk, node: u32) {
        let layer = &self.graph.layer;
        let Walk {
            passed,
            nodes,
            met,
            blocked,
            ..
        } = walk;
        let words = self.filter.set.words();
        part(words, layer.neighbours(node, nodes), met, blocked);
        passed.retain_new(blocked);
        blocked.iter().for_each(|between| layer.prefetch(*between));
    }

    /// Asks for the rows of the allowed nodes within two hops of the node that was looked around that are new, about
    /// as many as a node has links; answers how many nodes it touched.
    fn hop(&self, walk: &mut Walk) -> usize {
        let layer = &self.graph.layer;
        let words = self.filter.set.words();
        let Walk {
            visited,
            passed,
            nodes,
            coming,
            met,
            blocked,
            ..
        } = walk;
        coming.clear();
        visited.insert_all(met, coming);
        let mut hops = 0;
        for between in blocked.iter() {
            if coming.len() >= self.graph.degree {
                break;
            }
            // Only now: one that was not looked through may still be, from elsewhere.
            passed.insert(*between);
            hops += 1;
            keep(words, layer.neighbours(*between, nodes), met);
            visited.insert_all(met, coming);
        }
        met.clear();
        blocked.clear();
        hops + walk.coming.len()
    }
}

/// The half of the rows with the smaller keys: scouts come from further away.
fn nearer_half(met: &mut [(f32, bool)]) -> &[(f32, bool)] {
    let half = met.len() / 2;
    if half > 0 {
        met.select_nth_unstable_by(half, |a, b| a.0.total_cmp(&b.0));
    }
    &met[..half]
}

/// Whether a row is among those that the words of a set say; 0 or 1, to be added without a branch.
#[inline]
fn bit(words: &[u64], row: u32) -> usize {
    let word = words.get(row as usize / 64).copied().unwrap_or(0);
    (word >> (row % 64) & 1) as usize
}

/// Replaces `inside` by the nodes that are in a set, without a branch: whether one is can be as good
/// as random.
#[inline]
fn keep(words: &[u64], nodes: &[u32], inside: &mut Vec<u32>) {
    inside.resize(nodes.len(), 0);
    let mut count = 0;
    for node in nodes {
        inside[count] = *node;
        count += bit(words, *node);
    }
    inside.truncate(count);
}

/// As [`keep`]; `outside` becomes the others.
#[inline]
fn part(words: &[u64], nodes: &[u32], inside: &mut Vec<u32>, outside: &mut Vec<u32>) {
    inside.resize(nodes.len(), 0);
    outside.resize(nodes.len(), 0);
    let (mut ins, mut outs) = (0, 0);
    for node in nodes {
        inside[ins] = *node;
        outside[outs] = *node;
        let is_inside = bit(words, *node);
        ins += is_inside;
        outs += 1 - is_inside;
    }
    inside.truncate(ins);
    outside.truncate(outs);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    #[test]
    fn nodes_are_parted_as_the_set_says_and_in_order() {
        let mut rng = Rng::from_env();
        for len in [0, 1, 64, 1000] {
            let set = BitSet::from_fn(len, |_| rng.unit() < 0.3);
            for count in [0, 1, 32, 100] {
                // Some lie past the end of the set, which allows none of those.
                let nodes: Vec<u32> = (0..count).map(|_| rng.below(1100) as u32).collect();
                let (within, without): (Vec<u32>, Vec<u32>) =
                    nodes.iter().partition(|node| set.get(**node as usize));
                let (mut inside, mut outside) = (vec![7; 5], vec![7; 50]);
                part(set.words(), &nodes, &mut inside, &mut outside);
                assert_eq!((&inside, &outside), (&within, &without));
                inside.push(7);
                keep(set.words(), &nodes, &mut inside);
                assert_eq!(inside, within);
            }
        }
    }
}
