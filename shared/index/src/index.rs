//! What the segment crate sees: one trait, and how to build and open what implements it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use redkite_types::{BitSet, MetricType, StopFlag};

use crate::buffer::AlignedBuffer;
use crate::diskann::DiskIndex;
use crate::error::{Error, Result};
use crate::file::Stored;
use crate::flat::FlatIndex;
use crate::hnsw::HnswIndex;
use crate::in_file::ReadAt;
use crate::ivf::IvfIndex;
use crate::params::{IndexParams, IndexType, SearchParams};
use crate::raw::{RawSlice, RawVectors};

/// One result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Row number in the segment.
    pub row: u32,
    /// Score as Milvus reports it: squared L2 distance, inner product or cosine. Exact, unless the index was
    /// built to do without the vectors ([`IndexParams::is_refined`]).
    pub score: f32,
}

/// An index over the vectors of one sealed segment.
///
/// # Shapes
/// Queries are one row of `dim` values; `raw` is the `[rows, dim]` matrix the index was built from;
/// `allow` spans its rows (rows past its end are not allowed).
///
/// # Correctness
/// An implementation returns exactly `min(k, allowed rows)` hits, each row once, best first, equal
/// scores by row, and every score is exact. An index that was built to do without the vectors
/// ([`IndexParams::is_refined`]) reads none of them: a score is what the row's codes say, the same in every
/// search with the query.
///
/// # Errors
/// Every search may answer `DimMismatch`, `NotFinite`, `InvalidParameter` (the caller's fault, never
/// retry), `RawMismatch` (a bug of the caller) and `Cancelled`. `out` is then unspecified.
pub trait VectorIndex: Send + Sync {
    /// Appends the `k` nearest allowed rows to `out`. A range in `params` is not looked at.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    fn search(
        &self,
        query: &[f32],
        raw: &dyn RawVectors,
        params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
        stop: &StopFlag,
        out: &mut Vec<Hit>,
    ) -> Result<()>;

    /// Appends what [`VectorIndex::search`] finds for each of the queries, `[nq, dim]`, one list each.
    ///
    /// # Correctness
    /// The answers are the same as one by one; what several queries look at may be read once for all.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    fn search_many(
        &self,
        queries: &[f32],
        raw: &dyn RawVectors,
        params: &SearchParams,
        allow: Option<&BitSet>,
        k: usize,
        stop: &StopFlag,
        out: &mut Vec<Vec<Hit>>,
    ) -> Result<()> {
        for query in queries.chunks(self.dim()) {
            let mut hits = Vec::new();
            self.search(query, raw, params, allow, k, stop, &mut hits)?;
            out.push(hits);
        }
        Ok(())
    }

    /// Appends the best `limit` allowed rows whose score lies in `params.range` to `out`.
    ///
    /// # Errors
    /// Also `InvalidParameter` when `params` has no range, or an empty one.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is borrowed from a different owner on the hot path"
    )]
    fn range_search(
        &self,
        query: &[f32],
        raw: &dyn RawVectors,
        params: &SearchParams,
        allow: Option<&BitSet>,
        limit: usize,
        stop: &StopFlag,
        out: &mut Vec<Hit>,
    ) -> Result<()>;

    /// An index over more rows: `raw` begins with those that this one was built from, and `options` has the seed
    /// with which it was. `None` where it is better built anew: the type cannot be extended, or the other rows are
    /// too unlike these.
    ///
    /// # Errors
    /// As [`build_raw`]; also `InvalidParameter` when `raw` or the seed are others (a bug of the caller).
    fn extended(
        &self,
        _raw: &dyn RawVectors,
        _options: &BuildOptions<'_>,
    ) -> Result<Option<Box<dyn VectorIndex>>> {
        Ok(None)
    }

    /// Number of rows.
    fn len(&self) -> usize;

    /// Whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values in a row.
    fn dim(&self) -> usize;

    /// How distance is measured.
    fn metric(&self) -> MetricType;

    /// The type under which it was built.
    fn index_type(&self) -> IndexType;

    /// Bytes the index holds, mapped ones included, the raw vectors not.
    fn memory_bytes(&self) -> usize;

    /// Bytes that stay in memory when the file is mapped.
    fn pinned_bytes(&self) -> usize {
        0
    }

    /// The index file, piece by piece; [`open`] reads it. The large pieces are the index's own
    /// memory, not copies of it.
    fn parts(&self) -> Vec<Bytes>;

    /// Writes the index file.
    ///
    /// # Errors
    /// `Io` when the writer fails.
    fn write(&self, out: &mut dyn Write) -> Result<()> {
        crate::file::write(&self.parts(), out)
    }
}

