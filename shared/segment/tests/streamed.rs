//! Segments that are read some rows at a time, from a store that keeps nothing on a local disk and from local files.

#![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

mod common;

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use common::{
    meta, random_rows, seed,
    store::{Faults, Watched},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redkite_expr::{Plan, Templates, compile};
use redkite_segment::{
    ALL_PARTITIONS, Chunk, DeleteBatch, Error, FileKind, KeyLimits, NewestRows, ReadView,
    SealedSegment, Segment, SegmentManifest, SegmentRetriever,
    file::{self, CheckedFiles, KeyRows, StreamedColumns},
};
use redkite_storage::{ObjectStore, open};
use redkite_types::{
    CollectionSchema, Column, ColumnData, DataType, FieldId, FieldSchema, PrimaryKeys, RowBatch,
    RowId, StopFlag, Timestamp,
};

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

async fn opened(
    store: &dyn ObjectStore,
    manifest: &SegmentManifest,
    schema: &Arc<CollectionSchema>,
) -> Result<Arc<StreamedColumns>, Error> {
    file::open_streamed(store, manifest, schema.clone(), &CheckedFiles::new()).await
}

async fn all_keys(
    store: &dyn ObjectStore,
    opened: &Arc<StreamedColumns>,
) -> Result<Vec<KeyRows>, Error> {
    let mut all = Vec::new();
    let mut keys = opened.keys_in_order()?;
    while let Some(rows) = keys.read(store).await? {
        all.push(rows.into_keys()?);
    }
    Ok(all)
}

fn all_fields(schema: &CollectionSchema) -> Vec<FieldId> {
    schema.fields.iter().map(|field| field.id).collect()
}

/// All fields of some rows, read in parts of about so many bytes.
async fn read(
    store: &dyn ObjectStore,
    opened: &Arc<StreamedColumns>,
    fields: &[FieldId],
    rows: &[u32],
    bytes: u64,
) -> Result<Vec<RowBatch>, Error> {
    let mut batches = Vec::new();
    for part in opened.divide(rows, fields, bytes, 1_000)? {
        let piece = opened.read(store, &rows[part], fields).await?;
        batches.push(piece.decode()?);
    }
    Ok(batches)
}

fn same(found: &[RowBatch], chunk: &Chunk, fields: &[FieldId], rows: &[u32]) {
    assert_eq!(found.iter().map(RowBatch::len).sum::<usize>(), rows.len());
    let rows: Vec<usize> = rows.iter().map(|row| *row as usize).collect();
    for (index, field) in fields.iter().enumerate() {
        let wanted = chunk.batch().column(*field).unwrap();
        let parts = found.iter().map(|batch| &batch.columns()[index]);
        let values =
            parts.flat_map(|part| (0..part.len()).map(|row| (part.field, part.value(row))));
        for ((of_field, value), row) in values.zip(&rows) {
            assert_eq!(of_field, *field);
            assert_eq!(value, wanted.value(*row), "field {field}, row {row}");
        }
    }
}

fn some_rows(rng: &mut StdRng, all: usize) -> Vec<u32> {
    let share = rng.random_range(1..=100);
    let kept = |_: &u32| rng.random_range(0..100) < share;
    (0..all as u32).filter(kept).collect()
}

/// A key, and some fields of the others' types.
fn random_schema(rng: &mut StdRng) -> Arc<CollectionSchema> {
    let kind = match rng.random_bool(0.5) {
        true => DataType::Int64,
        false => DataType::VarChar,
    };
    let mut schema = CollectionSchema::clone(&common::schema(kind));
    let mut fields = Vec::new();
    for mut field in std::mem::take(&mut schema.fields) {
        let is_needed = field.is_primary_key || field.is_dynamic || field.name == "number";
        let is_kept = is_needed || rng.random_bool(0.6);
        field.nullable |= !is_needed && rng.random_bool(0.3);
        fields.extend(is_kept.then_some(field));
    }
    // One vector field at the least, as every collection has.
    let has_vectors = |field: &FieldSchema| field.data_type.is_fixed_vector();
    if !fields.iter().any(has_vectors) {
        let all = common::schema(kind);
        fields.extend(all.fields.iter().find(|field| has_vectors(field)).cloned());
    }
    schema.fields = fields;
    Arc::new(schema)
}

/// Where a random segment's file is.
fn stores() -> (tempfile::TempDir, [Arc<dyn ObjectStore>; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let local = open(&format!("fs://{}", dir.path().display())).unwrap();
    (dir, [open("memory://").unwrap(), local])
}

#[tokio::test]
async fn rows_of_any_schema_are_read_as_they_were_written() {
    let mut rng = StdRng::seed_from_u64(seed());
    for _ in 0..4 {
        let schema = random_schema(&mut rng);
        let count = rng.random_range(1..4_000);
        let keys: Vec<i64> = (0..count).collect();
        let rows = random_rows(&schema, &keys, &mut rng);
        let (_dir, stores) = stores();
        for store in stores {
            let (chunk, manifest) = written(&*store, &schema, rows.clone()).await;
            let opened = opened(&*store, &manifest, &schema).await.unwrap();
            let mut row = 0;
            for keys in all_keys(&*store, &opened).await.unwrap() {
                assert_eq!(keys.first_row as usize, row);
                let rows = row..row + keys.keys.len();
                assert_eq!(keys.row_ids, chunk.row_ids()[rows.clone()]);
                assert_eq!(keys.timestamps, chunk.timestamps()[rows.clone()]);
                let wanted = rows.clone().map(|row| chunk.key(row));
                assert!(keys.keys.iter().eq(wanted));
                row = rows.end;
            }
            assert_eq!(row, chunk.len());
            for _ in 0..4 {
                let rows = some_rows(&mut rng, count as usize);
                let mut fields = all_fields(&schema);
                fields.retain(|_| rng.random_bool(0.8));
                let most = rng.random_range(10..22);
                let bytes = rng.random_range(1 << 9..1 << most);
                let found = read(&*store, &opened, &fields, &rows, bytes).await;
                same(&found.unwrap(), &chunk, &fields, &rows);
            }
        }
    }
}

fn rows_that(segment: &Arc<SealedSegment>, filter: &Arc<Plan>) -> Vec<u32> {
    let retriever = SegmentRetriever {
        filter: filter.clone(),
        view: ReadView::latest(),
        limit: None,
    };
    let segment = Segment::Sealed(segment.clone());
    retriever.rows(&segment, &StopFlag::new()).unwrap()
}

#[tokio::test]
async fn deletes_and_filters_leave_the_rows_that_a_whole_segment_leaves() {
    let mut rng = StdRng::seed_from_u64(seed());
    for _ in 0..8 {
        let schema = random_schema(&mut rng);
        let count = rng.random_range(10..3_000);
        let keys: Vec<i64> = (0..count).map(|_| rng.random_range(0..count)).collect();
        let rows = random_rows(&schema, &keys, &mut rng);
        let store = open("memory://").unwrap();
        let (chunk, manifest) = written(&*store, &schema, rows).await;
        let streamed = opened(&*store, &manifest, &schema).await.unwrap();
        let doomed: BTreeSet<i64> = (0..count / 4).map(|_| rng.random_range(0..count)).collect();
        let doomed = match schema.primary_key().data_type {
            DataType::VarChar => {
                let text = |key: &i64| format!("key {key:06}");
                PrimaryKeys::Str(doomed.iter().map(text).collect())
            }
            _ => PrimaryKeys::Int(doomed.into_iter().collect()),
        };
        let doomed = DeleteBatch::at(doomed, Timestamp(1 << 41), ALL_PARTITIONS);
        let whole = Arc::new(SealedSegment::new(meta(&schema, 7), chunk).unwrap());
        whole.delete(&doomed);
        let view = ReadView::latest();
        let (rows, partition) = (streamed.rows(), whole.meta().partition);
        let limits = KeyLimits::default();
        let mut seen = NewestRows::new(rows, partition, view, Timestamp::MAX, limits);
        for rows in all_keys(&*store, &streamed).await.unwrap() {
            seen.add(rows).unwrap();
        }
        seen.delete(&doomed);
        assert!(!seen.end_range());
        let all: Vec<u32> = seen.into_rows().0.iter().map(|row| row as u32).collect();
        assert_eq!(all, rows_that(&whole, &Arc::new(Plan::all())));
        let low = rng.random_range(-100..100);
        for text in [
            format!("number > {low}"),
            format!("number > {low} or number < {}", -low),
            format!("not (number in [{low}, 1, 2, 3])"),
            "number is null".to_owned(),
        ] {
            let filter = compile(&text, &Templates::new(), &schema).unwrap();
            let filter = Arc::new(filter);
            let fields: Vec<FieldId> = filter.fields().into_iter().collect();
            let bytes = rng.random_range(1 << 9..1 << 18);
            let mut passing = Vec::new();
            for part in streamed.divide(&all, &fields, bytes, 700).unwrap() {
                let piece = streamed.read(&*store, &all[part], &fields).await;
                passing.extend(piece.unwrap().passing(&filter).unwrap());
            }
            assert_eq!(passing, rows_that(&whole, &filter), "{text}");
        }
    }
}

/// 400 bytes a vector, so that blocks of the file end in the middle of some, and long documents.
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
        fields: vec![key, vector, FieldSchema::new("document", DataType::Json)],
        ..CollectionSchema::default()
    };
    Arc::new(schema.prepare().unwrap())
}

