//! What a walk needs besides the graph, kept per thread so that a search allocates nothing.

use std::cell::RefCell;

use crate::codes::Prepared;
use crate::product::ProductQuery;
use crate::raw::RowRoom;
use crate::topk::TopK;

/// A set of nodes: one bit each, so that the set of a walk through a million nodes stays in the
/// processor's second cache. Members are listed besides, so that only their bits are cleared.
#[derive(Default)]
pub(crate) struct NodeSet {
    words: Vec<u64>,
    /// In the order they came.
    members: Vec<u32>,
}

impl NodeSet {
    /// Takes all members out and makes room for `nodes`.
    pub(crate) fn reset(&mut self, nodes: usize) {
        if self.members.len() < self.words.len() / WORDS_A_MEMBER {
            for node in &self.members {
                self.words[*node as usize / 64] = 0;
            }
        } else {
            self.words.fill(0);
        }
        self.members.clear();
        let words = nodes.div_ceil(64);
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
    }

    /// Adds a node; whether it was not a member before.
    #[inline]
    pub(crate) fn insert(&mut self, node: u32) -> bool {
        let is_new = self.add(node);
        if is_new {
            self.members.push(node);
        }
        is_new
    }

    /// Adds nodes and appends those that were no members before to `fresh`, without a branch: whether
    /// a node was is as good as random.
    #[inline]
    pub(crate) fn insert_all(&mut self, nodes: &[u32], fresh: &mut Vec<u32>) {
        let start = fresh.len();
        fresh.resize(start + nodes.len(), 0);
        let room = &mut fresh[start..];
        let mut count = 0;
        for node in nodes {
            room[count] = *node;
            count += usize::from(self.add(*node));
        }
        fresh.truncate(start + count);
        self.members.extend_from_slice(&fresh[start..]);
    }

    /// Keeps those of `nodes` that are no members.
    #[inline]
    pub(crate) fn retain_new(&self, nodes: &mut Vec<u32>) {
        let mut count = 0;
        for at in 0..nodes.len() {
            let node = nodes[at];
            nodes[count] = node;
            let word = self.words[node as usize / 64];
            count += usize::from(word >> (node % 64) & 1 == 0);
        }
        nodes.truncate(count);
    }

    #[inline]
    fn add(&mut self, node: u32) -> bool {
        let word = &mut self.words[node as usize / 64];
        let bit = 1 << (node % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

/// Clearing so many words in a row costs as much as finding the one of a member.
const WORDS_A_MEMBER: usize = 8;

/// One node of a pool.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: f32,
    /// The highest bit says that its neighbours have been looked at.
    node: u32,
}

const EXPANDED: u32 = 1 << 31;

/// Nodes a graph can have: the highest bit of a node is a flag, and one number marks "no link".
pub(crate) const MAX_NODES: usize = (EXPANDED - 1) as usize;

/// How much a walk looks at and keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolSize {
    /// The walk ends when so many of the best nodes were expanded: `ef` of the paper.
    pub(crate) expanded: usize,
    /// Nodes that are kept, at least as many: those beyond were met on the way anyway, and scoring them
    /// exactly undoes what rounding mixed up.
    pub(crate) kept: usize,
    /// Where the walk ends instead, if that is known.
    pub(crate) horizon: Option<Horizon>,
}

impl PoolSize {
    /// All that are kept are expanded.
    pub(crate) fn of(nodes: usize) -> Self {
        Self {
            expanded: nodes,
            kept: nodes,
            horizon: None,
        }
    }

    /// So many times as much.
    pub(crate) fn times(self, factor: f64) -> Self {
        let widened = |nodes: usize| (nodes as f64 * factor) as usize;
        Self {
            expanded: widened(self.expanded),
            kept: widened(self.kept),
            horizon: self.horizon.map(|horizon| Horizon {
                nearest: (horizon.nearest as f64 * factor).ceil() as usize,
                ..horizon
            }),
        }
    }
}

/// The distance, as a multiple of that of one of the nearest nodes found, beyond which a walk expands none.
///
/// Queries differ in how many rows lie about as far away as those that they ask for: a walk of one length for all
/// looks at too little around some and at too much around others.
///
/// # Source
/// Distance-adaptive beam search (Al-Jazzazi et al. 2025, "Distance Adaptive Beam Search for Provably Accurate
/// Graph-Based Nearest Neighbor Search"); there the multiple is the parameter, here `ef` is, see
/// [`super::dimension`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Horizon {
    /// By the distance of this one of the nodes found, counted from 1.
    pub(crate) nearest: usize,
    /// The square of the multiple.
    pub(crate) square: f32,
    /// What must be added to a key to get what is in proportion to a squared distance.
    pub(crate) start: f32,
    /// What rounding adds to that: so much further away is no difference.
    pub(crate) slack: f32,
}