/// How to build.
#[derive(Clone, Copy, Debug)]
pub struct BuildOptions<'a> {
    /// Threads to use, the calling one included; 0 counts as 1. With 1 the result depends on rows,
    /// parameters and seed only.
    pub threads: usize,
    /// Seed of the levels.
    pub seed: u64,
    /// Counts finished rows, each once, for progress reports: all of them once the build has succeeded.
    pub progress: Option<&'a AtomicUsize>,
    /// Stops the build when raised.
    pub stop: &'a StopFlag,
}

impl BuildOptions<'_> {
    /// Counts rows that are finished.
    pub(crate) fn count(&self, rows: usize) {
        if let Some(progress) = self.progress {
            progress.fetch_add(rows, Ordering::Relaxed);
        }
    }
}

/// Builds an index of row-major `[rows, dim]` vectors.
///
/// # Errors
/// `DimMismatch`, `NotFinite` (names the row), `InvalidParameter`, `TooManyRows`: the caller's fault;
/// `Cancelled` once the flag is raised.
pub fn build(
    params: &IndexParams,
    rows: &[f32],
    dim: usize,
    options: &BuildOptions<'_>,
) -> Result<Box<dyn VectorIndex>> {
    build_raw(params, &RawSlice::new(rows, dim)?, options)
}

/// As [`build`], of rows of any type, of which no copy is made.
///
/// # Errors
/// As [`build`].
pub fn build_raw(
    params: &IndexParams,
    raw: &dyn RawVectors,
    options: &BuildOptions<'_>,
) -> Result<Box<dyn VectorIndex>> {
    Ok(match params.index_type {
        IndexType::Flat => {
            options.stop.check()?;
            let index = FlatIndex::build_raw(params.metric, raw)?;
            options.count(index.len());
            Box::new(index)
        }
        IndexType::Hnsw | IndexType::HnswSq | IndexType::HnswPq | IndexType::AutoIndex => {
            Box::new(HnswIndex::build_raw(params, raw, options)?)
        }
        IndexType::IvfFlat
        | IndexType::IvfSq8
        | IndexType::IvfPq
        | IndexType::Scann
        | IndexType::IvfRabitq => Box::new(IvfIndex::build_raw(params, raw, options)?),
        IndexType::BinFlat
        | IndexType::BinIvfFlat
        | IndexType::SparseInverted
        | IndexType::SparseWand => {
            return Err(Error::InvalidIndexType {
                index_type: params.index_type.name().to_owned(),
            });
        }
        IndexType::DiskAnn => Box::new(DiskIndex::build_raw(params, raw, options)?),
    })
}

/// Opens an index file that is in memory, or mapped; nothing is decoded, and nothing is copied if
/// the bytes start on a multiple of 64. All checksums are verified.
///
/// # Errors
/// `Corrupt` (fetch the file again) · `UnsupportedVersion`.
pub fn open(bytes: Bytes) -> Result<Box<dyn VectorIndex>> {
    opened(Stored::open(bytes)?)
}

/// As [`open`], for bytes whose checksum as a whole was verified just now: the sections' own are
/// not computed again.
///
/// # Errors
/// As [`open`].
pub fn open_verified(bytes: Bytes) -> Result<Box<dyn VectorIndex>> {
    opened(Stored::open_verified(bytes)?)
}

