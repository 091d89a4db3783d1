//! Manifests and files of segments as the metadata's records, and back.

use redkite_proto::redkite::meta::{FileInfo, KeyBound, SegmentInfo, key_bound};
use redkite_types::{CollectionId, PartitionId, PrimaryKey, SegmentId, Timestamp};

use crate::file::{FileEntry, FileKind, SegmentManifest};

/// The record of a segment whose files are stored.
pub fn to_info(manifest: &SegmentManifest, channel: &str, flushed_ts: Timestamp) -> SegmentInfo {
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
        min_key: manifest.min_key.as_ref().map(to_bound),
        max_key: manifest.max_key.as_ref().map(to_bound),
        ..SegmentInfo::default()
    }
}

/// The record of a file.
pub fn to_file(file: &FileEntry) -> FileInfo {
    FileInfo {
        path: file.path.clone(),
        size: file.size_bytes,
        crc32c: file.crc32c,
    }
}

/// A file by its record.
pub fn from_file(kind: FileKind, file: &FileInfo) -> FileEntry {
    FileEntry {
        kind,
        path: file.path.clone(),
        size_bytes: file.size,
        crc32c: file.crc32c,
    }
}

/// What is needed to read a segment.
pub fn from_info(info: &SegmentInfo) -> SegmentManifest {
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
        min_key: info.min_key.as_ref().and_then(from_bound),
        max_key: info.max_key.as_ref().and_then(from_bound),
        files: info
            .files
            .iter()
            .map(|file| from_file(kind(file), file))
            .collect(),
    }
}

fn to_bound(key: &PrimaryKey) -> KeyBound {
    let key = match key {
        PrimaryKey::Int(key) => key_bound::Key::Int(*key),
        PrimaryKey::Str(key) => key_bound::Key::Text(key.clone()),
    };
    KeyBound { key: Some(key) }
}

fn from_bound(bound: &KeyBound) -> Option<PrimaryKey> {
    match bound.key.as_ref()? {
        key_bound::Key::Int(key) => Some(PrimaryKey::Int(*key)),
        key_bound::Key::Text(key) => Some(PrimaryKey::Str(key.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_survives_its_record() {
        let file = |kind, path: &str| FileEntry {
            kind,
            path: path.to_owned(),
            size_bytes: 7,
            crc32c: 9,
        };
        for (min_key, max_key) in [
            (Some(PrimaryKey::Int(-3)), Some(PrimaryKey::Int(8))),
            (
                Some(PrimaryKey::Str("".into())),
                Some(PrimaryKey::Str("z".into())),
            ),
            (None, None),
        ] {
            let manifest = SegmentManifest {
                format_version: 1,
                collection: CollectionId(1),
                partition: PartitionId(2),
                segment: SegmentId(3),
                rows: 4,
                min_ts: Timestamp(5),
                max_ts: Timestamp(6),
                min_key,
                max_key,
                files: vec![
                    file(FileKind::Data, "segments/1/2/3/data.v1.parquet"),
                    file(FileKind::Stats, "segments/1/2/3/stats.v1.bin"),
                ],
            };
            assert_eq!(
                from_info(&to_info(&manifest, "1v0", Timestamp(6))),
                manifest
            );
        }
    }
}
