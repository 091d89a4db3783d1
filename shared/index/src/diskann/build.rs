//! Building the graph, in two passes over the rows, on codes in memory.
//!
//! # Source
//! Subramanya et al. 2019, "DiskANN", Algorithms 1 to 3.

use std::sync::atomic::{AtomicUsize, Ordering};

use redkite_types::{MetricType, StopFlag};

use crate::codes::{Codes, Prepared};
use crate::error::Result;
use crate::hnsw::build::{BuildLevel, CHUNK_ROWS, Candidate, SERIAL_ROWS};
use crate::hnsw::graph::Layer as _;
use crate::hnsw::scratch::{PoolSize, Walk};
use crate::hnsw::walk::score_fresh;
use crate::index::BuildOptions;
use crate::random::split_mix;

/// How much nearer a kept neighbour must be to a candidate than the row itself is to do without it, in
/// each pass. More than 1 keeps links that lead far: a walk takes fewer steps, each of which reads a
/// page.
const ALPHAS: [f32; 2] = [1.0, 1.2];

/// Links by which a list may be longer than it stays while the graph is built, as a part of its length.
/// A list that is full is chosen anew, which compares all its links with each other: with this room that
/// happens once for a number of links and not for each.
const ROOM: usize = 3;

/// Links of a list while the graph is built.
fn room_for(degree: usize) -> usize {
    degree + degree.div_ceil(ROOM)
}

/// Buffers of one building thread.
#[derive(Default)]
struct Worker {
    walk: Walk,
    prepared: Prepared,
    crowd: Vec<Candidate>,
    kept: Vec<Candidate>,
    chosen: Vec<Candidate>,
}

struct Builder<'a> {
    codes: &'a Codes,
    layer: BuildLevel,
    degree: usize,
    order: Vec<u32>,
    list_size: usize,
    stop: &'a StopFlag,
    /// Rows that were linked, in all passes together.
    linked: AtomicUsize,
    progress: Option<&'a AtomicUsize>,
}

/// Rows at which a walk may begin: the nearest of them is where it does. One alone would not do where
/// rows lie in clusters far from each other, between which a graph has hardly a link.
pub(super) const ENTRIES: usize = 256;

/// The nearest of some rows.
pub(super) fn nearest(
    codes: &Codes,
    query: &mut Prepared,
    rows: &[u32],
    keys: &mut Vec<f32>,
) -> u32 {
    keys.clear();
    codes.keys(query, rows, keys);
    let pairs = rows.iter().zip(&*keys);
    let best = pairs.min_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(row, _)| *row)
}

/// Links all rows of `codes`, up to `degree` each; the graph, and the rows at which a walk may begin.
///
/// # Errors
/// `Cancelled`.
pub(super) fn build_graph(
    codes: &Codes,
    degree: usize,
    list_size: usize,
    options: &BuildOptions<'_>,
) -> Result<(BuildLevel, Vec<u32>)> {
    let builder = Builder {
        codes,
        layer: BuildLevel::new(codes.rows, room_for(degree), Vec::new(), Vec::new()),
        degree,
        order: shuffled(codes.rows, options.seed),
        list_size: list_size.max(degree),
        stop: options.stop,
        linked: AtomicUsize::new(0),
        progress: options.progress,
    };
    for (pass, alpha) in ALPHAS.into_iter().enumerate() {
        builder.pass(pass > 0, alpha, options.threads)?;
    }
    builder.shorten(ALPHAS[ALPHAS.len() - 1])?;
    let mut entries = builder.order;
    entries.truncate(ENTRIES);
    entries.shrink_to_fit();
    Ok((builder.layer, entries))
}

/// All rows, in an order that says nothing of where they lie: neighbours inserted one after the other
/// would link to each other only.
fn shuffled(rows: usize, seed: u64) -> Vec<u32> {
    let mut state = seed;
    let mut order: Vec<u32> = (0..rows as u32).collect();
    for at in (1..rows).rev() {
        order.swap(at, (split_mix(&mut state) % (at as u64 + 1)) as usize);
    }
    order
}

