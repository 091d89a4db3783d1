//! Parts of exports whose segments are read from a store that keeps nothing on a local disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redkite_config::ByteSize;
use redkite_expr::{Plan, Templates, compile};
use redkite_node::{DiskSpace, MemoryBudget};
use redkite_proto::{
    convert::schema::to_proto,
    redkite::{
        datanode::{CountRowsRequest, ExportPartRequest, RemoveExportRequest},
        meta::{DeltaInfo, ExportTarget, SegmentInfo, export_target::Format},
    },
};
use redkite_runtime::CpuPool;
use redkite_segment::{
    ALL_PARTITIONS, Chunk, DeleteBatch, SegmentMeta, delta::write_delta, file::write_segment,
    manifest,
};
use redkite_storage::{
    Error as StorageError, ObjectMeta, ObjectStore, ObjectWriter, PutOutcome,
    Result as StorageResult,
};
use redkite_types::{
    CollectionId, CollectionSchema, Column, ColumnData, DataType, ErrorCode, FieldSchema,
    PartitionId, PrimaryKeys, RowBatch, RowId, SegmentId, Timestamp,
};
use serde_json::Value;

use super::{ExportOptions, Exporter};

const DIM: usize = 8;
const CHANNEL: &str = "1v0";

/// A store whose so many-th read of a segment's bytes from now on fails, or is a byte short.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    /// Reads until then; below zero none fails.
    left: AtomicI64,
    is_short: bool,
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put(&self, key: &str, bytes: Bytes) -> StorageResult<()> {
        self.inner.put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> StorageResult<PutOutcome> {
        self.inner.put_if_absent(key, bytes).await
    }

    async fn writer(&self, key: &str) -> StorageResult<Box<dyn ObjectWriter>> {
        self.inner.writer(key).await
    }

    async fn get(&self, key: &str) -> StorageResult<Bytes> {
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> StorageResult<Bytes> {
        let fails = self.left.fetch_sub(1, Ordering::Relaxed) == 0;
        let bytes = self.inner.get_range(key, range).await?;
        match fails {
            true if self.is_short => Ok(bytes.slice(..bytes.len() - 1)),
            true => Err(StorageError::Io {
                operation: "get_range",
                key: key.to_owned(),
                transient: false,
                source: "the line is cut".into(),
            }),
            false => Ok(bytes),
        }
    }

    async fn stat(&self, key: &str) -> StorageResult<ObjectMeta> {
        self.inner.stat(key).await
    }

    async fn list(&self, prefix: &str) -> StorageResult<Vec<ObjectMeta>> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, key: &str) -> StorageResult<()> {
        self.inner.delete(key).await
    }

    fn local_path(&self, _key: &str) -> Option<PathBuf> {
        None
    }
}

struct World {
    store: Arc<Faulty>,
    exporter: Exporter,
    schema: Arc<CollectionSchema>,
}

/// A row: its key, a number, and when it was written.
type Row = (i64, i64, u64);

impl World {
    fn new(is_short: bool) -> Self {
        Self::with_memory(is_short, MemoryBudget::unlimited())
    }

    fn with_memory(is_short: bool, memory: MemoryBudget) -> Self {
        let store = Arc::new(Faulty {
            inner: redkite_storage::open("memory://").unwrap(),
            left: AtomicI64::new(-1),
            is_short,
        });
        let options = ExportOptions {
            max_file_size: ByteSize::kib(256),
            ..ExportOptions::default()
        };
        let exporter = Exporter::new(
            store.clone(),
            CpuPool::new(2, 8).unwrap(),
            Arc::new(DiskSpace::unlimited()),
            Arc::new(memory),
            options,
        );
        let fields = vec![
            FieldSchema {
                is_primary_key: true,
                ..FieldSchema::new("id", DataType::Int64)
            },
            FieldSchema::new("number", DataType::Int64),
            FieldSchema {
                max_length: 60_000,
                ..FieldSchema::new("text", DataType::VarChar)
            },
            FieldSchema {
                dim: DIM,
                ..FieldSchema::new("vector", DataType::FloatVector)
            },
        ];
        let schema = CollectionSchema {
            fields,
            ..CollectionSchema::default()
        };
        Self {
            store,
            exporter,
            schema: Arc::new(schema.prepare().unwrap()),
        }
    }

