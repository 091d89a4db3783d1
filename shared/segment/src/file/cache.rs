//! Decoded columns of files whose columns do not stay in memory, up to a number of bytes.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use redkite_types::{Column, FieldId};

/// A column of an open file.
type Key = (u64, FieldId);

/// Columns by file and field; the one that was not used for the longest time goes first.
#[derive(Debug)]
pub struct ColumnCache {
    limit: usize,
    next_file: AtomicU64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    columns: HashMap<Key, Entry>,
    bytes: usize,
    /// Counts uses.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    column: Arc<Column>,
    bytes: usize,
    used: u64,
}

impl ColumnCache {
    /// Holds columns of so many bytes. One that is larger is used and not kept; what a reader still
    /// uses is not freed by being dropped here.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            next_file: AtomicU64::new(0),
            held: Mutex::default(),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.held.lock().bytes
    }

    /// A number for an open file that no other has.
    pub(super) fn register(&self) -> u64 {
        self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn get(&self, file: u64, field: FieldId) -> Option<Arc<Column>> {
        let mut held = self.held.lock();
        held.clock += 1;
        let now = held.clock;
        let entry = held.columns.get_mut(&(file, field))?;
        entry.used = now;
        Some(entry.column.clone())
    }

    pub(super) fn put(&self, file: u64, field: FieldId, column: &Arc<Column>) {
        let bytes = column.data.memory_bytes();
        if bytes > self.limit {
            return;
        }
        let mut held = self.held.lock();
        held.clock += 1;
        let entry = Entry {
            column: column.clone(),
            bytes,
            used: held.clock,
        };
        if let Some(before) = held.columns.insert((file, field), entry) {
            held.bytes -= before.bytes;
        }
        held.bytes += bytes;
        while held.bytes > self.limit {
            let oldest = held.columns.iter().min_by_key(|(_, entry)| entry.used);
            let Some(key) = oldest.map(|(key, _)| *key) else {
                break;
            };
            held.remove(&key);
        }
    }

    /// Drops the columns of a file that is closed.
    pub(super) fn forget(&self, file: u64) {
        let mut held = self.held.lock();
        let of_file = held.columns.keys().filter(|key| key.0 == file);
        for key in of_file.copied().collect::<Vec<_>>() {
            held.remove(&key);
        }
    }

    /// Bytes held of one file.
    pub(super) fn bytes_of(&self, file: u64) -> usize {
        let held = self.held.lock();
        let of_file = held.columns.iter().filter(|(key, _)| key.0 == file);
        of_file.map(|(_, entry)| entry.bytes).sum()
    }
}

impl Held {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.columns.remove(key) {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use redkite_types::ColumnData;

    use super::*;

    fn column(field: i64, rows: usize) -> Arc<Column> {
        let data = ColumnData::Int64(vec![7; rows]);
        Arc::new(Column::new(FieldId(field), data))
    }

    #[test]
    fn the_limit_holds_and_what_was_used_last_stays() {
        let cache = ColumnCache::new(3_000);
        let file = cache.register();
        let put = |field| cache.put(file, FieldId(field), &column(field, 125));
        (0..3).for_each(put);
        assert_eq!(cache.bytes(), 3_000);
        assert!(cache.get(file, FieldId(0)).is_some());
        put(3);
        assert_eq!(cache.bytes(), 3_000);
        assert!(cache.get(file, FieldId(0)).is_some());
        assert!(cache.get(file, FieldId(1)).is_none());
        // The same again counts once, one that is too large not at all.
        put(3);
        cache.put(file, FieldId(9), &column(9, 376));
        assert_eq!(cache.bytes(), 3_000);
        assert!(cache.get(file, FieldId(9)).is_none());
    }

    #[test]
    fn a_closed_file_leaves_nothing() {
        let cache = ColumnCache::new(10_000);
        let (one, other) = (cache.register(), cache.register());
        cache.put(one, FieldId(1), &column(1, 10));
        cache.put(other, FieldId(1), &column(1, 20));
        cache.forget(one);
        assert_eq!((cache.bytes_of(one), cache.bytes_of(other)), (0, 160));
        assert_eq!(cache.bytes(), 160);
    }
}
