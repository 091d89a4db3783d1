//! The only place that knows where objects lie.
//!
//! ```text
//! segments/{collection}/{partition}/{segment}/data.v2.parquet     rows of a sealed segment (v1 too)
//! segments/{collection}/{partition}/{segment}/stats.v1.bin        bloom filter of its primary keys
//! segments/{collection}/{partition}/{segment}/index/{build}/{file}
//! deltas/{channel}/{id}.parquet                                   deletes that no segment file holds
//! ```
//!
//! Keys are relative paths of plain segments: letters, digits, `_`, `-` and `.`, none starting with
//! a dot, so that every store and every file system takes them, and temporary files (which do start
//! with a dot) are never objects.

use redkite_types::{BuildId, CollectionId, PartitionId, SegmentId};

use crate::error::{Error, Result};

/// Prefix of everything that belongs to a collection's segments.
pub fn collection_prefix(collection: CollectionId) -> String {
    format!("segments/{collection}/")
}

/// Prefix of everything that belongs to a segment.
pub fn segment_prefix(
    collection: CollectionId,
    partition: PartitionId,
    segment: SegmentId,
) -> String {
    format!("segments/{collection}/{partition}/{segment}/")
}

/// The rows of a sealed segment, format version 2. Older segments have other names: look a file up
/// in its segment's record.
pub fn segment_data(
    collection: CollectionId,
    partition: PartitionId,
    segment: SegmentId,
) -> String {
    segment_prefix(collection, partition, segment) + "data.v2.parquet"
}

/// The bloom filter of a sealed segment's primary keys, format version 1.
pub fn segment_stats(
    collection: CollectionId,
    partition: PartitionId,
    segment: SegmentId,
) -> String {
    segment_prefix(collection, partition, segment) + "stats.v1.bin"
}

/// One file of one build of an index over a segment.
pub fn segment_index(
    collection: CollectionId,
    partition: PartitionId,
    segment: SegmentId,
    build: BuildId,
    file: &str,
) -> String {
    segment_prefix(collection, partition, segment) + &format!("index/{build}/{file}")
}

/// Prefix of the delete files of a channel.
pub fn delta_prefix(channel: &str) -> String {
    format!("deltas/{channel}/")
}

/// One delete file of a channel.
pub fn delta(channel: &str, id: i64) -> String {
    delta_prefix(channel) + &format!("{id}.parquet")
}

/// Checks that a key is one that every store takes.
///
/// # Errors
/// `InvalidKey` with the rule that it breaks.
pub fn check_key(key: &str) -> Result<()> {
    let refuse = |reason| {
        Err(Error::InvalidKey {
            key: key.to_owned(),
            reason,
        })
    };
    if key.len() > 1_024 {
        return refuse("it is longer than 1024 bytes");
    }
    for part in key.split('/') {
        if part.is_empty() {
            return refuse("it has an empty part");
        }
        if part.len() > 255 {
            return refuse("a part of it is longer than 255 bytes");
        }
        if part.starts_with('.') {
            return refuse("a part of it starts with a dot");
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if !part.bytes().all(plain) {
            return refuse("only letters, digits, '_', '-' and '.' are allowed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_documented_one() {
        let (collection, partition, segment) = (CollectionId(1), PartitionId(2), SegmentId(3));
        let keys = [
            segment_data(collection, partition, segment),
            segment_stats(collection, partition, segment),
            segment_index(collection, partition, segment, BuildId(4), "graph.bin"),
            delta("ch_1v0", 5),
        ];
        assert_eq!(
            keys,
            [
                "segments/1/2/3/data.v2.parquet",
                "segments/1/2/3/stats.v1.bin",
                "segments/1/2/3/index/4/graph.bin",
                "deltas/ch_1v0/5.parquet"
            ]
        );
        for key in keys {
            check_key(&key).unwrap();
        }
        assert!(segment_prefix(collection, partition, segment).starts_with("segments/1/"));
        assert_eq!(collection_prefix(collection), "segments/1/");
    }

    #[test]
    fn keys_that_could_leave_the_root_are_refused() {
        for key in [
            "", "/a", "a/", "a//b", "../a", "a/../b", "a/.tmp", "a b", "a\\b",
        ] {
            assert!(check_key(key).is_err(), "{key:?} was accepted");
        }
    }
}
