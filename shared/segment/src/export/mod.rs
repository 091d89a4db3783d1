//! Rows as files for other programs: Parquet, or a JSON array with one row a line.
//!
//! Both are written row by row and handed over in pieces, so that a file need not fit into memory.
//! The same rows in the same batches give the same bytes.
//!
//! - `columns`: how each field is written
//! - `parquet`, `json`: the two formats; `vectors`: the pages of vectors

mod columns;
mod json;
mod parquet;
#[cfg(test)]
mod tests;
mod vectors;

use bytes::Bytes;
use redkite_types::RowBatch;

pub use self::columns::{ExportColumn, ListKind};
use self::{json::JsonFile, parquet::ParquetFile};
use crate::error::Result;

/// What a file looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// zstd, row groups of about 16 MiB; vectors and lists are lists.
    Parquet,
    /// An array of objects, one a line.
    Json,
}

impl ExportFormat {
    /// What file names end in.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Json => "json",
        }
    }
}

/// A file that is being written.
pub struct ExportFile(Kind);

enum Kind {
    Parquet(Box<ParquetFile>),
    Json(JsonFile),
}

impl ExportFile {
    /// Begins a file.
    ///
    /// # Errors
    /// `Encode`
    pub fn new(format: ExportFormat, columns: Vec<ExportColumn>) -> Result<Self> {
        Ok(Self(match format {
            ExportFormat::Parquet => Kind::Parquet(Box::new(ParquetFile::new(columns)?)),
            ExportFormat::Json => Kind::Json(JsonFile::new(columns)),
        }))
    }

    /// Appends rows, whose columns are those of the file in their order. Computes.
    ///
    /// # Errors
    /// `Encode`, also for a value that is not what its column says.
    pub fn write(&mut self, rows: RowBatch) -> Result<()> {
        match &mut self.0 {
            Kind::Parquet(file) => file.write(rows),
            Kind::Json(file) => file.write(&rows),
        }
    }

    /// The next bytes of the file, in pieces, of which there may be none yet.
    pub fn take(&mut self) -> Vec<Bytes> {
        match &mut self.0 {
            Kind::Parquet(file) => file.take(),
            Kind::Json(file) => vec![file.take()],
        }
    }

    /// About how large the file is so far, with what was not taken yet.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Kind::Parquet(file) => file.size(),
            Kind::Json(file) => file.size(),
        }
    }

    /// Its last bytes.
    ///
    /// # Errors
    /// As [`ExportFile::write`].
    pub fn finish(self) -> Result<Vec<Bytes>> {
        match self.0 {
            Kind::Parquet(file) => file.finish(),
            Kind::Json(file) => Ok(vec![file.finish()]),
        }
    }
}

/// Rows as JSON objects, as a JSON file has them.
///
/// # Errors
/// As [`ExportFile::write`].
pub fn json_rows(columns: &[ExportColumn], rows: &RowBatch) -> Result<Vec<String>> {
    json::rows(columns, rows)
}
