//! The state as many tasks share it: one writer, readers, watchers.

use std::sync::Arc;

use futures::{Stream, stream};
use parking_lot::RwLock;
use redkite_types::{Revision, Timestamp};
use tokio::sync::watch;

use crate::command::{Applied, MetaCommand, invalid};
use crate::error::Result;
use crate::history::{History, HistoryLimits};
use crate::kv::{KeyValue, Page, WatchBatch};
use crate::state::KvState;

/// Batches that a watcher takes out of the history under one lock.
const WATCH_CHUNK: usize = 256;
/// Versions that one command forgets.
const PRUNE_CHUNK: usize = 1_000;

/// A [`KvState`] with its history, shared.
#[derive(Debug)]
pub(crate) struct Store {
    inner: RwLock<Inner>,
    revision: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Inner {
    state: KvState,
    history: History,
}

impl Store {
    pub(crate) fn with_limits(state: KvState, limits: HistoryLimits) -> Self {
        let revision = watch::Sender::new(state.revision());
        let history = History::starting_behind(state.revision(), limits);
        Self {
            inner: RwLock::new(Inner { state, history }),
            revision,
        }
    }

    /// Applies a command and wakes the watchers.
    pub(crate) fn apply(&self, command: &MetaCommand) -> Applied {
        let mut inner = self.inner.write();
        let (applied, batches) = inner.state.apply(command);
        if batches.is_empty() {
            return applied;
        }
        let revision = inner.state.revision();
        for batch in batches {
            inner.history.push(batch);
        }
        drop(inner);
        self.revision.send_replace(revision);
        applied
    }

    /// Puts another state in place; what was between the two cannot be watched any more.
    #[cfg_attr(
        not(feature = "server"),
        allow(dead_code, reason = "only replicas are replaced")
    )]
    pub(crate) fn replace(&self, state: KvState) {
        let mut inner = self.inner.write();
        let limits = inner.history.limits();
        let revision = state.revision();
        *inner = Inner {
            state,
            history: History::starting_behind(revision, limits),
        };
        drop(inner);
        self.revision.send_replace(revision);
    }

    /// The state as it is now; O(1).
    pub(crate) fn snapshot(&self) -> KvState {
        self.inner.read().state.clone()
    }

    #[cfg_attr(
        not(feature = "server"),
        allow(dead_code, reason = "only replicas tell it")
    )]
    pub(crate) fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        if key.is_empty() {
            return Err(invalid("the key to read is empty"));
        }
        Ok(self.inner.read().state.get(key))
    }

    pub(crate) fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        if limit == 0 {
            return Err(invalid("a range read of at most 0 keys"));
        }
        // Of a copy: a long read must not hold up the writer.
        Ok(self.snapshot().range(prefix, after, limit))
    }

    pub(crate) fn get_as_of(&self, key: &str, ts: Timestamp) -> Result<Option<KeyValue>> {
        self.inner.read().state.get_as_of(key, ts)
    }

    pub(crate) fn range_as_of(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        ts: Timestamp,
    ) -> Result<Page> {
        if limit == 0 {
            return Err(invalid("a range read of at most 0 keys"));
        }
        self.snapshot().range_as_of(prefix, after, limit, ts)
    }

    /// The next command that forgets history, with the number of versions in it; `None` when there is
    /// nothing to forget.
    pub(crate) fn next_prune(&self, before: Timestamp) -> Option<(MetaCommand, u64)> {
        let versions = self.snapshot().prunable(before, PRUNE_CHUNK);
        let count = versions.len() as u64;
        (count > 0).then_some((MetaCommand::Prune { before, versions }, count))
    }

    /// The changes under `prefix` behind `after`, until history that is needed is gone.
    ///
    /// Batches that do not concern the prefix are passed over, but whenever the watcher has caught
    /// up it gets the newest revision, if need be as an empty batch.
    ///
    /// # Errors
    /// [`crate::Error::Compacted`], at once or as the stream's last item.
    pub(crate) fn follow(
        self: &Arc<Self>,
        prefix: &str,
        after: Revision,
    ) -> Result<impl Stream<Item = Result<WatchBatch>> + Send + 'static + use<>> {
        self.inner.read().history.behind(after, 0)?;
        let watcher = Watcher {
            store: Arc::clone(self),
            newest: self.revision.subscribe(),
            prefix: prefix.to_owned(),
            after,
        };
        let chunks = stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next_chunk().await {
                Ok(chunk) => {
                    let chunk: Vec<_> = chunk.into_iter().map(Ok).collect();
                    Some((stream::iter(chunk), Some(watcher)))
                }
                Err(error) => Some((stream::iter(vec![Err(error)]), None)),
            }
        });
        Ok(futures::StreamExt::flatten(chunks))
    }
}

struct Watcher {
    store: Arc<Store>,
    newest: watch::Receiver<Revision>,
    prefix: String,
    after: Revision,
}

impl Watcher {
    async fn next_chunk(&mut self) -> Result<Vec<WatchBatch>> {
        let batches = loop {
            // Mark first, look second: a change in between wakes the wait below.
            self.newest.borrow_and_update();
            let batches = self
                .store
                .inner
                .read()
                .history
                .behind(self.after, WATCH_CHUNK)?;
            if !batches.is_empty() {
                break batches;
            }
            // The sender lives in `self.store`, so it cannot be gone.
            let _ = self.newest.changed().await;
        };
        let mut chunk: Vec<_> = batches
            .iter()
            .map(|batch| batch.under(&self.prefix))
            .filter(|batch| !batch.events.is_empty())
            .collect();
        if let Some(last) = batches.last() {
            self.after = last.revision;
            if chunk
                .last()
                .is_none_or(|batch| batch.revision < last.revision)
            {
                chunk.push(WatchBatch {
                    revision: last.revision,
                    events: Vec::new(),
                });
            }
        }
        Ok(chunk)
    }
}
