//! Segments: the rows of one partition of one channel, growing in memory or sealed for good.
//!
//! Owns how rows, deletes and time make up what a read sees, the files of a sealed segment, and
//! how one segment is searched and many answers become one. Everything that computes is synchronous
//! and takes a [`StopFlag`]; only [`mod@file`] and [`delta`] do IO, through the object store. It knows
//! no WAL, no metastore and no network.
//!
//! - [`chunk`]: immutable rows, the unit that readers share
//! - [`growing`]: one writer, many readers, chunks merged as they come
//! - [`interim`]: indexes over rows that still grow
//! - [`sealed`]: one chunk, in memory or in an open file, and its vector indexes
//! - [`delete`]: which rows are deleted, and since when
//! - [`segment`]: either kind, and what of it a read at a timestamp sees
//! - [`search`], [`retrieve`]: nearest rows, rows by filter or key
//! - [`mod@group`]: nearest rows of the nearest groups
//! - [`reduce`]: many answers become one
//! - [`mod@fetch`]: output columns for the winners
//! - [`newest`]: which rows of a segment are seen, without holding its keys
//! - [`compact`]: the rows of several segments that still count
//! - [`mod@file`], [`delta`], [`bloom`]: Parquet files, their manifest and their checksums
//! - [`export`]: rows as files for other programs
//! - [`manifest`]: manifests as the metadata's records, and back
//! - [`error`]: what can go wrong

pub mod bloom;
pub mod chunk;
pub mod compact;
pub mod delete;
pub mod delta;
pub mod error;
pub mod export;
pub mod fetch;
pub mod file;
pub mod group;
pub mod growing;
pub mod interim;
pub mod manifest;
pub mod newest;
pub mod reduce;
pub mod retrieve;
pub mod sealed;
pub mod search;
pub mod segment;

#[cfg(test)]
mod testing;

pub use chunk::Chunk;
pub use compact::{Cut, Survivors};
pub use delete::{ALL_PARTITIONS, DeleteBatch, SegmentDeletes};
pub use error::{Error, Result};
pub use fetch::{fetch, gather};
pub use file::{ColumnCache, FileEntry, FileKind, Placement, SegmentManifest};
pub use group::{GroupBy, InGroup, merge_groups};
pub use growing::{GrowingSegment, GrowingSnapshot, Joined};
pub use newest::{KeyLimits, NewestRows};
pub use redkite_types::StopFlag;
pub use reduce::{Hit, Keyed, RowAt, TopK, merge_hits, merge_keyed, merge_topk};
pub use retrieve::SegmentRetriever;
pub use sealed::SealedSegment;
pub use search::SegmentSearcher;
pub use segment::{ReadView, Segment, SegmentMeta};