/// As [`open_verified`], for bytes that are mapped from a file: what every search reads and must not wait for
/// the disk is copied into memory, [`VectorIndex::pinned_bytes`] in all; what it reads in long runs is read
/// from the file, so that it does not become memory of the process.
///
/// # Errors
/// As [`open`].
pub fn open_mapped(bytes: Bytes, file: Arc<dyn ReadAt>) -> Result<Box<dyn VectorIndex>> {
    opened(Stored::open_verified(bytes)?.mapped_from(file))
}

pub(crate) fn opened(stored: Stored) -> Result<Box<dyn VectorIndex>> {
    Ok(match stored.header.index_type {
        IndexType::Flat => Box::new(FlatIndex::from_stored(stored)?),
        IndexType::Hnsw | IndexType::HnswSq | IndexType::HnswPq | IndexType::AutoIndex => {
            Box::new(HnswIndex::from_stored(stored)?)
        }
        IndexType::IvfFlat
        | IndexType::IvfSq8
        | IndexType::IvfPq
        | IndexType::Scann
        | IndexType::IvfRabitq => Box::new(IvfIndex::from_stored(stored)?),
        IndexType::BinFlat
        | IndexType::BinIvfFlat
        | IndexType::SparseInverted
        | IndexType::SparseWand => return Err(Error::corrupt("no index of dense vectors")),
        IndexType::DiskAnn => Box::new(DiskIndex::from_stored(stored)?),
    })
}

/// Reads a whole index file into memory, in huge pages where the system has them, and opens it.
///
/// A walk over a large index in memory is faster than over a mapped file, by a third and more.
///
/// # Errors
/// As [`open`]; `Io` when the file cannot be read.
pub fn load(mut file: impl Read + Seek) -> Result<Box<dyn VectorIndex>> {
    let failed = |source| Error::Io {
        action: "cannot be read",
        source,
    };
    let len = file.seek(SeekFrom::End(0)).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let mut buffer = AlignedBuffer::zeroed(len as usize);
    file.read_exact(buffer.as_mut()).map_err(failed)?;
    open(buffer.into_bytes())
}

/// Maps an index file and opens it: nothing is read but to verify checksums, and the system may
/// drop pages that are not used.
///
/// The file must never be changed or truncated afterwards; it may be unlinked.
///
/// # Errors
/// As [`open`]; `Io` when the file cannot be mapped.
pub fn open_file(path: &Path) -> Result<Box<dyn VectorIndex>> {
    let mapped = File::open(path).and_then(|file| {
        let bytes = crate::kernel::map_file(&file)?;
        Ok((file, bytes))
    });
    let (file, bytes) = mapped.map_err(|source| Error::Io {
        action: "cannot be mapped",
        source,
    })?;
    opened(Stored::open(bytes)?.mapped_from(Arc::new(file)))
}

/// Checks vectors before building: all finite, not too many. How many there are.
pub(crate) fn check_rows(raw: &dyn RawVectors, limit: usize) -> Result<usize> {
    if raw.dim() == 0 {
        return Err(Error::DimMismatch {
            expected: 1,
            actual: 0,
        });
    }
    let count = raw.rows();
    if count > limit {
        return Err(Error::TooManyRows { rows: count, limit });
    }
    match (0..count as u32).find(|row| !raw.row(*row).is_finite()) {
        None => Ok(count),
        Some(row) => Err(Error::NotFinite {
            what: format!("row {row}"),
        }),
    }
}

/// Checks that the lent vectors are those of the index.
pub(crate) fn check_raw(raw: &dyn RawVectors, rows: usize, dim: usize) -> Result<()> {
    if raw.dim() == dim && raw.rows() >= rows {
        return Ok(());
    }
    Err(Error::RawMismatch {
        raw_rows: raw.rows(),
        raw_dim: raw.dim(),
        rows,
        dim,
    })
}
