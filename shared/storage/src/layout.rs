//! The only place that knows where objects lie.
//!
//! ```text
//! segments/{collection}/{partition}/{segment}/data.v2.parquet     rows of a sealed segment (v1 too)
//! segments/{collection}/{partition}/{segment}/stats.v1.bin        bloom filter of its primary keys
//! segments/{collection}/{partition}/{segment}/index/{build}/{file}
//! deltas/{channel}/{id}.parquet                                   deletes that no segment file holds
//! snapshots/{collection}/metadata/{snapshot}.bin                  what a snapshot consists of
//! wal/{channel}/{number:020}                                      logs, where they are objects
//! probe/{16 hexadecimal digits}/once                              for a moment, when a remote store is opened
//! ```
//!
//! Keys are relative paths of plain segments: letters, digits, `_`, `-` and `.`, none starting with
//! a dot, so that every store and every file system takes them, and temporary files (which do start
//! with a dot) are never objects.

use redkite_types::{BuildId, CollectionId, PartitionId, SegmentId};

use crate::error::{Error, Result};

/// Prefix of the files of all segments.
pub const SEGMENTS: &str = "segments/";
/// Prefix of the delete files of all channels.
pub const DELTAS: &str = "deltas/";
/// Prefix of the manifests of all snapshots.
pub const SNAPSHOTS: &str = "snapshots/";
/// Prefix of the logs of all channels, where logs are objects.
pub const LOGS: &str = "wal/";
/// Prefix of what is written to see whether a remote store can be used.
pub const PROBES: &str = "probe/";

/// What keys of the deployment's own objects start with; those of users must not.
pub const RESERVED: [&str; 5] = ["segments", "deltas", "snapshots", "wal", "probe"];

/// What an object is, by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind<'a> {
    /// A file of a segment, other than of an index.
    Segment {
        /// Whose it is.
        collection: CollectionId,
        /// Whose it is.
        partition: PartitionId,
        /// Whose it is.
        segment: SegmentId,
    },
    /// A file of an index build.
    Index {
        /// Whose it is.
        collection: CollectionId,
        /// Whose it is.
        partition: PartitionId,
        /// Whose it is.
        segment: SegmentId,
        /// The build.
        build: BuildId,
    },
    /// A delete file.
    Delta {
        /// Whose deletes it holds.
        channel: &'a str,
    },
    /// The manifest of a snapshot.
    Snapshot {
        /// Whose snapshot it is.
        collection: CollectionId,
        /// The snapshot's id.
        snapshot: i64,
    },
    /// A part of a channel's log.
    Log {
        /// Whose log it is.
        channel: &'a str,
    },
    /// What was written to try out the store, by a process that has not deleted it yet, or was killed
    /// before it could.
    Probe,
}

/// What the object with this key is; `None` for a key that nothing here makes.
///
/// Names of segment files are told by their version (`data.v1.parquet`), so that files of formats
/// to come are known too.
pub fn parse(key: &str) -> Option<ObjectKind<'_>> {
    let parts: Vec<&str> = key.split('/').collect();
    match parts[..] {
        ["segments", collection, partition, segment, name] if is_versioned(name) => {
            Some(ObjectKind::Segment {
                collection: CollectionId(id(collection)?),
                partition: PartitionId(id(partition)?),
                segment: SegmentId(id(segment)?),
            })
        }
        [
            "segments",
            collection,
            partition,
            segment,
            "index",
            build,
            _,
        ] => Some(ObjectKind::Index {
            collection: CollectionId(id(collection)?),
            partition: PartitionId(id(partition)?),
            segment: SegmentId(id(segment)?),
            build: BuildId(id(build)?),
        }),
        ["deltas", channel, name] => {
            id(name.strip_suffix(".parquet")?)?;
            Some(ObjectKind::Delta { channel })
        }
        ["snapshots", collection, "metadata", name] => Some(ObjectKind::Snapshot {
            collection: CollectionId(id(collection)?),
            snapshot: id(name.strip_suffix(".bin")?)?,
        }),
        ["wal", channel, _, ..] => Some(ObjectKind::Log { channel }),
        ["probe", number, "once"] if is_probe_number(number) => Some(ObjectKind::Probe),
        _ => None,
    }
}

/// Whether one of the parts of a name is `v` and a number.
fn is_versioned(name: &str) -> bool {
    name.split('.').any(|part| {
        part.strip_prefix('v')
            .is_some_and(|version| version.parse::<u32>().is_ok())
    })
}

fn is_probe_number(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 16 && text.bytes().all(digit)
}

/// An id as it is written into keys, and in no other form.
fn id(text: &str) -> Option<i64> {
    let id: i64 = text.parse().ok()?;
    (id.to_string() == text).then_some(id)
}

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

