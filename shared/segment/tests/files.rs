//! Files of sealed segments.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::{process::Command, sync::Arc};

use bytes::Bytes;
use common::{PARTITION, field, meta, random_rows, schema, seed};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redkite_segment::{
    ALL_PARTITIONS, Chunk, ColumnCache, DeleteBatch, Error, FileEntry, FileKind, GrowingSegment,
    Placement, RowAt, SealedSegment, Segment, SegmentManifest, delta, fetch, file,
};
use redkite_storage::{ObjectStore, open};
use redkite_types::{
    Coded, CollectionSchema, ColumnData, DataType, ErrorCode, FieldSchema, PartitionId, PrimaryKey,
    PrimaryKeys, RowBatch, RowId, SegmentId, Timestamp, Value,
};

fn memory() -> Arc<dyn ObjectStore> {
    open("memory://").unwrap()
}

fn local() -> (tempfile::TempDir, Arc<dyn ObjectStore>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&format!("fs://{}", dir.path().display())).unwrap();
    (dir, store)
}

fn grown(schema: &Arc<CollectionSchema>, rng: &mut StdRng) -> GrowingSegment {
    let segment = GrowingSegment::new(meta(schema, 7));
    let mut next = 0;
    for round in 1..=5 {
        let rows = rng.random_range(1..200);
        let keys: Vec<i64> = (next..next + rows).map(|key| (key * 7) % 1_000).collect();
        next += rows;
        let ids = (next - rows..next).map(RowId).collect();
        let times = keys.iter().map(|_| Timestamp(round << 40)).collect();
        segment
            .append(random_rows(schema, &keys, rng), ids, times)
            .unwrap();
    }
    segment
}

async fn written(
    store: &dyn ObjectStore,
    schema: &Arc<CollectionSchema>,
    rng: &mut StdRng,
) -> (Chunk, SegmentManifest) {
    let snapshot = grown(schema, rng).snapshot();
    let chunks = snapshot.chunks().to_vec();
    let mut whole = snapshot.chunks()[0].batch().clone();
    let mut ids = snapshot.chunks()[0].row_ids().to_vec();
    let mut times = snapshot.chunks()[0].timestamps().to_vec();
    for chunk in &chunks[1..] {
        whole.extend(chunk.batch());
        ids.extend_from_slice(chunk.row_ids());
        times.extend_from_slice(chunk.timestamps());
    }
    let manifest = file::write_segment(store, meta(schema, 7), chunks)
        .await
        .unwrap();
    let key = schema.primary_key().id;
    (Chunk::new(key, whole, ids, times).unwrap(), manifest)
}

#[tokio::test]
async fn every_type_comes_back_as_it_was() {
    let mut rng = StdRng::seed_from_u64(seed());
    for key in [DataType::Int64, DataType::VarChar] {
        let schema = schema(key);
        let store = memory();
        let (rows, manifest) = written(&*store, &schema, &mut rng).await;
        let read = file::read_segment(&*store, &manifest, schema.clone())
            .await
            .unwrap();
        for (written, read) in rows.batch().columns().iter().zip(read.batch().columns()) {
            for row in 0..written.len() {
                assert_eq!(written.is_valid(row), read.is_valid(row));
                assert_eq!(written.value(row), read.value(row));
            }
            assert_eq!(written.data, read.data, "field {}", written.field);
        }
        assert_eq!(rows.row_ids(), read.row_ids());
        assert_eq!(rows.timestamps(), read.timestamps());
        assert_eq!((manifest.min_ts, manifest.max_ts), rows.times());
        assert_eq!(manifest.rows as usize, rows.len());
        let order = rows.key_order();
        let (first, last) = (order[0] as usize, order[order.len() - 1] as usize);
        assert_eq!(manifest.min_key, Some(rows.key(first)));
        assert_eq!(manifest.max_key, Some(rows.key(last)));
        let filter = file::read_key_filter(&*store, &manifest).await.unwrap();
        let filter = filter.unwrap();
        assert!((0..rows.len()).all(|row| filter.may_contain(&rows.key(row))));
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(
            serde_json::from_str::<SegmentManifest>(&text).unwrap(),
            manifest
        );
    }
}

