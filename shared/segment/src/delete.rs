//! Which rows of a segment are deleted, and since when.
//!
//! A delete of a key at time D hides the rows of that key that were written before D. A read at R
//! sees a row unless there is such a D ≤ R; so of all deletes that hit a row only the earliest
//! counts, and it is kept by row. A newer row of the same key in the same segment hides the older
//! one in the same way, from its own time on.
//!
//! Reads at or after the latest delete (nearly all) take a ready bitmap; older ones walk the log.

use std::{collections::HashMap, ops::Range, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use redkite_types::{BitSet, PartitionId, PrimaryKeys, Timestamp};

/// Stands for every partition in a [`DeleteBatch`].
pub const ALL_PARTITIONS: PartitionId = PartitionId(-1);

/// Log entries that wait outside of the bitmap, so that publishing one delete copies only these.
const RECENT: usize = 256;

/// Deletes in the order of their time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteBatch {
    /// The keys.
    pub keys: PrimaryKeys,
    /// When each was deleted; as many as keys.
    pub timestamps: Vec<Timestamp>,
    /// In which partition, or [`ALL_PARTITIONS`]; as many as keys.
    pub partitions: Vec<PartitionId>,
}

impl DeleteBatch {
    /// The same time and partition for all keys.
    pub fn at(keys: PrimaryKeys, ts: Timestamp, partition: PartitionId) -> Self {
        let rows = keys.len();
        Self {
            keys,
            timestamps: vec![ts; rows],
            partitions: vec![partition; rows],
        }
    }

    /// Number of deletes.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The positions of the deletes that concern a partition.
    pub fn concerning(&self, partition: PartitionId) -> impl Iterator<Item = usize> + '_ {
        let concerned = move |index: &usize| {
            let wanted = self.partitions[*index];
            wanted == ALL_PARTITIONS || wanted == partition
        };
        (0..self.len()).filter(concerned)
    }
}

/// A row that is hidden from a time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) since: Timestamp,
    pub(crate) row: u32,
}

/// The deletes of one segment: recorded by whoever writes, read without waiting by any number of
/// readers. A sealed segment goes on with those of the growing one that it was.
#[derive(Debug, Default)]
pub struct SegmentDeletes {
    writer: Mutex<HashMap<u32, Timestamp>>,
    published: ArcSwap<Published>,
}

/// The deletes as of some moment.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Every row in `runs`.
    rows: Arc<BitSet>,
    /// Log entries in runs of growing age and falling number, each half as long as the one before.
    runs: Vec<Arc<Vec<Entry>>>,
    /// Log entries that are in no run yet.
    recent: Vec<Entry>,
    latest: Timestamp,
    count: usize,
}

impl SegmentDeletes {
    /// No deletes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of rows that are hidden from some time on.
    pub fn count(&self) -> usize {
        self.published.load().count
    }

    /// Memory taken, in bytes, roughly.
    pub fn memory_bytes(&self) -> usize {
        let published = self.published.load();
        published.rows.len() / 8 + published.count * 32
    }

    /// Hides rows; all of them at once for readers.
    pub(crate) fn record(&self, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        let mut earliest = self.writer.lock();
        let before = self.published.load();
        let mut recent = before.recent.clone();
        let (mut latest, mut count) = (before.latest, before.count);
        for entry in entries {
            match earliest.insert(entry.row, entry.since) {
                Some(known) if known <= entry.since => {
                    earliest.insert(entry.row, known);
                    continue;
                }
                Some(_) => {}
                None => count += 1,
            }
            latest = latest.max(entry.since);
            recent.push(*entry);
        }
        let (mut rows, mut runs) = (before.rows.clone(), before.runs.clone());
        if recent.len() >= RECENT {
            rows = Arc::new(with_rows(&rows, &recent));
            push_run(&mut runs, std::mem::take(&mut recent));
        }
        self.published.store(Arc::new(Published {
            rows,
            runs,
            recent,
            latest,
            count,
        }));
    }

    /// The rows that a read at `at` must not see.
    pub(crate) fn at(&self, at: Timestamp) -> Hidden {
        let published = self.published.load_full();
        if at >= published.latest {
            return Hidden::Ready(published);
        }
        let runs = published.runs.iter().flat_map(|run| run.iter());
        let hidden: Vec<Entry> = runs
            .chain(&published.recent)
            .filter(|entry| entry.since <= at)
            .copied()
            .collect();
        Hidden::Computed(with_rows(&BitSet::default(), &hidden))
    }
}

