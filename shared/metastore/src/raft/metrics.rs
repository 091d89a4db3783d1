//! The replica's metrics.

use std::time::Duration;

/// One sync of the log that `jobs` writes shared.
pub(super) fn synced(jobs: usize, elapsed: Duration) {
    metrics::counter!("redkite_metastore_log_writes_total").increment(jobs as u64);
    metrics::histogram!("redkite_metastore_log_sync_seconds").record(elapsed.as_secs_f64());
}

/// One log entry that `commands` callers shared, from its proposal until it was applied.
pub(super) fn proposed(commands: usize, elapsed: Duration) {
    metrics::counter!("redkite_metastore_commands_total").increment(commands as u64);
    metrics::histogram!("redkite_metastore_propose_seconds").record(elapsed.as_secs_f64());
}

/// A change of the leadership as this replica sees it.
pub(super) fn leads(leads: bool) {
    metrics::gauge!("redkite_metastore_leader").set(if leads { 1.0 } else { 0.0 });
}