    async fn segment(&self, id: i64, rows: &[Row]) -> SegmentInfo {
        let text = |row: &Row| format!("{}", row.0).repeat(40);
        let data = [
            ColumnData::Int64(rows.iter().map(|row| row.0).collect()),
            ColumnData::Int64(rows.iter().map(|row| row.1).collect()),
            ColumnData::VarChar(rows.iter().map(text).collect()),
            ColumnData::FloatVector {
                dim: DIM,
                values: rows
                    .iter()
                    .flat_map(|row| [row.0 as f32; DIM])
                    .collect::<Vec<_>>()
                    .into(),
            },
        ];
        let columns = data.into_iter().zip(&self.schema.fields);
        let columns = columns.map(|(data, field)| Column::new(field.id, data));
        let batch = RowBatch::new(rows.len(), columns.collect()).unwrap();
        let ids = (0..rows.len() as i64)
            .map(|at| RowId(id << 32 | at))
            .collect();
        let times = rows.iter().map(|row| Timestamp(row.2)).collect();
        let chunk = Chunk::new(self.schema.primary_key().id, batch, ids, times).unwrap();
        let meta = SegmentMeta {
            collection: CollectionId(1),
            partition: PartitionId(2),
            segment: SegmentId(id),
            schema: self.schema.clone(),
        };
        let written = write_segment(&*self.store, meta, vec![Arc::new(chunk)]).await;
        manifest::to_info(&written.unwrap(), CHANNEL, Timestamp(100))
    }

    async fn delta(&self, id: i64, keys: Vec<i64>, at: u64) -> DeltaInfo {
        let batch = DeleteBatch::at(PrimaryKeys::Int(keys), Timestamp(at), ALL_PARTITIONS);
        let file = write_delta(&*self.store, CHANNEL, id, batch).await.unwrap();
        DeltaInfo {
            id,
            file: Some(manifest::to_file(&file)),
            ..DeltaInfo::default()
        }
    }

    fn request(&self, at: u64, segments: Vec<SegmentInfo>) -> ExportPartRequest {
        ExportPartRequest {
            task_id: "task".to_owned(),
            target: Some(target()),
            schema: Some(to_proto("rows", &self.schema)),
            timestamp: at,
            segments,
            first_file: 1,
            ..ExportPartRequest::default()
        }
    }

    /// The files that are there, as rows: those of one that is not whole cannot be told.
    async fn files(&self) -> BTreeMap<String, Vec<Value>> {
        let mut files = BTreeMap::new();
        for object in self.store.list("exports/").await.unwrap() {
            let name = object.key.rsplit('/').next().unwrap().to_owned();
            if name.ends_with(".json") {
                let bytes = self.store.get(&object.key).await.unwrap();
                files.insert(name, serde_json::from_slice(&bytes).unwrap());
            }
        }
        files
    }

    async fn remove(&self) {
        let request = RemoveExportRequest {
            task_id: "task".to_owned(),
            target: Some(target()),
        };
        self.exporter.remove(request).await.unwrap();
    }
}

fn target() -> ExportTarget {
    ExportTarget {
        bucket: "bucket".to_owned(),
        dir: "dir".to_owned(),
        format: Format::Json.into(),
    }
}