impl Builder<'_> {
    /// Counts rows in each pass for its share, so that all of them are counted at the end of the last.
    fn count(&self, rows: usize) {
        if let Some(progress) = self.progress {
            let before = self.linked.fetch_add(rows, Ordering::Relaxed);
            let passes = ALPHAS.len();
            let more = (before + rows) / passes - before / passes;
            progress.fetch_add(more, Ordering::Relaxed);
        }
    }

    fn pass(&self, all_linked: bool, alpha: f32, threads: usize) -> Result<()> {
        let rows = self.order.len();
        let next = AtomicUsize::new(0);
        let link_until = |limit: usize| -> Result<()> {
            let mut worker = Worker::default();
            loop {
                let start = next.fetch_add(CHUNK_ROWS, Ordering::Relaxed);
                if start >= limit {
                    return Ok(());
                }
                let chunk = &self.order[start..(start + CHUNK_ROWS).min(limit)];
                for (at, row) in chunk.iter().enumerate() {
                    // At first a walk may only begin at rows that have links.
                    let linked = if all_linked { rows } else { start + at };
                    let entries = &self.order[..linked.min(ENTRIES)];
                    self.link(*row, entries, alpha, &mut worker)?;
                }
                self.count(chunk.len());
            }
        };
        let serial = if threads <= 1 {
            rows
        } else {
            rows.min(SERIAL_ROWS)
        };
        link_until(serial)?;
        next.store(serial, Ordering::Relaxed);
        if serial == rows {
            return Ok(());
        }
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads)
                .map(|_| scope.spawn(|| link_until(rows)))
                .collect();
            let mine = link_until(rows);
            others.into_iter().fold(mine, |result, other| {
                let theirs = other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result.and(theirs)
            })
        })
    }

    /// Chooses a row's links anew, among what a walk to it met and what it has, and links back.
    fn link(&self, row: u32, entries: &[u32], alpha: f32, worker: &mut Worker) -> Result<()> {
        self.meet(row, entries, worker)?;
        let Worker {
            walk,
            crowd,
            chosen,
            ..
        } = worker;
        self.layer.copy_links(row, &mut walk.nodes);
        for node in &walk.nodes {
            if crowd.iter().all(|other| other.node != *node) {
                let key = self.codes.pair(row, *node);
                crowd.push(Candidate { key, node: *node });
            }
        }
        self.prune(row, alpha, crowd, chosen);
        {
            let _lock = self.layer.lock(row);
            let links = chosen.iter().map(|candidate| candidate.node);
            self.layer.store(row, links);
        }
        let chosen = std::mem::take(&mut worker.chosen);
        for candidate in &chosen {
            self.link_back(candidate.node, row, candidate.key, alpha, worker);
        }
        worker.chosen = chosen;
        Ok(())
    }

    /// Walks to a row and gathers the nodes that it met: those on the way, whose links lead far, and
    /// those around it.
    fn meet(&self, row: u32, entries: &[u32], worker: &mut Worker) -> Result<()> {
        let Worker {
            walk,
            prepared,
            crowd,
            ..
        } = worker;
        let codes = self.codes;
        codes.prepare_row(row, prepared);
        crowd.clear();
        if entries.is_empty() {
            return Ok(());
        }
        let entry = nearest(codes, prepared, entries, &mut walk.keys);
        walk.visited.reset(codes.rows);
        walk.pool.reset(PoolSize::of(self.list_size));
        walk.visited.insert(entry);
        walk.fresh.clear();
        walk.fresh.push(entry);
        score_fresh(&self.layer, codes, prepared, walk);
        while let Some((key, node)) = walk.pool.next_with_key() {
            self.stop.check()?;
            crowd.push(Candidate { key, node });
            self.layer.copy_links(node, &mut walk.nodes);
            walk.fresh.clear();
            for neighbour in &walk.nodes {
                if walk.visited.insert(*neighbour) {
                    walk.fresh.push(*neighbour);
                }
            }
            score_fresh(&self.layer, codes, prepared, walk);
            if let Some(next) = walk.pool.peek() {
                self.layer.prefetch(next);
            }
        }
        Ok(())
    }

    /// Keeps the nearest candidates that no kept one makes unnecessary.
    ///
    /// As in the graph of HNSW, copies of the row take a quarter of its links at the most. Of copies
    /// those with the next numbers come first: each row's are others, so all of them hang together.
    fn prune(&self, row: u32, alpha: f32, crowd: &mut Vec<Candidate>, kept: &mut Vec<Candidate>) {
        crowd.retain(|candidate| candidate.node != row);
        crowd.sort_unstable_by(|a, b| {
            let after = |candidate: &Candidate| candidate.node.wrapping_sub(row);
            a.key.total_cmp(&b.key).then(after(a).cmp(&after(b)))
        });
        kept.clear();
        let limit = self.degree;
        let mut copies = 0;
        for candidate in &*crowd {
            if kept.len() == limit {
                break;
            }
            let bar = self.bar(candidate.key, alpha);
            let is_apart = kept
                .iter()
                .all(|other| self.codes.pair(candidate.node, other.node) >= bar);
            let is_copy = candidate.key == 0.0;
            if is_apart && !(is_copy && copies >= limit.div_ceil(4)) {
                copies += usize::from(is_copy);
                kept.push(*candidate);
            }
        }
    }

    /// The key below which a kept node makes a candidate of key `key` unnecessary. Keys are squared
    /// distances, or negated inner products.
    fn bar(&self, key: f32, alpha: f32) -> f32 {
        match self.codes.metric {
            MetricType::Ip if key < 0.0 => key * alpha,
            MetricType::Ip => key / alpha,
            MetricType::L2 | MetricType::Cosine | MetricType::Hamming | MetricType::Jaccard => {
                key / (alpha * alpha)
            }
        }
    }

    /// Chooses the lists anew that are longer than they may stay.
    fn shorten(&self, alpha: f32) -> Result<()> {
        let mut worker = Worker::default();
        for node in 0..self.codes.rows as u32 {
            if (node as usize).is_multiple_of(SERIAL_ROWS) {
                self.stop.check()?;
            }
            self.layer.copy_links(node, &mut worker.walk.nodes);
            if worker.walk.nodes.len() > self.degree {
                worker.crowd.clear();
                self.choose(node, alpha, &mut worker);
            }
        }
        Ok(())
    }

    /// Chooses a node's links anew, among those it has and the crowd.
    fn choose(&self, node: u32, alpha: f32, worker: &mut Worker) {
        let Worker {
            walk, crowd, kept, ..
        } = worker;
        crowd.extend(walk.nodes.iter().map(|other| Candidate {
            key: self.codes.pair(node, *other),
            node: *other,
        }));
        self.prune(node, alpha, crowd, kept);
        let links = kept.iter().map(|candidate| candidate.node);
        self.layer.store(node, links);
    }

    /// Adds a link to a node; a full list is chosen anew.
    fn link_back(&self, node: u32, link: u32, key: f32, alpha: f32, worker: &mut Worker) {
        let _lock = self.layer.lock(node);
        self.layer.copy_links(node, &mut worker.walk.nodes);
        if worker.walk.nodes.contains(&link) || self.layer.append(node, link) {
            return;
        }
        worker.crowd.clear();
        worker.crowd.push(Candidate { key, node: link });
        self.choose(node, alpha, worker);
    }
}
