//! What is measured, summed over all channels.

use std::time::Duration;

/// One group commit: its records, its bytes, and how long write and sync took.
pub(crate) fn record_group(records: usize, bytes: usize, took: Duration) {
    metrics::counter!("redkite_wal_appended_records").increment(records as u64);
    metrics::counter!("redkite_wal_appended_bytes").increment(bytes as u64);
    metrics::histogram!("redkite_wal_group_records").record(records as f64);
    metrics::histogram!("redkite_wal_sync_seconds").record(took.as_secs_f64());
}

/// A log that died of a write or sync error.
pub(crate) fn record_failure() {
    metrics::counter!("redkite_wal_failures").increment(1);
}