#[tokio::test]
async fn any_damage_to_any_file_is_an_error_that_names_it() {
    let mut rng = StdRng::seed_from_u64(seed());
    let schema = schema(DataType::Int64);
    let (_dir, local) = local();
    for store in [memory(), local] {
        let (_, manifest) = written(&*store, &schema, &mut rng).await;
        for entry in &manifest.files {
            let whole = store.get(&entry.path).await.unwrap();
            for round in 0..60 {
                let mut damaged = whole.to_vec();
                if round % 10 == 0 {
                    damaged.truncate(rng.random_range(0..whole.len()));
                } else {
                    let bit = rng.random_range(0..whole.len() * 8);
                    damaged[bit / 8] ^= 1 << (bit % 8);
                }
                store.put(&entry.path, Bytes::from(damaged)).await.unwrap();
                let error = match entry.kind {
                    FileKind::Data => read_somehow(&*store, &manifest, &schema, round).await,
                    _ => file::read_key_filter(&*store, &manifest).await.map(drop),
                };
                let error = error.unwrap_err();
                assert_eq!(error.code(), ErrorCode::DataIntegrity);
                assert!(error.to_string().contains(&entry.path), "{error}");
                let mapped = round % 2 == 0;
                let error = file::read_checked(&*store, entry, mapped)
                    .await
                    .unwrap_err();
                assert!(error.to_string().contains(&entry.path), "{error}");
            }
            store.put(&entry.path, whole).await.unwrap();
        }
        store.delete(&manifest.files[0].path).await.unwrap();
        for round in 0..4 {
            let gone = read_somehow(&*store, &manifest, &schema, round).await;
            assert_eq!(gone.unwrap_err().code(), ErrorCode::IoKeyNotFound);
        }
    }
}

/// Reads a data file in one of the ways that there are.
async fn read_somehow(
    store: &dyn ObjectStore,
    manifest: &SegmentManifest,
    schema: &Arc<CollectionSchema>,
    round: usize,
) -> Result<(), Error> {
    let mapped: &[&str] = match round % 4 {
        0 => &["vector", "text"],
        1 => &[],
        2 => {
            return file::read_segment(store, manifest, schema.clone())
                .await
                .map(drop);
        }
        _ => {
            let field = &schema.fields[round % schema.fields.len()];
            let entry = &manifest.files[0];
            let found = file::find_column(store, manifest.segment, entry, field).await?;
            return found.read(store).await.map(drop);
        }
    };
    let placement = placement(schema, mapped, 0);
    file::open_segment(store, manifest, schema.clone(), &placement)
        .await
        .map(drop)
}

fn placement(schema: &CollectionSchema, mapped: &[&str], cache: usize) -> Placement {
    Placement {
        mapped: mapped.iter().map(|name| field(schema, name)).collect(),
        cache: Arc::new(ColumnCache::new(cache)),
    }
}

#[tokio::test]
async fn an_open_file_shows_the_same_rows_as_one_that_was_read() {
    let mut rng = StdRng::seed_from_u64(seed());
    let every = [
        "vector", "number", "text", "flag", "tiny", "small", "long", "float", "double", "doc",
        "bits", "half", "brain", "bytes", "sparse",
    ];
    let (_dir, local) = local();
    for (store, is_local) in [(memory(), false), (local, true)] {
        for mapped in [&[][..], &["vector"], &["text", "number"], &every] {
            let schema = schema(DataType::VarChar);
            let (rows, manifest) = written(&*store, &schema, &mut rng).await;
            let placement = placement(&schema, mapped, 3_000);
            let opened = file::open_segment(&*store, &manifest, schema.clone(), &placement);
            let chunk = opened.await.unwrap();
            assert_eq!(
                chunk.batch().columns().len(),
                6,
                "only the key and the vectors of one length"
            );
            let sealed = SealedSegment::new(meta(&schema, 7), chunk).unwrap();
            let segment = [Segment::Sealed(Arc::new(sealed))];
            let id = SegmentId(7);
            for count in [1, 3, rows.len()] {
                let picked: Vec<usize> = (0..count)
                    .map(|_| rng.random_range(0..rows.len()))
                    .collect();
                let at: Vec<RowAt> = picked
                    .iter()
                    .map(|row| RowAt {
                        segment: id,
                        row: *row as u32,
                    })
                    .collect();
                let fields: Vec<_> = schema.fields.iter().map(|field| field.id).collect();
                let fetched = fetch(&segment, &at, &fields).unwrap();
                assert_same(&rows.batch().take(&picked), &fetched);
                assert!(placement.cache.bytes() <= 3_000);
            }
            let Segment::Sealed(sealed) = &segment[0] else {
                panic!("sealed");
            };
            // Vectors count unless they are mapped, the rows' own bookkeeping always.
            let vectors = rows.len() * common::DIM * 4;
            let least = match is_local && mapped.contains(&"vector") {
                true => rows.len() * 16,
                false => rows.len() * 16 + vectors,
            };
            let counted = sealed.memory_bytes();
            assert!(counted >= least, "{counted} bytes, at least {least}");
            if is_local && mapped.len() == every.len() {
                let most = least + 3_000 + rows.len() * 120;
                assert!(counted <= most, "{counted} bytes, at most {most}");
            }
        }
    }
}

