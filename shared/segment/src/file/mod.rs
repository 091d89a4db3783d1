//! Files of a sealed segment, format version 2, and the manifest that names them.
//!
//! `data.v2.parquet` holds every field under its user-visible name, then the hidden columns `RowID`
//! and `Timestamp`, all with their field ids, in one row group. Scalar columns come first in the
//! file, in small compressed pages with an offset index, so that single rows are read cheaply; then
//! each vector column as one page whose values are not encoded and start on a cache line, so that
//! they are read or mapped as they are. The key-value metadata says which segment it is
//! (`redkite.format_version`, `.schema`, `.collection`, `.partition`, `.segment`) and what is where
//! (`.scalar_bytes`, `.vectors`). `stats.v1.bin` is a bloom filter of the primary keys. Any Parquet
//! reader opens the first; both are written once and never changed.
//!
//! Vectors of 32-bit floats are lists, other vectors of fixed length byte arrays of one length, and
//! sparse ones byte arrays among the scalar columns.
//!
//! Version 1 (`data.v1.parquet`, vectors in pages of the library's choice) is still read, as a
//! whole.
//!
//! - `encode`, `page`: rows to a file
//! - `checked`: a file's bytes, in memory or mapped, checked against the manifest
//! - `parts`: what a footer says; `pages`: where the pages of scalar columns are, and how they are decoded
//! - `columns`: columns decoded on demand; `cache`: and for a while
//! - `rows`: single rows of a vector column
//! - `open`: a file to a chunk; `column`: to one column; `decode`: version 1
//! - `streamed`: a file read some rows at a time; `remote`: one on no local disk; `blocks`: its bytes
//! - `in_order`: all keys or deletes of a file, some at a time
//! - `arrow`: columns to Arrow and back

mod arrow;
mod blocks;
mod cache;
mod checked;
mod column;
mod columns;
mod decode;
mod encode;
mod in_order;
mod open;
mod page;
mod pages;
mod parts;
mod remote;
mod rows;
mod streamed;

use std::sync::Arc;

use bytes::Bytes;
use redkite_storage::{ObjectStore, checksum, layout};
use redkite_types::{
    CollectionId, CollectionSchema, FieldId, PartitionId, PrimaryKey, SegmentId, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{
    bloom::KeyFilter,
    chunk::Chunk,
    error::{Error, Result},
    growing::{GrowingSnapshot, check_columns},
    segment::SegmentMeta,
};
pub use blocks::CheckedFiles;
pub use cache::ColumnCache;
pub use checked::{CheckedBytes, read_checked};
pub use column::{ColumnSource, find_column};
pub use in_order::{InOrder, KeyRows};
pub use open::{Placement, open_segment};
pub use streamed::{Piece, StreamedColumns, open_streamed};

pub(crate) use arrow::{ColumnSpec, key_column, parquet_bytes, read_batches};
pub(crate) use arrow::{to_array as export_array, user_type as export_type};
pub(crate) use columns::FileColumns;
pub(crate) use decode::missing as late_column;
pub(crate) use in_order::deletes_in_order;
pub(crate) use page::{header as page_header, list_levels};
pub(crate) use rows::RowsInFile;

/// Version of the files written by this build.
pub const FORMAT_VERSION: u32 = 2;
/// Prefix of the keys in a data file's metadata.
const METADATA_PREFIX: &str = "redkite.";
/// How many bytes from the file's start hold everything but the vectors that are in place.
const SCALAR_BYTES_KEY: &str = "redkite.scalar_bytes";
/// Where vectors are in place: a JSON list of [`page::VectorPart`].
const VECTORS_KEY: &str = "redkite.vectors";

/// What a file of a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// The rows.
    Data,
    /// The bloom filter of the primary keys.
    Stats,
    /// Deletes.
    Delta,
    /// An index over one field.
    Index,
}

/// A file, as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// What it holds.
    pub kind: FileKind,
    /// The object's key.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// CRC32C of all its bytes.
    pub crc32c: u32,
}

impl FileEntry {
    /// Describes the bytes of a file.
    pub fn of(kind: FileKind, path: String, bytes: &[u8]) -> Self {
        Self {
            kind,
            path,
            size_bytes: bytes.len() as u64,
            crc32c: checksum::crc32c(bytes),
        }
    }

    /// Reads the file and checks its length and checksum.
    ///
    /// # Errors
    /// `Storage`: not found, corrupt, or a failure of the store
    pub async fn read(&self, store: &dyn ObjectStore) -> Result<Bytes> {
        let bytes = store.get(&self.path).await?;
        checksum::verify(&self.path, &bytes, self.size_bytes, self.crc32c)?;
        Ok(bytes)
    }
}

/// Everything that must be known of a sealed segment to plan with it and to read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentManifest {
    /// Version of the files.
    pub format_version: u32,
    /// The collection.
    pub collection: CollectionId,
    /// The partition.
    pub partition: PartitionId,
    /// The segment.
    pub segment: SegmentId,
    /// Number of rows, deleted ones included.
    pub rows: u64,
    /// Earliest timestamp of a row.
    pub min_ts: Timestamp,
    /// Latest timestamp of a row.
    pub max_ts: Timestamp,
    /// Smallest primary key; `None` of no rows.
    pub min_key: Option<PrimaryKey>,
    /// Largest primary key; `None` of no rows.
    pub max_key: Option<PrimaryKey>,
    /// The files, the data file first.
    pub files: Vec<FileEntry>,
}

impl SegmentManifest {
    /// The file of a kind.
    pub fn file(&self, kind: FileKind) -> Option<&FileEntry> {
        self.files.iter().find(|file| file.kind == kind)
    }
}

