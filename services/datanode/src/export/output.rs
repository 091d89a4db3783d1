//! Rows to files.

use redkite_proto::redkite::meta;
use redkite_runtime::{CpuPool, Priority};
use redkite_segment::export::{ExportColumn, ExportFile, ExportFormat, json_rows};
use redkite_types::{Error, FieldId, Result, RowBatch, StopFlag};

use super::{
    batches::{Batches, Limits, on_pool},
    sink::Sink,
    source::Rows,
    target::Place,
};

/// What is in memory at a time.
const PARQUET_AT_ONCE: Limits = Limits {
    bytes: 8 << 20,
    rows: 16_384,
};
/// The same for JSON, which takes several times as much once it is written.
const JSON_AT_ONCE: Limits = Limits {
    bytes: 2 << 20,
    rows: 4_096,
};

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
        let limits = match self.wanted.format {
            ExportFormat::Parquet => PARQUET_AT_ONCE,
            ExportFormat::Json => JSON_AT_ONCE,
        };
        let mut batches = Batches::new(&self.cpu, rows, &fields, limits);
        let mut next = batches.decode().await?;
        while let Some(batch) = next {
            ((), next) = futures::try_join!(self.write_batch(batch), batches.decode())?;
        }
        Ok(())
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