impl Horizon {
    /// The key of the horizon where the node that it goes by has this one.
    #[inline]
    fn key(&self, nearest: f32) -> f32 {
        self.square * (nearest + self.start).max(0.0) + self.slack - self.start
    }
}

/// A walk with a horizon expands so many times `ef` nodes at the most: queries unlike the rows may have all of them
/// within it.
pub(super) const MOST_TIMES: usize = 3;

/// But no more than so many on that account: to keep more of them sorted costs more than to compare their rows.
const MOST_SORTED: usize = 4096;

/// And at least this part of `ef`.
const LEAST_PART: usize = 4;

/// The best nodes found so far, sorted, with a cursor at the first that was not expanded.
///
/// It takes the part of both heaps of the paper's Algorithm 2: a walk ends when the cursor passes
/// those that are to be expanded, or the horizon.
pub(crate) struct Pool {
    entries: Vec<Entry>,
    size: PoolSize,
    cursor: usize,
    /// The key of the horizon, as far as it is known.
    horizon: f32,
    /// A node whose key is not below this is dropped.
    limit: f32,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            size: PoolSize::of(0),
            cursor: 0,
            horizon: f32::INFINITY,
            limit: f32::INFINITY,
        }
    }
}

impl Pool {
    /// Empties the pool and gives it another size.
    pub(crate) fn reset(&mut self, size: PoolSize) {
        self.entries.clear();
        self.size = size;
        self.cursor = 0;
        self.horizon = f32::INFINITY;
        self.limit = f32::INFINITY;
    }

    /// A node whose key is not below this would be dropped.
    #[inline]
    pub(crate) fn limit(&self) -> f32 {
        self.limit
    }

    /// Offers a node; one that is no better than the worst of a full pool is dropped, and one beyond the horizon
    /// if enough are kept.
    #[inline]
    pub(crate) fn insert(&mut self, key: f32, node: u32) {
        if key >= self.limit && self.limit < f32::INFINITY {
            return;
        }
        let most = self.size.kept.max(self.most_expanded());
        if self.entries.len() == most {
            self.entries.pop();
        }
        let at = self.entries.partition_point(|entry| entry.key <= key);
        self.entries.insert(at, Entry { key, node });
        self.cursor = self.cursor.min(at);
        self.narrow(most);
    }

    /// Nodes that are expanded at the most.
    #[inline]
    fn most_expanded(&self) -> usize {
        match self.size.horizon {
            Some(_) => (MOST_TIMES * self.size.expanded).min(self.size.expanded.max(MOST_SORTED)),
            None => self.size.expanded,
        }
    }

    /// Says anew what is to be dropped, where so many are kept at the most.
    #[inline]
    fn narrow(&mut self, most: usize) {
        self.limit = match self.entries.last() {
            Some(worst) if self.entries.len() == most => worst.key,
            _ => f32::INFINITY,
        };
        let Some(horizon) = &self.size.horizon else {
            return;
        };
        if let Some(nearest) = self.entries.get(horizon.nearest - 1) {
            self.horizon = horizon.key(nearest.key);
        }
        if let Some(enough) = self.entries.get(self.size.kept - 1) {
            self.limit = self.limit.min(self.horizon.max(enough.key));
        }
    }

    /// Takes the best node that was not expanded yet.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<u32> {
        self.peek()?;
        let entry = self.entries.get_mut(self.cursor)?;
        let node = entry.node;
        entry.node |= EXPANDED;
        self.cursor += 1;
        Some(node)
    }

    /// As [`Pool::next`], with the node's key.
    #[inline]
    pub(crate) fn next_with_key(&mut self) -> Option<(f32, u32)> {
        let node = self.next()?;
        Some((self.entries[self.cursor - 1].key, node))
    }

    /// The node that [`Pool::next`] would take now.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u32> {
        self.skip_expanded();
        let entry = self.entries.get(self.cursor)?;
        let is_next = match self.size.horizon {
            Some(_) if self.cursor < self.size.expanded / LEAST_PART => true,
            _ => entry.key <= self.horizon && self.cursor < self.most_expanded(),
        };
        is_next.then_some(entry.node)
    }

    /// The nodes that the next calls of [`Pool::next`] would take now, up to `count`.
    #[inline]
    pub(crate) fn upcoming(&self, count: usize) -> impl Iterator<Item = u32> + '_ {
        let end = self.entries.len().min(self.most_expanded());
        let waiting = self.entries.get(self.cursor..end).unwrap_or_default();
        let waiting = waiting.iter().map(|entry| entry.node);
        waiting.filter(|node| node & EXPANDED == 0).take(count)
    }

    fn skip_expanded(&mut self) {
        while let Some(entry) = self.entries.get(self.cursor) {
            if entry.node & EXPANDED == 0 {
                break;
            }
            self.cursor += 1;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Keys and nodes, best first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (f32, u32)> + '_ {
        self.entries
            .iter()
            .map(|entry| (entry.key, entry.node & !EXPANDED))
    }
}

