//! The last changes, for those who watch.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use redkite_types::{Revision, Timestamp};

use crate::error::{Error, Result};
use crate::kv::{KeyValue, WatchBatch, WatchEvent};
use crate::state::Item;
use crate::versions::{TOMBSTONE, VERSIONS, version_key};

/// All changes of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub(crate) revision: Revision,
    pub(crate) events: Vec<Event>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Put {
        key: Arc<str>,
        item: Item,
        /// The time of the version that the change has left.
        version_ts: Option<Timestamp>,
    },
    Delete {
        key: Arc<str>,
        version_ts: Option<Timestamp>,
    },
}

impl Event {
    fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// The copy that the change has left.
    fn version(&self, revision: Revision) -> Option<KeyValue> {
        let (key, ts, value) = match self {
            Self::Put {
                key,
                item,
                version_ts,
            } => (key, *version_ts, item.value.clone()),
            Self::Delete { key, version_ts } => (key, *version_ts, Bytes::from_static(&TOMBSTONE)),
        };
        Some(KeyValue {
            key: version_key(key, ts?),
            value,
            revision,
            lease: 0,
        })
    }

    fn bytes(&self) -> usize {
        // Values live in the state too until they are overwritten; counted anyway, because those
        // overwritten are what makes a history heavy.
        let value = match self {
            Self::Put { item, .. } => item.value.len(),
            Self::Delete { .. } => 0,
        };
        self.key().len() + value + 64
    }
}

impl Batch {
    /// The part of this batch that a watcher of `prefix` sees.
    pub(crate) fn under(&self, prefix: &str) -> WatchBatch {
        if prefix.starts_with(VERSIONS) {
            let copies = self.events.iter();
            let copies = copies.filter_map(|event| event.version(self.revision));
            let copies = copies.filter(|copy| copy.key.starts_with(prefix));
            return WatchBatch {
                revision: self.revision,
                events: copies.map(WatchEvent::Put).collect(),
            };
        }
        let events = self
            .events
            .iter()
            .filter(|event| event.key().starts_with(prefix))
            .map(|event| match event {
                Event::Put { key, item, .. } => WatchEvent::Put(item.to_pair(key)),
                Event::Delete { key, .. } => WatchEvent::Delete {
                    key: key.to_string(),
                },
            })
            .collect();
        WatchBatch {
            revision: self.revision,
            events,
        }
    }
}

/// A ring of the last batches, one for each revision without a hole.
#[derive(Debug)]
pub(crate) struct History {
    batches: VecDeque<Arc<Batch>>,
    /// Revision of the newest batch that is gone; the first of the ring is the next one.
    gone: Revision,
    bytes: usize,
    limits: HistoryLimits,
}

/// How much history is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HistoryLimits {
    pub(crate) batches: usize,
    pub(crate) bytes: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self {
            batches: 10_000,
            bytes: 16 << 20,
        }
    }
}

impl History {
    /// An empty history that goes on behind `revision`.
    pub(crate) fn starting_behind(revision: Revision, limits: HistoryLimits) -> Self {
        Self {
            batches: VecDeque::new(),
            gone: revision,
            bytes: 0,
            limits,
        }
    }

    pub(crate) fn limits(&self) -> HistoryLimits {
        self.limits
    }

    pub(crate) fn push(&mut self, batch: Arc<Batch>) {
        debug_assert_eq!(
            batch.revision.0,
            self.gone.0 + self.batches.len() as u64 + 1
        );
        self.bytes += size(&batch);
        self.batches.push_back(batch);
        while self.batches.len() > self.limits.batches
            || (self.bytes > self.limits.bytes && self.batches.len() > 1)
        {
            let Some(oldest) = self.batches.pop_front() else {
                break;
            };
            self.bytes -= size(&oldest);
            self.gone = oldest.revision;
        }
    }

    /// At most `limit` batches behind `after`.
    ///
    /// # Errors
    /// [`Error::Compacted`]: some of them are gone.
    pub(crate) fn behind(&self, after: Revision, limit: usize) -> Result<Vec<Arc<Batch>>> {
        if after < self.gone {
            return Err(Error::Compacted {
                oldest: self.gone.0,
            });
        }
        let skip = usize::try_from(after.0 - self.gone.0).unwrap_or(usize::MAX);
        Ok(self
            .batches
            .iter()
            .skip(skip)
            .take(limit)
            .cloned()
            .collect())
    }
}

fn size(batch: &Batch) -> usize {
    64 + batch.events.iter().map(Event::bytes).sum::<usize>()
}
