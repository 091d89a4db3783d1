//! Segments that are read from a store that keeps nothing on a local disk.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{meta, random_rows, schema, seed};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redkite_segment::{
    Chunk, ColumnCache, Error, FileKind, Placement, RowAt, SealedSegment, Segment, SegmentManifest,
    fetch, file,
};
use redkite_storage::{ObjectStore, open};
use redkite_types::{
    CollectionSchema, Column, ColumnData, DataType, FieldId, FieldSchema, RowBatch, RowId,
    SegmentId, Timestamp,
};

/// Every field stays in the file, as an export has it.
fn placement(schema: &CollectionSchema) -> Placement {
    Placement {
        mapped: schema.fields.iter().map(|field| field.id).collect(),
        cache: Arc::new(ColumnCache::new(1 << 20)),
    }
}

async fn written(
    store: &dyn ObjectStore,
    schema: &Arc<CollectionSchema>,
    rows: RowBatch,
) -> (Chunk, SegmentManifest) {
    let ids: Vec<RowId> = (0..rows.len() as i64).map(RowId).collect();
    let times = vec![Timestamp(1 << 40); rows.len()];
    let key = schema.primary_key().id;
    let chunk = || Chunk::new(key, rows.clone(), ids.clone(), times.clone()).unwrap();
    let chunks = vec![Arc::new(chunk())];
    let manifest = file::write_segment(store, meta(schema, 7), chunks).await;
    (chunk(), manifest.unwrap())
}

/// Rows of a file and its vectors, put together.
async fn read(
    store: &dyn ObjectStore,
    manifest: &SegmentManifest,
    schema: &Arc<CollectionSchema>,
    rows: &[u32],
) -> Result<Vec<Column>, Error> {
    let placement = placement(schema);
    let opened = file::open_streamed(store, manifest, schema.clone(), &placement).await?;
    let mut columns = Vec::new();
    if let Some(vectors) = &opened.vectors {
        columns = vectors.take(store, rows).await?;
    }
    let apart: Vec<FieldId> = columns.iter().map(|column| column.field).collect();
    let sealed = SealedSegment::new(meta(schema, 7), opened.chunk)?;
    let at = |row: &u32| RowAt {
        segment: SegmentId(7),
        row: *row,
    };
    let places: Vec<RowAt> = rows.iter().map(at).collect();
    let fields = schema.fields.iter().map(|field| field.id);
    let others: Vec<FieldId> = fields.filter(|id| !apart.contains(id)).collect();
    let fetched = fetch(&[Segment::Sealed(Arc::new(sealed))], &places, &others)?;
    columns.extend(fetched.into_columns());
    columns.sort_by_key(|column| column.field);
    Ok(columns)
}

fn same(found: &[Column], chunk: &Chunk, rows: &[u32]) {
    let rows: Vec<usize> = rows.iter().map(|row| *row as usize).collect();
    for column in found {
        let wanted = chunk.batch().column(column.field).unwrap().take(&rows);
        assert_eq!(column.len(), rows.len());
        for row in 0..rows.len() {
            assert_eq!(
                column.value(row),
                wanted.value(row),
                "field {}",
                column.field
            );
        }
    }
}

fn some_rows(rng: &mut StdRng, all: usize) -> Vec<u32> {
    let share = rng.random_range(1..=100);
    let kept = |_: &u32| rng.random_range(0..100) < share;
    (0..all as u32).filter(kept).collect()
}

#[tokio::test]
async fn every_type_is_read_as_it_was_written() {
    let mut rng = StdRng::seed_from_u64(seed());
    let schema = schema(DataType::Int64);
    let keys: Vec<i64> = (0..500).collect();
    let store = open("memory://").unwrap();
    let rows = random_rows(&schema, &keys, &mut rng);
    let (chunk, manifest) = written(&*store, &schema, rows).await;
    for _ in 0..4 {
        let rows = some_rows(&mut rng, 500);
        let found = read(&*store, &manifest, &schema, &rows).await.unwrap();
        assert_eq!(found.len(), schema.fields.len());
        same(&found, &chunk, &rows);
    }
}

/// 400 bytes a vector: blocks of the file end in the middle of some.
fn wide() -> Arc<CollectionSchema> {
    let key = FieldSchema {
        is_primary_key: true,
        ..FieldSchema::new("id", DataType::Int64)
    };
    let vector = FieldSchema {
        dim: 100,
        ..FieldSchema::new("vector", DataType::FloatVector)
    };
    let schema = CollectionSchema {
        fields: vec![key, vector],
        ..CollectionSchema::default()
    };
    Arc::new(schema.prepare().unwrap())
}

