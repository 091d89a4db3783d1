//! Builds over segments in a store in memory.

use std::{ops::Range, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use redkite_index::{IndexType, RawSlice, SearchParams};
use redkite_node::{DiskSpace, MemoryBudget};
use redkite_proto::{
    convert::{kv, schema::field_to_proto},
    redkite::{
        datanode::{BuildIndexRequest, CompactRequest, RunningBuild, data_node_server::DataNode},
        meta::{DeltaInfo, FileInfo, IndexInfo, SegmentInfo},
    },
};
use redkite_rpc::status::from_status;
use redkite_runtime::CpuPool;
use redkite_segment::{
    ALL_PARTITIONS, Chunk, DeleteBatch, FileKind, SegmentMeta,
    delta::{read_delta, write_delta},
    file::{read_segment, write_segment},
    manifest,
};
use redkite_storage::{ObjectMeta, ObjectStore, ObjectWriter, PutOutcome};
use redkite_types::{
    CollectionId, CollectionSchema, Column, ColumnData, DataType, ErrorCode, FieldSchema,
    PartitionId, PrimaryKey, PrimaryKeys, RowBatch, RowId, SegmentId, StopFlag, Timestamp,
};
use tokio::sync::Semaphore;
use tonic::Request;

use crate::{
    BundleOptions, Bundler, Compactor, DataNodeService, ExportOptions, Exporter, IndexBuilder,
};

const ROWS: usize = 500;
const DIM: usize = 8;

struct Fixture {
    store: Arc<dyn ObjectStore>,
    service: DataNodeService,
    schema: Arc<CollectionSchema>,
    vectors: Vec<f32>,
    segment: SegmentInfo,
}

impl Fixture {
    fn meta(&self, segment: i64) -> SegmentMeta {
        SegmentMeta {
            collection: CollectionId(1),
            partition: PartitionId(2),
            segment: SegmentId(segment),
            schema: self.schema.clone(),
        }
    }

    /// Rows with these keys, which are their row ids too.
    fn chunk(&self, keys: std::ops::Range<i64>, ts: u64) -> Chunk {
        let rows = keys.clone().count();
        let columns = vec![
            Column::new(
                self.schema.fields[0].id,
                ColumnData::Int64(keys.clone().collect()),
            ),
            Column::new(
                self.schema.fields[1].id,
                ColumnData::FloatVector {
                    dim: DIM,
                    values: vec![0.5; rows * DIM].into(),
                },
            ),
        ];
        let batch = RowBatch::new(rows, columns).unwrap();
        let ids = keys.map(RowId).collect();
        Chunk::new(
            self.schema.fields[0].id,
            batch,
            ids,
            vec![Timestamp(ts); rows],
        )
        .unwrap()
    }

    async fn new() -> Self {
        Self::with(MemoryBudget::unlimited(), 1, ROWS).await
    }

    async fn with(memory: MemoryBudget, threads: usize, count: usize) -> Self {
        let memory = Arc::new(memory);
        let store = redkite_storage::open("memory://").unwrap();
        let fields = vec![
            FieldSchema {
                is_primary_key: true,
                ..FieldSchema::new("id", DataType::Int64)
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
        let schema = Arc::new(schema.prepare().unwrap());
        let meta = SegmentMeta {
            collection: CollectionId(1),
            partition: PartitionId(2),
            segment: SegmentId(3),
            schema: schema.clone(),
        };
        let vectors: Vec<f32> = (0..count * DIM)
            .map(|at| ((at * 7919) % 1_009) as f32 / 1_009.0)
            .collect();
        let columns = vec![
            Column::new(
                schema.fields[0].id,
                ColumnData::Int64((0..count as i64).collect()),
            ),
            Column::new(
                schema.fields[1].id,
                ColumnData::FloatVector {
                    dim: DIM,
                    values: vectors.clone().into(),
                },
            ),
        ];
        let batch = RowBatch::new(count, columns).unwrap();
        let ids = (0..count as i64).map(RowId).collect();
        let times = vec![Timestamp(5); count];
        let chunk = Chunk::new(schema.fields[0].id, batch, ids, times).unwrap();
        let manifest = write_segment(store.as_ref(), meta, vec![Arc::new(chunk)])
            .await
            .unwrap();
        let files = manifest.files.iter().map(|file| FileInfo {
            path: file.path.clone(),
            size: file.size_bytes,
            crc32c: file.crc32c,
        });
        let segment = SegmentInfo {
            id: 3,
            collection_id: 1,
            partition_id: 2,
            rows: count as i64,
            files: files.collect(),
            ..SegmentInfo::default()
        };
        let cpu = CpuPool::new(2, 8).unwrap();
        let disk = Arc::new(DiskSpace::unlimited());
        let service = DataNodeService::new(
            IndexBuilder::new(
                store.clone(),
                cpu.clone(),
                disk.clone(),
                memory.clone(),
                threads,
            ),
            Compactor::new(store.clone(), cpu.clone(), disk.clone(), memory.clone()),
            Exporter::new(
                store.clone(),
                cpu,
                disk.clone(),
                memory,
                ExportOptions::default(),
            ),
            Bundler::new(store.clone(), disk, BundleOptions::default(), Vec::new()),
        );
        Self {
            store,
            service,
            schema,
            vectors,
            segment,
        }
    }

    fn request(&self, build_id: i64, index_type: &str) -> BuildIndexRequest {
        let field = &self.schema.fields[1];
        BuildIndexRequest {
            build_id,
            segment: Some(self.segment.clone()),
            index: Some(IndexInfo {
                index_type: index_type.to_owned(),
                metric_type: "L2".to_owned(),
                params: vec![
                    kv::pair("index_type", index_type),
                    kv::pair("metric_type", "L2"),
                ],
                field_id: field.id.0,
                ..IndexInfo::default()
            }),
            field: Some(field_to_proto(field)),
        }
    }

    async fn fails(&self, request: BuildIndexRequest) -> redkite_types::Error {
        let status = self
            .service
            .build_index(Request::new(request))
            .await
            .unwrap_err();
        from_status(&status).error
    }
}

#[tokio::test]
async fn an_index_finds_the_rows_it_was_built_over() {
    let fixture = Fixture::new().await;
    for (build, index_type, version) in [
        (10, "HNSW", 1),
        (11, "FLAT", 1),
        (12, "AUTOINDEX", 1),
        (13, "HNSW_SQ", 2),
        (14, "IVF_FLAT", 2),
        (15, "IVF_SQ8", 2),
        (16, "SCANN", 3),
        (17, "DISKANN", 3),
    ] {
        let request = Request::new(fixture.request(build, index_type));
        let built = fixture
            .service
            .build_index(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(built.rows, ROWS as i64);
        assert_eq!(built.format_version, version);
        let [file] = &built.files[..] else {
            panic!("one file, not {:?}", built.files)
        };
        let name = format!("index.{:08x}.bin", file.crc32c);
        assert_eq!(file.path, format!("segments/1/2/3/index/{build}/{name}"));
        let bytes = fixture.store.get(&file.path).await.unwrap();
        redkite_storage::verify(&file.path, &bytes, file.size, file.crc32c).unwrap();
        let index = redkite_index::open(bytes).unwrap();
        let raw = RawSlice::new(&fixture.vectors, DIM).unwrap();
        for row in [0, 77, ROWS - 1] {
            let query = &fixture.vectors[row * DIM..(row + 1) * DIM];
            let (stop, mut hits) = (StopFlag::new(), Vec::new());
            let params = SearchParams::default();
            index
                .search(query, &raw, &params, None, 1, &stop, &mut hits)
                .unwrap();
            assert_eq!(hits[0].score, 0.0, "{index_type} row {row}: {hits:?}");
        }
    }
}

#[tokio::test]
async fn an_index_built_to_do_without_vectors_says_so_in_its_file() {
    let fixture = Fixture::new().await;
    let mut request = fixture.request(10, "HNSW_SQ");
    let index = request.index.as_mut().unwrap();
    index.params.push(kv::pair("refine", "false"));
    let built = fixture.service.build_index(Request::new(request)).await;
    let built = built.unwrap().into_inner();
    assert_eq!(built.format_version, 4);
    let bytes = fixture.store.get(&built.files[0].path).await.unwrap();
    let index = redkite_index::open(bytes).unwrap();
    assert_eq!(index.index_type(), IndexType::HnswSq);
    // Others are as good as these: none is looked at.
    let others = vec![0.0; ROWS * DIM];
    let raw = RawSlice::new(&others, DIM).unwrap();
    let (stop, mut hits) = (StopFlag::new(), Vec::new());
    let (query, params) = (
        &fixture.vectors[77 * DIM..78 * DIM],
        SearchParams::default(),
    );
    index
        .search(query, &raw, &params, None, 1, &stop, &mut hits)
        .unwrap();
    assert_eq!(hits[0].row, 77);
}

#[tokio::test]
async fn builds_of_several_threads_do_not_overwrite_each_other() {
    // More rows than are inserted before the threads begin.
    let rows = 3_000;
    let fixture = Fixture::with(MemoryBudget::unlimited(), 3, rows).await;
    let build = || {
        let request = Request::new(fixture.request(10, "HNSW"));
        fixture.service.build_index(request)
    };
    let (one, other) = tokio::join!(build(), build());
    for built in [one, other] {
        let built = built.unwrap().into_inner();
        let file = &built.files[0];
        let bytes = fixture.store.get(&file.path).await.unwrap();
        redkite_storage::verify(&file.path, &bytes, file.size, file.crc32c).unwrap();
        assert_eq!(redkite_index::open(bytes).unwrap().len(), rows);
    }
}

#[tokio::test]
async fn with_one_thread_the_same_build_id_writes_the_same_file_again() {
    let fixture = Fixture::new().await;
    let mut files = Vec::new();
    for _ in 0..2 {
        let request = Request::new(fixture.request(10, "HNSW"));
        files.push(
            fixture
                .service
                .build_index(request)
                .await
                .unwrap()
                .into_inner()
                .files,
        );
    }
    assert_eq!(files[0], files[1]);
}

#[tokio::test]
async fn a_build_without_memory_for_it_is_refused_and_may_be_tried_again() {
    // Less than the process itself takes.
    let fixture = Fixture::with(MemoryBudget::new(1), 1, ROWS).await;
    let refused = fixture.fails(fixture.request(1, "HNSW")).await;
    assert_eq!(refused.code, ErrorCode::MemoryLimitExceeded);
    assert!(refused.message.contains("index build 1"), "{refused:?}");
    assert!(!refused.is_input_error, "it would never be tried again");
}

#[tokio::test]
async fn what_can_never_be_built_is_an_input_error() {
    let fixture = Fixture::new().await;
    let unknown = fixture.fails(fixture.request(1, "IVF_UNHEARD_OF")).await;
    assert!(unknown.is_input_error, "{unknown:?}");

    let mut bad = fixture.request(2, "HNSW");
    bad.index.as_mut().unwrap().params.push(kv::pair("M", "1"));
    let error = fixture.fails(bad).await;
    assert!(
        error.is_input_error && error.code == ErrorCode::InvalidParameter,
        "{error:?}"
    );

    let mut scalar = fixture.request(3, "FLAT");
    scalar.field = Some(field_to_proto(&fixture.schema.fields[0]));
    let error = fixture.fails(scalar).await;
    assert!(
        error.is_input_error && error.message.contains("field id"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_damaged_file_is_no_input_error() {
    let fixture = Fixture::new().await;
    let mut request = fixture.request(1, "HNSW");
    request.segment.as_mut().unwrap().files[0].crc32c ^= 1;
    let error = fixture.fails(request).await;
    assert!(!error.is_input_error, "{error:?}");
    assert_eq!(error.code, ErrorCode::DataIntegrity);
}

#[tokio::test]
async fn segments_are_merged_without_what_no_longer_counts() {
    let fixture = Fixture::new().await;
    // A second segment with newer rows of the last keys.
    let chunk = fixture.chunk(450..550, 20);
    let meta = fixture.meta(4);
    let manifest = write_segment(fixture.store.as_ref(), meta, vec![Arc::new(chunk)])
        .await
        .unwrap();
    let newer = SegmentInfo {
        flushed_ts: 30,
        deletes_applied_ts: 8,
        ..manifest::to_info(&manifest, "1v0", Timestamp(30))
    };
    let older = SegmentInfo {
        channel: "1v0".to_owned(),
        flushed_ts: 6,
        min_ts: 5,
        max_ts: 5,
        ..fixture.segment.clone()
    };
    let keys = PrimaryKeys::Int(vec![0, 1, 500]);
    let batch = DeleteBatch {
        timestamps: vec![Timestamp(10), Timestamp(26), Timestamp(19)],
        partitions: vec![ALL_PARTITIONS; 3],
        keys,
    };
    let file = write_delta(fixture.store.as_ref(), "1v0", 7, batch)
        .await
        .unwrap();
    let request = CompactRequest {
        plan_id: 1,
        schema: Some(redkite_proto::convert::schema::to_proto(
            "c",
            &fixture.schema,
        )),
        sources: vec![older, newer],
        deltas: vec![DeltaInfo {
            id: 7,
            file: Some(manifest::to_file(&file)),
            ..DeltaInfo::default()
        }],
        deletes_until: 25,
        expired_before: 0,
        targets: vec![50, 51],
        ..CompactRequest::default()
    };
    let run = || async {
        let answer = fixture.service.compact(Request::new(request.clone())).await;
        answer.unwrap().into_inner()
    };
    let answer = run().await;
    // Key 0 is deleted, 50 keys are superseded; the delete of key 1 is behind the cut, and key 500
    // was written after its own.
    assert_eq!((answer.rows_read, answer.rows_written), (600, 549));
    let rows: Vec<i64> = answer.segments.iter().map(|one| one.rows).collect();
    assert_eq!(rows, [275, 274]);
    let mut found = Vec::new();
    for segment in &answer.segments {
        assert_eq!((segment.deletes_applied_ts, segment.flushed_ts), (25, 30));
        assert_eq!(segment.compacted_from, [3, 4]);
        let manifest = manifest::from_info(segment);
        let chunk = read_segment(fixture.store.as_ref(), &manifest, fixture.schema.clone())
            .await
            .unwrap();
        assert_eq!(manifest.min_key, Some(chunk.key(0)));
        found.extend((0..chunk.len()).map(|row| {
            let key = match chunk.key(row) {
                PrimaryKey::Int(key) => key,
                PrimaryKey::Str(_) => panic!("a number"),
            };
            (key, chunk.timestamps()[row].0, chunk.row_ids()[row].0)
        }));
    }
    let old = (1..450).map(|key| (key, 5, key));
    let new = (450..550).map(|key| (key, 20, key));
    assert_eq!(found, old.chain(new).collect::<Vec<_>>());
    assert_eq!(
        run().await,
        answer,
        "the same request writes the same files"
    );

    // Nothing is left: nothing is written.
    let expired = CompactRequest {
        expired_before: 21,
        ..request.clone()
    };
    let answer = fixture
        .service
        .compact(Request::new(expired))
        .await
        .unwrap();
    assert!(answer.into_inner().segments.is_empty());
    // A source that is damaged fails the whole.
    let mut damaged = request;
    damaged.sources[0].files[0].crc32c ^= 1;
    let status = fixture
        .service
        .compact(Request::new(damaged))
        .await
        .unwrap_err();
    assert_eq!(from_status(&status).error.code, ErrorCode::DataIntegrity);
}

#[tokio::test]
async fn no_compaction_answers_with_a_file_that_is_not_what_was_written() {
    let fixture = Fixture::new().await;
    let store = Tampered::new(fixture.store.clone());
    let compactor = Compactor::new(
        store.clone(),
        CpuPool::new(1, 8).unwrap(),
        Arc::new(DiskSpace::unlimited()),
        Arc::new(MemoryBudget::unlimited()),
    );
    let batch = DeleteBatch::at(PrimaryKeys::Int(vec![0]), Timestamp(20), ALL_PARTITIONS);
    let file = write_delta(&*store, "1v0", 7, batch).await.unwrap();
    let deltas = vec![DeltaInfo {
        id: 7,
        file: Some(manifest::to_file(&file)),
        ..DeltaInfo::default()
    }];
    let segments = CompactRequest {
        schema: Some(redkite_proto::convert::schema::to_proto(
            "c",
            &fixture.schema,
        )),
        sources: vec![fixture.segment.clone()],
        deltas: deltas.clone(),
        deletes_until: 25,
        targets: vec![50],
        ..CompactRequest::default()
    };
    let deletes = CompactRequest {
        deltas,
        delta_target: 51,
        channel: "1v0".into(),
        ..CompactRequest::default()
    };
    for (spoiled, request) in [
        ("data", &segments),
        ("stats", &segments),
        ("deltas", &deletes),
    ] {
        *store.spoiled.lock() = Some(spoiled);
        let error = compactor.compact(request.clone()).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::DataIntegrity, "{spoiled}: {error}");
        assert!(store.spoiled.lock().is_none());
        compactor.compact(request.clone()).await.unwrap();
    }
}

#[tokio::test]
async fn delete_files_become_one_with_the_same_deletes() {
    let fixture = Fixture::new().await;
    let store = fixture.store.as_ref();
    let mut deltas = Vec::new();
    for (id, keys, ts) in [(7, vec![1, 2], 20), (8, vec![3], 10), (9, vec![4], 5)] {
        let keys = PrimaryKeys::Int(keys);
        let batch = DeleteBatch::at(keys, Timestamp(ts), ALL_PARTITIONS);
        let rows = batch.len() as i64;
        let file = write_delta(store, "1v0", id, batch).await.unwrap();
        deltas.push(DeltaInfo {
            id,
            collection_id: 1,
            channel: "1v0".into(),
            rows,
            min_ts: ts,
            max_ts: ts,
            file: Some(manifest::to_file(&file)),
        });
    }
    let request = CompactRequest {
        plan_id: 1,
        deltas,
        delta_target: 50,
        channel: "1v0".into(),
        deletes_needed_after: 5,
        ..CompactRequest::default()
    };
    let run = |request: CompactRequest| async {
        let answer = fixture.service.compact(Request::new(request)).await;
        answer.unwrap().into_inner()
    };
    let answer = run(request.clone()).await;
    assert_eq!((answer.rows_read, answer.rows_written), (4, 3));
    let made = answer.delta.clone().unwrap();
    assert_eq!((made.id, made.collection_id, made.rows), (50, 1, 3));
    assert_eq!((made.min_ts, made.max_ts), (10, 20));
    let file = manifest::from_file(FileKind::Delta, made.file.as_ref().unwrap());
    let batch = read_delta(store, &file).await.unwrap();
    assert_eq!(batch.keys, PrimaryKeys::Int(vec![3, 1, 2]));
    assert_eq!(batch.timestamps, [10, 20, 20].map(Timestamp));
    assert_eq!(answer, run(request.clone()).await, "the same bytes again");
    // Where nothing is left no file is written.
    let request = CompactRequest {
        delta_target: 51,
        deletes_needed_after: 20,
        ..request
    };
    assert_eq!(run(request).await.delta, None);
    let files = store.list("deltas/1v0/").await.unwrap();
    assert_eq!(files.len(), 4);
}

/// A store where files are written bit by bit only once somebody allows it, and where one that is
/// put as a whole can be spoiled.
#[derive(Debug)]
struct Tampered {
    inner: Arc<dyn ObjectStore>,
    /// A part of the keys whose next object has one bit flipped.
    spoiled: Mutex<Option<&'static str>>,
    /// A permit for each file that is to be written.
    reached: Semaphore,
    allowed: Semaphore,
}

impl Tampered {
    fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            spoiled: Mutex::default(),
            reached: Semaphore::new(0),
            allowed: Semaphore::new(0),
        })
    }
}

#[async_trait]
impl ObjectStore for Tampered {
    async fn put(&self, key: &str, bytes: Bytes) -> redkite_storage::Result<()> {
        let spoils = self.spoiled.lock().take_if(|part| key.contains(*part));
        let mut bytes = bytes.to_vec();
        if spoils.is_some() {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        self.inner.put(key, bytes.into()).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> redkite_storage::Result<PutOutcome> {
        self.inner.put_if_absent(key, bytes).await
    }

    async fn writer(&self, key: &str) -> redkite_storage::Result<Box<dyn ObjectWriter>> {
        self.reached.add_permits(1);
        self.allowed.acquire().await.unwrap().forget();
        self.inner.writer(key).await
    }

    async fn get(&self, key: &str) -> redkite_storage::Result<Bytes> {
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> redkite_storage::Result<Bytes> {
        self.inner.get_range(key, range).await
    }

    async fn stat(&self, key: &str) -> redkite_storage::Result<ObjectMeta> {
        self.inner.stat(key).await
    }

    async fn list(&self, prefix: &str) -> redkite_storage::Result<Vec<ObjectMeta>> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, key: &str) -> redkite_storage::Result<()> {
        self.inner.delete(key).await
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.inner.local_path(key)
    }
}

#[tokio::test]
async fn a_build_shows_its_rows_until_it_ends_or_is_given_up() {
    let fixture = Fixture::new().await;
    let store = Tampered::new(fixture.store.clone());
    let builder = IndexBuilder::new(
        store.clone(),
        CpuPool::new(2, 8).unwrap(),
        Arc::new(DiskSpace::unlimited()),
        Arc::new(MemoryBudget::unlimited()),
        1,
    );
    let shown = || builder.progress(&[10, 11]);
    let all = RunningBuild {
        build_id: 10,
        rows_done: ROWS as i64,
        rows: ROWS as i64,
    };
    for is_given_up in [true, false] {
        assert!(shown().is_empty());
        let mut build = Box::pin(builder.build(fixture.request(10, "HNSW")));
        tokio::select! {
            built = &mut build => panic!("it ended before its file was written: {built:?}"),
            reached = store.reached.acquire() => reached.unwrap().forget(),
        }
        assert_eq!(shown(), [all]);
        if is_given_up {
            drop(build);
        } else {
            store.allowed.add_permits(1);
            assert_eq!(build.await.unwrap().rows, ROWS as i64);
        }
    }
    assert!(shown().is_empty());
}