fn wide_rows(schema: &CollectionSchema, count: usize, rng: &mut StdRng) -> RowBatch {
    let values: Vec<f32> = (0..count * 100).map(|at| at as f32).collect();
    let vectors = ColumnData::FloatVector {
        dim: 100,
        values: values.into(),
    };
    let keys = ColumnData::Int64((0..count as i64).collect());
    let mut document = || {
        let words = (0..rng.random_range(0..40)).map(|_| rng.random::<u64>());
        Bytes::from(format!("{:?}", words.collect::<Vec<_>>()))
    };
    let documents = ColumnData::Json((0..count).map(|_| document()).collect());
    let columns = vec![
        Column::new(schema.fields[0].id, keys),
        Column::new(schema.fields[1].id, vectors),
        Column::new(schema.fields[2].id, documents),
    ];
    RowBatch::new(count, columns).unwrap()
}

#[tokio::test]
async fn values_that_lie_across_blocks_are_whole() {
    let mut rng = StdRng::seed_from_u64(seed());
    let (schema, store) = (wide(), open("memory://").unwrap());
    let (count, fields) = (12_000, all_fields(&schema));
    let rows = wide_rows(&schema, count, &mut rng);
    let (chunk, manifest) = written(&*store, &schema, rows).await;
    let opened = opened(&*store, &manifest, &schema).await.unwrap();
    // Part after part, as an export takes them, and some rows here and there.
    let all: Vec<u32> = (0..count as u32).collect();
    let mut wanted = vec![all, vec![0, count as u32 - 1], Vec::new()];
    wanted.extend((0..3).map(|_| some_rows(&mut rng, count)));
    for rows in wanted {
        let found = read(&*store, &opened, &fields, &rows, 1 << 19)
            .await
            .unwrap();
        same(&found, &chunk, &fields, &rows);
    }
    let behind = [count as u32];
    let read = opened.read(&*store, &behind, &fields).await;
    assert!(read.is_err());
}

