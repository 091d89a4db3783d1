//! Which rows of a segment are seen, against a model that looks at every row.

#![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

mod common;

use std::{collections::BTreeSet, sync::Arc};

use common::{PARTITION, meta, random_rows, seed};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redkite_segment::{
    ALL_PARTITIONS, Chunk, DeleteBatch, FileEntry, KeyLimits, NewestRows, ReadView,
    SegmentManifest,
    delta::{stream_delta, write_delta},
    file::{self, CheckedFiles},
};
use redkite_storage::{ObjectStore, open};
use redkite_types::{CollectionSchema, DataType, PartitionId, PrimaryKeys, RowId, Timestamp};

/// The key as a number, and when the row was written; its id follows from its place.
type Row = (i64, u64);

/// The key, when it was deleted, and where.
type Delete = (i64, u64, PartitionId);

struct World {
    store: Arc<dyn ObjectStore>,
    schema: Arc<CollectionSchema>,
}

impl World {
    async fn segment(&self, id: i64, rows: &[Row], rng: &mut StdRng) -> SegmentManifest {
        let keys: Vec<i64> = rows.iter().map(|row| row.0).collect();
        let batch = random_rows(&self.schema, &keys, rng);
        let ids = (0..rows.len() as i64).map(RowId).collect();
        let times = rows.iter().map(|row| Timestamp(row.1)).collect();
        let chunk = Chunk::new(self.schema.primary_key().id, batch, ids, times).unwrap();
        let chunks = vec![Arc::new(chunk)];
        let written = file::write_segment(&*self.store, meta(&self.schema, id), chunks).await;
        written.unwrap()
    }

    async fn delta(&self, id: i64, deletes: &[Delete]) -> FileEntry {
        let keys = deletes.iter().map(|delete| delete.0);
        let keys = match self.key() {
            DataType::VarChar => {
                PrimaryKeys::Str(keys.map(|key| format!("key {key:06}")).collect())
            }
            _ => PrimaryKeys::Int(keys.collect()),
        };
        let batch = DeleteBatch {
            keys,
            timestamps: deletes.iter().map(|delete| Timestamp(delete.1)).collect(),
            partitions: deletes.iter().map(|delete| delete.2).collect(),
        };
        write_delta(&*self.store, "channel", id, batch)
            .await
            .unwrap()
    }

    fn key(&self) -> DataType {
        self.schema.primary_key().data_type
    }
}

/// Numbers of the rows that are seen.
fn expected(own: &[Row], other: &[Row], deletes: &[Delete], view: ReadView) -> BTreeSet<usize> {
    let in_time = |ts: u64| ts <= view.at.0;
    let is_seen = |(row, (key, ts)): &(usize, &Row)| {
        let newer_here = own.iter().enumerate().any(|(at, (other, newer))| {
            other == key && in_time(*newer) && (*newer, at) > (*ts, *row)
        });
        let newer_there = other
            .iter()
            .any(|(other, newer)| other == key && in_time(*newer) && newer > ts);
        let is_deleted = deletes.iter().any(|(deleted, at, partition)| {
            let concerns = [ALL_PARTITIONS, PARTITION].contains(partition);
            deleted == key && concerns && in_time(*at) && at > ts
        });
        in_time(*ts) && *ts >= view.expired_before.0 && !newer_here && !newer_there && !is_deleted
    };
    own.iter()
        .enumerate()
        .filter(is_seen)
        .map(|(row, _)| row)
        .collect()
}