/// Whether a column without nulls says so, or says it of each row, is its own affair.
fn assert_same(written: &RowBatch, read: &RowBatch) {
    assert_eq!(written.columns().len(), read.columns().len());
    for (written, read) in written.columns().iter().zip(read.columns()) {
        assert_eq!(written.data, read.data, "field {}", written.field);
        for row in 0..written.len() {
            assert_eq!(written.is_valid(row), read.is_valid(row));
        }
    }
}

/// Values of the golden file's rows, as its maker had them.
fn golden_value(name: &str, row: i64) -> Value {
    if row % 5 == 0 && !["pk", "$meta"].contains(&name) {
        return Value::Null;
    }
    match name {
        "pk" => Value::Int(row),
        "number" => Value::Int(row * 3),
        "text" => Value::Str(format!("text {row} é")),
        "flag" => Value::Bool(row % 2 == 0),
        "tiny" => Value::Int(row - 25),
        "small" => Value::Int(-row * 100),
        "long" => Value::Int(row << 40),
        "float" => Value::Double(row as f64 / 4.0),
        "double" => Value::Double(row as f64 / 8.0),
        "doc" => Value::Str(format!("{{\"a\":{row}}}")),
        _ => Value::Str(format!("{{\"extra\":{row}}}")),
    }
}

#[tokio::test]
async fn files_of_version_1_are_still_read() {
    let bytes = Bytes::from_static(include_bytes!("golden/data.v1.parquet"));
    let schema = common::schema_with(DataType::Int64, Vec::new());
    let store = memory();
    let path = "segments/10/20/7/data.v1.parquet".to_owned();
    let entry = FileEntry::of(FileKind::Data, path, &bytes);
    store.put(&entry.path, bytes).await.unwrap();
    let manifest = SegmentManifest {
        format_version: 1,
        collection: meta(&schema, 7).collection,
        partition: PARTITION,
        segment: SegmentId(7),
        rows: 50,
        min_ts: Timestamp(0),
        max_ts: Timestamp(0),
        min_key: None,
        max_key: None,
        files: vec![entry.clone()],
    };
    let whole = file::read_segment(&*store, &manifest, schema.clone());
    let placement = placement(&schema, &["vector", "text"], 100);
    let opened = file::open_segment(&*store, &manifest, schema.clone(), &placement);
    for chunk in [whole.await.unwrap(), opened.await.unwrap()] {
        for field in &schema.fields {
            let column = chunk.batch().column(field.id).unwrap();
            for row in 0..50 {
                if let ColumnData::FloatVector { values, .. } = &column.data {
                    let first = row as f32;
                    let wanted = [first, first + 0.5, -first, 0.25];
                    assert_eq!(values[row * 4..row * 4 + 4], wanted);
                } else {
                    assert_eq!(column.value(row), golden_value(&field.name, row as i64));
                }
            }
        }
    }
    for field in &schema.fields {
        let found = file::find_column(&*store, SegmentId(7), &entry, field).await;
        let column = found.unwrap().read(&*store).await;
        assert_eq!(column.unwrap().len(), 50);
    }
}