/// A segment's files before they are stored.
#[derive(Clone, Debug)]
pub struct EncodedSegment {
    /// What to commit once they are.
    pub manifest: SegmentManifest,
    /// Contents of `manifest.files`, in that order.
    contents: Vec<Bytes>,
}

impl EncodedSegment {
    /// Encodes the rows of a segment. Computes for long; run it on the CPU pool.
    ///
    /// # Errors
    /// `Encode` · `BadRows` when there are no rows
    pub fn encode(meta: &SegmentMeta, chunks: &[Arc<Chunk>]) -> Result<Self> {
        let rows: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        let times = chunks.iter().map(|chunk| chunk.times());
        let Some((min_ts, max_ts)) = times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else {
            return Err(meta.bad_rows("there are none to write"));
        };
        for chunk in chunks {
            check_columns(meta, chunk.batch())?;
        }
        let mut filter = KeyFilter::with_capacity(rows);
        let (mut min_key, mut max_key): (Option<PrimaryKey>, Option<PrimaryKey>) = (None, None);
        for chunk in chunks {
            for row in 0..chunk.len() {
                let key = chunk.key(row);
                filter.insert(&key);
                if min_key.as_ref().is_none_or(|min| key < *min) {
                    min_key = Some(key.clone());
                }
                if max_key.as_ref().is_none_or(|max| key > *max) {
                    max_key = Some(key);
                }
            }
        }
        let (collection, partition, segment) = (meta.collection, meta.partition, meta.segment);
        let data = encode::data_file(meta, chunks)?;
        let data_path = layout::segment_data(collection, partition, segment);
        let stats = filter.encode();
        let stats_path = layout::segment_stats(collection, partition, segment);
        Ok(Self {
            manifest: SegmentManifest {
                format_version: FORMAT_VERSION,
                collection,
                partition,
                segment,
                rows: rows as u64,
                min_ts,
                max_ts,
                min_key,
                max_key,
                files: vec![
                    FileEntry::of(FileKind::Data, data_path, &data),
                    FileEntry::of(FileKind::Stats, stats_path, &stats),
                ],
            },
            contents: vec![data, stats],
        })
    }

    /// Encodes the rows of a growing segment.
    ///
    /// # Errors
    /// As [`EncodedSegment::encode`].
    pub fn of_growing(snapshot: &GrowingSnapshot) -> Result<Self> {
        Self::encode(snapshot.meta(), snapshot.chunks())
    }

    /// Stores the files. The manifest may be committed once they are known to be what was written: read
    /// back, or compared by [`FileEntry::verify`]. Storing the same segment again replaces its files.
    ///
    /// # Errors
    /// `Storage`
    pub async fn store(self, store: &dyn ObjectStore) -> Result<SegmentManifest> {
        for (file, bytes) in self.manifest.files.iter().zip(self.contents) {
            store.put(&file.path, bytes).await?;
        }
        Ok(self.manifest)
    }
}

/// Encodes and stores a segment's files. Encoding runs where blocking is allowed.
///
/// # Errors
/// `Encode` · `BadRows` · `Storage`
pub async fn write_segment(
    store: &dyn ObjectStore,
    meta: SegmentMeta,
    chunks: Vec<Arc<Chunk>>,
) -> Result<SegmentManifest> {
    let segment = meta.segment;
    let encoded = blocking(segment, move || EncodedSegment::encode(&meta, &chunks)).await?;
    encoded.store(store).await
}

/// Reads a segment's rows into memory as a whole, after checking the file's checksum; see
/// [`open_segment`] for reading what is used only. Decoding runs where blocking is
/// allowed. `schema` is today's: a nullable field that the file does not have yet is read as null,
/// or as its default.
///
/// # Errors
/// `Storage` · `Corrupt` · `UnsupportedVersion`
pub async fn read_segment(
    store: &dyn ObjectStore,
    manifest: &SegmentManifest,
    schema: Arc<CollectionSchema>,
) -> Result<Chunk> {
    let file = open::data_entry(manifest)?.clone();
    let found = checked::find(store, &file).await?;
    let (path, rows) = (file.path.clone(), manifest.rows);
    let chunk = reading(&path, move || open::read_whole(found, &file, &schema)).await?;
    if chunk.len() as u64 != rows {
        let found = chunk.len();
        return Err(Error::corrupt(
            &path,
            format!("it has {found} rows instead of {rows}"),
        ));
    }
    Ok(chunk)
}

/// Reads the bloom filter of a segment's primary keys.
///
/// # Errors
/// `Storage` · `Corrupt`
pub async fn read_key_filter(
    store: &dyn ObjectStore,
    manifest: &SegmentManifest,
) -> Result<Option<KeyFilter>> {
    match manifest.file(FileKind::Stats) {
        Some(file) => {
            let bytes = file.read(store).await?;
            Ok(Some(KeyFilter::decode(&file.path, &bytes)?))
        }
        None => Ok(None),
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    segment: SegmentId,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => Err(Error::Encode {
            segment,
            source: Box::new(stopped),
        }),
    }
}

/// Reads and decodes a file where blocking is allowed. A decoder that panics has met bytes that it
/// was not made for.
pub(crate) async fn reading<T: Send + 'static>(
    path: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) if stopped.is_panic() => Err(Error::corrupt(path, stopped)),
        // The process is ending.
        Err(_) => Err(Error::Cancelled),
    }
}

/// The hidden columns' names, as every Milvus file has them.
pub(crate) fn hidden_name(field: FieldId) -> &'static str {
    if field == FieldId::ROW_ID {
        "RowID"
    } else {
        "Timestamp"
    }
}
