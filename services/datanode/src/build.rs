//! Builds one index over one segment.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use redkite_index::{BuildOptions, ColumnIndex, ColumnIndexParams, ColumnRows, version_of};
use redkite_node::{DiskSpace, DiskUse, MemoryBudget};
use redkite_proto::{
    convert::schema::field_from_proto,
    redkite::{
        datanode::{BuildIndexRequest, BuildIndexResponse, RunningBuild},
        meta::{FileInfo, IndexInfo, SegmentInfo},
    },
};
use redkite_runtime::{CpuPool, Priority};
use redkite_segment::{FileEntry, FileKind, file::find_column, manifest};
use redkite_storage::{ObjectStore, crc32c_append, layout};
use redkite_types::{
    BuildId, CollectionId, ColumnData, DataType, Error, PartitionId, Result, SegmentId, StopFlag,
};
use tracing::info;

use crate::progress::{RowsDone, RunningBuilds};

/// How often the vectors' bytes are in memory at the most, unless they are mapped: as they come from
/// the store, and as a column. Building makes no copy of them, and the index is written from where it
/// lies.
const COPIES: u64 = 2;

/// Builds indexes from an object store into the same one.
#[derive(Clone, Debug)]
pub struct IndexBuilder {
    store: Arc<dyn ObjectStore>,
    cpu: CpuPool,
    disk: Arc<DiskSpace>,
    memory: Arc<MemoryBudget>,
    threads: BuildThreads,
    running: RunningBuilds,
}

/// The threads that all builds of a node use together.
#[derive(Clone, Debug)]
struct BuildThreads {
    limit: usize,
    free: Arc<AtomicUsize>,
}

/// Threads of one build, given back when it ends.
struct TakenThreads {
    count: usize,
    free: Arc<AtomicUsize>,
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
    /// Builds on this pool and within this memory; `disk` is the store's, where it is a local one. The
    /// builds that run at one time use `threads` threads together, at least one each; 0 stands for as
    /// many as the machine has processors.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        cpu: CpuPool,
        disk: Arc<DiskSpace>,
        memory: Arc<MemoryBudget>,
        threads: usize,
    ) -> Self {
        let threads = BuildThreads::new(match threads {
            0 => cpu.threads(),
            threads => threads,
        });
        Self {
            store,
            cpu,
            disk,
            memory,
            threads,
            running: RunningBuilds::default(),
        }
    }

    /// Builds one index and writes its file. A build that is done twice may give two graphs, if several
    /// threads made them: the file's name says which one it is, so neither overwrites the other.
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
        let store = self.store.as_ref();
        let found = find_column(store, segment, &job.data, &job.field)
            .await
            .map_err(|error| Error::from_coded(&error))?;
        let copies = if found.is_mapped() { 0 } else { COPIES };
        let bytes = job.memory_bytes(copies, self.threads.limit);
        let _room = self.memory.reserve(&what, bytes)?;
        let column = found.read(store).await;
        let column = column.map_err(|error| Error::from_coded(&error))?;
        let rows = column.len();
        if column.data.data_type() != job.field.data_type || !job.field.data_type.is_vector() {
            return Err(no_vector(&job));
        }
        // Shown until its file is written: a client sees no end before that either.
        let running = self.running.begin(job.build, rows);
        let built = self
            .compute(&job, column.data, running.rows().clone())
            .await?;
        let (collection, partition) = (
            CollectionId(job.segment.collection_id),
            PartitionId(job.segment.partition_id),
        );
        let path = layout::segment_index(collection, partition, segment, job.build, &built.name());
        let file = FileInfo {
            path: path.clone(),
            size: built.size,
            crc32c: built.crc32c,
        };
        let format_version = built
            .parts
            .first()
            .and_then(|head| version_of(head))
            .unwrap_or_default();
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
            format_version,
        })
    }

    /// How far those of the builds are that run now.
    pub fn progress(&self, builds: &[i64]) -> Vec<RunningBuild> {
        self.running.of(builds)
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
    async fn compute(
        &self,
        job: &Job,
        vectors: ColumnData,
        rows_done: Arc<RowsDone>,
    ) -> Result<Built> {
        let params = job.params.clone();
        // With one thread the same seed makes the same graph.
        let seed = job.build.0.unsigned_abs();
        let threads = self.threads.clone();
        let work = move |stop: &StopFlag| {
            // Not before its turn: a build that waits keeps no threads from others.
            let taken = threads.take();
            let options = BuildOptions {
                threads: taken.count,
                seed,
                progress: Some(rows_done.counter()),
                stop,
            };
            let index = match ColumnRows::of(&vectors) {
                Some(rows) => ColumnIndex::build(&params, &rows, &options)?,
                None => {
                    let message = format!("{} is no vector", vectors.data_type());
                    return Err(redkite_index::Error::InvalidParameter { message });
                }
            };
            drop((vectors, taken));
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

impl BuildThreads {
    fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        Self {
            limit,
            free: Arc::new(AtomicUsize::new(limit)),
        }
    }

    /// Takes all threads that are free; the one that asks is a build's own even if none is.
    fn take(&self) -> TakenThreads {
        let taken = self.free.swap(0, Ordering::Relaxed);
        TakenThreads {
            count: taken,
            free: self.free.clone(),
        }
    }
}

impl Drop for TakenThreads {
    fn drop(&mut self) {
        self.free.fetch_add(self.count, Ordering::Relaxed);
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

    /// The file's name, which other bytes do not have.
    fn name(&self) -> String {
        format!("index.{:08x}.bin", self.crc32c)
    }
}

impl Job {
    /// Bytes that the build may take at its peak with so many copies of the vectors and so many threads;
    /// an estimate from above.
    fn memory_bytes(&self, copies: u64, threads: usize) -> u64 {
        let rows = self.segment.rows.unsigned_abs();
        let vectors = match self.field.dim {
            0 => self.data.size_bytes,
            dim => rows.saturating_mul(self.field.data_type.vector_bytes(dim) as u64),
        };
        let build = self
            .params
            .build_bytes(rows, self.field.dim as u64, vectors, threads);
        vectors.saturating_mul(copies).saturating_add(build)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_at_one_time_share_the_threads() {
        let threads = BuildThreads::new(4);
        let first = threads.take();
        // It has the thread that it runs on.
        assert_eq!((first.count, threads.take().count), (4, 0));
        drop(first);
        assert_eq!(threads.take().count, 4);
        assert_eq!(BuildThreads::new(0).take().count, 1);
    }
}