#[tokio::test]
async fn vectors_lie_in_the_file_as_they_do_in_memory() {
    let mut rng = StdRng::seed_from_u64(seed());
    let schema = schema(DataType::Int64);
    let (_dir, store) = local();
    let (rows, manifest) = written(&*store, &schema, &mut rng).await;
    let vector = schema.field("vector").unwrap();
    let ColumnData::FloatVector { values, .. } = &rows.batch().column(vector.id).unwrap().data
    else {
        panic!("a vector column");
    };
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let file = store.get(&manifest.files[0].path).await.unwrap();
    let at = file.windows(bytes.len()).position(|window| window == bytes);
    assert_eq!(at.unwrap() % 64, 0);

    let placement = placement(&schema, &["vector"], 0);
    let opened = file::open_segment(&*store, &manifest, schema.clone(), &placement);
    let opened = opened.await.unwrap();
    let ColumnData::FloatVector { values: mapped, .. } =
        &opened.batch().column(vector.id).unwrap().data
    else {
        panic!("a vector column");
    };
    assert_eq!(mapped, values);
    assert!(mapped.is_shared());
    assert_eq!(mapped.as_ptr().addr() % 64, 0);
    let found = file::find_column(&*store, manifest.segment, &manifest.files[0], vector);
    let found = found.await.unwrap();
    assert!(found.is_mapped());
    let column = found.read(&*store).await.unwrap();
    let ColumnData::FloatVector { values: alone, .. } = &column.data else {
        panic!("a vector column");
    };
    assert!(alone.is_shared());
    let key = schema.field("pk").unwrap();
    let other = file::find_column(&*store, manifest.segment, &manifest.files[0], key).await;
    assert!(!other.unwrap().is_mapped(), "it is decoded");
    // Unlinking the file leaves the mappings whole.
    store.delete(&manifest.files[0].path).await.unwrap();
    assert_eq!(mapped, values);
    assert_eq!(alone, values);
    let found = file::find_column(&*store, manifest.segment, &manifest.files[0], vector);
    let error = found.await.err().unwrap();
    assert_eq!(error.code(), ErrorCode::IoKeyNotFound);
}

#[tokio::test]
async fn bytes_that_are_no_such_file_never_panic() {
    let mut rng = StdRng::seed_from_u64(seed());
    let schema = schema(DataType::Int64);
    let store = memory();
    let (_, manifest) = written(&*store, &schema, &mut rng).await;
    let entry = &manifest.files[0];
    let whole = store.get(&entry.path).await.unwrap();
    for _ in 0..300 {
        // Damaged before the checksum was taken: only the decoder can notice, or not.
        let mut damaged = whole.to_vec();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..whole.len());
            damaged[at] = rng.random();
        }
        let mut manifest = manifest.clone();
        let path = entry.path.clone();
        manifest.files[0] = redkite_segment::FileEntry::of(FileKind::Data, path, &damaged);
        store.put(&entry.path, Bytes::from(damaged)).await.unwrap();
        let _ = file::read_segment(&*store, &manifest, schema.clone()).await;
    }
}

#[tokio::test]
async fn a_file_older_than_a_field_reads_its_default_or_null() {
    let mut rng = StdRng::seed_from_u64(seed());
    let old = schema(DataType::Int64);
    let store = memory();
    let (rows, manifest) = written(&*store, &old, &mut rng).await;
    let mut new = CollectionSchema::clone(&old);
    let added = |id: i64, default_value| FieldSchema {
        id: redkite_types::FieldId(id),
        nullable: true,
        default_value,
        ..FieldSchema::new(format!("added {id}"), DataType::Int32)
    };
    new.fields.push(added(200, None));
    new.fields.push(added(201, Some(Value::Int(42))));
    let read = file::read_segment(&*store, &manifest, Arc::new(new))
        .await
        .unwrap();
    let column = |id| read.batch().column(redkite_types::FieldId(id)).unwrap();
    for row in 0..rows.len() {
        assert_eq!(column(200).value(row), Value::Null);
        assert_eq!(column(201).value(row), Value::Int(42));
    }
}

#[tokio::test]
async fn newer_formats_are_refused_by_name() {
    let mut rng = StdRng::seed_from_u64(seed());
    let schema = schema(DataType::Int64);
    let store = memory();
    let (_, mut manifest) = written(&*store, &schema, &mut rng).await;
    manifest.format_version = 99;
    let refused = file::read_segment(&*store, &manifest, schema.clone()).await;
    assert!(matches!(
        refused,
        Err(Error::UnsupportedVersion { found: 99, .. })
    ));
}