#[tokio::test]
async fn rows_are_seen_as_a_look_at_every_row_says_however_little_fits() {
    let mut rng = StdRng::seed_from_u64(seed());
    let dir = tempfile::tempdir().unwrap();
    let local = open(&format!("fs://{}", dir.path().display())).unwrap();
    let stores = [open("memory://").unwrap(), local];
    for round in 0..16 {
        let world = World {
            store: stores[round % 2].clone(),
            schema: common::schema(match round / 2 % 2 {
                0 => DataType::Int64,
                _ => DataType::VarChar,
            }),
        };
        let count = rng.random_range(1..1_000);
        let mut rows = || -> Vec<Row> {
            let row = |_| (rng.random_range(0..count), rng.random_range(1..500));
            (0..count).map(row).collect()
        };
        let (own, other) = (rows(), rows());
        let places = [ALL_PARTITIONS, PARTITION, PartitionId(PARTITION.0 + 1)];
        let delete = |_| {
            let place = places[rng.random_range(0..places.len())];
            (rng.random_range(0..count), rng.random_range(1..500), place)
        };
        let deletes: Vec<Delete> = (0..count / 2).map(delete).collect();
        let view = ReadView {
            at: Timestamp(rng.random_range(1..520)),
            expired_before: Timestamp(rng.random_range(0..100)),
        };
        let since = Timestamp(rng.random_range(0..500));
        let limits = KeyLimits {
            keys: rng.random_range(16..1_200),
            text_bytes: rng.random_range(200..12_000),
        };
        let id = round as i64 * 2;
        let manifest = world.segment(id, &own, &mut rng).await;
        let beside = world.segment(id + 1, &other, &mut rng).await;
        let delta = world.delta(id, &deletes).await;

        let (store, checked) = (&*world.store, CheckedFiles::new());
        let open = |manifest| file::open_streamed(store, manifest, world.schema.clone(), &checked);
        let (mine, beside) = (open(&manifest).await.unwrap(), open(&beside).await.unwrap());
        let mut newest = NewestRows::new(mine.rows(), PARTITION, view, since, limits);
        loop {
            let mut keys = mine.keys_in_order().unwrap();
            while let Some(rows) = keys.read(store).await.unwrap() {
                newest.add(rows.into_keys().unwrap()).unwrap();
            }
            let mut keys = beside.keys_in_order().unwrap();
            while let Some(rows) = keys.read(store).await.unwrap() {
                newest.replace(&rows.into_keys().unwrap());
            }
            let deletes = stream_delta(store, &delta, world.key(), &checked).await;
            let mut deletes = deletes.unwrap();
            while let Some(rows) = deletes.read(store).await.unwrap() {
                newest.delete(&rows.into_deletes().unwrap());
            }
            if !newest.end_range() {
                break;
            }
        }
        let (seen, later) = newest.into_rows();
        let wanted = expected(&own, &other, &deletes, view);
        assert_eq!(
            seen.iter().collect::<BTreeSet<_>>(),
            wanted,
            "{limits:?} {view:?}"
        );
        let wanted = wanted.iter().filter(|row| own[**row].1 > since.0);
        assert_eq!(later, wanted.count());
    }
}

#[tokio::test]
async fn a_delete_file_is_read_as_it_was_written_and_damage_is_found() {
    let mut rng = StdRng::seed_from_u64(seed());
    for kind in [DataType::Int64, DataType::VarChar] {
        let world = World {
            store: open("memory://").unwrap(),
            schema: common::schema(kind),
        };
        let delete = |_| {
            let place = PartitionId(rng.random_range(-1..3));
            (
                rng.random_range(0..100_000),
                rng.random_range(1..1 << 60),
                place,
            )
        };
        let deletes: Vec<Delete> = (0..70_000).map(delete).collect();
        let file = world.delta(1, &deletes).await;
        let (store, checked) = (&*world.store, CheckedFiles::new());
        let mut found = stream_delta(store, &file, kind, &checked).await.unwrap();
        let mut next = 0;
        while let Some(rows) = found.read(store).await.unwrap() {
            let rows = rows.into_deletes().unwrap();
            for index in 0..rows.len() {
                let (key, ts, partition) = deletes[next];
                match &rows.keys {
                    PrimaryKeys::Int(keys) => assert_eq!(keys[index], key),
                    PrimaryKeys::Str(keys) => assert_eq!(keys[index], format!("key {key:06}")),
                }
                assert_eq!(rows.timestamps[index], Timestamp(ts));
                assert_eq!(rows.partitions[index], partition);
                next += 1;
            }
        }
        assert_eq!(next, deletes.len());
        // Of no deletes there is a file, too.
        let empty = world.delta(2, &[]).await;
        let mut empty = stream_delta(store, &empty, kind, &checked).await.unwrap();
        assert!(empty.read(store).await.unwrap().is_none());
        let mut bad = store.get(&file.path).await.unwrap().to_vec();
        let at = rng.random_range(0..bad.len());
        bad[at] ^= 1;
        store.put(&file.path, bad.into()).await.unwrap();
        let error = stream_delta(store, &file, kind, &CheckedFiles::new()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(&file.path), "byte {at}: {error}");
    }
}