/// Buffers of one walk.
#[derive(Default)]
pub(crate) struct Walk {
    pub(crate) visited: NodeSet,
    /// The same on upper levels, which are small.
    pub(crate) climbed: NodeSet,
    /// Nodes that a filter excludes and that were looked through.
    pub(crate) passed: NodeSet,
    pub(crate) pool: Pool,
    /// What a filter allows of the nodes that its scouts met.
    pub(crate) found: Pool,
    /// The keys of all that they met, and whether the filter allows them.
    pub(crate) scouted: Vec<(f32, bool)>,
    /// Neighbours of the node being expanded.
    pub(crate) nodes: Vec<u32>,
    /// Those of them that are new.
    pub(crate) fresh: Vec<u32>,
    /// New neighbours of the nodes that are next, while their rows are on their way from memory.
    pub(crate) coming: Vec<u32>,
    /// The rows of those that are compared, and how many of them were asked for.
    pub(crate) coming_rows: Vec<u32>,
    pub(crate) asked: usize,
    /// Their rows.
    pub(crate) rows: Vec<u32>,
    /// Their keys.
    pub(crate) keys: Vec<f32>,
    /// Those that a filter excludes but whose neighbours may pass.
    pub(crate) blocked: Vec<u32>,
    /// Those of a list that a filter lets pass.
    pub(crate) met: Vec<u32>,
}

/// All buffers of one search.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) walk: Walk,
    pub(crate) prepared: Prepared,
    /// The query, for rows of product-quantised codes.
    pub(crate) product: ProductQuery,
    pub(crate) topk: TopK,
    /// Rows to score exactly, best first by code.
    pub(crate) candidates: Vec<(f32, u32)>,
    /// Room for one of them.
    pub(crate) room: RowRoom,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Runs `search` with this thread's buffers.