#[tokio::test]
async fn deletes_come_back_as_they_were() {
    let store = memory();
    let texts = ["a", "b"].map(str::to_owned).to_vec();
    for keys in [PrimaryKeys::Int(vec![5, -1]), PrimaryKeys::Str(texts)] {
        let batch = DeleteBatch {
            keys,
            timestamps: vec![Timestamp(9), Timestamp(7)],
            partitions: vec![ALL_PARTITIONS, PartitionId(3)],
        };
        let entry = delta::write_delta(&*store, "ch", 4, batch.clone())
            .await
            .unwrap();
        assert_eq!(entry.path, "deltas/ch/4.parquet");
        assert_eq!(delta::read_delta(&*store, &entry).await.unwrap(), batch);
        let empty = DeleteBatch::at(batch.keys.empty_like(), Timestamp(1), ALL_PARTITIONS);
        let entry = delta::write_delta(&*store, "ch", 5, empty).await.unwrap();
        assert!(delta::read_delta(&*store, &entry).await.unwrap().is_empty());
    }
}

/// What another program sees. Skipped with a message where Python has no pyarrow.
#[tokio::test]
async fn pyarrow_reads_a_data_file_with_the_users_columns() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_pyarrow = Command::new(&python)
        .args(["-c", "import pyarrow.parquet"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_pyarrow {
        eprintln!("skipped: {python} has no pyarrow");
        return;
    }
    let mut rng = StdRng::seed_from_u64(seed());
    let schema = schema(DataType::VarChar);
    let dir = tempfile::tempdir().unwrap();
    let store = open(&format!("fs://{}", dir.path().display())).unwrap();
    let (rows, manifest) = written(&*store, &schema, &mut rng).await;
    let path = store.local_path(&manifest.files[0].path).unwrap();
    let script = r#"
import json, sys, pyarrow.parquet as pq
table = pq.read_table(sys.argv[1])
meta = pq.read_metadata(sys.argv[1]).metadata
print("|".join(table.column_names))
print(table.num_rows, table.schema.field("vector").type, meta[b"redkite.format_version"].decode())
print(table.schema.field("number").metadata[b"PARQUET:field_id"].decode())
print(table.column("pk")[0].as_py(), table.column("Timestamp")[0].as_py())
row_group = pq.read_metadata(sys.argv[1]).row_group(0)
columns = [row_group.column(i) for i in range(row_group.num_columns)]
print([(c.path_in_schema, c.compression) for c in columns if "vector" in c.path_in_schema])
print(json.dumps(table.column("vector").to_pylist()))
print(json.dumps(table.column("number").to_pylist()))
"#;
    let output = Command::new(&python)
        .arg("-c")
        .arg(script)
        .arg(&path)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let names: Vec<&str> = schema.fields.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(lines[0], format!("{}|RowID|Timestamp", names.join("|")));
    assert_eq!(
        lines[1],
        format!(
            "{} fixed_size_list<element: float not null>[4] 2",
            rows.len()
        )
    );
    assert_eq!(lines[2], field(&schema, "number").to_string());
    let PrimaryKey::Str(key) = rows.key(0) else {
        panic!("a text key");
    };
    assert_eq!(lines[3], format!("{key} {}", rows.timestamps()[0]));
    assert_eq!(lines[4], "[('vector.list.element', 'UNCOMPRESSED')]");
    let vectors: Vec<Vec<f32>> = serde_json::from_str(lines[5]).unwrap();
    let vector = rows.batch().column(field(&schema, "vector")).unwrap();
    let ColumnData::FloatVector { values, .. } = &vector.data else {
        panic!("a vector column");
    };
    assert_eq!(vectors.concat(), **values);
    let numbers: Vec<Option<i64>> = serde_json::from_str(lines[6]).unwrap();
    let number = rows.batch().column(field(&schema, "number")).unwrap();
    for (row, found) in numbers.into_iter().enumerate() {
        assert_eq!(number.value(row), found.map_or(Value::Null, Value::Int));
    }
}
