//! Building a graph, in parallel, on the codes.
//!
//! Levels are drawn before anything is inserted, so every array has its final size from the start
//! and the top of the graph is inserted first. Threads read link lists without locks while others
//! write them: a list is made of atomic numbers, each of which is always a node or "no link", so the
//! worst a reader sees is a mixture of two versions of a list. Writers hold a lock of the list.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::graph::{Layer, Level, NO_LINK, link_stride, max_links, own_links};
use super::scratch::{PoolSize, Walk};
use super::walk::{beam, greedy};
use crate::buffer::{aligned_copy, view};
use crate::codes::{Codes, Prepared};
use crate::error::{Error, Result};
use crate::index::BuildOptions;
use crate::kernel::SharedNumbers;
use crate::random::split_mix;
use redkite_types::StopFlag;

/// Levels above which more would not help even 2^31 rows with M 2.
const MAX_LEVEL: usize = 30;

/// Locks of the lists of one level; a list uses the one of its number modulo this.
const LOCKS: usize = 1024;

/// Rows inserted before threads are started: in a graph of a few rows they would be in each
/// other's way, and not see each other.
pub(crate) const SERIAL_ROWS: usize = 1000;

/// Rows that a thread takes at once.
pub(crate) const CHUNK_ROWS: usize = 16;

/// Draws the level of each row: geometric, a fraction `1 / m` of a level reaches the next.
fn draw_levels(rows: usize, m: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let draw = |_| {
        let mut level = 0;
        while level < MAX_LEVEL && split_mix(&mut state).is_multiple_of(m as u64) {
            level += 1;
        }
        level as u8
    };
    (0..rows).map(draw).collect()
}

/// One level under construction.
pub(crate) struct BuildLevel {
    /// `[nodes, stride]`, in the memory in which the finished level keeps them.
    links: SharedNumbers,
    locks: Vec<Mutex<()>>,
    stride: usize,
    pub(crate) max_links: usize,
    nodes: usize,
    node_rows: Vec<u32>,
    node_below: Vec<u32>,
}

impl BuildLevel {
    pub(crate) fn new(
        nodes: usize,
        max_links: usize,
        node_rows: Vec<u32>,
        node_below: Vec<u32>,
    ) -> Self {
        let stride = link_stride(max_links);
        Self {
            links: SharedNumbers::filled(nodes * stride),
            locks: std::iter::repeat_with(|| Mutex::new(()))
                .take(LOCKS)
                .collect(),
            stride,
            max_links,
            nodes,
            node_rows,
            node_below,
        }
    }

    fn row_of(&self, node: u32) -> u32 {
        self.node_rows.get(node as usize).copied().unwrap_or(node)
    }

    fn slots(&self, node: u32) -> impl Iterator<Item = &AtomicU32> {
        let start = node as usize * self.stride;
        self.links.as_slice()[start..][..self.max_links].iter()
    }

    /// Locks a node's list for changes.
    pub(crate) fn lock(&self, node: u32) -> MutexGuard<'_, ()> {
        self.locks[node as usize % LOCKS].lock()
    }

    /// Replaces a node's list.
    pub(crate) fn store(&self, node: u32, links: impl Iterator<Item = u32>) {
        let links = links.chain(std::iter::repeat(NO_LINK));
        for (slot, link) in self.slots(node).zip(links) {
            slot.store(link, Ordering::Relaxed);
        }
    }

    /// Adds one link to a list that is not full; whether that was so.
    pub(crate) fn append(&self, node: u32, link: u32) -> bool {
        let free = self
            .slots(node)
            .find(|slot| slot.load(Ordering::Relaxed) == NO_LINK);
        if let Some(slot) = free {
            slot.store(link, Ordering::Relaxed);
        }
        free.is_some()
    }

    /// Takes over the lists of a finished level, whose nodes are the first ones of this one.
    fn take_over(&self, finished: &Level) {
        let links = view::<u32>(&finished.links);
        for (slot, link) in self.links.as_slice().iter().zip(links) {
            slot.store(*link, Ordering::Relaxed);
        }
    }

    fn freeze(self) -> Level {
        Level {
            links: self.links.into_buffer().into_bytes(),
            node_rows: aligned_copy(&self.node_rows),
            node_below: aligned_copy(&self.node_below),
            stride: self.stride,
        }
    }

    /// Replaces `out` by the links that a node has now.
    pub(crate) fn copy_links(&self, node: u32, out: &mut Vec<u32>) {
        out.clear();
        let links = self.slots(node).map(|slot| slot.load(Ordering::Relaxed));
        out.extend(links.take_while(|link| *link != NO_LINK));
    }
}

