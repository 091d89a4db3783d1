//! The store's state: pure, in memory, deterministic.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use redkite_types::{Revision, Timestamp};

use crate::command::{Applied, MetaCommand};
use crate::history::{Batch, Event};
use crate::kv::{Compare, KeyValue, Op, Page, Txn, TxnOutcome};
use crate::versions::{Horizon, VERSIONS, Version, VersionKey, page};

/// A page of a range read ends behind the pair that exceeds this.
pub(crate) const PAGE_BYTES: usize = 4 << 20;

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) value: Bytes,
    pub(crate) revision: Revision,
    pub(crate) lease: u64,
}

impl Item {
    pub(crate) fn to_pair(&self, key: &str) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: self.value.clone(),
            revision: self.revision,
            lease: self.lease,
        }
    }
}

/// A lease and the keys that die with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) ttl: Duration,
    pub(crate) keys: OrdSet<Arc<str>>,
}

/// All pairs and leases as of one revision.
///
/// A clone costs O(1) and shares what neither side changes later, so that a raft snapshot or a
/// long range read never holds up writes.
///
/// # Correctness
/// [`KvState::apply`] depends on nothing but the state and the command: no clock, no randomness.
/// When a lease ends is the leader's decision and reaches the state as a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvState {
    pub(crate) pairs: OrdMap<Arc<str>, Item>,
    pub(crate) leases: OrdMap<u64, Lease>,
    pub(crate) revision: Revision,
    pub(crate) last_lease: u64,
    pub(crate) versions: OrdMap<VersionKey, Version>,
    pub(crate) horizon: Horizon,
}