fn wide_rows(schema: &CollectionSchema, count: usize) -> RowBatch {
    let values: Vec<f32> = (0..count * 100).map(|at| at as f32).collect();
    let vectors = ColumnData::FloatVector {
        dim: 100,
        values: values.into(),
    };
    let keys = ColumnData::Int64((0..count as i64).collect());
    let columns = vec![
        Column::new(schema.fields[0].id, keys),
        Column::new(schema.fields[1].id, vectors),
    ];
    RowBatch::new(count, columns).unwrap()
}

#[tokio::test]
async fn vectors_that_lie_across_blocks_are_whole() {
    let mut rng = StdRng::seed_from_u64(seed());
    let (schema, store) = (wide(), open("memory://").unwrap());
    let count = 12_000;
    let (chunk, manifest) = written(&*store, &schema, wide_rows(&schema, count)).await;
    let placement = placement(&schema);
    let opened = file::open_streamed(&*store, &manifest, schema.clone(), &placement);
    let vectors = opened.await.unwrap().vectors.unwrap();
    // Batch after batch, as an export takes them, and some rows here and there.
    let all: Vec<u32> = (0..count as u32).collect();
    let mut batches: Vec<Vec<u32>> = all.chunks(1_700).map(<[u32]>::to_vec).collect();
    batches.extend((0..3).map(|_| some_rows(&mut rng, count)));
    batches.push(vec![0, count as u32 - 1]);
    batches.push(Vec::new());
    for rows in batches {
        let found = vectors.take(&*store, &rows).await.unwrap();
        same(&found, &chunk, &rows);
    }
    assert!(vectors.take(&*store, &[count as u32]).await.is_err());
}

#[tokio::test]
async fn a_local_file_is_opened_as_ever() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&format!("fs://{}", dir.path().display())).unwrap();
    let schema = wide();
    let (chunk, manifest) = written(&*store, &schema, wide_rows(&schema, 100)).await;
    let placement = placement(&schema);
    let opened = file::open_streamed(&*store, &manifest, schema.clone(), &placement);
    assert!(opened.await.unwrap().vectors.is_none());
    let rows: Vec<u32> = (0..100).collect();
    let found = read(&*store, &manifest, &schema, &rows).await.unwrap();
    same(&found, &chunk, &rows);
}

#[tokio::test]
async fn damage_is_found_when_it_is_opened_and_afterwards() {
    let mut rng = StdRng::seed_from_u64(seed());
    let (schema, store) = (wide(), open("memory://").unwrap());
    let (_, manifest) = written(&*store, &schema, wide_rows(&schema, 6_000)).await;
    let path = &manifest.file(FileKind::Data).unwrap().path;
    let good = store.get(path).await.unwrap();
    let placement = placement(&schema);
    let rows: Vec<u32> = (0..6_000).collect();
    for _ in 0..20 {
        store.put(path, good.clone()).await.unwrap();
        let opened = file::open_streamed(&*store, &manifest, schema.clone(), &placement);
        let vectors = opened.await.unwrap().vectors.unwrap();
        let mut bad = good.to_vec();
        let at = rng.random_range(0..bad.len());
        bad[at] ^= 1 << rng.random_range(0..8);
        store.put(path, Bytes::from(bad)).await.unwrap();
        let opened = file::open_streamed(&*store, &manifest, schema.clone(), &placement).await;
        let error = opened.unwrap_err().to_string();
        assert!(error.contains(path), "byte {at}: {error}");
        // One that was open before meets the block that has changed, if it wants it: all but 2,400,000 bytes are no
        // vectors, and lie before them and behind them.
        let taken = vectors.take(&*store, &rows).await;
        let others = good.len() - 2_400_000;
        let in_values = at > others && at < good.len() - others;
        assert!(taken.is_err() || !in_values, "byte {at} of {}", good.len());
    }
    for wrong in [good.slice(..good.len() - 1), Bytes::new(), {
        let mut longer = good.to_vec();
        longer.push(0);
        longer.into()
    }] {
        store.put(path, wrong).await.unwrap();
        let opened = file::open_streamed(&*store, &manifest, schema.clone(), &placement).await;
        assert!(opened.is_err());
    }
    store.put(path, good).await.unwrap();
    let vectors = file::open_streamed(&*store, &manifest, schema.clone(), &placement).await;
    assert!(vectors.unwrap().vectors.is_some());
}