/// Prefix of the files of one build of an index over a segment.
pub fn build_prefix(
    collection: CollectionId,
    partition: PartitionId,
    segment: SegmentId,
    build: BuildId,
) -> String {
    segment_prefix(collection, partition, segment) + &format!("index/{build}/")
}

/// Prefix of the delete files of a channel.
pub fn delta_prefix(channel: &str) -> String {
    format!("deltas/{channel}/")
}

/// One delete file of a channel.
pub fn delta(channel: &str, id: i64) -> String {
    delta_prefix(channel) + &format!("{id}.parquet")
}

/// Prefix of what one opening of a store writes to try it out; `number` is nobody else's.
pub fn probe_prefix(number: u64) -> String {
    format!("{PROBES}{number:016x}/")
}

/// The one object below [`probe_prefix`].
pub fn probe(number: u64) -> String {
    probe_prefix(number) + "once"
}

/// The manifest of a snapshot.
pub fn snapshot_manifest(collection: CollectionId, snapshot: i64) -> String {
    format!("snapshots/{collection}/metadata/{snapshot}.bin")
}

/// Where exports are that go to no store of their own. They are the users': nothing here deletes
/// them, unless it is told to drop an export that is not complete.
pub const EXPORTS: &str = "exports/";

/// Prefix of all logs that are objects. They belong to `redkite-wal` alone, which deletes what it
/// does not need any more.
pub const WAL_PREFIX: &str = "wal/";

/// Prefix of the log of a channel.
pub fn wal_prefix(channel: &str) -> String {
    format!("{WAL_PREFIX}{channel}/")
}

/// One object of the log of a channel; sorted by key they are sorted by number.
pub fn wal_object(channel: &str, number: u64) -> String {
    format!("{WAL_PREFIX}{channel}/{number:020}")
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

/// Checks what a listing is asked for: nothing, or a key that ends in `/`.
///
/// # Errors
/// `InvalidKey`
pub(crate) fn check_prefix(prefix: &str) -> Result<()> {
    if prefix.is_empty() {
        return Ok(());
    }
    match prefix.strip_suffix('/') {
        Some(dir) => check_key(dir),
        None => Err(Error::InvalidKey {
            key: prefix.to_owned(),
            reason: "a prefix ends in '/'",
        }),
    }
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
            wal_object("ch_1v0", 6),
        ];
        assert_eq!(
            keys,
            [
                "segments/1/2/3/data.v2.parquet",
                "segments/1/2/3/stats.v1.bin",
                "segments/1/2/3/index/4/graph.bin",
                "deltas/ch_1v0/5.parquet",
                "wal/ch_1v0/00000000000000000006"
            ]
        );
        for key in keys {
            check_key(&key).unwrap();
        }
        assert!(wal_object("ch", 6).starts_with(&wal_prefix("ch")));
        assert!(segment_prefix(collection, partition, segment).starts_with("segments/1/"));
        assert_eq!(collection_prefix(collection), "segments/1/");
    }

    #[test]
    fn keys_are_told_by_what_they_hold() {
        let (collection, partition, segment) = (CollectionId(1), PartitionId(2), SegmentId(3));
        let build = BuildId(4);
        let file = ObjectKind::Segment {
            collection,
            partition,
            segment,
        };
        let index = ObjectKind::Index {
            collection,
            partition,
            segment,
            build,
        };
        let known = [
            (segment_data(collection, partition, segment), file),
            (segment_stats(collection, partition, segment), file),
            ("segments/1/2/3/vectors.101.v2.bin".to_owned(), file),
            (
                segment_index(collection, partition, segment, build, "index.bin"),
                index,
            ),
            (delta("1v0", 5), ObjectKind::Delta { channel: "1v0" }),
            (
                "wal/1v0/00000001.log".to_owned(),
                ObjectKind::Log { channel: "1v0" },
            ),
            (probe(0), ObjectKind::Probe),
            (probe(u64::MAX), ObjectKind::Probe),
        ];
        for (key, kind) in &known {
            assert_eq!(parse(key), Some(*kind), "{key}");
        }
        let index_key = segment_index(collection, partition, segment, build, "x");
        assert!(index_key.starts_with(&build_prefix(collection, partition, segment, build)));
        for key in [
            "segments/1/2/3/notes.txt",
            "segments/1/2/03/data.v1.parquet",
            "segments/1/2/data.v1.parquet",
            "segments/1/2/3/index/4",
            "segments/1/2/3/index/x/index.bin",
            "deltas/1v0/five.parquet",
            "wal/1v0",
            "probe/1/once",
            "probe/000000000000000A/once",
            "probe/000000000000000a/twice",
            "other/1",
        ] {
            assert_eq!(parse(key), None, "{key}");
        }
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
