//! The settings of a replica.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::command::invalid;
use crate::error::Result;
use crate::raft::engine::LogEngine;
use crate::wire::millis;

/// The settings of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaNodeOptions {
    /// Its id in the cluster; a replica that lost its disk must come back under a new one.
    pub node_id: u64,
    /// Its own directory: the log is kept in `log/`, the snapshot in `snapshot/`.
    pub dir: PathBuf,
    /// What the log is kept in.
    pub engine: LogEngine,
    /// `host:port` at which clients and the other replicas reach it.
    pub advertised: String,
    /// The members that found a new cluster, by id, this one among them; of no effect once the
    /// cluster exists. Left empty, a new replica waits to be added to a cluster by its leader.
    pub founders: BTreeMap<u64, String>,
    /// How often the leader tells that it lives.
    pub heartbeat: Duration,
    /// Without a sign of the leader for this long at least, a replica stands for election.
    pub election_min: Duration,
    /// And for this long at most.
    pub election_max: Duration,
    /// How long one call waits for a quorum.
    pub request_timeout: Duration,
    /// A snapshot is written every so many log entries.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot, for followers that lag a little.
    pub keep_entries: u64,
    /// Changes kept for watchers.
    pub history_batches: usize,
}

impl MetaNodeOptions {
    /// A cluster of one, founded by this node.
    pub fn single(node_id: u64, dir: impl Into<PathBuf>, advertised: impl Into<String>) -> Self {
        let advertised = advertised.into();
        Self {
            node_id,
            dir: dir.into(),
            engine: LogEngine::default(),
            founders: BTreeMap::from([(node_id, advertised.clone())]),
            advertised,
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(600),
            // Also how long a follower that has heard a leader votes for no other; it waits for an
            // election timeout more before it stands itself.
            election_max: Duration::from_millis(800),
            request_timeout: Duration::from_secs(10),
            snapshot_every: 5_000,
            keep_entries: 1_000,
            history_batches: 10_000,
        }
    }

    /// A new cluster of several, founded by all of them with the same `founders`.
    pub fn founding(
        node_id: u64,
        dir: impl Into<PathBuf>,
        founders: BTreeMap<u64, String>,
    ) -> Self {
        let advertised = founders.get(&node_id).cloned().unwrap_or_default();
        Self {
            founders,
            ..Self::single(node_id, dir, advertised)
        }
    }

    /// # Errors
    /// [`crate::Error::Invalid`] names the setting and its limit.
    pub fn validate(&self) -> Result<()> {
        // More than this and a start, which walks the log, would take too long.
        const MOST_ENTRIES: u64 = 20_000;
        if self.advertised.is_empty() {
            return Err(invalid("the advertised address is empty"));
        }
        if !self.founders.is_empty() && self.founders.get(&self.node_id) != Some(&self.advertised) {
            return Err(invalid(
                "the founders do not name this node and its advertised address",
            ));
        }
        if self.heartbeat.is_zero() || self.heartbeat * 3 > self.election_min {
            return Err(invalid(
                "the election timeout must be three heartbeats at least",
            ));
        }
        if self.election_min >= self.election_max {
            return Err(invalid(
                "the election timeout's minimum must be below its maximum",
            ));
        }
        if self.snapshot_every == 0 || self.snapshot_every + self.keep_entries > MOST_ENTRIES {
            return Err(invalid(format!(
                "snapshot_every plus keep_entries must be 1 to {MOST_ENTRIES}"
            )));
        }
        if self.history_batches == 0 {
            return Err(invalid("history_batches must be at least 1"));
        }
        Ok(())
    }

    pub(super) fn raft_config(&self) -> openraft::Config {
        openraft::Config {
            cluster_name: "redkite-metastore".to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            // Also bounds the time that one piece of a snapshot takes.
            install_snapshot_timeout: millis(self.request_timeout),
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.keep_entries,
            replication_lag_threshold: self.snapshot_every,
            max_payload_entries: 256,
            ..openraft::Config::default()
        }
    }
}
