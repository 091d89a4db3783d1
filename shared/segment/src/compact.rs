//! The rows of several segments that still count, in the order of their keys.

use std::{cmp::Ordering, collections::HashMap};

use redkite_types::{FieldId, PartitionId, PrimaryKey, RowBatch, StopFlag, Timestamp};

use crate::{
    chunk::{Chunk, KeysRef},
    delete::DeleteBatch,
    error::{Error, Result},
    fetch::{Source, gather_column},
};

/// Which rows still count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Rows that a delete or a newer row of their key up to this time hides do not count. A read at
    /// an earlier time must not be made of what is left.
    pub deletes_until: Timestamp,
    /// Rows written before this time have expired; zero when rows live for ever.
    pub expired_before: Timestamp,
}

/// A row: which chunk, which row of it.
type Place = (usize, usize);

/// Rows of several chunks of one partition that still count, by key, older before newer.
#[derive(Debug)]
pub struct Survivors<'a> {
    chunks: &'a [Chunk],
    places: Vec<Place>,
}

impl<'a> Survivors<'a> {
    /// Finds them. `deletes` must have every delete up to the cut that may hit one of the rows.
    ///
    /// # Errors
    /// `Cancelled`
    pub fn find(
        chunks: &'a [Chunk],
        partition: PartitionId,
        deletes: &[DeleteBatch],
        cut: Cut,
        stop: &StopFlag,
    ) -> Result<Self> {
        let deleted = latest_deletes(deletes, partition, cut.deletes_until);
        let rows = chunks.iter().map(Chunk::len).sum();
        let mut places: Vec<Place> = Vec::with_capacity(rows);
        for (index, chunk) in chunks.iter().enumerate() {
            check(stop)?;
            let counts = |row: &usize| {
                let ts = chunk.timestamps()[*row];
                let hidden = || {
                    let latest = deleted.get(&chunk.key(*row));
                    latest.is_some_and(|since| *since > ts)
                };
                ts >= cut.expired_before && (deleted.is_empty() || !hidden())
            };
            places.extend((0..chunk.len()).filter(counts).map(|row| (index, row)));
        }
        check(stop)?;
        let order = Order::new(chunks);
        places.sort_unstable_by(|a, b| order.compare(*a, *b));
        check(stop)?;
        // Of a key's rows only those stay that no newer one up to the cut hides.
        let stays = |index: usize| match places.get(index + 1) {
            Some(next) if order.same_key(places[index], *next) => {
                chunks[next.0].timestamps()[next.1] > cut.deletes_until
            }
            Some(_) | None => true,
        };
        let places = (0..places.len())
            .filter(|index| stays(*index))
            .map(|index| places[index])
            .collect();
        Ok(Self { chunks, places })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Copies them into at most `parts` chunks of about the same number of rows, in the order of
    /// the keys; rows of one key stay together.
    ///
    /// # Errors
    /// `Cancelled` · `Corrupt` when the chunks do not have the same columns
    pub fn into_chunks(
        self,
        parts: usize,
        key_field: FieldId,
        stop: &StopFlag,
    ) -> Result<Vec<Chunk>> {
        let order = Order::new(self.chunks);
        let rows_each = self.places.len().div_ceil(parts.max(1)).max(1);
        let mut chunks = Vec::with_capacity(parts);
        let mut rest = self.places.as_slice();
        while !rest.is_empty() {
            check(stop)?;
            let mut end = rows_each.min(rest.len());
            while end < rest.len() && order.same_key(rest[end - 1], rest[end]) {
                end += 1;
            }
            let (part, later) = rest.split_at(end);
            chunks.push(self.copy(part, key_field)?);
            rest = later;
        }
        Ok(chunks)
    }

    fn copy(&self, places: &[Place], key_field: FieldId) -> Result<Chunk> {
        let bad = |reason: String| Error::corrupt("of a compaction", reason);
        let Some(first) = self.chunks.first() else {
            return Err(bad("there are no rows".to_owned()));
        };
        let mut columns = Vec::with_capacity(first.batch().columns().len());
        for column in first.batch().columns() {
            let field = column.field;
            let sources = self.chunks.iter().map(|chunk| {
                let column = chunk.batch().column(field);
                column
                    .map(Source::Column)
                    .ok_or_else(|| bad(format!("field {field} is missing")))
            });
            let sources = sources.collect::<Result<Vec<_>>>()?;
            columns.push(gather_column(&sources, places, field)?);
        }
        let batch = RowBatch::new(places.len(), columns)
            .ok_or_else(|| bad("columns differ in length".to_owned()))?;
        let ids = places
            .iter()
            .map(|&(chunk, row)| self.chunks[chunk].row_ids()[row]);
        let times = places
            .iter()
            .map(|&(chunk, row)| self.chunks[chunk].timestamps()[row]);
        Chunk::new(key_field, batch, ids.collect(), times.collect()).map_err(bad)
    }
}

/// The latest delete of each key up to a time: it hides every row of the key that a delete up to
/// then hides.
fn latest_deletes(
    deletes: &[DeleteBatch],
    partition: PartitionId,
    until: Timestamp,
) -> HashMap<PrimaryKey, Timestamp> {
    let mut latest: HashMap<PrimaryKey, Timestamp> = HashMap::new();
    for batch in deletes {
        for index in batch.concerning(partition) {
            let since = batch.timestamps[index];
            if since <= until {
                let known = latest.entry(batch.keys.get(index)).or_insert(since);
                *known = since.max(*known);
            }
        }
    }
    latest
}

/// Rows by key, then by age.
struct Order<'a> {
    chunks: &'a [Chunk],
    keys: Vec<KeysRef<'a>>,
}

