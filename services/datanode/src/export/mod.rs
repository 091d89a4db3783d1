//! Writes the rows of segments as files for other programs.
//!
//! A file is on its way until it is whole; only then it stands under its name. A place belongs to the
//! export whose id its marker has, so that two exports never mix their files.
//!
//! - [`options`]: what an operator may set
//! - `target`: where files go
//! - `batches`: rows of a segment, some at a time
//! - `output`: rows to encoded files
//! - `sink`: encoded files to a place
//! - `source`: which rows of a segment count

mod batches;
pub mod options;
mod output;
mod sink;
mod source;
mod target;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Instant};

use redkite_expr::Plan;
use redkite_node::{DiskSpace, MemoryBudget, MemoryReservation};
use redkite_proto::{
    convert::schema,
    redkite::{
        datanode::{
            CountRowsRequest, CountRowsResponse, ExportPartRequest, ExportPartResponse,
            FinishExportRequest, FinishExportResponse, RemoveExportRequest, RemoveExportResponse,
        },
        meta::{ExportTarget, export_target::Format},
    },
};
use redkite_runtime::CpuPool;
use redkite_segment::{
    ReadView,
    export::{ExportColumn, ExportFormat, ListKind},
};
use redkite_storage::ObjectStore;
use redkite_types::{Error, Result, Timestamp};
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::info;

pub use self::options::ExportOptions;
use self::{
    output::{Output, Wanted},
    source::Source,
    target::Targets,
};

/// Parts that are written, or counted, at the same time; more wait for their turn.
const AT_ONCE: usize = 2;
/// Memory that one of them takes, whatever there is to read and to write.
const PART_BYTES: u64 = 112 << 20;

/// Writes exports.
#[derive(Debug)]
pub struct Exporter {
    source: Source,
    targets: Targets,
    cpu: CpuPool,
    memory: Arc<MemoryBudget>,
    turns: Semaphore,
    options: ExportOptions,
}