/// Keys and numbers of all rows of all files, whose other values must follow from the key.
fn rows_in(files: &BTreeMap<String, Vec<Value>>) -> Vec<(i64, i64)> {
    let rows = files.values().flatten().map(|row| {
        let key = row["id"].as_i64().unwrap();
        assert_eq!(row["text"], format!("{key}").repeat(40));
        assert_eq!(row["vector"], serde_json::json!(vec![key as f64; DIM]));
        (key, row["number"].as_i64().unwrap())
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_unstable();
    rows
}

#[tokio::test]
async fn a_read_that_fails_leaves_whole_files_only_and_they_are_removed() {
    for is_short in [false, true] {
        let world = World::new(is_short);
        let rows: Vec<Row> = (0..16_000).map(|key| (key, key % 7, 5)).collect();
        let one = world.segment(3, &rows[..9_000]).await;
        let other = world.segment(4, &rows[9_000..]).await;
        let paths = [one.files[0].path.clone(), other.files[0].path.clone()];
        let request = world.request(9, vec![one, other]);
        let (mut failures, mut with_files) = (0, 0);
        for after in 0.. {
            world.store.left.store(after, Ordering::Relaxed);
            let done = world.exporter.part(request.clone()).await;
            world.store.left.store(-1, Ordering::Relaxed);
            let files = world.files().await;
            if done.is_ok() {
                let all: Vec<_> = rows.iter().map(|row| (row.0, row.1)).collect();
                assert_eq!(rows_in(&files), all);
                assert!(files.len() > 3, "{} files", files.len());
                break;
            }
            let error = done.unwrap_err().to_string();
            assert!(paths.iter().any(|path| error.contains(path)), "{error}");
            with_files += usize::from(!files.is_empty());
            assert!(rows_in(&files).len() < rows.len());
            failures += 1;
            world.remove().await;
            assert_eq!(world.store.list("exports/").await.unwrap(), []);
        }
        assert!(failures > 5 && with_files > 0, "{failures}, {with_files}");
    }
}

#[tokio::test]
async fn deletes_and_newer_rows_of_other_segments_count_up_to_the_time() {
    let seed = std::env::var("REDKITE_TEST_SEED").map(|text| text.parse().unwrap());
    let seed: u64 = seed.unwrap_or_else(|_| rand::random());
    println!("seed={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new(false);
    for round in 0..6 {
        let mut all: Vec<Row> = Vec::new();
        let mut segments = Vec::new();
        let mut time = 0;
        for id in 0..4 {
            let count = rng.random_range(1..600);
            let rows = (0..count).map(|_| {
                time += rng.random_range(1..3);
                (rng.random_range(0..700), rng.random_range(0..100), time)
            });
            let rows: Vec<Row> = rows.collect();
            segments.push(world.segment(round * 10 + id, &rows).await);
            all.extend(rows);
        }
        let (mut deltas, mut deletes) = (Vec::new(), Vec::new());
        for id in 0..3 {
            let keys: BTreeSet<i64> = (0..50).map(|_| rng.random_range(0..700)).collect();
            let at = rng.random_range(1..time + 5);
            deletes.extend(keys.iter().map(|key| (*key, at)));
            let keys = keys.into_iter().collect();
            deltas.push(world.delta(round * 10 + id, keys, at).await);
        }
        let at = rng.random_range(time / 2..time + 10);
        // The newest row of each key up to the time, unless it was deleted after it.
        let mut newest: BTreeMap<i64, (i64, u64)> = BTreeMap::new();
        for (key, number, written) in all.iter().filter(|row| row.2 <= at) {
            newest.insert(*key, (*number, *written));
        }
        for (key, deleted) in deletes.iter().filter(|delete| delete.1 <= at) {
            if newest.get(key).is_some_and(|row| row.1 < *deleted) {
                newest.remove(key);
            }
        }
        let low = rng.random_range(0..100);
        let filters = [
            "".to_owned(),
            format!("number >= {low}"),
            format!("id < {}", low * 7),
        ];
        for text in filters {
            let passes = |key: i64, number: i64| match text.split_once(' ') {
                None => true,
                Some(("id", _)) => key < low * 7,
                Some(_) => number >= low,
            };
            let plan = match text.is_empty() {
                true => Plan::all(),
                false => compile(&text, &Templates::new(), &world.schema).unwrap(),
            };
            // Some of the segments are another part's.
            let (mine, others) = segments.split_at(2);
            let mut found = Vec::new();
            for (mine, others) in [(mine, others), (others, mine)] {
                let request = ExportPartRequest {
                    filter: plan.encode().unwrap().into(),
                    others: others.to_vec(),
                    deltas: deltas.clone(),
                    ..world.request(at, mine.to_vec())
                };
                let done = world.exporter.part(request).await.unwrap();
                let files = rows_in(&world.files().await);
                assert_eq!(done.exported_rows as usize, files.len());
                found.extend(files);
                world.remove().await;
            }
            found.sort_unstable();
            let wanted = newest.iter().map(|(key, row)| (*key, row.0));
            let wanted: Vec<_> = wanted.filter(|row| passes(row.0, row.1)).collect();
            assert_eq!(found, wanted, "{text} at {at}");
        }
        let since = rng.random_range(0..at);
        let counted = world.exporter.count(CountRowsRequest {
            schema: Some(to_proto("rows", &world.schema)),
            timestamp: at,
            since,
            segments: segments.clone(),
            deltas: deltas.clone(),
        });
        let counted = counted.await.unwrap();
        let later = newest.values().filter(|row| row.1 > since).count();
        assert_eq!(
            (counted.rows, counted.later),
            (newest.len() as i64, later as i64)
        );
    }
}

#[tokio::test]
async fn two_parts_run_at_once_and_more_wait() {
    let world = World::new(false);
    let turn = || world.exporter.turn("a test").now_or_never();
    let first = turn().unwrap().unwrap();
    let _second = turn().unwrap().unwrap();
    assert!(turn().is_none());
    drop(first);
    let _third = turn().unwrap().unwrap();
}

#[tokio::test]
async fn a_part_is_refused_while_there_is_no_memory_for_it() {
    let world = World::with_memory(false, MemoryBudget::new(64 << 20));
    let segment = world.segment(3, &[(1, 2, 5)]).await;
    let refused = world.exporter.part(world.request(9, vec![segment])).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::MemoryLimitExceeded);
    assert!(world.files().await.is_empty());
    // Its turn is over.
    assert_eq!(world.exporter.turns.available_permits(), 2);
}
