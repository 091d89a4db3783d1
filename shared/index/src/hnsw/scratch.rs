//! What a walk needs besides the graph, kept per thread so that a search allocates nothing.

use std::cell::RefCell;

use crate::codes::Prepared;
use crate::product::ProductQuery;
use crate::raw::RowRoom;
use crate::topk::TopK;

/// Marks of visited nodes as epoch numbers: forgetting all of them is one increment.
#[derive(Default)]
pub(crate) struct Visited {
    marks: Vec<u8>,
    epoch: u8,
}

impl Visited {
    /// Forgets all marks and makes room for `nodes`.
    pub(crate) fn reset(&mut self, nodes: usize) {
        if self.epoch == u8::MAX {
            self.marks.fill(0);
            self.epoch = 0;
        }
        self.epoch += 1;
        if self.marks.len() < nodes {
            self.marks.resize(nodes, 0);
        }
    }

    /// Marks a node; whether it was not marked before.
    #[inline]
    pub(crate) fn insert(&mut self, node: u32) -> bool {
        let mark = &mut self.marks[node as usize];
        let is_new = *mark != self.epoch;
        *mark = self.epoch;
        is_new
    }

    /// Marks nodes and appends those that were not marked before to `fresh`, without a branch: whether
    /// a node was is as good as random.
    #[inline]
    pub(crate) fn insert_all(&mut self, nodes: &[u32], fresh: &mut Vec<u32>) {
        let start = fresh.len();
        fresh.resize(start + nodes.len(), 0);
        let room = &mut fresh[start..];
        let mut count = 0;
        for node in nodes {
            room[count] = *node;
            count += usize::from(self.insert(*node));
        }
        fresh.truncate(start + count);
    }

    #[inline]
    pub(crate) fn contains(&self, node: u32) -> bool {
        self.marks[node as usize] == self.epoch
    }
}

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

/// The best nodes found so far, sorted, with a cursor at the first that was not expanded.
///
/// It takes the part of both heaps of the paper's Algorithm 2: a walk ends when the cursor passes
/// the end.
#[derive(Default)]
pub(crate) struct Pool {
    entries: Vec<Entry>,
    capacity: usize,
    cursor: usize,
}

impl Pool {
    /// Empties the pool; it will keep the `capacity` best.
    pub(crate) fn reset(&mut self, capacity: usize) {
        self.entries.clear();
        self.capacity = capacity;
        self.cursor = 0;
    }

    /// Offers a node; one that is no better than the worst of a full pool is dropped.
    #[inline]
    pub(crate) fn insert(&mut self, key: f32, node: u32) {
        if self.entries.len() == self.capacity {
            match self.entries.last() {
                Some(worst) if key < worst.key => self.entries.pop(),
                _ => return,
            };
        }
        let at = self.entries.partition_point(|entry| entry.key <= key);
        self.entries.insert(at, Entry { key, node });
        self.cursor = self.cursor.min(at);
    }

    /// Takes the best node that was not expanded yet.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<u32> {
        self.skip_expanded();
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
        self.entries.get(self.cursor).map(|entry| entry.node)
    }

    /// The nodes that the next calls of [`Pool::next`] would take now, up to `count`.
    #[inline]
    pub(crate) fn upcoming(&self, count: usize) -> impl Iterator<Item = u32> + '_ {
        let waiting = self.entries[self.cursor..].iter().map(|entry| entry.node);
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
    pub(crate) visited: Visited,
    pub(crate) pool: Pool,
    /// Neighbours of the node being expanded.
    pub(crate) nodes: Vec<u32>,
    /// Those of them that are new.
    pub(crate) fresh: Vec<u32>,
    /// Their rows.
    pub(crate) rows: Vec<u32>,
    /// Their keys.
    pub(crate) keys: Vec<f32>,
    /// Those that a filter excludes but whose neighbours may pass.
    pub(crate) blocked: Vec<u32>,
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
    pub(crate) candidates: Vec<u32>,
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
    use super::*;

    #[test]
    fn the_pool_keeps_the_best_and_expands_each_once() {
        let mut pool = Pool::default();
        pool.reset(3);
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
        pool.reset(3);
        pool.insert(2.0, 2);
        assert_eq!(pool.next(), Some(2));
        pool.insert(1.0, 1);
        assert_eq!(pool.upcoming(5).collect::<Vec<_>>(), [1]);
        pool.insert(3.0, 3);
        assert_eq!(pool.upcoming(5).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(pool.upcoming(1).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn nodes_marked_together_are_fresh_once_and_in_order() {
        let mut visited = Visited::default();
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
    fn marks_are_forgotten_at_each_reset_even_when_epochs_wrap() {
        let mut visited = Visited::default();
        for round in 0..600 {
            visited.reset(4 + round % 3);
            assert!(visited.insert(3), "round {round}");
            assert!(!visited.insert(3));
            assert!(visited.contains(3) && !visited.contains(2));
        }
    }
}