/// A bitmap that also holds the rows of these entries.
fn with_rows(rows: &BitSet, entries: &[Entry]) -> BitSet {
    let mut all = rows.clone();
    let needed = entries.iter().map(|entry| entry.row as usize + 1).max();
    let needed = needed.unwrap_or(0);
    if all.len() < needed {
        all.resize(needed.next_power_of_two());
    }
    for entry in entries {
        all.set(entry.row as usize);
    }
    all
}

/// Appends a run and merges the newest ones, so that n entries lie in about log n runs.
fn push_run(runs: &mut Vec<Arc<Vec<Entry>>>, run: Vec<Entry>) {
    let mut run = run;
    while let Some(last) = runs.pop_if(|last| last.len() < run.len() * 2) {
        let mut merged = Vec::with_capacity(last.len() + run.len());
        merged.extend_from_slice(&last);
        merged.append(&mut run);
        run = merged;
    }
    runs.push(Arc::new(run));
}

/// What one read must not see; row numbers are those of the segment.
#[derive(Debug)]
pub(crate) enum Hidden {
    Ready(Arc<Published>),
    Computed(BitSet),
}

impl Hidden {
    fn parts(&self) -> (&BitSet, &[Entry]) {
        match self {
            Self::Ready(published) => (&published.rows, &published.recent),
            Self::Computed(rows) => (rows, &[]),
        }
    }

    /// Takes the hidden ones of the segment's rows `span` out of `rows`, which spans only these.
    pub(crate) fn take_out(&self, span: Range<usize>, rows: &mut BitSet) {
        let (bits, recent) = self.parts();
        if span.start == 0 {
            if bits.any() {
                rows.and_not(bits);
            }
        } else {
            let words = bits.words();
            let last_word = span.end.div_ceil(64).min(words.len());
            for (index, word) in words
                .iter()
                .enumerate()
                .take(last_word)
                .skip(span.start / 64)
            {
                let mut left = *word;
                while left != 0 {
                    let row = index * 64 + left.trailing_zeros() as usize;
                    left &= left - 1;
                    if span.contains(&row) {
                        rows.clear(row - span.start);
                    }
                }
            }
        }
        for entry in recent {
            let row = entry.row as usize;
            if span.contains(&row) {
                rows.clear(row - span.start);
            }
        }
    }

    /// Whether no row is hidden.
    pub(crate) fn is_empty(&self) -> bool {
        let (bits, recent) = self.parts();
        recent.is_empty() && !bits.any()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden_rows(deletes: &SegmentDeletes, at: u64, span: Range<usize>) -> Vec<usize> {
        let mut rows = BitSet::full(span.len());
        deletes.at(Timestamp(at)).take_out(span.clone(), &mut rows);
        (0..span.len())
            .filter(|&row| !rows.get(row))
            .map(|row| row + span.start)
            .collect()
    }

    #[test]
    fn the_earliest_delete_of_a_row_counts_whatever_the_order() {
        let deletes = SegmentDeletes::new();
        let entry = |row, since| Entry {
            since: Timestamp(since),
            row,
        };
        deletes.record(&[entry(3, 20), entry(5, 30)]);
        deletes.record(&[entry(3, 10), entry(5, 40)]);
        assert_eq!(deletes.count(), 2);
        assert_eq!(hidden_rows(&deletes, 9, 0..8), [0; 0]);
        assert_eq!(hidden_rows(&deletes, 10, 0..8), [3]);
        assert_eq!(hidden_rows(&deletes, 29, 0..8), [3]);
        assert_eq!(hidden_rows(&deletes, 30, 0..8), [3, 5]);
        assert_eq!(hidden_rows(&deletes, 100, 4..8), [5]);
        assert_eq!(hidden_rows(&deletes, 100, 0..4), [3]);
    }

    #[test]
    fn many_deletes_agree_with_a_plain_list_at_every_time() {
        let deletes = SegmentDeletes::new();
        let rows = 5_000u32;
        let row_at = |time: u32| (time * 7_919) % rows;
        for time in 0..3_000 {
            deletes.record(&[Entry {
                since: Timestamp(u64::from(time)),
                row: row_at(time),
            }]);
        }
        let published = deletes.published.load();
        assert!(published.runs.len() < 10, "{} runs", published.runs.len());
        for at in [0, 1, 255, 256, 1_000, 2_999, 9_999] {
            for span in [0..5_000usize, 100..300, 4_097..5_000] {
                let mut want: Vec<usize> = (0..=at.min(2_999))
                    .map(|time| row_at(time) as usize)
                    .filter(|row| span.contains(row))
                    .collect();
                want.sort_unstable();
                assert_eq!(hidden_rows(&deletes, u64::from(at), span), want);
            }
        }
    }
}
