//! The lists' centroids: which list a row belongs to, and in which order a query visits the lists.

use std::sync::atomic::{AtomicUsize, Ordering};

use redkite_types::{MetricType, StopFlag};

use super::kmeans;
use crate::codes::{Codes, Prepared};
use crate::error::Result;
use crate::raw::RawVectors;

/// Rows that a centroid is learned from, at most: more hardly move it.
const SAMPLE_PER_LIST: usize = 64;

/// Below this number of rows a list, there would be lists of chance: fewer lists are made.
const MIN_ROWS_PER_LIST: usize = 39;

/// Rows assigned between two looks at the stop flag.
const BLOCK_ROWS: usize = 256;

/// Lists that an index of so many rows has when so many were asked for.
pub(super) fn effective_nlist(nlist: usize, rows: usize) -> usize {
    nlist.min(rows / MIN_ROWS_PER_LIST).max(1)
}

/// How a metric compares a query with centroids; cosine does it by distance, on normalised rows.
pub(super) fn probe_metric(metric: MetricType) -> MetricType {
    match metric {
        MetricType::Ip => MetricType::Ip,
        _ => MetricType::L2,
    }
}

/// Rows after which it is looked whether to stop, and that are counted together.
const STEP: usize = 256;

/// How to run: on so many threads, until stopped.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) threads: usize,
    pub(crate) stop: &'a StopFlag,
    pub(crate) progress: Option<&'a AtomicUsize>,
}

impl Run<'_> {
    /// Of so many pieces of work of one size, those of one thread.
    pub(crate) fn part(self, pieces: usize) -> usize {
        pieces.div_ceil(self.threads.max(1)).max(1)
    }

    /// The same without counting rows: a later stage does.
    pub(super) fn uncounted(self) -> Self {
        Run {
            progress: None,
            ..self
        }
    }

    /// To be called for each row of a part, before it is worked on.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(super) fn begin(self, at: usize) -> Result<()> {
        match at.is_multiple_of(STEP) {
            true => Ok(self.stop.check()?),
            false => Ok(()),
        }
    }

    /// To be called for each row of a part of so many, after it was worked on: counts them in steps.
    pub(super) fn end(self, at: usize, rows: usize) {
        let done = at + 1;
        if let Some(progress) = self.progress
            && (done == rows || done.is_multiple_of(STEP))
        {
            progress.fetch_add(at % STEP + 1, Ordering::Relaxed);
        }
    }

    /// Works on parts, one for each thread. What it does must not depend on where parts begin: the
    /// result is then the same with any number of threads.
    ///
    /// # Errors
    /// That of the first part that fails.
    pub(crate) fn each<T: Send>(
        self,
        mut parts: impl Iterator<Item = T>,
        work: impl Fn(T) -> Result<()> + Sync,
    ) -> Result<()> {
        if self.threads <= 1 {
            return parts.try_for_each(work);
        }
        let work = &work;
        std::thread::scope(|scope| {
            let mine = parts.next();
            let others: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
            let mine = mine.map_or(Ok(()), work);
            others.into_iter().fold(mine, |done, other| {
                let theirs = other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                done.and(theirs)
            })
        })
    }
}

/// Learns the centroids of vectors, `[nlist, dim]`, from an even sample.
pub(super) fn learn(
    metric: MetricType,
    nlist: usize,
    raw: &dyn RawVectors,
    seed: u64,
    run: Run<'_>,
) -> Result<Vec<f32>> {
    let (count, dim) = (raw.rows(), raw.dim());
    let sampled = count.min(nlist * SAMPLE_PER_LIST);
    // Evenly over the rows, which may be in an order of their own. They are read where they lie: with
    // many lists the sample is all of them.
    let sample = |i: usize, out: &mut [f32]| {
        raw.row((i * count / sampled) as u32)
            .normalised(metric, out);
    };
    kmeans::train(dim, nlist, sampled, sample, seed, |centroids, nearest| {
        assign(dim, centroids, &sample, nearest, run.uncounted())
    })
}

/// Writes to each row the list whose centroid is nearest; `row(i, out)` writes a row as its metric
/// compares it.
pub(super) fn assign(
    dim: usize,
    centroids: &[f32],
    row: &(impl Fn(usize, &mut [f32]) + Sync),
    nearest: &mut [u32],
    run: Run<'_>,
) -> Result<()> {
    let codes = Codes::encode(MetricType::L2, dim, centroids, run.stop)?;
    let part = run.part(nearest.len());
    let parts = (0..).step_by(part).zip(nearest.chunks_mut(part));
    run.each(parts, |(first, nearest)| {
        assign_part(&codes, row, first, nearest, run)
    })
}

fn assign_part(
    codes: &Codes,
    row: &impl Fn(usize, &mut [f32]),
    first: usize,
    nearest: &mut [u32],
    run: Run<'_>,
) -> Result<()> {
    let lists: Vec<u32> = (0..codes.rows as u32).collect();
    let (mut prepared, mut keys) = (Prepared::default(), Vec::new());
    let mut values = vec![0f32; codes.dim];
    let mut numbers = first..;
    for nearest in nearest.chunks_mut(BLOCK_ROWS) {
        run.stop.check()?;
        for (nearest, number) in nearest.iter_mut().zip(&mut numbers) {
            row(number, &mut values);
            codes.prepare(&values, &mut prepared);
            keys.clear();
            codes.keys(&mut prepared, &lists, &mut keys);
            *nearest = first_smallest(&keys);
        }
        if let Some(progress) = run.progress {
            progress.fetch_add(nearest.len(), Ordering::Relaxed);
        }
    }
    Ok(())
}

fn first_smallest(keys: &[f32]) -> u32 {
    let mut best = 0;
    for (at, key) in keys.iter().enumerate() {
        if *key < keys[best] {
            best = at;
        }
    }
    best as u32
}

/// The lists, nearest first, sorted only as far as they are visited.
#[derive(Default)]
pub(super) struct Order {
    lists: Vec<(f32, u32)>,
    sorted: usize,
    numbers: Vec<u32>,
    keys: Vec<f32>,
    prepared: Prepared,
}

impl Order {
    /// Ranks all lists for a query; the first `nprobe` are put in order.
    pub(super) fn rank(&mut self, codes: &Codes, query: &[f32], nprobe: usize) {
        codes.prepare(query, &mut self.prepared);
        self.numbers.clear();
        self.numbers.extend(0..codes.rows as u32);
        self.keys.clear();
        codes.keys(&mut self.prepared, &self.numbers, &mut self.keys);
        self.lists.clear();
        self.lists
            .extend(self.keys.iter().copied().zip(self.numbers.iter().copied()));
        self.sorted = 0;
        self.sort_to(nprobe);
    }

    /// The list of a rank.
    pub(super) fn get(&mut self, rank: usize) -> Option<u32> {
        if rank >= self.sorted {
            self.sort_to(self.lists.len());
        }
        self.lists.get(rank).map(|(_, list)| *list)
    }

    fn sort_to(&mut self, end: usize) {
        let order = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        let rest = &mut self.lists[self.sorted..];
        let wanted = end.saturating_sub(self.sorted).min(rest.len());
        if wanted == 0 {
            return;
        }
        if wanted < rest.len() {
            rest.select_nth_unstable_by(wanted - 1, order);
        }
        rest[..wanted].sort_unstable_by(order);
        self.sorted += wanted;
    }
}
