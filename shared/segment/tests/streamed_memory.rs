//! What reading a segment some rows at a time takes, counted at the allocator: it does not grow with the segment.

#![allow(clippy::unwrap_used, reason = "a test that fails should panic")]
#![allow(unsafe_code, reason = "an allocator of the test's own")]

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicIsize, Ordering},
    },
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redkite_expr::{Templates, compile};
use redkite_segment::{
    ALL_PARTITIONS, Chunk, DeleteBatch, FileEntry, KeyLimits, NewestRows, ReadView,
    SegmentManifest, SegmentMeta,
    delta::{stream_delta, write_delta},
    file::{self, CheckedFiles},
};
use redkite_storage::{ObjectStore, open};
use redkite_types::{
    CollectionId, CollectionSchema, Column, ColumnData, DataType, FieldId, FieldSchema,
    PartitionId, PrimaryKeys, RowBatch, RowId, SegmentId, Timestamp,
};

/// The system's allocator, counting what all threads hold and held at the most.
struct Counting;

static HELD: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: isize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(held, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: by the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there for a moment.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: by the caller's contract.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that are read and decoded at a time.
const AT_ONCE: u64 = 4 << 20;
/// What a reader may take: the requests on their way, what is decoded and what it is decoded from.
const BOUND: usize = 32 << 20;
/// Random bytes of a document, as hexadecimal digits.
const DOCUMENT: usize = 2_000;

fn schema() -> Arc<CollectionSchema> {
    let key = FieldSchema {
        is_primary_key: true,
        ..FieldSchema::new("id", DataType::Int64)
    };
    let vector = FieldSchema {
        dim: 4,
        ..FieldSchema::new("vector", DataType::FloatVector)
    };
    let text = FieldSchema {
        max_length: 60_000,
        ..FieldSchema::new("text", DataType::VarChar)
    };
    let schema = CollectionSchema {
        fields: vec![key, vector, text, FieldSchema::new("doc", DataType::Json)],
        ..CollectionSchema::default()
    };
    Arc::new(schema.prepare().unwrap())
}

/// Rows whose text and document take some 8 KiB, of which compression leaves half.
async fn written(store: &dyn ObjectStore, rows: usize, rng: &mut StdRng) -> SegmentManifest {
    let schema = schema();
    let mut digits = || -> String {
        let words = (0..DOCUMENT / 8).map(|_| format!("{:016x}", rng.random::<u64>()));
        words.collect()
    };
    let texts = (0..rows).map(|_| digits()).collect();
    let document =
        |at: usize, text: String| Bytes::from(format!("{{\"n\": {at}, \"a\": \"{text}\"}}"));
    let documents: Vec<Bytes> = (0..rows).map(|at| document(at, digits())).collect();
    let vectors = vec![0.5; rows * 4];
    let columns = [
        ColumnData::Int64((0..rows as i64).collect()),
        ColumnData::FloatVector {
            dim: 4,
            values: vectors.into(),
        },
        ColumnData::VarChar(texts),
        ColumnData::Json(documents),
    ];
    let columns = columns.into_iter().zip(&schema.fields);
    let columns = columns.map(|(data, field)| Column::new(field.id, data));
    let batch = RowBatch::new(rows, columns.collect()).unwrap();
    let ids = (0..rows as i64).map(RowId).collect();
    let times = vec![Timestamp(1); rows];
    let chunk = Chunk::new(schema.primary_key().id, batch, ids, times).unwrap();
    let meta = SegmentMeta {
        collection: CollectionId(1),
        partition: PartitionId(2),
        segment: SegmentId(3),
        schema,
    };
    let manifest = file::write_segment(store, meta, vec![Arc::new(chunk)]).await;
    manifest.unwrap()
}

/// Opens a segment, filters its rows and reads all of them; answers what that took at the most.
async fn read(store: &dyn ObjectStore, manifest: &SegmentManifest) -> usize {
    let schema = schema();
    let text = "text != \"\" and doc[\"n\"] >= 0";
    let filter = compile(text, &Templates::new(), &schema).unwrap();
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let checked = CheckedFiles::new();
    let opened = file::open_streamed(store, manifest, schema.clone(), &checked);
    let columns = opened.await.unwrap();
    let rows: Vec<u32> = (0..manifest.rows as u32).collect();
    let fields: Vec<FieldId> = filter.fields().into_iter().collect();
    let mut passing = Vec::new();
    for part in columns.divide(&rows, &fields, AT_ONCE, 65_536).unwrap() {
        let piece = columns.read(store, &rows[part], &fields).await.unwrap();
        passing.extend(piece.passing(&filter).unwrap());
    }
    assert_eq!(passing, rows);
    let fields: Vec<FieldId> = schema.fields.iter().map(|field| field.id).collect();
    let mut bytes = 0;
    for part in columns.divide(&rows, &fields, AT_ONCE, 65_536).unwrap() {
        let piece = columns.read(store, &rows[part], &fields).await.unwrap();
        bytes += piece.decode().unwrap().memory_bytes();
    }
    assert!(bytes > rows.len() * DOCUMENT * 4);
    (PEAK.load(Ordering::Relaxed) - before).max(0) as usize
}

/// Rows of nothing but a key and a short vector, and a file that deletes every other one.
async fn narrow(store: &dyn ObjectStore, rows: usize) -> (SegmentManifest, FileEntry) {
    let mut schema = CollectionSchema::clone(&schema());
    schema.fields.truncate(2);
    let schema = Arc::new(schema);
    let keys: Vec<i64> = (0..rows as i64).rev().collect();
    let doomed = keys.iter().copied().filter(|key| key % 2 == 0).collect();
    let columns = vec![
        Column::new(schema.fields[0].id, ColumnData::Int64(keys)),
        Column::new(
            schema.fields[1].id,
            ColumnData::FloatVector {
                dim: 4,
                values: vec![0.5; rows * 4].into(),
            },
        ),
    ];
    let batch = RowBatch::new(rows, columns).unwrap();
    let ids = (0..rows as i64).map(RowId).collect();
    let times = vec![Timestamp(1); rows];
    let chunk = Chunk::new(schema.primary_key().id, batch, ids, times).unwrap();
    let meta = SegmentMeta {
        collection: CollectionId(1),
        partition: PartitionId(2),
        segment: SegmentId(4),
        schema,
    };
    let manifest = file::write_segment(store, meta, vec![Arc::new(chunk)]).await;
    let deletes = DeleteBatch::at(PrimaryKeys::Int(doomed), Timestamp(2), ALL_PARTITIONS);
    let delta = write_delta(store, "channel", 1, deletes).await;
    (manifest.unwrap(), delta.unwrap())
}

/// Finds out which rows are seen; answers what that took at the most.
async fn look(store: &dyn ObjectStore, manifest: &SegmentManifest, delta: &FileEntry) -> usize {
    let mut schema = CollectionSchema::clone(&schema());
    schema.fields.truncate(2);
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let checked = CheckedFiles::new();
    let opened = file::open_streamed(store, manifest, Arc::new(schema), &checked);
    let columns = opened.await.unwrap();
    let limits = KeyLimits {
        keys: 28_000,
        text_bytes: 0,
    };
    let view = ReadView::latest();
    let (rows, partition) = (columns.rows(), PartitionId(2));
    let mut newest = NewestRows::new(rows, partition, view, Timestamp::MAX, limits);
    loop {
        let mut keys = columns.keys_in_order().unwrap();
        while let Some(rows) = keys.read(store).await.unwrap() {
            newest.add(rows.into_keys().unwrap()).unwrap();
        }
        let deletes = stream_delta(store, delta, DataType::Int64, &checked).await;
        let mut deletes = deletes.unwrap();
        while let Some(rows) = deletes.read(store).await.unwrap() {
            newest.delete(&rows.into_deletes().unwrap());
        }
        if !newest.end_range() {
            break;
        }
    }
    assert_eq!(newest.into_rows().0.count_ones(), rows / 2);
    (PEAK.load(Ordering::Relaxed) - before).max(0) as usize
}

async fn rows_are_read(store: &dyn ObjectStore, rng: &mut StdRng) {
    for rows in [6_000, 24_000] {
        let manifest = written(store, rows, rng).await;
        let taken = read(store, &manifest).await;
        let size = manifest.files[0].size_bytes;
        assert!(
            size as usize > rows * DOCUMENT * 2,
            "{size} bytes of {rows} rows"
        );
        assert!(taken < BOUND, "{taken} bytes to read {size}");
        println!("{taken} bytes to read {size}");
    }
}

async fn keys_are_looked_at(store: &dyn ObjectStore) {
    let mut taken = Vec::new();
    for rows in [100_000, 400_000] {
        let (manifest, delta) = narrow(store, rows).await;
        taken.push(look(store, &manifest, &delta).await);
        println!("{taken:?} bytes to look at {rows} keys");
    }
    // A bit a row, and where pages are; and a mebibyte that is there or not at the moment of the most, which is a
    // matter of time. A key, an id and a time would be 24 bytes.
    let more = 300_000 * 6;
    assert!(taken[1] < taken[0] + more, "{taken:?}");
    assert!(taken[1] < BOUND / 2, "{taken:?}");
}

// One test: two at a time would count each other's.
#[tokio::test]
async fn memory_does_not_grow_with_the_segment() {
    let seed = rand::random();
    println!("seed={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    // In local files that are not offered as such: a store in memory would be counted.
    let dir = tempfile::tempdir().unwrap();
    let local = open(&format!("fs://{}", dir.path().display())).unwrap();
    let store = common::store::Watched::new(local.clone());
    rows_are_read(&store, &mut rng).await;
    // What is mapped is not counted, nor is it in memory for good.
    keys_are_looked_at(&*local).await;
}
