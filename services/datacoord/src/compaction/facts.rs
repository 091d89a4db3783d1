//! What the policies decide by, from the metadata.

use std::collections::{BTreeMap, HashMap, HashSet};

use redkite_catalog::CollectionEntry;
use redkite_proto::redkite::meta::{DeltaInfo, SegmentInfo, SnapshotInfo, compaction_info};
use redkite_types::Timestamp;

/// Segments of an automatic compaction that failed are left alone for so long.
const COOL_DOWN_MS: u64 = 10 * 60 * 1_000;

/// Up to when hidden rows may go.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Now, by the wall clock.
    pub now: Timestamp,
    /// Rows that are hidden for less than this are kept.
    pub retention_ms: u64,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The segment.
    pub id: i64,
    /// Its partition.
    pub partition: i64,
    /// Its channel.
    pub channel: String,
    /// Bytes of its files.
    pub size: u64,
    /// Rows, hidden ones included.
    pub rows: i64,
    /// Rows that would go.
    pub dead_rows: i64,
    /// Delete files that could be applied and may hit a row.
    pub delete_files: usize,
    /// Whether anything would go for certain, or cannot be told.
    pub is_worth_it: bool,
}

impl Candidate {
    /// Bytes that would be left.
    pub fn live_size(&self) -> u64 {
        let rows = self.rows.max(1) as u128;
        let live = (self.rows - self.dead_rows).max(0) as u128;
        (u128::from(self.size) * live / rows) as u64
    }

    /// The share of its rows that would go.
    pub fn dead_share(&self) -> f64 {
        self.dead_rows as f64 / self.rows.max(1) as f64
    }
}

/// Deletes up to this time are all in delete files, and old enough to be applied.
pub fn deletes_until(entry: &CollectionEntry, channel: &str, moment: Moment) -> Timestamp {
    let flushed = entry.checkpoints.get(channel);
    let flushed = Timestamp(flushed.map_or(0, |checkpoint| checkpoint.ts));
    match moment.retention_ms {
        0 => flushed,
        retention => flushed.min(moment.now.minus_ms(retention)),
    }
}

/// Rows written before this have outlived the collection's time to live, and long enough so.
pub fn expired_before(entry: &CollectionEntry, moment: Moment) -> Timestamp {
    let seconds = entry
        .property("collection.ttl.seconds")
        .and_then(|text| text.parse::<u64>().ok());
    match seconds {
        Some(0) | None => Timestamp::ZERO,
        Some(seconds) => {
            let span = seconds
                .saturating_mul(1_000)
                .saturating_add(moment.retention_ms);
            moment.now.minus_ms(span)
        }
    }
}

/// Whether a delete file may hit a row of a segment.
pub fn may_hit(delta: &DeltaInfo, segment: &SegmentInfo) -> bool {
    delta.channel == segment.channel
        && delta.max_ts > segment.min_ts
        && delta.max_ts > segment.deletes_applied_ts
}

/// One delete file that may be merged with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteFile {
    /// The delete file.
    pub id: i64,
    /// Whose deletes it holds.
    pub channel: String,
    /// Its bytes.
    pub size: u64,
}

/// Every delete file that may be merged: those whose deletes can be applied, so that none waits for
/// the younger ones of another; no plan works on them, and none has failed lately.
pub fn delete_files(entry: &CollectionEntry, moment: Moment) -> Vec<DeleteFile> {
    let since = moment.now.minus_ms(COOL_DOWN_MS);
    let busy: HashSet<i64> = entry
        .compactions
        .values()
        .filter(|plan| is_executing(plan) || has_failed_since(plan, since))
        .flat_map(|plan| plan.delta_sources.iter().copied())
        .collect();
    let free = entry.deltas.values().filter(|delta| {
        let until = deletes_until(entry, &delta.channel, moment);
        delta.max_ts <= until.0 && !busy.contains(&delta.id)
    });
    let files = free.filter_map(|delta| {
        Some(DeleteFile {
            id: delta.id,
            channel: delta.channel.clone(),
            size: delta.file.as_ref()?.size,
        })
    });
    files.collect()
}

/// The delete files that are being merged.
pub fn being_merged(entry: &CollectionEntry) -> HashSet<i64> {
    let plans = entry.compactions.values();
    plans
        .filter(|plan| is_executing(plan))
        .flat_map(|plan| plan.delta_sources.iter().copied())
        .collect()
}

