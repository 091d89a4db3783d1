//! How fast parts of exports are written, and what memory that takes, without the other services.
//!
//! `cargo run --release -p redkite-datanode --example export_part -- fill FOLDER ROWS DIM`
//! `cargo run --release -p redkite-datanode --example export_part -- run FOLDER parquet|json EXPORTS [remote]`
//!
//! `fill` writes segments with the columns of `bench-export`, of which every part has one. `run` writes so many exports at once, and
//! prints rows, bytes, seconds and the largest anonymous memory of the process in MiB; with `remote` as if nothing were on
//! a local disk.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use redkite_datanode::{ExportOptions, Exporter};
use redkite_node::{DiskSpace, MemoryBudget};
use redkite_proto::{
    convert::schema::to_proto,
    redkite::{
        datanode::ExportPartRequest,
        meta::{ExportTarget, export_target::Format},
    },
};
use redkite_runtime::CpuPool;
use redkite_segment::{Chunk, SegmentMeta, file::write_segment, manifest};
use redkite_storage::{ObjectMeta, ObjectStore, ObjectWriter, PutOutcome, Result as StorageResult};
use redkite_types::{
    CollectionId, CollectionSchema, Column, ColumnData, DataType, FieldSchema, PartitionId,
    RowBatch, RowId, SegmentId, Timestamp,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SEGMENT_ROWS: usize = 400_000;
/// Where the request is, without the name of its export.
const REQUEST: &str = "request";

fn schema(dim: usize) -> Result<Arc<CollectionSchema>, Failure> {
    let mut fields = vec![FieldSchema {
        is_primary_key: true,
        ..FieldSchema::new("id", DataType::Int64)
    }];
    fields.extend(["a", "b", "c"].map(|name| FieldSchema::new(name, DataType::Int64)));
    fields.push(FieldSchema::new("price", DataType::Float));
    fields.push(FieldSchema {
        max_length: 64,
        ..FieldSchema::new("city", DataType::VarChar)
    });
    fields.push(FieldSchema {
        dim,
        ..FieldSchema::new("vector", DataType::FloatVector)
    });
    let schema = CollectionSchema {
        fields,
        ..CollectionSchema::default()
    };
    Ok(Arc::new(schema.prepare()?))
}

fn chunk(
    schema: &CollectionSchema,
    rows: Range<usize>,
    random: &mut impl FnMut() -> u64,
) -> Result<Chunk, Failure> {
    let count = rows.len();
    let mut numbers = |limit: u64| (0..count).map(|_| (random() % limit) as i64).collect();
    let (a, b, c): (Vec<i64>, Vec<i64>, Vec<i64>) =
        (numbers(10), numbers(1_000), numbers(1_000_000));
    let cities: Vec<i64> = numbers(100);
    let mut float = || (random() >> 40) as f32 / 16_777_216.0;
    let dim = schema.fields[6].dim;
    let data = [
        ColumnData::Int64(rows.clone().map(|row| row as i64).collect()),
        ColumnData::Int64(a),
        ColumnData::Int64(b),
        ColumnData::Int64(c),
        ColumnData::Float((0..count).map(|_| float()).collect()),
        ColumnData::VarChar(cities.iter().map(|city| format!("city{city}")).collect()),
        ColumnData::FloatVector {
            dim,
            values: (0..count * dim).map(|_| float()).collect(),
        },
    ];
    let columns = data.into_iter().zip(&schema.fields);
    let columns = columns.map(|(data, field)| Column::new(field.id, data));
    let batch = RowBatch::new(count, columns.collect()).ok_or("the columns differ in length")?;
    let ids = rows.map(|row| RowId(row as i64)).collect();
    let times = vec![Timestamp(1); count];
    Ok(Chunk::new(schema.primary_key().id, batch, ids, times)?)
}

async fn fill(folder: &Path, rows: usize, dim: usize) -> Result<(), Failure> {
    let store = redkite_storage::open(&format!("fs://{}", folder.display()))?;
    let schema = schema(dim)?;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut segments = Vec::new();
    for first in (0..rows).step_by(SEGMENT_ROWS) {
        let chunk = chunk(&schema, first..rows.min(first + SEGMENT_ROWS), &mut random)?;
        let meta = SegmentMeta {
            collection: CollectionId(1),
            partition: PartitionId(2),
            segment: SegmentId(segments.len() as i64 + 3),
            schema: schema.clone(),
        };
        let written = write_segment(&*store, meta, vec![Arc::new(chunk)]).await?;
        segments.push(manifest::to_info(&written, "channel", Timestamp(2)));
    }
    let request = ExportPartRequest {
        schema: Some(to_proto("rows", &schema)),
        timestamp: 9,
        segments,
        ..ExportPartRequest::default()
    };
    std::fs::write(folder.join(REQUEST), request.encode_to_vec())?;
    Ok(())
}

/// All parts of an export, one after the other; answers rows and bytes.
async fn export(
    exporter: &Exporter,
    request: &ExportPartRequest,
    format: Format,
    number: usize,
) -> Result<(i64, u64), Failure> {
    let (mut rows, mut bytes, mut files) = (0, 0, 0);
    for segment in &request.segments {
        let others = request.segments.iter().filter(|one| one.id != segment.id);
        let part = ExportPartRequest {
            task_id: format!("export {number}"),
            target: Some(ExportTarget {
                bucket: "bench".to_owned(),
                dir: number.to_string(),
                format: format.into(),
            }),
            first_file: files + 1,
            segments: vec![segment.clone()],
            others: others.cloned().collect(),
            ..request.clone()
        };
        let done = exporter.part(part).await?;
        rows += done.exported_rows;
        bytes += done.files.iter().map(|file| file.size).sum::<u64>();
        files += done.files.len() as u32;
    }
    Ok((rows, bytes))
}

async fn run(folder: &Path, format: Format, exports: usize, remote: bool) -> Result<(), Failure> {
    let mut store = redkite_storage::open(&format!("fs://{}", folder.display()))?;
    if remote {
        store = Arc::new(Elsewhere(store));
    }
    let request = ExportPartRequest::decode(std::fs::read(folder.join(REQUEST))?.as_slice())?;
    let exporter = Exporter::new(
        store,
        CpuPool::for_this_machine(64)?,
        Arc::new(DiskSpace::unlimited()),
        Arc::new(MemoryBudget::unlimited()),
        ExportOptions::default(),
    );
    let started = Instant::now();
    let all = (0..exports).map(|number| export(&exporter, &request, format, number));
    let mut work = pin!(futures::future::try_join_all(all));
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let mut most = 0;
    let done = loop {
        tokio::select! {
            done = &mut work => break done?,
            _ = ticks.tick() => most = most.max(anonymous_kib()),
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    let rows: i64 = done.iter().map(|one| one.0).sum();
    let bytes: u64 = done.iter().map(|one| one.1).sum();
    println!("{rows} {bytes} {seconds:.3} {}", most / 1024);
    Ok(())
}

fn anonymous_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

/// A store that has nothing on a local disk.
#[derive(Debug)]
struct Elsewhere(Arc<dyn ObjectStore>);

#[async_trait]
impl ObjectStore for Elsewhere {
    async fn put(&self, key: &str, bytes: Bytes) -> StorageResult<()> {
        self.0.put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> StorageResult<PutOutcome> {
        self.0.put_if_absent(key, bytes).await
    }

    async fn writer(&self, key: &str) -> StorageResult<Box<dyn ObjectWriter>> {
        self.0.writer(key).await
    }

    async fn get(&self, key: &str) -> StorageResult<Bytes> {
        self.0.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> StorageResult<Bytes> {
        self.0.get_range(key, range).await
    }

    async fn stat(&self, key: &str) -> StorageResult<ObjectMeta> {
        self.0.stat(key).await
    }

    async fn list(&self, prefix: &str) -> StorageResult<Vec<ObjectMeta>> {
        self.0.list(prefix).await
    }

    async fn delete(&self, key: &str) -> StorageResult<()> {
        self.0.delete(key).await
    }

    fn local_path(&self, _key: &str) -> Option<PathBuf> {
        None
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["fill", folder, rows, dim] => fill(Path::new(folder), rows.parse()?, dim.parse()?).await,
        ["run", folder, format, exports, place @ ..] => {
            let format = match *format {
                "json" => Format::Json,
                "parquet" => Format::Parquet,
                _ => return Err("no such format".into()),
            };
            run(
                Path::new(folder),
                format,
                exports.parse()?,
                *place == ["remote"],
            )
            .await
        }
        _ => Err("what to do is not known: see the first lines of this file".into()),
    }
}
