//! Records against each other.

use std::collections::BTreeMap;

use prost::Message;
use redkite_catalog::{CatalogView, CollectionEntry, keys, keys::Key};
use redkite_metastore::KeyValue;
use redkite_proto::{
    milvus::common::IndexState,
    redkite::meta::{AllocatorWindow, DeltaInfo, FileInfo, SegmentIndexInfo, SegmentInfo},
};
use redkite_types::{CollectionId, IndexId, PartitionId, SegmentId};

use super::{logs::LogState, report::Report};

/// Checks that every record stands where it says, refers to what exists and names files alone.
pub fn check(pairs: &[KeyValue], view: &CatalogView, report: &mut Report) {
    let mut seen = Seen {
        ids_end: ids_end(pairs, report),
        ..Seen::default()
    };
    for pair in pairs {
        match Key::parse(&pair.key) {
            Key::Segment(collection, segment) => {
                if let Some(info) = decode::<SegmentInfo>(pair) {
                    check_segment(pair, collection, segment, &info, view, report);
                    seen.id("segment", info.id, pair, report);
                    seen.files(&info.files, pair, report);
                }
            }
            Key::SegmentIndex(collection, segment, _) => {
                if let Some(info) = decode::<SegmentIndexInfo>(pair) {
                    check_build(pair, collection, segment, &info, view, report);
                    seen.id("index build", info.build_id, pair, report);
                    seen.files(&info.files, pair, report);
                }
            }
            Key::Delta(collection, _) => {
                if let Some(info) = decode::<DeltaInfo>(pair) {
                    check_delta(pair, collection, &info, view, report);
                    seen.id("delete file", info.id, pair, report);
                    seen.files(info.file.as_slice(), pair, report);
                }
            }
            Key::Partition(collection, _)
            | Key::Index(collection, _)
            | Key::Field(collection, _)
                if view.collection_by_id(collection).is_none() =>
            {
                unknown_collection(pair, collection, report);
            }
            _ => {}
        }
    }
}

/// Checks that no checkpoint lies behind the end of its log.
pub fn check_checkpoints(
    view: &CatalogView,
    logs: &BTreeMap<String, LogState>,
    report: &mut Report,
) {
    for entry in view.all_collections() {
        for (channel, checkpoint) in &entry.checkpoints {
            let Some(log) = logs.get(channel) else {
                continue;
            };
            let last_lsn = log.last_lsn.unwrap_or(u64::MAX - 1);
            if !log.is_damaged && checkpoint.lsn > last_lsn + 1 {
                report.problem(
                    keys::checkpoint(channel),
                    None,
                    format!(
                        "the log of channel {channel} ends at record {}, before the checkpoint {}",
                        last_lsn, checkpoint.lsn
                    ),
                    "nothing that was flushed; the channel cannot be opened",
                );
            }
        }
    }
}

/// What was met so far, to find it a second time.
#[derive(Default)]
struct Seen {
    ids: BTreeMap<(&'static str, i64), String>,
    /// By collection: one that was restored from a snapshot shares files with others.
    paths: BTreeMap<(Option<CollectionId>, String), String>,
    ids_end: Option<u64>,
}

impl Seen {
    fn id(&mut self, what: &'static str, id: i64, pair: &KeyValue, report: &mut Report) {
        if let Some(before) = self.ids.insert((what, id), pair.key.clone()) {
            let text = format!("{what} {id} is recorded at {before} too");
            report.problem(&pair.key, None, text, "one of the two");
        }
        if self.ids_end.is_some_and(|end| id.unsigned_abs() >= end) {
            let text = format!("{what} {id} has an id that was not given out yet");
            report.problem(
                &pair.key,
                None,
                text,
                "nothing yet: it will be given out again",
            );
        }
    }