pub(crate) fn with_scratch<T>(search: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => search(&mut scratch),
        // Only if raw vectors themselves search on this thread: correct, if slower.
        Err(_) => search(&mut Scratch::default()),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::Rng;

    #[test]
    fn the_pool_keeps_the_best_and_expands_each_once() {
        let mut pool = Pool::default();
        pool.reset(PoolSize::of(3));
        for (key, node) in [(5.0, 5), (1.0, 1), (3.0, 3), (4.0, 4)] {
            pool.insert(key, node);
        }
        assert_eq!(pool.next(), Some(1));
        pool.insert(0.5, 7);
        assert_eq!(pool.peek(), Some(7));
        assert_eq!(
            [pool.next(), pool.next(), pool.next()],
            [Some(7), Some(3), None]
        );
        let kept: Vec<u32> = pool.iter().map(|(_, node)| node).collect();
        assert_eq!(kept, [7, 1, 3]);
        pool.insert(9.0, 9);
        assert_eq!(pool.len(), 3);
    }

    #[test]
    fn the_pool_says_what_comes_next() {
        let mut pool = Pool::default();
        pool.reset(PoolSize::of(3));
        pool.insert(2.0, 2);
        assert_eq!(pool.next(), Some(2));
        pool.insert(1.0, 1);
        assert_eq!(pool.upcoming(5).collect::<Vec<_>>(), [1]);
        pool.insert(3.0, 3);
        assert_eq!(pool.upcoming(5).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(pool.upcoming(1).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn nodes_beyond_those_to_be_expanded_are_only_kept() {
        let mut pool = Pool::default();
        pool.reset(PoolSize {
            kept: 4,
            ..PoolSize::of(2)
        });
        for node in [4, 3, 1, 2, 5] {
            pool.insert(node as f32, node);
        }
        assert_eq!(pool.upcoming(5).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(
            [pool.next(), pool.next(), pool.next()],
            [Some(1), Some(2), None]
        );
        assert_eq!(pool.peek(), None);
        // A better one takes the place of one that was expanded.
        pool.insert(0.5, 9);
        assert_eq!([pool.next(), pool.next()], [Some(9), None]);
        let kept: Vec<u32> = pool.iter().map(|(_, node)| node).collect();
        assert_eq!(kept, [9, 1, 2, 3]);
    }

    /// Expands the two nearest nodes whatever happens, and others up to twice the distance of the second.
    fn with_horizon(kept: usize) -> Pool {
        let mut pool = Pool::default();
        pool.reset(PoolSize {
            kept,
            horizon: Some(Horizon {
                nearest: 2,
                square: 4.0,
                start: 1.0,
                slack: 0.5,
            }),
            ..PoolSize::of(8)
        });
        pool
    }

    #[test]
    fn a_walk_with_a_horizon_ends_there_and_neither_before_nor_long_after_its_effort() {
        // Squared distances are keys and one, so the horizon is at 4 · (key + 1) + 0.5 − 1.
        let mut pool = with_horizon(8);
        for key in [3.0, 1.0, 8.0, 7.4, 7.6] {
            pool.insert(key, key as u32);
        }
        let next: Vec<Option<u32>> = (0..3).map(|_| pool.next()).collect();
        assert_eq!(next, [Some(1), Some(3), Some(7)]);
        // The second is nearer now, and all that are left lie beyond.
        pool.insert(0.0, 9);
        assert_eq!([pool.next(), pool.next()], [Some(9), None]);
        // Alone they are far away, but the effort has hardly begun.
        let mut pool = with_horizon(8);
        for key in [0.0, 0.1, 100.0, 101.0] {
            pool.insert(key, key as u32 + 7);
        }
        assert_eq!([pool.next(), pool.next()], [Some(7), Some(7)]);
        assert_eq!(pool.next(), None);
        for (effort, most) in [(8, 24), (2000, 4096), (5000, 5000)] {
            let mut pool = with_horizon(8);
            pool.size.expanded = effort;
            for node in 0..6000 {
                pool.insert(1.0, node);
            }
            let expanded = std::iter::from_fn(|| pool.next()).count();
            assert_eq!(expanded, most, "{effort}");
        }
    }

    #[test]
    fn beyond_a_horizon_as_many_are_kept_as_are_asked_for() {
        let mut pool = with_horizon(5);
        for node in 0..5 {
            pool.insert(100.0 * node as f32, node);
            assert!(node == 4 || pool.limit() == f32::INFINITY);
        }
        assert_eq!(pool.limit(), 403.5, "the horizon lies beyond the last");
        pool.insert(0.0, 8);
        assert_eq!(
            pool.limit(),
            300.0,
            "the horizon lies before the last that is kept"
        );
        pool.insert(301.0, 9);
        let kept: Vec<u32> = pool.iter().map(|(_, node)| node).collect();
        assert_eq!(kept, [0, 8, 1, 2, 3, 4]);
    }

    #[test]
    fn nodes_marked_together_are_fresh_once_and_in_order() {
        let mut visited = NodeSet::default();
        visited.reset(10);
        visited.insert(4);
        let mut fresh = vec![9];
        visited.insert_all(&[3, 4, 5, 3, 0], &mut fresh);
        assert_eq!(fresh, [9, 3, 5, 0]);
        visited.insert_all(&[0, 3, 4, 5], &mut fresh);
        assert_eq!(fresh, [9, 3, 5, 0]);
        visited.insert_all(&[], &mut fresh);
        assert_eq!(fresh.len(), 4);
    }

    #[test]
    fn a_set_forgets_all_members_however_many_they_were() {
        let mut rng = Rng::from_env();
        let mut set = NodeSet::default();
        for members in [0, 1, 30, 5000, 3, 0] {
            let nodes = 1000 + rng.below(9000);
            set.reset(nodes);
            let mut all: Vec<u32> = (0..nodes as u32).collect();
            set.retain_new(&mut all);
            assert_eq!(all.len(), nodes, "something was left");
            let mut expected = BTreeSet::new();
            for _ in 0..members {
                let node = rng.below(nodes) as u32;
                assert_eq!(set.insert(node), expected.insert(node));
            }
            set.retain_new(&mut all);
            assert!(all.iter().all(|node| !expected.contains(node)));
            assert_eq!(all.len(), nodes - expected.len());
        }
    }
}