impl KvState {
    /// An empty state at revision zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Revision of the last change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Number of keys, versions not counted.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Every lease with its time to live.
    pub fn leases(&self) -> impl Iterator<Item = (u64, Duration)> + '_ {
        self.leases.iter().map(|(lease, state)| (*lease, state.ttl))
    }

    /// Reads one key.
    pub fn get(&self, key: &str) -> Option<KeyValue> {
        if key.starts_with(VERSIONS) {
            return self.get_version(key);
        }
        self.pairs.get(key).map(|item| item.to_pair(key))
    }

    /// Reads the keys that start with `prefix`, strictly behind `after`, at most `limit`; fewer
    /// where their values are large, so that a page always fits a message.
    pub fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Page {
        if prefix.starts_with(VERSIONS) {
            return self.range_versions(prefix, after, limit);
        }
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let matching = self
            .pairs
            .range::<_, str>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, item)| item.to_pair(key));
        page(matching, limit, self.revision)
    }

    /// Applies a command; the batches are what watchers see, one for each revision.
    pub fn apply(&mut self, command: &MetaCommand) -> (Applied, Vec<Arc<Batch>>) {
        let mut batches = Vec::new();
        let applied = self.apply_into(command, &mut batches);
        (applied, batches)
    }

    fn apply_into(&mut self, command: &MetaCommand, batches: &mut Vec<Arc<Batch>>) -> Applied {
        match command {
            MetaCommand::Txn(txn) => {
                let (applied, batch) = self.apply_txn(txn);
                batches.extend(batch);
                applied
            }
            MetaCommand::LeaseGrant { ttl } => {
                self.last_lease += 1;
                let lease = Lease {
                    ttl: *ttl,
                    keys: OrdSet::new(),
                };
                self.leases.insert(self.last_lease, lease);
                Applied::LeaseGranted {
                    lease: self.last_lease,
                }
            }
            MetaCommand::LeaseEnd { leases } => {
                batches.extend(self.end_leases(leases));
                Applied::LeasesEnded
            }
            MetaCommand::Prune { before, versions } => {
                self.prune(*before, versions);
                Applied::Pruned
            }
            MetaCommand::Batch(commands) => {
                let each = commands
                    .iter()
                    .map(|command| self.apply_into(command, batches));
                Applied::Batch(each.collect())
            }
        }
    }

    fn apply_txn(&mut self, txn: &Txn) -> (Applied, Option<Arc<Batch>>) {
        if let Some(refused) = self.first_failed(&txn.compares) {
            return (Applied::Txn(refused), None);
        }
        for op in &txn.ops {
            if let Op::Put { lease, .. } = op
                && *lease != 0
                && !self.leases.contains_key(lease)
            {
                return (Applied::LeaseNotFound { lease: *lease }, None);
            }
        }
        let revision = Revision(self.revision.0 + 1);
        let mut events = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            match op {
                Op::Put { key, value, lease } => {
                    events.push(self.put(key, value, *lease, revision, txn.ts));
                }
                Op::Delete { key } => events.extend(self.delete(key, revision, txn.ts)),
                Op::DeletePrefix { prefix } => {
                    self.delete_prefix(prefix, revision, txn.ts, &mut events);
                }
            }
        }
        let batch = self.finish(revision, events);
        (
            Applied::Txn(TxnOutcome::Applied {
                revision: self.revision,
            }),
            batch,
        )
    }

    fn first_failed(&self, compares: &[Compare]) -> Option<TxnOutcome> {
        compares.iter().enumerate().find_map(|(failed, compare)| {
            let (key, holds) = match compare {
                Compare::Absent { key } => (key, !self.pairs.contains_key(key.as_str())),
                Compare::Exists { key } => (key, self.pairs.contains_key(key.as_str())),
                Compare::Revision { key, revision } => {
                    let item = self.pairs.get(key.as_str());
                    (key, item.is_some_and(|item| item.revision == *revision))
                }
                Compare::Value { key, value } => {
                    let item = self.pairs.get(key.as_str());
                    (key, item.is_some_and(|item| item.value == *value))
                }
            };
            (!holds).then(|| TxnOutcome::Refused {
                failed,
                current: self.get(key),
            })
        })
    }

    fn put(
        &mut self,
        key: &str,
        value: &Bytes,
        lease: u64,
        revision: Revision,
        ts: Option<Timestamp>,
    ) -> Event {
        let key: Arc<str> = match self.pairs.get_key_value(key) {
            Some((known, old)) => {
                let (known, old_lease) = (Arc::clone(known), old.lease);
                if old_lease != lease {
                    self.detach(&known, old_lease);
                }
                known
            }
            None => Arc::from(key),
        };
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.insert(Arc::clone(&key));
        }
        // A copy: the value given may be a slice of a whole request or log entry, and keeping it
        // would keep all of that in memory for as long as the key lives.
        let item = Item {
            value: Bytes::copy_from_slice(value),
            revision,
            lease,
        };
        let version = Version {
            value: Some(item.value.clone()),
            revision,
        };
        let old = self.pairs.insert(Arc::clone(&key), item.clone());
        let version_ts = self.keep_version(&key, old.as_ref(), version, ts);
        Event::Put {
            key,
            item,
            version_ts,
        }
    }

    fn delete(&mut self, key: &str, revision: Revision, ts: Option<Timestamp>) -> Option<Event> {
        let (key, item) = self.pairs.remove_with_key(key)?;
        self.detach(&key, item.lease);
        let version = Version {
            value: None,
            revision,
        };
        let version_ts = self.keep_version(&key, Some(&item), version, ts);
        Some(Event::Delete { key, version_ts })
    }

    fn delete_prefix(
        &mut self,
        prefix: &str,
        revision: Revision,
        ts: Option<Timestamp>,
        events: &mut Vec<Event>,
    ) {
        let keys: Vec<Arc<str>> = self
            .pairs
            .range::<_, str>((Bound::Included(prefix), Bound::Unbounded))
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(prefix))
            .cloned()
            .collect();
        events.extend(keys.iter().filter_map(|key| self.delete(key, revision, ts)));
    }

    fn detach(&mut self, key: &Arc<str>, lease: u64) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.remove(key);
        }
    }

    fn end_leases(&mut self, leases: &[u64]) -> Option<Arc<Batch>> {
        let revision = Revision(self.revision.0 + 1);
        let mut events = Vec::new();
        for lease in leases {
            let Some(ended) = self.leases.remove(lease) else {
                continue;
            };
            for key in ended.keys {
                if let Some(item) = self.pairs.remove(&key) {
                    let version = Version {
                        value: None,
                        revision,
                    };
                    let version_ts = self.keep_version(&key, Some(&item), version, None);
                    events.push(Event::Delete { key, version_ts });
                }
            }
        }
        self.finish(revision, events)
    }

    /// Takes the revision if anything changed.
    fn finish(&mut self, revision: Revision, events: Vec<Event>) -> Option<Arc<Batch>> {
        if events.is_empty() {
            return None;
        }
        self.revision = revision;
        Some(Arc::new(Batch { revision, events }))
    }
}

#[cfg(test)]
mod tests;