/// Deletes of a channel up to this time hit no row. Once true of a delete this stays true, as with
/// [`unneeded`].
pub fn deletes_needed_after(entry: &CollectionEntry, channel: &str) -> Timestamp {
    let segments = infos(entry).filter(|segment| segment.channel == channel);
    let passed = segments.map(|segment| segment.min_ts.max(segment.deletes_applied_ts));
    Timestamp(passed.min().unwrap_or(u64::MAX))
}

/// The delete files among `deltas` that can hit nothing any more, given every segment there is.
///
/// Once true of a delete file this stays true: rows that are in no segment yet are later than the
/// checkpoint that was committed with the file, and so than every delete in it; and a segment that
/// comes from others has only rows of theirs.
pub fn unneeded<'a>(
    deltas: impl Iterator<Item = &'a DeltaInfo>,
    segments: &[&SegmentInfo],
) -> Vec<i64> {
    deltas
        .filter(|delta| !segments.iter().any(|segment| may_hit(delta, segment)))
        .map(|delta| delta.id)
        .collect()
}

/// Why a segment must not be replaced now, if there is a reason.
///
/// Everything that refers to a segment's record and relies on its being there is asked here, when a
/// plan is made and again when it is committed.
pub fn protected_by(
    entry: &CollectionEntry,
    segment: i64,
    plan: Option<i64>,
    now: Timestamp,
) -> Option<String> {
    let snapshots = entry.snapshots.values().map(AsRef::as_ref);
    if let Some(name) = protecting_snapshot(snapshots, segment, now) {
        return Some(format!("snapshot {name} keeps it from being compacted"));
    }
    let others = entry
        .compactions
        .values()
        .filter(|other| Some(other.plan_id) != plan);
    let mut executing = others.filter(|other| is_executing(other));
    let other = executing.find(|other| other.sources.contains(&segment))?;
    Some(format!("compaction plan {} works on it", other.plan_id))
}

/// The snapshot whose time of protection for a segment is not over.
pub fn protecting_snapshot<'a>(
    mut snapshots: impl Iterator<Item = &'a SnapshotInfo>,
    segment: i64,
    now: Timestamp,
) -> Option<&'a str> {
    let snapshot = snapshots.find(|snapshot| {
        snapshot.protected_until_ms > now.physical_ms() && snapshot.segment_ids.contains(&segment)
    })?;
    Some(&snapshot.name)
}

fn is_executing(plan: &redkite_proto::redkite::meta::CompactionInfo) -> bool {
    plan.state() == compaction_info::State::Executing
}

fn has_failed_since(plan: &redkite_proto::redkite::meta::CompactionInfo, since: Timestamp) -> bool {
    plan.state() == compaction_info::State::Failed && plan.finished_ts >= since.0
}

/// Every segment that may be compacted. `deleted` says of loaded ones how many rows are hidden;
/// delete files that are `merging` count as the one that they become.
pub fn candidates(
    entry: &CollectionEntry,
    moment: Moment,
    deleted: &HashMap<i64, i64>,
    merging: &HashSet<i64>,
) -> Vec<Candidate> {
    let segments: Vec<&SegmentInfo> = infos(entry).collect();
    let mut channel_rows: BTreeMap<&str, i64> = BTreeMap::new();
    for segment in &segments {
        *channel_rows.entry(&segment.channel).or_default() += segment.rows;
    }
    let expired_before = expired_before(entry, moment);
    let free = segments
        .into_iter()
        .filter(|segment| protected_by(entry, segment.id, None, moment.now).is_none());
    free.map(|segment| {
        let until = deletes_until(entry, &segment.channel, moment);
        let applicable = entry
            .deltas
            .values()
            .filter(|delta| may_hit(delta, segment) && delta.max_ts <= until.0);
        let (mut files, mut deletes, mut merged) = (0, 0, 0);
        for delta in applicable {
            deletes += delta.rows;
            match merging.contains(&delta.id) {
                true => merged = 1,
                false => files += 1,
            }
        }
        let files = files + merged;
        let known = deleted.get(&segment.id);
        let hidden = match known {
            // Some of them may be hidden by deletes that cannot be applied yet.
            Some(hidden) => deletes.min(*hidden),
            None => {
                let all = channel_rows.get(segment.channel.as_str());
                let share = segment.rows as f64 / (*all.unwrap_or(&1)).max(1) as f64;
                (deletes as f64 * share) as i64
            }
        };
        let expired = expired_rows(segment, expired_before);
        let unknown = known.is_none() && files > 0;
        Candidate {
            id: segment.id,
            partition: segment.partition_id,
            channel: segment.channel.clone(),
            size: segment.files.iter().map(|file| file.size).sum(),
            rows: segment.rows,
            dead_rows: (hidden + expired).clamp(0, segment.rows),
            delete_files: files,
            is_worth_it: hidden > 0 || expired > 0 || unknown,
        }
    })
    .collect()
}