impl Layer for BuildLevel {
    fn nodes(&self) -> usize {
        self.nodes
    }

    fn neighbours<'a>(&'a self, node: u32, out: &'a mut Vec<u32>) -> &'a [u32] {
        self.copy_links(node, out);
        out
    }

    fn rows<'a>(&self, nodes: &'a [u32], out: &'a mut Vec<u32>) -> &'a [u32] {
        if self.node_rows.is_empty() {
            return nodes;
        }
        out.clear();
        out.extend(nodes.iter().map(|node| self.row_of(*node)));
        out
    }

    fn prefetch(&self, node: u32) {
        let start = node as usize * self.stride;
        crate::kernel::prefetch(&self.links.as_slice()[start..][..self.stride]);
    }
}

/// A candidate for a link.
#[derive(Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) key: f32,
    pub(crate) node: u32,
}

/// Buffers of one building thread.
#[derive(Default)]
struct Worker {
    walk: Walk,
    prepared: Prepared,
    /// The chosen neighbours of the row being inserted, for each of its levels.
    chosen: Vec<Vec<Candidate>>,
    crowd: Vec<Candidate>,
    kept: Vec<Candidate>,
    choice: Choice,
}

/// Buffers of choosing among candidates.
#[derive(Default)]
struct Choice {
    /// A candidate that is compared with others.
    prepared: Prepared,
    /// Candidates that no kept one is nearer to than the row, and their rows.
    apart: Vec<Candidate>,
    rows: Vec<u32>,
    keys: Vec<f32>,
}

/// Candidates that are compared with a kept one at once; most of a long pool is never looked at.
const CHOICE_BLOCK: usize = 32;

struct Builder<'a> {
    codes: &'a Codes,
    levels: Vec<BuildLevel>,
    row_levels: Vec<u8>,
    /// Rows that are linked already, the first ones, and the highest level that they have.
    known: usize,
    known_top: usize,
    m: usize,
    ef_construction: usize,
    stop: &'a StopFlag,
}

/// Builds the levels of a graph over all rows of `codes`, lowest first.
///
/// `known` are the levels of a graph over the first rows, built with the same `m` and seed, or none: its links are
/// kept, and only the other rows are inserted. For a row has the same level however many come after it, and nodes
/// are numbered in the order of rows, so that those of the first ones are the same.
///
/// # Errors
/// `Cancelled` · `InvalidParameter` when `known` was built otherwise.
pub(super) fn build_levels(
    codes: &Codes,
    m: usize,
    ef_construction: usize,
    known: &[Level],
    options: &BuildOptions<'_>,
) -> Result<Vec<Level>> {
    let row_levels = draw_levels(codes.rows, m, options.seed);
    let levels = lay_out(&row_levels, m);
    let is_start = |(new, known): (&BuildLevel, &Level)| {
        new.stride == known.stride && new.node_rows.starts_with(view(&known.node_rows))
    };
    if known.len() > levels.len() || !levels.iter().zip(known).all(is_start) {
        return Err(Error::invalid("a graph of another seed cannot be extended"));
    }
    for (level, finished) in levels.iter().zip(known) {
        level.take_over(finished);
    }
    let builder = Builder {
        codes,
        levels,
        row_levels,
        known: known.first().map_or(0, |lowest| lowest.view().nodes()),
        known_top: known.len().saturating_sub(1),
        m,
        ef_construction,
        stop: options.stop,
    };
    builder.run(options)?;
    Ok(builder.levels.into_iter().map(BuildLevel::freeze).collect())
}