#[tokio::test]
async fn whatever_is_read_is_read_once_more_than_the_check() {
    let mut rng = StdRng::seed_from_u64(seed());
    let (schema, store) = (wide(), Watched::new(open("memory://").unwrap()));
    let (count, fields) = (12_000, all_fields(&schema));
    let rows = wide_rows(&schema, count, &mut rng);
    let (_, manifest) = written(&store, &schema, rows).await;
    let size = manifest.file(FileKind::Data).unwrap().size_bytes;
    let checked = CheckedFiles::new();
    let open = || file::open_streamed(&store, &manifest, schema.clone(), &checked);
    let opened = open().await.unwrap();
    all_keys(&store, &opened).await.unwrap();
    let to_open = store.bytes_read();
    // The keys, and where pages are.
    assert!(to_open < size + size / 4, "{to_open} bytes of {size}");
    all_keys(&store, &open().await.unwrap()).await.unwrap();
    let again = store.bytes_read() - to_open;
    assert!(again < size / 4, "{again} bytes of {size} to open it again");
    let before = store.bytes_read();
    let all: Vec<u32> = (0..count as u32).collect();
    read(&store, &opened, &fields, &all, 1 << 20).await.unwrap();
    let whole = store.bytes_read() - before;
    assert!(
        whole < size + size / 10,
        "{whole} bytes of {size} for all rows"
    );
}

