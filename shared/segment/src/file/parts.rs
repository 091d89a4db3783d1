//! Where the parts of a data file are, as its footer says.

use std::ops::Range;

use parquet::file::{
    metadata::{FileMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader},
    reader::ChunkReader,
};

use super::{
    FORMAT_VERSION, FileEntry, METADATA_PREFIX, SCALAR_BYTES_KEY, VECTORS_KEY,
    checked::Found,
    page::{ALIGNMENT, VectorPart},
};
use crate::error::{Error, Result};

/// What a footer says.
pub(super) struct Layout {
    pub(super) version: u32,
    pub(super) metadata: ParquetMetaData,
    /// Bytes from the file's start that hold everything but [`Layout::vectors`].
    pub(super) scalar_bytes: u64,
    /// Vector columns whose values are in place, in the order of the file.
    pub(super) vectors: Vec<VectorPart>,
}

impl Layout {
    /// Reads the footer.
    ///
    /// # Errors
    /// `Corrupt` · `UnsupportedVersion`
    pub(super) fn parse(path: &str, file: &impl ChunkReader) -> Result<Self> {
        let corrupt = |reason: &dyn std::fmt::Display| Error::corrupt(path, reason);
        let metadata = footer_of(path, file)?;
        let of_file = metadata.file_metadata();
        let version = version_of(path, of_file, FORMAT_VERSION)?;
        if version < 2 {
            return Ok(Self {
                version,
                metadata,
                scalar_bytes: 0,
                vectors: Vec::new(),
            });
        }
        let scalar_bytes = entry(of_file, SCALAR_BYTES_KEY).and_then(|text| text.parse().ok());
        let scalar_bytes = scalar_bytes.ok_or_else(|| corrupt(&"it does not say what is where"))?;
        let vectors = entry(of_file, VECTORS_KEY).unwrap_or_default();
        let vectors = serde_json::from_str(vectors).map_err(|error| corrupt(&error))?;
        Ok(Self {
            version,
            metadata,
            scalar_bytes,
            vectors,
        })
    }

    /// Reads the footer of a file that is no segment's data, and all of whose columns are as the library writes them. A
    /// file that is not in one row group is said to be of version 1.
    ///
    /// # Errors
    /// `Corrupt` · `UnsupportedVersion`, of one later than `newest`
    pub(super) fn of_table(
        file: &FileEntry,
        footer: &impl ChunkReader,
        newest: u32,
    ) -> Result<Self> {
        let metadata = footer_of(&file.path, footer)?;
        version_of(&file.path, metadata.file_metadata(), newest)?;
        Ok(Self {
            version: if metadata.num_row_groups() == 1 { 2 } else { 1 },
            metadata,
            scalar_bytes: file.size_bytes,
            vectors: Vec::new(),
        })
    }

    /// The bytes of the scalar columns, then those of each vector column; in order, without
    /// overlap, inside of a file of that size.
    ///
    /// # Errors
    /// What is wrong, as text.
    pub(super) fn ranges(&self, size: u64) -> Result<Vec<Range<u64>>, String> {
        let rows = self.metadata.file_metadata().num_rows();
        if self.metadata.num_row_groups() != 1 {
            return Err(format!(
                "it has {} row groups",
                self.metadata.num_row_groups()
            ));
        }
        let mut ranges = Vec::with_capacity(self.vectors.len() + 1);
        ranges.push(0..self.scalar_bytes);
        let mut end = self.scalar_bytes;
        for part in &self.vectors {
            let range = part.range().filter(|range| {
                range.start >= end
                    && range.start.is_multiple_of(ALIGNMENT as u64)
                    && i64::try_from(part.rows) == Ok(rows)
                    && part.dim > 0
                    && part.row_bytes != Some(0)
            });
            let range = range.ok_or_else(|| format!("field {} is misplaced", part.field))?;
            end = range.end;
            ranges.push(range);
        }
        if end > size {
            return Err(format!("its parts end at byte {end} of {size}"));
        }
        Ok(ranges)
    }
}

impl Found {
    /// Reads the footer, whose bytes are not checked yet.
    pub(super) fn layout(&self, path: &str) -> Result<Layout> {
        match self {
            Self::Local(local) => Layout::parse(path, &local.file),
            Self::Fetched(bytes) => Layout::parse(path, bytes),
        }
    }
}

fn footer_of(path: &str, file: &impl ChunkReader) -> Result<ParquetMetaData> {
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Skip);
    let metadata = reader.parse_and_finish(file);
    metadata.map_err(|error| Error::corrupt(path, error))
}

/// The version of a file's format.
fn version_of(path: &str, of_file: &FileMetaData, newest: u32) -> Result<u32> {
    let version = entry(of_file, &format!("{METADATA_PREFIX}format_version"));
    let version = version.and_then(|text| text.parse().ok());
    match version {
        Some(found) if found > newest => Err(Error::UnsupportedVersion {
            path: path.to_owned(),
            found,
            supported: newest,
        }),
        Some(version) => Ok(version),
        None => Err(Error::corrupt(path, "it names no format version")),
    }
}

fn entry<'a>(metadata: &'a FileMetaData, key: &str) -> Option<&'a str> {
    let entries = metadata.key_value_metadata()?;
    let found = entries.iter().find(|entry| entry.key == key)?;
    found.value.as_deref()
}