impl<'a> Order<'a> {
    fn new(chunks: &'a [Chunk]) -> Self {
        Self {
            chunks,
            keys: chunks.iter().map(Chunk::keys).collect(),
        }
    }

    fn compare_keys(&self, a: Place, b: Place) -> Ordering {
        match (&self.keys[a.0], &self.keys[b.0]) {
            (KeysRef::Int(left), KeysRef::Int(right)) => left[a.1].cmp(&right[b.1]),
            (KeysRef::Str(left), KeysRef::Str(right)) => left[a.1].cmp(&right[b.1]),
            // The keys of one collection have one type.
            (KeysRef::Int(_), KeysRef::Str(_)) => Ordering::Less,
            (KeysRef::Str(_), KeysRef::Int(_)) => Ordering::Greater,
        }
    }

    fn same_key(&self, a: Place, b: Place) -> bool {
        self.compare_keys(a, b).is_eq()
    }

    fn compare(&self, a: Place, b: Place) -> Ordering {
        let age = |(chunk, row): Place| {
            let chunk = &self.chunks[chunk];
            (chunk.timestamps()[row], chunk.row_ids()[row])
        };
        // A place makes the order total, so that the same rows always give the same file.
        self.compare_keys(a, b)
            .then_with(|| age(a).cmp(&age(b)))
            .then_with(|| a.cmp(&b))
    }
}