    fn files(&mut self, files: &[FileInfo], pair: &KeyValue, report: &mut Report) {
        let collection = Key::parse(&pair.key).collection();
        for file in files {
            let place = (collection, file.path.clone());
            if let Some(before) = self.paths.insert(place, pair.key.clone()) {
                let text = format!("file {} is named by {before} too", file.path);
                report.problem(&pair.key, None, text, "one of the two");
            }
        }
    }
}

fn ids_end(pairs: &[KeyValue], report: &mut Report) -> Option<u64> {
    let pair = pairs.iter().find(|pair| pair.key == keys::ID_WINDOW)?;
    match AllocatorWindow::decode(pair.value.clone()) {
        Ok(window) => Some(window.end),
        Err(error) => {
            let what = format!("the record cannot be decoded: {error}");
            report.problem(&pair.key, None, what, "no id can be given out");
            None
        }
    }
}

fn check_segment(
    pair: &KeyValue,
    collection: CollectionId,
    segment: SegmentId,
    info: &SegmentInfo,
    view: &CatalogView,
    report: &mut Report,
) {
    let lost = format!("{} rows", info.rows);
    let partition = PartitionId(info.partition_id);
    let own_key = keys::segment(
        CollectionId(info.collection_id),
        partition,
        SegmentId(info.id),
    );
    if own_key != pair.key {
        let what = format!("the record says that it is {own_key}");
        report.problem(&pair.key, None, what, &lost);
        return;
    }
    let Some(entry) = known_collection(pair, collection, view, report) else {
        return;
    };
    if !entry.partitions.contains_key(&partition) {
        let what = format!("segment {segment} is of partition {partition}, which does not exist");
        report.problem(&pair.key, None, what, &lost);
    }
    check_channel(pair, entry, &info.channel, report);
    if info.files.is_empty() {
        let what = format!("segment {segment} names no file");
        report.problem(&pair.key, None, what, &lost);
    }
}

fn check_build(
    pair: &KeyValue,
    collection: CollectionId,
    segment: SegmentId,
    info: &SegmentIndexInfo,
    view: &CatalogView,
    report: &mut Report,
) {
    let Some(entry) = known_collection(pair, collection, view, report) else {
        return;
    };
    let lost = "nothing but an index";
    let Some(of) = entry.segments.get(&segment).and_then(|of| of.info.as_ref()) else {
        let what = format!("it is a build over segment {segment}, which does not exist");
        report.problem(&pair.key, None, what, lost);
        return;
    };
    if !entry.indexes.contains_key(&IndexId(info.index_id)) {
        let what = format!(
            "it is a build of index {}, which does not exist",
            info.index_id
        );
        report.problem(&pair.key, None, what, lost);
    }
    if info.state() == IndexState::Finished && info.rows != of.rows {
        let what = format!("it has {} rows, its segment has {}", info.rows, of.rows);
        report.problem(&pair.key, None, what, lost);
    }
}

fn check_delta(
    pair: &KeyValue,
    collection: CollectionId,
    info: &DeltaInfo,
    view: &CatalogView,
    report: &mut Report,
) {
    let Some(entry) = known_collection(pair, collection, view, report) else {
        return;
    };
    check_channel(pair, entry, &info.channel, report);
    if info.file.is_none() {
        let lost = format!("{} deletes: their rows are seen again", info.rows);
        report.problem(&pair.key, None, "the record names no file", lost);
    }
}

fn check_channel(pair: &KeyValue, entry: &CollectionEntry, channel: &str, report: &mut Report) {
    if !entry.channels().iter().any(|known| known == channel) {
        let what = format!("channel {channel:?} is none of collection {}", entry.id());
        report.problem(
            &pair.key,
            None,
            what,
            "what the record describes is not served",
        );
    }
}

fn known_collection<'a>(
    pair: &KeyValue,
    collection: CollectionId,
    view: &'a CatalogView,
    report: &mut Report,
) -> Option<&'a CollectionEntry> {
    let entry = view.collection_by_id(collection);
    if entry.is_none() {
        unknown_collection(pair, collection, report);
    }
    entry.map(|entry| entry.as_ref())
}

fn unknown_collection(pair: &KeyValue, collection: CollectionId, report: &mut Report) {
    let what = format!("it belongs to collection {collection}, which does not exist");
    report.problem(
        &pair.key,
        None,
        what,
        "what the record describes is not served",
    );
}

/// A record; those that cannot be decoded are reported elsewhere.
fn decode<M: Message + Default>(pair: &KeyValue) -> Option<M> {
    M::decode(pair.value.clone()).ok()
}
