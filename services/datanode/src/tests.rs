//! Builds over segments in a store in memory.

use std::sync::Arc;

use redkite_index::{RawSlice, SearchParams};
use redkite_node::DiskSpace;
use redkite_proto::{
    convert::{kv, schema::field_to_proto},
    redkite::{
        datanode::{BuildIndexRequest, data_node_server::DataNode},
        meta::{FileInfo, IndexInfo, SegmentInfo},
    },
};
use redkite_rpc::status::from_status;
use redkite_runtime::CpuPool;
use redkite_segment::{Chunk, SegmentMeta, file::write_segment};
use redkite_storage::ObjectStore;
use redkite_types::{
    CollectionId, CollectionSchema, Column, ColumnData, DataType, ErrorCode, FieldSchema,
    PartitionId, RowBatch, RowId, SegmentId, StopFlag, Timestamp,
};
use tonic::Request;

use crate::{DataNodeService, IndexBuilder};

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
    async fn new() -> Self {
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
        let vectors: Vec<f32> = (0..ROWS * DIM)
            .map(|at| ((at * 7919) % 1_009) as f32 / 1_009.0)
            .collect();
        let columns = vec![
            Column::new(
                schema.fields[0].id,
                ColumnData::Int64((0..ROWS as i64).collect()),
            ),
            Column::new(
                schema.fields[1].id,
                ColumnData::FloatVector {
                    dim: DIM,
                    values: vectors.clone(),
                },
            ),
        ];
        let batch = RowBatch::new(ROWS, columns).unwrap();
        let ids = (0..ROWS as i64).map(RowId).collect();
        let times = vec![Timestamp(5); ROWS];
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
            rows: ROWS as i64,
            files: files.collect(),
            ..SegmentInfo::default()
        };
        let cpu = CpuPool::new(2, 8).unwrap();
        let service = DataNodeService::new(IndexBuilder::new(
            store.clone(),
            cpu,
            Arc::new(DiskSpace::unlimited()),
        ));
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
    for (build, index_type) in [(10, "HNSW"), (11, "FLAT"), (12, "AUTOINDEX")] {
        let request = Request::new(fixture.request(build, index_type));
        let built = fixture
            .service
            .build_index(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(built.rows, ROWS as i64);
        assert_eq!(built.format_version, redkite_index::FORMAT_VERSION);
        let [file] = &built.files[..] else {
            panic!("one file, not {:?}", built.files)
        };
        assert_eq!(file.path, format!("segments/1/2/3/index/{build}/index.bin"));
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
async fn the_same_build_id_writes_the_same_bytes_again() {
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
