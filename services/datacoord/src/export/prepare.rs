//! Which segments hold the rows of a time.

use redkite_catalog::CollectionEntry;
use redkite_proto::redkite::meta::{DeltaInfo, ExportPart, SegmentInfo};
use redkite_types::Timestamp;

/// Bytes of segments that one part reads, unless a single one is larger.
const PART_BYTES: u64 = 256 << 20;

/// The segments and delete files of a collection, whose channels are flushed up to a time, that hold
/// the rows of that time; `None` when deletes after it were applied already, so that another time
/// must be taken.
pub fn as_of(entry: &CollectionEntry, at: Timestamp) -> Option<(Vec<SegmentInfo>, Vec<DeltaInfo>)> {
    let infos = entry
        .segments
        .values()
        .filter_map(|one| one.info.as_deref());
    let all: Vec<&SegmentInfo> = infos
        .filter(|segment| {
            let partition = redkite_types::PartitionId(segment.partition_id);
            entry.visible_partitions().any(|one| one.id == partition.0)
        })
        .collect();
    // Rows that a later delete has hidden are no longer in such a segment.
    if all.iter().any(|segment| segment.deletes_applied_ts > at.0) {
        return None;
    }
    let segments = all.into_iter().filter(|segment| segment.min_ts <= at.0);
    let deltas = entry.deltas.values().filter(|delta| delta.min_ts <= at.0);
    Some((
        segments.cloned().collect(),
        deltas.map(|delta| delta.as_ref().clone()).collect(),
    ))
}

/// Divides segments into parts, those of one channel and partition side by side.
pub fn parts(segments: &[SegmentInfo]) -> Vec<ExportPart> {
    let mut ordered: Vec<&SegmentInfo> = segments.iter().collect();
    ordered.sort_by_key(|segment| (&segment.channel, segment.partition_id, segment.id));
    let mut parts: Vec<ExportPart> = Vec::new();
    let mut place = None;
    let mut bytes = 0;
    for segment in ordered {
        let size: u64 = segment.files.iter().map(|file| file.size).sum();
        let here = (&segment.channel, segment.partition_id);
        bytes += size;
        match parts.last_mut() {
            Some(part) if place == Some(here) && bytes <= PART_BYTES => {
                part.segments.push(segment.id);
            }
            Some(_) | None => {
                parts.push(ExportPart {
                    segments: vec![segment.id],
                });
                bytes = size;
            }
        }
        place = Some(here);
    }
    // Also an export of no rows has a file.
    if parts.is_empty() {
        parts.push(ExportPart::default());
    }
    parts
}
