//! Segment files between the metadata's records and the segment crate.

use redkite_proto::redkite::meta::{FileInfo, SegmentInfo};
use redkite_segment::{FileEntry, FileKind, SegmentManifest};
use redkite_types::{CollectionId, PartitionId, SegmentId, Timestamp};

/// The record of a segment whose files are stored.
pub(crate) fn to_info(
    manifest: &SegmentManifest,
    channel: &str,
    flushed_ts: Timestamp,
) -> SegmentInfo {
    SegmentInfo {
        id: manifest.segment.0,
        collection_id: manifest.collection.0,
        partition_id: manifest.partition.0,
        channel: channel.to_owned(),
        rows: manifest.rows as i64,
        min_ts: manifest.min_ts.0,
        max_ts: manifest.max_ts.0,
        format_version: manifest.format_version,
        files: manifest.files.iter().map(to_file).collect(),
        flushed_ts: flushed_ts.0,
    }
}

/// The record of a file.
pub(crate) fn to_file(file: &FileEntry) -> FileInfo {
    FileInfo {
        path: file.path.clone(),
        size: file.size_bytes,
        crc32c: file.crc32c,
    }
}

/// A file by its record.
pub(crate) fn from_file(kind: FileKind, file: &FileInfo) -> FileEntry {
    FileEntry {
        kind,
        path: file.path.clone(),
        size_bytes: file.size,
        crc32c: file.crc32c,
    }
}

/// What is needed to read a segment.
pub(crate) fn from_info(info: &SegmentInfo) -> SegmentManifest {
    let kind = |file: &FileInfo| {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        if name.starts_with("stats.") {
            FileKind::Stats
        } else {
            FileKind::Data
        }
    };
    SegmentManifest {
        format_version: info.format_version,
        collection: CollectionId(info.collection_id),
        partition: PartitionId(info.partition_id),
        segment: SegmentId(info.id),
        rows: info.rows as u64,
        min_ts: Timestamp(info.min_ts),
        max_ts: Timestamp(info.max_ts),
        min_key: None,
        max_key: None,
        files: info
            .files
            .iter()
            .map(|file| from_file(kind(file), file))
            .collect(),
    }
}