/// The segments that failed lately when nobody had asked.
pub fn cooling_down(entry: &CollectionEntry, now: Timestamp) -> HashSet<i64> {
    let since = now.minus_ms(COOL_DOWN_MS);
    let plans = entry.compactions.values();
    let failed = plans.filter(|plan| has_failed_since(plan, since));
    failed
        .flat_map(|plan| plan.sources.iter().copied())
        .collect()
}

/// The segments that there are.
pub fn infos(entry: &CollectionEntry) -> impl Iterator<Item = &SegmentInfo> {
    entry
        .segments
        .values()
        .filter_map(|segment| segment.info.as_deref())
}

/// As if rows had come at an even pace.
fn expired_rows(segment: &SegmentInfo, before: Timestamp) -> i64 {
    if before.0 <= segment.min_ts {
        return 0;
    }
    if before.0 > segment.max_ts {
        return segment.rows;
    }
    let share = (before.0 - segment.min_ts) as f64 / (segment.max_ts - segment.min_ts) as f64;
    ((segment.rows as f64 * share) as i64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(id: i64, min_ts: u64, max_ts: u64, applied: u64) -> SegmentInfo {
        SegmentInfo {
            id,
            channel: "10v0".into(),
            rows: 100,
            min_ts,
            max_ts,
            deletes_applied_ts: applied,
            ..SegmentInfo::default()
        }
    }

    fn delta(id: i64, min_ts: u64, max_ts: u64) -> DeltaInfo {
        DeltaInfo {
            id,
            channel: "10v0".into(),
            rows: 5,
            min_ts,
            max_ts,
            ..DeltaInfo::default()
        }
    }

    #[test]
    fn a_delete_file_is_needed_while_it_may_hit_a_segment() {
        // (delete file, segments, needed)
        let cases = [
            (delta(1, 5, 20), vec![], false),
            (delta(1, 5, 20), vec![segment(2, 10, 30, 0)], true),
            // Rows as old as the last delete are not hit by it.
            (delta(1, 5, 20), vec![segment(2, 20, 30, 0)], false),
            (delta(1, 5, 20), vec![segment(2, 19, 30, 0)], true),
            (delta(1, 5, 20), vec![segment(2, 10, 30, 20)], false),
            (delta(1, 5, 20), vec![segment(2, 10, 30, 19)], true),
            (
                delta(1, 5, 20),
                vec![segment(2, 10, 30, 40), segment(3, 19, 40, 0)],
                true,
            ),
        ];
        for (delta, segments, needed) in cases {
            let all: Vec<&SegmentInfo> = segments.iter().collect();
            let found = unneeded(std::iter::once(&delta), &all);
            assert_eq!(found.is_empty(), needed, "{delta:?} {segments:?}");
        }
        let elsewhere = SegmentInfo {
            channel: "10v1".into(),
            ..segment(2, 0, 30, 0)
        };
        assert_eq!(
            unneeded(std::iter::once(&delta(1, 5, 20)), &[&elsewhere]),
            [1]
        );
    }

    #[test]
    fn rows_are_taken_to_expire_at_an_even_pace() {
        let cases = [
            (0, 0),
            (100, 0),
            (150, 50),
            (101, 1),
            (200, 100),
            (201, 100),
        ];
        for (before, want) in cases {
            let found = expired_rows(&segment(1, 100, 200, 0), Timestamp(before));
            assert_eq!(found, want, "before {before}");
        }
        assert_eq!(expired_rows(&segment(1, 7, 7, 0), Timestamp(8)), 100);
    }
}
