//! Rows to files.

use std::ops::Range;

use redkite_proto::redkite::meta;
use redkite_runtime::{CpuPool, Priority};
use redkite_segment::export::{ExportColumn, ExportFile, ExportFormat, json_rows};
use redkite_types::{Error, FieldId, Result, RowBatch, StopFlag};

use super::{sink::Sink, source::Rows, target::Place};

/// Bytes and rows that are in memory at a time, as they are read and decoded.
const PARQUET_AT_ONCE: (u64, usize) = (8 << 20, 16_384);
/// The same for JSON, which takes several times as much once it is written.
const JSON_AT_ONCE: (u64, usize) = (2 << 20, 4_096);

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
    cpu: CpuPool,
    wanted: Wanted,
    sink: Sink,
    current: Option<Encoding>,
    samples: Vec<String>,
}

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) files: Vec<meta::ExportFile>,
    pub(super) samples: Vec<String>,
}

/// A file whose rows are being encoded.
struct Encoding {
    file: ExportFile,
    rows: i64,
}

impl Output {
    pub(super) fn new(place: Place, cpu: CpuPool, wanted: Wanted) -> Self {
        Self {
            cpu,
            sink: Sink::new(place, wanted.format, wanted.first_file),
            wanted,
            current: None,
            samples: Vec::new(),
        }
    }

    /// Appends rows of a segment. While some are encoded, those before them are written and the next
    /// are read and decoded.
    pub(super) async fn write(&mut self, rows: &Rows) -> Result<()> {
        let fields = self.wanted.columns.iter().map(|column| column.field.id);
        let fields: Vec<FieldId> = fields.collect();
        let parts = divide(&self.cpu, self.wanted.format, rows, &fields).await?;
        let mut parts = parts.into_iter();
        let cpu = self.cpu.clone();
        let read = |part: Range<usize>| read(&cpu, rows, part, &fields);
        let Some(part) = parts.next() else {
            return Ok(());
        };
        let mut batch = read(part).await?;
        for part in parts {
            ((), batch) = futures::try_join!(self.write_batch(batch), read(part))?;
        }
        self.write_batch(batch).await
    }

    async fn write_batch(&mut self, batch: RowBatch) -> Result<()> {
        let Encoding { mut file, rows } = match self.current.take() {
            Some(current) => current,
            None => self.begin()?,
        };
        let sampled = self.wanted.samples.saturating_sub(self.samples.len());
        let columns = self.wanted.columns.clone();
        let encode = move |_: &StopFlag| -> redkite_segment::Result<_> {
            let samples = samples(&columns, &batch, sampled)?;
            let rows = batch.len();
            file.write(batch)?;
            let bytes = file.take();
            Ok((file, bytes, samples, rows))
        };
        let encoded = on_pool(&self.cpu, Priority::Build, encode);
        let (file, bytes, samples, more) = self.sink.beside(encoded).await?;
        self.samples.extend(samples);
        self.sink.give(bytes).await?;
        let rows = rows + more as i64;
        let is_full = file.size() >= self.wanted.file_bytes;
        let current = Encoding { file, rows };
        if is_full {
            return self.end(current).await;
        }
        self.current = Some(current);
        Ok(())
    }

    fn begin(&self) -> Result<Encoding> {
        let file = ExportFile::new(self.wanted.format, self.wanted.columns.clone());
        let file = file.map_err(|error| Error::from_coded(&error))?;
        Ok(Encoding { file, rows: 0 })
    }

    async fn end(&mut self, current: Encoding) -> Result<()> {
        let Encoding { file, rows } = current;
        let last = on_pool(&self.cpu, Priority::Build, move |_: &StopFlag| {
            file.finish()
        });
        let bytes = self.sink.beside(last).await?;
        self.sink.close(bytes, rows).await
    }

    /// Ends the last file.
    pub(super) async fn finish(mut self, even_if_empty: bool) -> Result<Done> {
        self.sink.settle().await?;
        match self.current.take() {
            Some(current) => self.end(current).await?,
            None if even_if_empty && self.sink.complete() == 0 => {
                let empty = self.begin()?;
                self.end(empty).await?;
            }
            None => {}
        }
        Ok(Done {
            files: self.sink.finish().await?,
            samples: self.samples,
        })
    }
}

// Functions of their own: a file on its way cannot be shared between threads, so neither can the
// output.
async fn divide(
    cpu: &CpuPool,
    format: ExportFormat,
    rows: &Rows,
    fields: &[FieldId],
) -> Result<Vec<Range<usize>>> {
    let (bytes, most) = match format {
        ExportFormat::Parquet => PARQUET_AT_ONCE,
        ExportFormat::Json => JSON_AT_ONCE,
    };
    let (columns, fields) = (rows.columns.clone(), fields.to_vec());
    let rows = rows.rows.clone();
    let divide = move |_: &StopFlag| columns.divide(&rows, &fields, bytes, most);
    on_pool(cpu, Priority::Build, divide).await
}

/// Rows of a segment, decoded beside the encoding of those before them.
async fn read(
    cpu: &CpuPool,
    rows: &Rows,
    part: Range<usize>,
    fields: &[FieldId],
) -> Result<RowBatch> {
    let read = rows.columns.read(&*rows.store, &rows.rows[part], fields);
    let piece = read.await.map_err(|error| Error::from_coded(&error))?;
    on_pool(cpu, Priority::Segment, move |_: &StopFlag| piece.decode()).await
}

async fn on_pool<T: Send + 'static>(
    cpu: &CpuPool,
    priority: Priority,
    work: impl FnOnce(&StopFlag) -> redkite_segment::Result<T> + Send + 'static,
) -> Result<T> {
    let outcome = cpu.run_stoppable(priority, work).await;
    let outcome = outcome.map_err(|error| Error::from_coded(&error))?;
    outcome.map_err(|error| Error::from_coded(&error))
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
