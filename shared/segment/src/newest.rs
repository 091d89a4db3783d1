//! Which rows of a segment a read sees, found out in memory that does not grow with the segment.
//!
//! Of each key only the newest row counts. The keys are divided by their hash into ranges small enough to be in
//! memory, one range at a time: all rows of the segment are looked at for the newest ones of the range, then rows of other
//! segments and deletes take some of these out. What stays is one bit a row.

use std::{
    borrow::Borrow,
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher as _, Hash, RandomState},
};

use redkite_types::{BitSet, PartitionId, PrimaryKeys, RowId, Timestamp};

use crate::{
    delete::DeleteBatch,
    error::{Error, Result},
    file::KeyRows,
    segment::ReadView,
};

/// What may be in memory at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLimits {
    /// Keys.
    pub keys: usize,
    /// Bytes of keys that are texts.
    pub text_bytes: usize,
}

impl Default for KeyLimits {
    fn default() -> Self {
        // As many as a hash table of a power of two holds: 33 MiB, or 41 and the texts.
        Self {
            keys: (1 << 20) / 8 * 7,
            text_bytes: 16 << 20,
        }
    }
}

/// The rows of a segment that are seen, while keys and deletes are looked at.
#[derive(Debug)]
pub struct NewestRows {
    view: ReadView,
    partition: PartitionId,
    limits: KeyLimits,
    hashes: RandomState,
    /// The range of hashes whose keys are looked at, both ends included.
    range: (u64, u64),
    keys: Keys,
    seen: BitSet,
    /// Rows written after this time are counted.
    since: Timestamp,
    later: usize,
}

#[derive(Debug)]
enum Keys {
    None,
    Int(HashMap<i64, Newest>),
    /// With the bytes of all texts.
    Str(HashMap<String, Newest>, usize),
}

/// The newest row of a key; in the order of age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Newest {
    ts: Timestamp,
    id: RowId,
    row: u32,
}

impl NewestRows {
    /// Begins with a segment of so many rows, all in one partition; what is seen of it later than `since` is counted.
    pub fn new(
        rows: usize,
        partition: PartitionId,
        view: ReadView,
        since: Timestamp,
        limits: KeyLimits,
    ) -> Self {
        // Some room to spare: hashes are not spread evenly.
        let ranges = rows
            .div_ceil((limits.keys - limits.keys / 16).max(1))
            .max(1);
        Self {
            view,
            partition,
            limits,
            hashes: RandomState::new(),
            range: (0, u64::MAX / ranges as u64),
            keys: Keys::None,
            seen: BitSet::new(rows),
            since,
            later: 0,
        }
    }

    /// Looks at rows of the segment. All of them are shown once for each range, before any others.
    ///
    /// # Errors
    /// `Corrupt` when keys are of several types.
    pub fn add(&mut self, rows: KeyRows) -> Result<()> {
        let KeyRows {
            first_row,
            keys,
            row_ids,
            timestamps,
        } = rows;
        let ages = timestamps.into_iter().zip(row_ids).zip(first_row..);
        let ages = ages.map(|((ts, id), row)| Newest { ts, id, row });
        match keys {
            PrimaryKeys::Int(keys) => {
                if matches!(self.keys, Keys::None) {
                    self.keys = Keys::Int(HashMap::with_capacity(self.room()));
                }
                for (key, newest) in keys.into_iter().zip(ages) {
                    self.add_int(key, newest)?;
                }
            }
            PrimaryKeys::Str(keys) => {
                if matches!(self.keys, Keys::None) {
                    self.keys = Keys::Str(HashMap::with_capacity(self.room()), 0);
                }
                for (key, newest) in keys.into_iter().zip(ages) {
                    self.add_str(key, newest)?;
                }
            }
        }
        Ok(())
    }

    /// Room is made once: a table that grows by itself is there twice for a moment.
    fn room(&self) -> usize {
        self.seen.len().min(self.limits.keys)
    }

    fn add_int(&mut self, key: i64, newest: Newest) -> Result<()> {
        if !self.is_in_time(newest.ts) || !self.is_in_range(&key) {
            return Ok(());
        }
        let Keys::Int(keys) = &mut self.keys else {
            return Err(several_types());
        };
        keep_newest(keys, key, newest);
        while self.is_full() {
            self.narrow();
        }
        Ok(())
    }

    fn add_str(&mut self, key: String, newest: Newest) -> Result<()> {
        if !self.is_in_time(newest.ts) || !self.is_in_range(key.as_str()) {
            return Ok(());
        }
        let Keys::Str(keys, bytes) = &mut self.keys else {
            return Err(several_types());
        };
        let length = key.len();
        if keep_newest(keys, key, newest) {
            *bytes += length;
        }
        while self.is_full() {
            self.narrow();
        }
        Ok(())
    }