fn check(stop: &StopFlag) -> Result<()> {
    if stop.is_stopped() {
        return Err(Error::Cancelled);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use redkite_types::PrimaryKeys;

    use super::*;
    use crate::{
        ALL_PARTITIONS,
        testing::{KEY, Rows, meta},
    };

    fn chunk(rows: &[(i64, u64)]) -> Chunk {
        let rows = rows
            .iter()
            .fold(Rows::new(), |all, (key, ts)| all.row(*key, *ts));
        Chunk::new(KEY, rows.batch(), rows.row_ids(), rows.timestamps()).unwrap()
    }

    fn delete(key: i64, ts: u64, partition: PartitionId) -> DeleteBatch {
        DeleteBatch::at(PrimaryKeys::Int(vec![key]), Timestamp(ts), partition)
    }

    fn rows_of(chunk: &Chunk) -> Vec<(i64, u64)> {
        (0..chunk.len())
            .map(|row| match chunk.key(row) {
                PrimaryKey::Int(key) => (key, chunk.timestamps()[row].0),
                PrimaryKey::Str(_) => panic!("a number"),
            })
            .collect()
    }

    fn compact(
        chunks: &[Chunk],
        deletes: &[DeleteBatch],
        until: u64,
        expired_before: u64,
        parts: usize,
    ) -> Vec<Vec<(i64, u64)>> {
        let cut = Cut {
            deletes_until: Timestamp(until),
            expired_before: Timestamp(expired_before),
        };
        let stop = StopFlag::new();
        let found = Survivors::find(chunks, meta().partition, deletes, cut, &stop).unwrap();
        let chunks = found.into_chunks(parts, KEY, &stop).unwrap();
        chunks.iter().map(rows_of).collect()
    }

    #[test]
    fn rows_that_are_hidden_up_to_the_cut_go_and_no_others() {
        let here = meta().partition;
        let chunks = [
            chunk(&[(3, 10), (1, 10), (2, 11)]),
            chunk(&[(2, 20), (4, 20), (5, 20)]),
        ];
        let deletes = [
            // Hits the older row only.
            delete(2, 15, ALL_PARTITIONS),
            // As old as the row: an upsert's own delete.
            delete(4, 20, here),
            // Another partition's.
            delete(3, 30, PartitionId(999)),
            // Behind the cut.
            delete(5, 41, here),
            delete(1, 40, here),
        ];
        let want = vec![vec![(2, 20), (3, 10), (4, 20), (5, 20)]];
        assert_eq!(compact(&chunks, &deletes, 40, 0, 1), want);
        // A cut before everything keeps everything, in order.
        let all = vec![vec![(1, 10), (2, 11), (2, 20), (3, 10), (4, 20), (5, 20)]];
        assert_eq!(compact(&chunks, &deletes, 5, 0, 1), all);
    }

    #[test]
    fn of_one_key_the_newest_row_up_to_the_cut_and_all_later_ones_stay() {
        let chunks = [chunk(&[(1, 30), (1, 10)]), chunk(&[(1, 20), (1, 40)])];
        assert_eq!(
            compact(&chunks, &[], 25, 0, 1),
            [[(1, 20), (1, 30), (1, 40)]]
        );
        assert_eq!(compact(&chunks, &[], 100, 0, 1), [[(1, 40)]]);
    }

    #[test]
    fn expired_rows_go_and_nothing_may_be_left() {
        let chunks = [chunk(&[(1, 10), (2, 20)])];
        assert_eq!(compact(&chunks, &[], 0, 20, 1), [[(2, 20)]]);
        assert!(compact(&chunks, &[], 0, 21, 1).is_empty());
    }

    #[test]
    fn parts_follow_each_other_and_rows_of_a_key_stay_together() {
        let rows: Vec<(i64, u64)> = (0..10).map(|key| (9 - key, 10)).collect();
        let chunks = [chunk(&rows), chunk(&[(3, 5), (3, 20)])];
        let parts = compact(&chunks, &[], 0, 0, 3);
        assert_eq!(parts.len(), 3);
        let keys: Vec<i64> = parts.concat().iter().map(|row| row.0).collect();
        assert_eq!(keys, [0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(parts[0].last(), Some(&(3, 20)));
    }

    #[test]
    fn a_raised_flag_stops_it() {
        let stop = StopFlag::new();
        stop.stop();
        let cut = Cut {
            deletes_until: Timestamp(0),
            expired_before: Timestamp(0),
        };
        let chunks = [chunk(&[(1, 1)])];
        let found = Survivors::find(&chunks, meta().partition, &[], cut, &stop);
        assert!(matches!(found, Err(Error::Cancelled)), "{found:?}");
    }
}
