//! Builds one index over one segment.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use redkite_index::{BuildOptions, ColumnIndex, ColumnIndexParams, ColumnRows};
use redkite_node::{DiskSpace, DiskUse, MemoryBudget};
use redkite_proto::{
    convert::schema::field_from_proto,
    redkite::{
        datanode::{BuildIndexRequest, BuildIndexResponse},
        meta::{FileInfo, IndexInfo, SegmentInfo},
    },
};
use redkite_runtime::{CpuPool, Priority};
use redkite_segment::{FileEntry, FileKind, file::read_column, manifest};
use redkite_storage::{ObjectStore, crc32c_append, layout};
use redkite_types::{
    BuildId, CollectionId, ColumnData, DataType, Error, PartitionId, Result, SegmentId, StopFlag,
};
use tracing::info;

/// The only file of an index.
const FILE: &str = "index.bin";

/// How often the vectors' bytes are in memory at the most: as they come from the store, and as a
/// column. Building makes no copy of them, and the index is written from where it lies.
const COPIES: u64 = 2;

/// Builds indexes from an object store into the same one.
#[derive(Clone, Debug)]
pub struct IndexBuilder {
    store: Arc<dyn ObjectStore>,
    cpu: CpuPool,
    disk: Arc<DiskSpace>,
    memory: Arc<MemoryBudget>,
}

/// What a request asks for, checked.
struct Job {
    build: BuildId,
    segment: SegmentInfo,
    params: ColumnIndexParams,
    field: redkite_types::FieldSchema,
    data: FileEntry,
}

impl IndexBuilder {
    /// Builds on these threads and within this memory; `disk` is the store's, where it is a local one.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        cpu: CpuPool,
        disk: Arc<DiskSpace>,
        memory: Arc<MemoryBudget>,
    ) -> Self {
        Self {
            store,
            cpu,
            disk,
            memory,
        }
    }

    /// Builds one index and writes its file. The same build id writes the same bytes to the same
    /// key, so doing it twice is doing it once.
    ///
    /// # Errors
    /// Codes 1100 and 1700 when the index cannot be built with such parameters: never retry. Code 3
    /// while there is no memory for it: retry later. Others as the store says.
    ///
    /// # Cancel safety
    /// Dropping the future stops the build; a file that was being written may be there or not.
    pub async fn build(&self, request: BuildIndexRequest) -> Result<BuildIndexResponse> {
        let started = Instant::now();
        let job = Job::read(request)?;
        let segment = SegmentId(job.segment.id);
        let what = format!("index build {}", job.build.0);
        let _room = self.memory.reserve(&what, job.memory_bytes())?;
        let column = read_column(self.store.as_ref(), segment, &job.data, &job.field)
            .await
            .map_err(|error| Error::from_coded(&error))?;
        let rows = column.len();
        if column.data.data_type() != job.field.data_type || !job.field.data_type.is_vector() {
            return Err(no_vector(&job));
        }
        let built = self.compute(&job, column.data).await?;
        let (collection, partition) = (
            CollectionId(job.segment.collection_id),
            PartitionId(job.segment.partition_id),
        );
        let path = layout::segment_index(collection, partition, segment, job.build, FILE);
        let file = FileInfo {
            path: path.clone(),
            size: built.size,
            crc32c: built.crc32c,
        };
        self.disk.claim(DiskUse::Background, file.size)?;
        self.put(&path, built.parts)
            .await
            .map_err(|error| Error::from_coded(&error))?;
        let elapsed = started.elapsed();
        metrics::histogram!("redkite_datanode_build_seconds").record(elapsed);
        metrics::counter!("redkite_datanode_built_rows_total").increment(rows as u64);
        info!(
            build = job.build.0,
            segment = segment.0,
            index_type = job.params.index_type().name(),
            rows,
            bytes = file.size,
            elapsed_ms = elapsed.as_millis(),
            "index written"
        );
        Ok(BuildIndexResponse {
            files: vec![file],
            rows: rows as i64,
            format_version: job.params.index_type().format_version(),
        })
    }

    /// Writes a file piece by piece: as a whole it would be in memory beside the index.
    async fn put(&self, path: &str, parts: Vec<Bytes>) -> redkite_storage::Result<()> {
        let mut writer = self.store.writer(path).await?;
        for part in parts {
            writer.write(part).await?;
        }
        writer.finish().await
    }

    /// Builds on the pool; the file's pieces.
    async fn compute(&self, job: &Job, vectors: ColumnData) -> Result<Built> {
        let params = job.params.clone();
        // With one thread the same seed makes the same graph.
        let seed = job.build.0.unsigned_abs();
        let work = move |stop: &StopFlag| {
            let options = BuildOptions {
                threads: 1,
                seed,
                progress: None,
                stop,
            };
            let index = match ColumnRows::of(&vectors) {
                Some(rows) => ColumnIndex::build(&params, &rows, &options)?,
                None => {
                    let message = format!("{} is no vector", vectors.data_type());
                    return Err(redkite_index::Error::InvalidParameter { message });
                }
            };
            drop(vectors);
            Ok(Built::of(index.parts()))
        };
        let built: redkite_index::Result<Built> = self
            .cpu
            .run_stoppable(Priority::Build, work)
            .await
            .map_err(|error| Error::from_coded(&error))?;
        built.map_err(|error| user_error(&error))
    }
}