    fn is_in_time(&self, ts: Timestamp) -> bool {
        ts <= self.view.at && ts >= self.view.expired_before
    }

    fn is_in_range<K: Hash + ?Sized>(&self, key: &K) -> bool {
        // Most segments have one range.
        self.range == (0, u64::MAX) || {
            let hash = self.hashes.hash_one(key);
            self.range.0 <= hash && hash <= self.range.1
        }
    }

    fn is_full(&self) -> bool {
        let is_full = match &self.keys {
            Keys::None => false,
            Keys::Int(keys) => keys.len() >= self.limits.keys,
            Keys::Str(keys, bytes) => {
                keys.len() >= self.limits.keys || *bytes >= self.limits.text_bytes
            }
        };
        // Keys of one hash stay together, however many.
        is_full && self.range.0 < self.range.1
    }

    /// Leaves the upper half of the range for later.
    fn narrow(&mut self) {
        let (first, last) = self.range;
        let middle = first + (last - first) / 2;
        self.range = (first, middle);
        let hashes = &self.hashes;
        match &mut self.keys {
            Keys::None => {}
            Keys::Int(keys) => keys.retain(|key, _| hashes.hash_one(key) <= middle),
            Keys::Str(keys, bytes) => {
                keys.retain(|key, _| hashes.hash_one(key.as_str()) <= middle);
                *bytes = keys.keys().map(String::len).sum();
            }
        }
    }

    /// Whether nothing is left of the range that could be taken out.
    pub fn is_empty(&self) -> bool {
        match &self.keys {
            Keys::None => true,
            Keys::Int(keys) => keys.is_empty(),
            Keys::Str(keys, _) => keys.is_empty(),
        }
    }

    /// Takes out rows of which another segment of the partition has newer ones.
    pub fn replace(&mut self, newer: &KeyRows) {
        for (index, ts) in newer.timestamps.iter().enumerate() {
            if *ts <= self.view.at {
                self.take_out(&newer.keys, index, *ts);
            }
        }
    }

    /// Takes out rows that were deleted after they were written.
    pub fn delete(&mut self, deletes: &DeleteBatch) {
        for index in deletes.concerning(self.partition) {
            let since = deletes.timestamps[index];
            if since <= self.view.at {
                self.take_out(&deletes.keys, index, since);
            }
        }
    }

    fn take_out(&mut self, keys: &PrimaryKeys, index: usize, since: Timestamp) {
        match (&mut self.keys, keys) {
            (Keys::Int(newest), PrimaryKeys::Int(keys)) => {
                remove_older(newest, &keys[index], since);
            }
            (Keys::Str(newest, _), PrimaryKeys::Str(keys)) => {
                remove_older(newest, keys[index].as_str(), since);
            }
            // A key of the other type is never met.
            (Keys::None | Keys::Int(_) | Keys::Str(..), _) => {}
        }
    }

    /// Ends a range; answers whether there is another one, for which everything must be shown again.
    pub fn end_range(&mut self) -> bool {
        let (seen, since, later) = (&mut self.seen, self.since, &mut self.later);
        let mut stays = |newest: Newest| {
            seen.set(newest.row as usize);
            *later += usize::from(newest.ts > since);
        };
        match &mut self.keys {
            Keys::None => {}
            Keys::Int(keys) => keys.drain().for_each(|(_, newest)| stays(newest)),
            Keys::Str(keys, bytes) => {
                keys.drain().for_each(|(_, newest)| stays(newest));
                *bytes = 0;
            }
        }
        let (first, last) = self.range;
        if last == u64::MAX {
            return false;
        }
        // A range that was made narrow by few long keys does not make all others so.
        let width = (last - first).saturating_mul(2);
        self.range = (last + 1, (last + 1).saturating_add(width));
        true
    }

    /// The rows that are seen, and how many of them are later than `since`.
    pub fn into_rows(self) -> (BitSet, usize) {
        (self.seen, self.later)
    }
}

/// Whether the key is a new one.
fn keep_newest<K: Eq + Hash>(all: &mut HashMap<K, Newest>, key: K, newest: Newest) -> bool {
    match all.entry(key) {
        Entry::Occupied(mut known) => {
            if *known.get() < newest {
                known.insert(newest);
            }
            false
        }
        Entry::Vacant(place) => {
            place.insert(newest);
            true
        }
    }
}

fn remove_older<K, Q>(all: &mut HashMap<K, Newest>, key: &Q, since: Timestamp)
where
    K: Borrow<Q> + Eq + Hash,
    Q: Eq + Hash + ?Sized,
{
    if all.get(key).is_some_and(|newest| newest.ts < since) {
        all.remove(key);
    }
}

fn several_types() -> Error {
    Error::corrupt("keys of a segment", "they are of several types")
}