#[tokio::test]
async fn damage_is_found_when_it_is_opened_and_afterwards() {
    let mut rng = StdRng::seed_from_u64(seed());
    let (schema, store) = (wide(), open("memory://").unwrap());
    let count = 6_000;
    let rows = wide_rows(&schema, count, &mut rng);
    let (_, manifest) = written(&*store, &schema, rows).await;
    let path = &manifest.file(FileKind::Data).unwrap().path;
    let good = store.get(path).await.unwrap();
    let (fields, all) = (all_fields(&schema), (0..count as u32).collect::<Vec<_>>());
    for _ in 0..20 {
        store.put(path, good.clone()).await.unwrap();
        let before = opened(&*store, &manifest, &schema).await.unwrap();
        let mut bad = good.to_vec();
        let at = rng.random_range(0..bad.len());
        bad[at] ^= 1 << rng.random_range(0..8);
        store.put(path, Bytes::from(bad)).await.unwrap();
        let error = opened(&*store, &manifest, &schema).await.unwrap_err();
        assert!(error.to_string().contains(path), "byte {at}: {error}");
        // One that was open before meets the block that has changed: all but hidden columns and the last bytes is read.
        let taken = read(&*store, &before, &fields, &all, 1 << 20).await;
        let is_apart = at > good.len() - (512 << 10);
        match taken {
            Ok(_) => assert!(is_apart || at < 512 << 10, "byte {at} of {}", good.len()),
            Err(error) => assert!(error.to_string().contains(path), "byte {at}: {error}"),
        }
    }
    for wrong in [good.slice(..good.len() - 1), Bytes::new(), {
        let mut longer = good.to_vec();
        longer.push(0);
        longer.into()
    }] {
        store.put(path, wrong).await.unwrap();
        assert!(opened(&*store, &manifest, &schema).await.is_err());
    }
    store.put(path, good).await.unwrap();
    assert!(opened(&*store, &manifest, &schema).await.is_ok());
}

#[tokio::test]
async fn a_read_that_fails_or_is_short_says_of_which_file() {
    let mut rng = StdRng::seed_from_u64(seed());
    let (schema, store) = (wide(), Watched::new(open("memory://").unwrap()));
    let fields = all_fields(&schema);
    let rows = wide_rows(&schema, 9_000, &mut rng);
    let (chunk, manifest) = written(&store, &schema, rows).await;
    let path = &manifest.file(FileKind::Data).unwrap().path;
    let all: Vec<u32> = (0..9_000).collect();
    let opened = opened(&store, &manifest, &schema).await.unwrap();
    let mut failures = 0;
    for fault in [Faults::fail_at, Faults::cut_at] {
        for after in 0.. {
            store.set(fault(after));
            match read(&store, &opened, &fields, &all, 1 << 20).await {
                Err(error) => assert!(error.to_string().contains(path), "{error}"),
                Ok(found) => {
                    // So many reads there are not.
                    same(&found, &chunk, &fields, &all);
                    break;
                }
            }
            failures += 1;
        }
    }
    assert!(failures > 10, "only {failures} reads could fail");
}
