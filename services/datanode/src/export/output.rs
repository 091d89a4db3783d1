//! Rows to files.

use std::sync::Arc;

use bytes::Bytes;
use redkite_proto::redkite::meta;
use redkite_runtime::{CpuPool, Priority, hold_here};
use redkite_segment::{
    RowAt, SealedSegment, Segment,
    export::{ExportColumn, ExportFile, ExportFormat, json_rows},
    fetch,
};
use redkite_storage::{ObjectWriter, crc32c_append};
use redkite_types::{Column, Error, FieldId, Result, RowBatch, StopFlag};

use super::{
    source::Opened,
    target::{Place, failed, file_name},
};

/// Rows that are in memory at a time.
const BATCH_ROWS: usize = 4_096;
/// Values of vectors that are in memory at a time.
const BATCH_VALUES: usize = 1 << 20;

/// What is to be written.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) format: ExportFormat,
    pub(super) columns: Vec<ExportColumn>,
    pub(super) first_file: u32,
    pub(super) file_bytes: u64,
    pub(super) samples: usize,
}

/// The files of a part.
pub(super) struct Output {
    place: Place,
    cpu: CpuPool,
    wanted: Wanted,
    current: Option<Open>,
    done: Done,
}

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) files: Vec<meta::ExportFile>,
    pub(super) samples: Vec<String>,
}

/// A file on its way.
struct Open {
    file: ExportFile,
    writer: Box<dyn ObjectWriter>,
    record: meta::ExportFile,
}

impl Output {
    pub(super) fn new(place: Place, cpu: CpuPool, wanted: Wanted) -> Self {
        Self {
            place,
            cpu,
            wanted,
            current: None,
            done: Done::default(),
        }
    }

    /// Appends rows of a segment. While a batch is written, the vectors of the next one are read.
    pub(super) async fn write(&mut self, opened: &Opened, rows: &[u32]) -> Result<()> {
        let values: usize = self.wanted.columns.iter().map(|one| one.field.dim).sum();
        let step = (BATCH_VALUES / values.max(1)).clamp(1, BATCH_ROWS);
        let mut batches = rows.chunks(step);
        let mut next = batches.next();
        let mut vectors = opened.vectors(next.unwrap_or_default()).await?;
        while let Some(batch) = next {
            next = batches.next();
            let write = self.write_batch(&opened.segment, batch, vectors);
            let read = opened.vectors(next.unwrap_or_default());
            ((), vectors) = futures::try_join!(write, read)?;
        }
        Ok(())
    }

    async fn write_batch(
        &mut self,
        segment: &Arc<SealedSegment>,
        rows: &[u32],
        vectors: Vec<Column>,
    ) -> Result<()> {
        let mut open = match self.current.take() {
            Some(open) => open,
            None => self.begin().await?,
        };
        let at = |row: &u32| RowAt {
            segment: segment.meta().segment,
            row: *row,
        };
        let places: Vec<RowAt> = rows.iter().map(at).collect();
        let fields = self.wanted.columns.iter().map(|column| column.field.id);
        let fields: Vec<FieldId> = fields.collect();
        let sampled = self.wanted.samples.saturating_sub(self.done.samples.len());
        let columns = self.wanted.columns.clone();
        let segment = Segment::Sealed(segment.clone());
        let mut file = open.file;
        let encode = move |_: &StopFlag| -> redkite_segment::Result<_> {
            let batch = with_vectors(&segment, &places, &fields, vectors)?;
            file.write(&batch)?;
            let samples = samples(&columns, &batch, sampled)?;
            let bytes = file.take();
            Ok((file, bytes, samples))
        };
        let (file, bytes, samples) = on_pool(&self.cpu, encode).await?;
        open.file = file;
        open.record.rows += rows.len() as i64;
        self.done.samples.extend(samples);
        put(&self.place, &mut open.writer, &mut open.record, bytes).await?;
        if open.file.size() >= self.wanted.file_bytes {
            return self.end(open).await;
        }
        self.current = Some(open);
        Ok(())
    }

    async fn begin(&mut self) -> Result<Open> {
        let number = self.wanted.first_file + self.done.files.len() as u32;
        let name = file_name(number, self.wanted.format);
        let file = ExportFile::new(self.wanted.format, self.wanted.columns.clone());
        let file = file.map_err(|error| Error::from_coded(&error))?;
        let place = &self.place;
        Ok(Open {
            file,
            writer: place.writer(&name).await?,
            record: meta::ExportFile {
                name,
                ..meta::ExportFile::default()
            },
        })
    }

    async fn end(&mut self, open: Open) -> Result<()> {
        let Open {
            file,
            mut writer,
            mut record,
        } = open;
        let bytes = on_pool(&self.cpu, move |_: &StopFlag| file.finish()).await?;
        put(&self.place, &mut writer, &mut record, bytes).await?;
        hold_here(&["export", "file_written"]).await;
        writer.finish().await.map_err(failed)?;
        self.done.files.push(record);
        Ok(())
    }

    /// Ends the last file.
    pub(super) async fn finish(mut self, even_if_empty: bool) -> Result<Done> {
        match self.current.take() {
            Some(open) => self.end(open).await?,
            None if even_if_empty && self.done.files.is_empty() => {
                let open = self.begin().await?;
                self.end(open).await?;
            }
            None => {}
        }
        Ok(self.done)
    }
}

// Functions of their own: a file on its way cannot be shared between threads, so neither can the
// output.
async fn on_pool<T: Send + 'static>(
    cpu: &CpuPool,
    work: impl FnOnce(&StopFlag) -> redkite_segment::Result<T> + Send + 'static,
) -> Result<T> {
    let outcome = cpu.run_stoppable(Priority::Build, work).await;
    let outcome = outcome.map_err(|error| Error::from_coded(&error))?;
    outcome.map_err(|error| Error::from_coded(&error))
}

/// Rows with all their fields, of which some are at hand.
fn with_vectors(
    segment: &Segment,
    places: &[RowAt],
    fields: &[FieldId],
    mut vectors: Vec<Column>,
) -> redkite_segment::Result<RowBatch> {
    let at_hand = |field: &FieldId| vectors.iter().any(|column| column.field == *field);
    let others: Vec<FieldId> = fields.iter().copied().filter(|one| !at_hand(one)).collect();
    let rows = fetch(std::slice::from_ref(segment), places, &others)?;
    if vectors.is_empty() {
        return Ok(rows);
    }
    let count = rows.len();
    vectors.extend(rows.into_columns());
    let position = |column: &Column| fields.iter().position(|field| *field == column.field);
    vectors.sort_by_key(position);
    RowBatch::new(count, vectors).ok_or_else(|| redkite_segment::Error::BadRows {
        segment: segment.id(),
        reason: "vectors are not as many as rows".to_owned(),
    })
}

/// Appends bytes to a file on its way.
async fn put(
    place: &Place,
    writer: &mut Box<dyn ObjectWriter>,
    record: &mut meta::ExportFile,
    bytes: Bytes,
) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    place.claim(bytes.len() as u64)?;
    record.size += bytes.len() as u64;
    record.crc32c = crc32c_append(record.crc32c, &bytes);
    writer.write(bytes).await.map_err(failed)
}

/// The first rows of a batch as JSON.
fn samples(
    columns: &[ExportColumn],
    batch: &RowBatch,
    count: usize,
) -> redkite_segment::Result<Vec<String>> {
    let first: Vec<usize> = (0..batch.len().min(count)).collect();
    match first.is_empty() {
        true => Ok(Vec::new()),
        false => json_rows(columns, &batch.take(&first)),
    }
}