/// A finished file.
struct Built {
    parts: Vec<Bytes>,
    size: u64,
    crc32c: u32,
}

impl Built {
    fn of(parts: Vec<Bytes>) -> Self {
        let size = parts.iter().map(|part| part.len() as u64).sum();
        let crc32c = parts
            .iter()
            .fold(0, |crc32c, part| crc32c_append(crc32c, part));
        Self {
            parts,
            size,
            crc32c,
        }
    }
}

impl Job {
    /// Bytes that the build may take at its peak; an estimate from above.
    fn memory_bytes(&self) -> u64 {
        let rows = self.segment.rows.unsigned_abs();
        let vectors = match self.field.dim {
            0 => self.data.size_bytes,
            dim => rows.saturating_mul(self.field.data_type.vector_bytes(dim) as u64),
        };
        let build = self
            .params
            .build_bytes(rows, self.field.dim as u64, vectors);
        vectors.saturating_mul(COPIES).saturating_add(build)
    }

    fn read(request: BuildIndexRequest) -> Result<Self> {
        let absent = |what| Error::internal(format!("the build request has no {what}"));
        let segment = request.segment.ok_or_else(|| absent("segment"))?;
        let index = request.index.ok_or_else(|| absent("index"))?;
        let field = field_from_proto(request.field.ok_or_else(|| absent("field"))?)?;
        let params = index_params(&index, field.data_type)?;
        let data = data_file(&segment)?;
        Ok(Self {
            build: BuildId(request.build_id),
            segment,
            params,
            field,
            data,
        })
    }
}

/// The definition's parameters, the type and the metric of the definition itself among them.
fn index_params(index: &IndexInfo, data_type: DataType) -> Result<ColumnIndexParams> {
    let own = [
        ("index_type", &index.index_type),
        ("metric_type", &index.metric_type),
    ];
    let given = index
        .params
        .iter()
        .map(|pair| (pair.key.clone(), pair.value.clone()));
    let mut pairs: Vec<_> = given
        .filter(|(key, _)| own.iter().all(|(name, _)| name != key))
        .collect();
    pairs.extend(own.map(|(name, value)| (name.to_owned(), value.clone())));
    ColumnIndexParams::from_pairs(data_type, &pairs)
}

/// The file that holds the rows, of whatever version.
fn data_file(segment: &SegmentInfo) -> Result<FileEntry> {
    let manifest = manifest::from_info(segment);
    let file = manifest.file(FileKind::Data).cloned();
    file.ok_or_else(|| Error::internal(format!("segment {} names no data file", segment.id)))
}

fn no_vector(job: &Job) -> Error {
    Error::invalid_parameter(format!(
        "field {} of type {} cannot have an index of type {}",
        job.field.name,
        job.field.data_type,
        job.params.index_type().name()
    ))
}

/// What is wrong with rows or parameters will be wrong again.
fn user_error(error: &redkite_index::Error) -> Error {
    use redkite_index::Error as Index;
    let user = Error::from_coded(error);
    match error {
        Index::DimMismatch { .. }
        | Index::NotFinite { .. }
        | Index::InvalidParameter { .. }
        | Index::InvalidIndexType { .. }
        | Index::TooManyRows { .. } => Error::input(user.code, user.message),
        _ => user,
    }
}