impl Exporter {
    /// Reads from a store, which is also where exports go that have no store of their own; `disk` is
    /// the store's, where it is a local one.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        cpu: CpuPool,
        disk: Arc<DiskSpace>,
        memory: Arc<MemoryBudget>,
        options: ExportOptions,
    ) -> Self {
        Self {
            source: Source::new(store.clone(), cpu.clone()),
            targets: Targets::new(store, disk, options.buckets.clone()),
            cpu,
            memory,
            turns: Semaphore::new(AT_ONCE),
            options,
        }
    }

    /// Waits until there is a place, and takes the memory.
    async fn turn(&self, what: &str) -> Result<(SemaphorePermit<'_>, MemoryReservation)> {
        let turn = self.turns.acquire().await;
        let turn = turn.map_err(|error| Error::internal(error.to_string()))?;
        Ok((turn, self.memory.reserve(what, PART_BYTES)?))
    }

    /// Writes the rows of one part. The same request again writes the same files.
    ///
    /// # Errors
    /// Code 1100 when the place is taken, 1009 when a file that is read is damaged, 7 while the disk
    /// is full, 3 while memory is; others as the stores say.
    ///
    /// # Cancel safety
    /// Dropping the future stops the work; a file that was being written is not seen.
    pub async fn part(&self, request: ExportPartRequest) -> Result<ExportPartResponse> {
        let started = Instant::now();
        let target = target_of(request.target.as_ref())?;
        let place = self.targets.open(target).await?;
        place.take(&request.task_id).await?;
        let _turn = self.turn("a part of an export").await?;
        let schema = request.schema.clone().ok_or_else(|| absent("schema"))?;
        let schema = Arc::new(schema::from_proto(schema)?);
        let filter = match request.filter.is_empty() {
            true => Plan::all(),
            false => Plan::decode(&request.filter).map_err(Error::from)?,
        };
        let view = ReadView {
            at: Timestamp(request.timestamp),
            expired_before: Timestamp(request.expired_before),
        };
        let wanted = Wanted {
            format: format_of(target),
            columns: columns(&schema, &request),
            first_file: request.first_file,
            file_bytes: self.options.max_file_size.0,
            samples: request.samples as usize,
        };
        let mut output = Output::new(place, self.cpu.clone(), wanted);
        let reading = self.source.reading(
            &request,
            source::Wanted {
                schema,
                view,
                filter: Arc::new(filter),
            },
        );
        let mut segments = request.segments.iter();
        let mut next = match segments.next() {
            Some(info) => Some(reading.rows(info).await?),
            None => None,
        };
        // While a segment is written, the next one is opened.
        while let Some(rows) = next {
            let open = async {
                match segments.next() {
                    Some(info) => reading.rows(info).await.map(Some),
                    None => Ok(None),
                }
            };
            ((), next) = futures::try_join!(output.write(&rows), open)?;
        }
        let scanned_rows = request.segments.iter().map(|info| info.rows).sum();
        let done = output.finish(request.even_if_empty).await?;
        let exported_rows = done.files.iter().map(|file| file.rows).sum();
        metrics::counter!("redkite_datanode_exported_rows_total").increment(exported_rows as u64);
        info!(
            task = %request.task_id,
            segments = request.segments.len(),
            files = done.files.len(),
            scanned_rows,
            exported_rows,
            elapsed_ms = started.elapsed().as_millis(),
            "part of an export written"
        );
        Ok(ExportPartResponse {
            files: done.files,
            scanned_rows,
            exported_rows,
            samples: done.samples,
        })
    }

    /// Counts the rows of segments that a reader sees.
    ///
    /// # Errors
    /// Code 1009 when a file that is read is damaged, 3 while memory is full; else as the store says.
    pub async fn count(&self, request: CountRowsRequest) -> Result<CountRowsResponse> {
        let _turn = self.turn("rows to be counted").await?;
        let schema = request.schema.ok_or_else(|| absent("schema"))?;
        let schema = Arc::new(schema::from_proto(schema)?);
        let view = ReadView {
            at: Timestamp(request.timestamp),
            expired_before: Timestamp::ZERO,
        };
        // As an export of all of them would read them.
        let part = ExportPartRequest {
            timestamp: request.timestamp,
            segments: request.segments,
            deltas: request.deltas,
            ..ExportPartRequest::default()
        };
        let mut counted = CountRowsResponse::default();
        let wanted = source::Wanted {
            schema,
            view,
            filter: Arc::new(Plan::all()),
        };
        let reading = self.source.reading(&part, wanted);
        for info in &part.segments {
            let (rows, later) = reading.count(info, request.since).await?;
            counted.rows += rows;
            counted.later += later;
        }
        Ok(counted)
    }

    /// Writes `_SUCCESS`, which lists the files, and gives the place's marker up.
    ///
    /// # Errors
    /// As the store says.
    pub async fn finish(&self, request: FinishExportRequest) -> Result<FinishExportResponse> {
        let place = self
            .targets
            .open(target_of(request.target.as_ref())?)
            .await?;
        let files = request.files.iter().map(|file| {
            json!({
                "name": file.name,
                "rows": file.rows,
                "size": file.size,
                "crc32c": format!("{:08x}", file.crc32c),
            })
        });
        let files: Vec<_> = files.collect();
        let success = json!({
            "task_id": request.task_id,
            "sampled_timestamp": Timestamp(request.timestamp).physical_ms(),
            "rows": request.files.iter().map(|file| file.rows).sum::<i64>(),
            "files": files,
        });
        place.complete(success.to_string()).await?;
        Ok(FinishExportResponse {})
    }

    /// Removes what an export has written, unless the place is another's.
    ///
    /// # Errors
    /// As the store says.
    pub async fn remove(&self, request: RemoveExportRequest) -> Result<RemoveExportResponse> {
        let target = target_of(request.target.as_ref())?;
        let place = self.targets.open(target).await?;
        place.clear(&request.task_id, format_of(target)).await?;
        Ok(RemoveExportResponse {})
    }
}

fn absent(what: &str) -> Error {
    Error::internal(format!("the export request has no {what}"))
}

fn target_of(target: Option<&ExportTarget>) -> Result<&ExportTarget> {
    target.ok_or_else(|| absent("target"))
}

fn format_of(target: &ExportTarget) -> ExportFormat {
    match target.format() {
        Format::Parquet => ExportFormat::Parquet,
        Format::Json => ExportFormat::Json,
    }
}

fn columns(
    schema: &redkite_types::CollectionSchema,
    request: &ExportPartRequest,
) -> Vec<ExportColumn> {
    let column = |field: &redkite_types::FieldSchema| ExportColumn {
        field: field.clone(),
        list: if request.int_list_fields.contains(&field.id.0) {
            Some(ListKind::Int)
        } else {
            let is_text = request.text_list_fields.contains(&field.id.0);
            is_text.then_some(ListKind::Text)
        },
    };
    schema.fields.iter().map(column).collect()
}
