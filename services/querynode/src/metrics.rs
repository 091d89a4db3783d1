//! What a query node measures.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, gauge, histogram};
use redkite_telemetry::Once;

/// One batch of writes that became durable and visible together.
pub(crate) fn written(writes: usize, rows: usize, deletes: usize, took: Duration) {
    counter!("redkite_querynode_writes_total").increment(writes as u64);
    counter!("redkite_querynode_rows_inserted_total").increment(rows as u64);
    counter!("redkite_querynode_rows_deleted_total").increment(deletes as u64);
    histogram!("redkite_querynode_write_batch_writes").record(writes as f64);
    histogram!("redkite_querynode_write_batch_seconds").record(took.as_secs_f64());
}

/// A write that was refused before anything happened.
pub(crate) fn refused(reason: &'static str) {
    counter!("redkite_querynode_writes_refused_total", "reason" => reason).increment(1);
}

/// Reads of one kind.
pub(crate) struct Reads {
    kind: &'static str,
    handles: Once<ReadHandles>,
}

struct ReadHandles {
    partitions: Counter,
    segments: Counter,
    reads: Counter,
    queries: Counter,
    rows: Counter,
    seconds: Histogram,
}

pub(crate) static SEARCHES: Reads = Reads::new("search");
pub(crate) static QUERIES: Reads = Reads::new("query");

impl Reads {
    const fn new(kind: &'static str) -> Self {
        Self {
            kind,
            handles: Once::new(),
        }
    }

    fn look_up(&self) -> ReadHandles {
        let kind = self.kind;
        ReadHandles {
            partitions: counter!("redkite_querynode_read_partitions_total", "kind" => kind),
            segments: counter!("redkite_querynode_read_segments_total", "kind" => kind),
            reads: counter!("redkite_querynode_reads_total", "kind" => kind),
            queries: counter!("redkite_querynode_read_queries_total", "kind" => kind),
            rows: counter!("redkite_querynode_read_rows_total", "kind" => kind),
            seconds: histogram!("redkite_querynode_read_seconds", "kind" => kind),
        }
    }

    /// What a read looks at.
    pub(crate) fn looked_at(&self, partitions: usize, segments: usize) {
        let measure = |handles: &ReadHandles| {
            handles.partitions.increment(partitions as u64);
            handles.segments.increment(segments as u64);
        };
        self.handles.with(|| self.look_up(), measure);
    }

    /// One answered read.
    pub(crate) fn answered(&self, queries: usize, rows: u64, took: Duration) {
        let measure = |handles: &ReadHandles| {
            handles.reads.increment(1);
            handles.queries.increment(queries as u64);
            handles.rows.increment(rows);
            handles.seconds.record(took.as_secs_f64());
        };
        self.handles.with(|| self.look_up(), measure);
    }
}

/// A search that met a vector which was not in memory, and was begun again where it may wait for it.
pub(crate) fn search_waited() {
    counter!("redkite_querynode_searches_waited_total").increment(1);
}

/// One flush, however it ended.
pub(crate) fn flushed(ok: bool, segments: usize, took: Duration) {
    let outcome = if ok { "ok" } else { "failed" };
    counter!("redkite_querynode_flushes_total", "outcome" => outcome).increment(1);
    counter!("redkite_querynode_segments_flushed_total").increment(segments as u64);
    histogram!("redkite_querynode_flush_seconds").record(took.as_secs_f64());
}

/// One segment that was loaded, or could not be.
pub(crate) fn loaded(ok: bool, took: Duration) {
    let outcome = if ok { "ok" } else { "failed" };
    counter!("redkite_querynode_segment_loads_total", "outcome" => outcome).increment(1);
    histogram!("redkite_querynode_segment_load_seconds").record(took.as_secs_f64());
}

/// Growing rows were copied into a larger chunk.
pub(crate) fn rows_joined(rows: usize) {
    counter!("redkite_querynode_growing_rows_joined_total").increment(rows as u64);
}

/// One index over rows that are in no segment file.
pub(crate) fn interim_built(rows: usize, took: Duration) {
    counter!("redkite_querynode_interim_indexed_rows_total").increment(rows as u64);
    histogram!("redkite_querynode_interim_build_seconds").record(took.as_secs_f64());
}

/// Segments that compacted ones have taken the place of.
pub(crate) fn replaced(segments: usize) {
    counter!("redkite_querynode_segments_replaced_total").increment(segments as u64);
}

/// One channel that was opened: what its log held beyond the checkpoint.
pub(crate) fn recovered(records: usize, took: Duration) {
    counter!("redkite_querynode_records_replayed_total").increment(records as u64);
    histogram!("redkite_querynode_recovery_seconds").record(took.as_secs_f64());
}

/// Bytes of rows that are in no segment file.
pub(crate) fn growing_bytes(bytes: usize) {
    gauge!("redkite_querynode_growing_bytes").set(bytes as f64);
}
