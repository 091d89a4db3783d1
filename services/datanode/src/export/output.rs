//! Rows to files.

use std::ops::Range;

use bytes::Bytes;
use futures::TryFutureExt as _;
use redkite_proto::redkite::meta;
use redkite_runtime::{CpuPool, Priority, hold_here};
use redkite_segment::{
    export::{ExportColumn, ExportFile, ExportFormat, json_rows},
    file::Piece,
};
use redkite_storage::{ObjectWriter, crc32c_append};
use redkite_types::{Error, FieldId, Result, RowBatch, StopFlag};

use super::{
    source::Rows,
    target::{Place, failed, file_name},
};

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

    /// Appends rows of a segment. While some are written, the next are read.
    pub(super) async fn write(&mut self, rows: &Rows) -> Result<()> {
        let fields = self.wanted.columns.iter().map(|column| column.field.id);
        let fields: Vec<FieldId> = fields.collect();
        let parts = divide(&self.cpu, self.wanted.format, rows, &fields).await?;
        let mut parts = parts.into_iter();
        let read = |part: Range<usize>| {
            let read = rows.columns.read(&*rows.store, &rows.rows[part], &fields);
            read.map_err(|error| Error::from_coded(&error))
        };
        let Some(part) = parts.next() else {
            return Ok(());
        };
        let mut piece = read(part).await?;
        for part in parts {
            ((), piece) = futures::try_join!(self.write_piece(piece), read(part))?;
        }
        self.write_piece(piece).await
    }

    async fn write_piece(&mut self, piece: Piece) -> Result<()> {
        let mut open = match self.current.take() {
            Some(open) => open,
            None => self.begin().await?,
        };
        let sampled = self.wanted.samples.saturating_sub(self.done.samples.len());
        let columns = self.wanted.columns.clone();
        let mut file = open.file;
        let encode = move |_: &StopFlag| -> redkite_segment::Result<_> {
            let batch = piece.decode()?;
            file.write(&batch)?;
            let samples = samples(&columns, &batch, sampled)?;
            let bytes = file.take();
            Ok((file, bytes, samples, batch.len()))
        };
        let (file, bytes, samples, rows) = on_pool(&self.cpu, encode).await?;
        open.file = file;
        open.record.rows += rows as i64;
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
    on_pool(cpu, divide).await
}

async fn on_pool<T: Send + 'static>(
    cpu: &CpuPool,
    work: impl FnOnce(&StopFlag) -> redkite_segment::Result<T> + Send + 'static,
) -> Result<T> {
    let outcome = cpu.run_stoppable(Priority::Build, work).await;
    let outcome = outcome.map_err(|error| Error::from_coded(&error))?;
    outcome.map_err(|error| Error::from_coded(&error))
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
