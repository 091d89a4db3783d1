//! Rows and segments of a channel.

use std::collections::BTreeMap;

use redkite_proto::redkite::querynode::{ChannelStatsResponse, PartitionStats, SegmentStats};
use redkite_types::{PartitionId, Timestamp};

use crate::channel::State;

/// Rows of every partition, deleted ones included, and every segment. Every write up to `seen` is
/// applied, and those to come get later timestamps.
pub(crate) fn of(state: &State, seen: Timestamp) -> ChannelStatsResponse {
    let mut rows: BTreeMap<PartitionId, i64> = state
        .known
        .iter()
        .map(|partition| (*partition, 0))
        .collect();
    let mut segments = Vec::new();
    for sealed in state.sealed.values() {
        *rows.entry(sealed.partition()).or_default() += sealed.info.rows;
        segments.push(SegmentStats {
            segment_id: sealed.info.id,
            partition_id: sealed.info.partition_id,
            rows: sealed.info.rows,
            growing: false,
            loaded: sealed.loaded.is_some() && sealed.behind.is_none(),
            deleted_rows: sealed.deleted_rows(),
            memory_bytes: sealed
                .loaded
                .as_ref()
                .map_or(0, |rows| rows.memory_bytes() as i64),
            indexed_fields: sealed.opened.keys().map(|field| field.0).collect(),
        });
    }
    // They are still served; their rows are counted in those that take their place.
    for retired in state.retired.values() {
        segments.push(SegmentStats {
            segment_id: retired.info.id,
            partition_id: retired.info.partition_id,
            rows: retired.info.rows,
            growing: false,
            loaded: retired.loaded.is_some(),
            memory_bytes: retired
                .loaded
                .as_ref()
                .map_or(0, |rows| rows.memory_bytes() as i64),
            indexed_fields: retired.opened.keys().map(|field| field.0).collect(),
            deleted_rows: retired.deleted_rows(),
        });
    }
    for growing in state.sealing.iter().chain(state.growing.values()) {
        let count = growing.rows.snapshot().rows() as i64;
        if count == 0 {
            continue;
        }
        if !state.is_replaced(growing.id) {
            *rows.entry(growing.partition).or_default() += count;
        }
        segments.push(SegmentStats {
            segment_id: growing.id.0,
            partition_id: growing.partition.0,
            rows: count,
            growing: true,
            loaded: state.loaded.contains(&growing.partition),
            memory_bytes: growing.bytes as i64,
            indexed_fields: Vec::new(),
            deleted_rows: 0,
        });
    }
    let partitions = rows.into_iter();
    let flushed = match state.is_dirty() {
        true => state.checkpoint.ts,
        false => state.checkpoint.ts.max(seen),
    };
    ChannelStatsResponse {
        partitions: partitions
            .map(|(partition, rows)| PartitionStats {
                partition_id: partition.0,
                rows,
            })
            .collect(),
        segments,
        flushed_ts: flushed.0,
    }
}