/// Numbers the nodes of every level; row order on each, so the first node of the top is the entry.
fn lay_out(row_levels: &[u8], m: usize) -> Vec<BuildLevel> {
    let top = row_levels.iter().copied().max().unwrap_or(0) as usize;
    let mut levels = Vec::with_capacity(top + 1);
    let mut below: Vec<u32> = (0..row_levels.len() as u32).collect();
    levels.push(BuildLevel::new(
        below.len(),
        max_links(m, 0),
        Vec::new(),
        Vec::new(),
    ));
    for level in 1..=top {
        let (mut rows, mut numbers) = (Vec::new(), Vec::new());
        for (number, row) in below.iter().enumerate() {
            if row_levels[*row as usize] as usize >= level {
                rows.push(*row);
                numbers.push(number as u32);
            }
        }
        below = rows.clone();
        levels.push(BuildLevel::new(
            rows.len(),
            max_links(m, level),
            rows,
            numbers,
        ));
    }
    levels
}

impl Builder<'_> {
    fn run(&self, options: &BuildOptions<'_>) -> Result<()> {
        let rows = self.codes.rows;
        let next = AtomicUsize::new(self.known);
        let count = |done: usize| {
            if let Some(progress) = options.progress {
                progress.fetch_add(done, Ordering::Relaxed);
            }
        };
        let top = self.levels.len() - 1;
        if self.known > 0 {
            count(self.known);
            if top > self.known_top {
                // The new first node must be found from the rows that are linked, as they from it.
                let first = self.levels[top].row_of(0);
                self.insert(first, self.known_top, &mut Worker::default())?;
            }
        }
        let insert_until = |limit: usize, chunk: usize| -> Result<()> {
            let mut worker = Worker::default();
            loop {
                let start = next.fetch_add(chunk, Ordering::Relaxed);
                if start >= limit {
                    return Ok(());
                }
                let end = (start + chunk).min(limit);
                for row in start..end {
                    self.insert(row as u32, top, &mut worker)?;
                }
                count(end - start);
            }
        };
        let serial = if options.threads <= 1 {
            rows
        } else {
            rows.min(SERIAL_ROWS.max(self.known))
        };
        insert_until(serial, 1)?;
        next.store(serial, Ordering::Relaxed);
        if serial == rows {
            return Ok(());
        }
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..options.threads)
                .map(|_| scope.spawn(|| insert_until(rows, CHUNK_ROWS)))
                .collect();
            let mine = insert_until(rows, CHUNK_ROWS);
            others.into_iter().fold(mine, |result, other| {
                let theirs = other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result.and(theirs)
            })
        })
    }

    /// Finds the neighbours of a row on all its levels, then links it from the lowest up: so
    /// whoever meets it on a level finds its way on below. The way begins at the first node of level `top`.
    fn insert(&self, row: u32, top: usize, worker: &mut Worker) -> Result<()> {
        let mut entry = 0u32;
        if self.levels[self.levels.len() - 1].row_of(entry) == row && top == self.levels.len() - 1 {
            return Ok(());
        }
        // Above the top there is nobody else yet.
        let row_level = top.min(self.row_levels[row as usize] as usize);
        worker.chosen.resize_with(self.levels.len(), Vec::new);
        self.codes.prepare_row(row, &mut worker.prepared);
        for level in (0..=top).rev() {
            let layer = &self.levels[level];
            let Worker {
                walk,
                prepared,
                chosen,
                crowd,
                choice,
                ..
            } = worker;
            if level > row_level {
                entry = greedy(layer, self.codes, prepared, walk, entry);
            } else {
                let size = PoolSize::of(self.ef_construction.max(self.m));
                beam(layer, self.codes, prepared, walk, entry, size, self.stop)?;
                crowd.clear();
                crowd.extend(walk.pool.iter().map(|(key, node)| Candidate { key, node }));
                let limit = own_links(self.m, level);
                self.select(layer, crowd, limit, choice, &mut chosen[level]);
                entry = walk.pool.iter().next().map_or(entry, |(_, node)| node);
            }
            if level > 0 {
                entry = layer.node_below[entry as usize];
            }
        }
        for level in 0..=row_level {
            let mut chosen = std::mem::take(&mut worker.chosen[level]);
            self.link(level, row, &chosen, worker);
            chosen.clear();
            worker.chosen[level] = chosen;
        }
        Ok(())
    }

    /// Keeps up to `limit` candidates, nearest first, each nearer to the row than to any kept one, so
    /// that links lead in different directions.
    ///
    /// Of candidates equal to the row only a quarter of the links are taken: copies of one vector
    /// must not use up each other's links and drift away from the rest.
    ///
    /// # Source
    /// Malkov & Yashunin 2016, Algorithm 4 without its extensions.
    fn select(
        &self,
        layer: &BuildLevel,
        found: &[Candidate],
        limit: usize,
        choice: &mut Choice,
        kept: &mut Vec<Candidate>,
    ) {
        kept.clear();
        let mut copies = 0;
        for block in found.chunks(CHOICE_BLOCK) {
            choice.apart.clear();
            choice.apart.extend_from_slice(block);
            for other in &*kept {
                self.keep_apart(layer, *other, 0, choice);
            }
            let mut at = 0;
            while let Some(candidate) = choice.apart.get(at).copied() {
                at += 1;
                let is_copy = candidate.key == 0.0;
                if is_copy && copies >= limit.div_ceil(4) {
                    continue;
                }
                copies += usize::from(is_copy);
                kept.push(candidate);
                if kept.len() == limit {
                    return;
                }
                self.keep_apart(layer, candidate, at, choice);
            }
        }
    }

    /// Drops the candidates from number `from` on that are nearer to a kept one than to the row.
    fn keep_apart(&self, layer: &BuildLevel, kept: Candidate, from: usize, choice: &mut Choice) {
        let Choice {
            prepared,
            apart,
            rows,
            keys,
        } = choice;
        if apart.len() == from {
            return;
        }
        rows.clear();
        rows.extend(apart[from..].iter().map(|other| layer.row_of(other.node)));
        self.codes.prepare_row(layer.row_of(kept.node), prepared);
        keys.clear();
        self.codes.keys(prepared, rows, keys);
        let mut left = from;
        for (at, key) in (from..apart.len()).zip(&*keys) {
            apart[left] = apart[at];
            left += usize::from(*key >= apart[at].key);
        }
        apart.truncate(left);
    }

    /// Sets a row's own links on a level and adds the links back.
    fn link(&self, level: usize, row: u32, chosen: &[Candidate], worker: &mut Worker) {
        let layer = &self.levels[level];
        let node = match level {
            0 => row,
            // Nodes are numbered in row order.
            _ => layer.node_rows.partition_point(|other| *other < row) as u32,
        };
        {
            let _lock = layer.lock(node);
            layer.store(node, chosen.iter().map(|candidate| candidate.node));
        }
        for candidate in chosen {
            self.link_back(
                layer,
                candidate.node,
                Candidate {
                    key: candidate.key,
                    node,
                },
                worker,
            );
        }
    }

    /// Adds a link to a node; a full list is chosen anew.
    fn link_back(&self, layer: &BuildLevel, node: u32, link: Candidate, worker: &mut Worker) {
        let _lock = layer.lock(node);
        if layer.append(node, link.node) {
            return;
        }
        let row = layer.row_of(node);
        let Worker {
            walk,
            prepared,
            crowd,
            kept,
            choice,
            ..
        } = worker;
        layer.copy_links(node, &mut walk.nodes);
        let rows = layer.rows(&walk.nodes, &mut walk.rows);
        self.codes.prefetch_whole(rows);
        self.codes.prepare_row(row, prepared);
        walk.keys.clear();
        self.codes.keys(prepared, rows, &mut walk.keys);
        crowd.clear();
        crowd.push(link);
        let keyed = walk.nodes.iter().zip(&walk.keys);
        crowd.extend(keyed.map(|(node, key)| Candidate {
            key: *key,
            node: *node,
        }));
        crowd.sort_unstable_by(|a, b| a.key.total_cmp(&b.key).then(a.node.cmp(&b.node)));
        self.select(layer, crowd, layer.max_links, choice, kept);
        layer.store(node, kept.iter().map(|candidate| candidate.node));
    }
}
