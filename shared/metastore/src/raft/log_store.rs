//! openraft's log on any [`LogDisk`].

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::Path;
use std::sync::Arc;

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use redkite_types::error::chain;

use crate::codec::corrupt;
use crate::error::{Error, Result};
use crate::raft::disk::{LogDisk, LogOp, damaged, located};
use crate::raft::sync::SyncThread;
use crate::raft::types::{
    Entry, LogId, StorageResult, TypeConfig, Vote, frame, log_failure, unframe,
};

pub(super) const VOTE: &str = "vote";
pub(super) const COMMITTED: &str = "committed";
pub(super) const PURGED: &str = "purged";
pub(super) const NODE: &str = "node";

/// Entries that one read returns end behind this many bytes, so that they fit a message.
const READ_BYTES: usize = 4 << 20;
/// Entries kept decoded: each is read back once to be applied, and once for each follower.
const RECENT: usize = 256;
/// What is committed is written down once so many entries more are. It only spares learning it again at
/// start, and each time it would be a write of its own in front of the next entry's.
const COMMITTED_EVERY: u64 = 256;
/// Larger entries are not kept decoded.
const RECENT_ENTRY_BYTES: usize = 16 << 10;

/// The raft log; clones share it.
#[derive(Clone)]
pub(super) struct LogStore {
    inner: Arc<Inner>,
}

struct Inner {
    node_id: u64,
    disk: Arc<dyn LogDisk>,
    sync: SyncThread,
    recent: Mutex<Recent>,
    committed: Mutex<Committed>,
}

/// How far the log is known to be committed.
#[derive(Default)]
struct Committed {
    /// Since this start; nothing was said yet while there is none.
    newest: Option<Option<LogId>>,
    /// What the disk was told, or will be with the next sync.
    written: u64,
}

/// The last entries, decoded, without a hole.
#[derive(Default)]
struct Recent(VecDeque<Entry>);

impl Recent {
    fn push(&mut self, entry: Entry, bytes: usize) {
        let follows = self
            .0
            .back()
            .is_none_or(|last| last.log_id.index + 1 == entry.log_id.index);
        if !follows || bytes > RECENT_ENTRY_BYTES {
            self.0.clear();
        }
        if bytes <= RECENT_ENTRY_BYTES {
            self.0.push_back(entry);
        }
        if self.0.len() > RECENT {
            self.0.pop_front();
        }
    }

    /// The whole range, or nothing.
    fn read(&self, range: &Range<u64>) -> Option<Vec<Entry>> {
        let first = self.0.front()?.log_id.index;
        let from = usize::try_from(range.start.checked_sub(first)?).ok()?;
        let to = usize::try_from(range.end.checked_sub(first)?).ok()?;
        (from <= to && to <= self.0.len()).then(|| self.0.range(from..to).cloned().collect())
    }
}

impl LogStore {
    /// Opens the log of a node.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when entries are missing, or the log is another node's.
    pub(super) fn open(disk: Arc<dyn LogDisk>, node_id: u64, dir: &Path) -> Result<Self> {
        let sync = SyncThread::start(Arc::clone(&disk))?;
        let recent = Mutex::default();
        let store = Self {
            inner: Arc::new(Inner {
                node_id,
                disk,
                sync,
                recent,
                committed: Mutex::default(),
            }),
        };
        store.take(dir).map_err(|error| located(dir, error))?;
        Ok(store)
    }

    /// Looks at all that is there, and makes the log this node's if it is new.
    fn take(&self, dir: &Path) -> Result<()> {
        let node_id = self.inner.node_id;
        match self.meta::<u64>(NODE)? {
            None => self.inner.disk.put_meta(NODE, &frame(&node_id)?)?,
            Some(owner) if owner == node_id => {}
            Some(owner) => {
                let what = format!("it belongs to node {owner}, not to node {node_id}");
                return Err(damaged(dir, what));
            }
        }
        self.check(dir)
    }

    /// Checks that no entry between the purged and the committed one is missing.
    fn check(&self, dir: &Path) -> Result<()> {
        let next = |id: Option<LogId>| id.map_or(0, |id| id.index + 1);
        let first = next(self.purged()?);
        let committed = next(self.meta::<Option<LogId>>(COMMITTED)?.flatten());
        let runs = self.inner.disk.runs()?;
        // A crash between the two steps of a purge leaves entries in front of `first`; openraft
        // never asks for them, and the next purge removes them.
        let kept: Vec<_> = runs.iter().filter(|run| run.end > first).collect();
        let end = match kept[..] {
            [] => first,
            [run] if run.start <= first => run.end,
            _ => {
                let what = format!("entries are missing behind {first}: it has {runs:?}");
                return Err(damaged(dir, what));
            }
        };
        if end < committed {
            let what = format!("it ends at {end} but {committed} entries were committed");
            return Err(damaged(dir, what));
        }
        // Founding a cluster writes entry 0 before the first vote.
        if end > first.max(1) && self.meta::<Vote>(VOTE)?.is_none() {
            return Err(damaged(dir, "it has entries but no vote"));
        }
        self.read_all(first..end)
    }

    /// Reads entries, for their checksums: damage must show now, and not once the replica serves.
    fn read_all(&self, range: Range<u64>) -> Result<()> {
        let mut next = range.start;
        while next < range.end {
            let entries = self.inner.disk.read(next..range.end, READ_BYTES)?;
            if entries.is_empty() {
                return Err(corrupt(format!("log entry {next} is gone")));
            }
            for (index, bytes) in entries {
                decode(index, &bytes)?;
                next = index + 1;
            }
        }
        Ok(())
    }

    /// Whether nothing was ever written but the node's id.
    pub(super) fn is_pristine(&self) -> Result<bool> {
        Ok(self.meta::<Vote>(VOTE)?.is_none() && self.inner.disk.last()?.is_none())
    }

    /// The last entry that was purged.
    pub(super) fn purged(&self) -> Result<Option<LogId>> {
        self.meta(PURGED)
    }

    pub(super) fn size_bytes(&self) -> Result<u64> {
        self.inner.disk.size_bytes()
    }

    /// Ends the sync thread; the log takes no more writes.
    pub(super) fn stop(&self) {
        self.inner.sync.stop();
    }

    fn meta<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let value = self.inner.disk.get_meta(key)?;
        value
            .map(|value| unframe(&format!("the log's {key}"), &value))
            .transpose()
    }

    async fn put_meta<T: Serialize>(&self, key: &'static str, value: &T) -> Result<()> {
        let value = frame(value)?;
        self.inner
            .sync
            .write(move |disk| disk.put_meta(key, &value))
            .await
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>> {
        if let Some(entries) = self.inner.recent.lock().read(&range) {
            return Ok(entries);
        }
        let entries = self.inner.disk.read(range, max_bytes)?;
        entries
            .iter()
            .map(|(index, bytes)| decode(*index, bytes))
            .collect()
    }

    fn append_now(&self, entries: impl Iterator<Item = Entry>) -> Result<()> {
        let mut ops = Vec::new();
        let mut decoded = Vec::new();
        for entry in entries {
            let bytes = frame(&entry)?;
            decoded.push((bytes.len(), entry));
            let index = decoded[decoded.len() - 1].1.log_id.index;
            ops.push(LogOp::Put { index, bytes });
        }
        self.inner.disk.write(ops)?;
        let mut recent = self.inner.recent.lock();
        for (bytes, entry) in decoded {
            recent.push(entry, bytes);
        }
        Ok(())
    }

    async fn purge_to(&self, log_id: LogId) -> Result<()> {
        // What is gone is said, durably, before it goes: the other way round, a crash in between
        // would leave a log that starts with a hole.
        self.put_meta(PURGED, &log_id).await?;
        let range = 0..log_id.index + 1;
        self.inner
            .sync
            .write(move |disk| disk.write(vec![LogOp::Remove { range }]))
            .await?;
        self.inner
            .recent
            .lock()
            .0
            .retain(|entry| entry.log_id.index > log_id.index);
        Ok(())
    }

    async fn truncate_from(&self, log_id: LogId) -> Result<()> {
        self.inner.recent.lock().0.clear();
        let range = log_id.index..u64::MAX;
        self.inner
            .sync
            .write(move |disk| disk.write(vec![LogOp::Remove { range }]))
            .await
    }

    fn state(&self) -> Result<LogState<TypeConfig>> {
        let last_purged_log_id = self.purged()?;
        let last = match self.inner.disk.last()? {
            Some((index, bytes)) => Some(decode(index, &bytes)?.log_id),
            None => None,
        };
        // Entries left over from a purge that a crash interrupted do not count.
        let last_log_id = last.max(last_purged_log_id);
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }
}

/// Reads an entry that stands at `index`.
pub(super) fn decode(index: u64, bytes: &[u8]) -> Result<Entry> {
    let entry: Entry = unframe(&format!("log entry {index}"), bytes)?;
    if entry.log_id.index != index {
        let what = format!("log entry {index} says that it is {}", entry.log_id.index);
        return Err(Error::Corrupt { what });
    }
    Ok(entry)
}

fn plain_range(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> StorageResult<Vec<Entry>> {
        let entries = self.read(plain_range(&range), usize::MAX);
        entries.map_err(|error| log_failure(&error, true))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> StorageResult<Vec<Entry>> {
        self.read(start..end, READ_BYTES)
            .map_err(|error| log_failure(&error, true))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> StorageResult<LogState<TypeConfig>> {
        self.state().map_err(|error| log_failure(&error, true))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> StorageResult<()> {
        self.put_meta(VOTE, vote)
            .await
            .map_err(|error| log_failure(&error, false))
    }

    async fn read_vote(&mut self) -> StorageResult<Option<Vote>> {
        let vote: Option<Vote> = self.meta(VOTE).map_err(|error| log_failure(&error, true))?;
        // Read at start only. A leader that was restarted has to be elected again, and so leads in
        // a new term: what its earlier process wrote can be told apart from what it writes now.
        Ok(vote.map(|vote| match vote.leader_id.voted_for() {
            Some(node_id) if node_id == self.inner.node_id => Vote {
                committed: false,
                ..vote
            },
            _ => vote,
        }))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> StorageResult<()> {
        {
            let mut known = self.inner.committed.lock();
            known.newest = Some(committed);
            let index = committed.map_or(0, |id| id.index);
            if index < known.written + COMMITTED_EVERY {
                return Ok(());
            }
            known.written = index;
        }
        // Not synced: the next append makes it durable.
        let saved = frame(&committed).and_then(|value| self.inner.disk.put_meta(COMMITTED, &value));
        saved.map_err(|error| log_failure(&error, false))
    }

    async fn read_committed(&mut self) -> StorageResult<Option<LogId>> {
        if let Some(newest) = self.inner.committed.lock().newest {
            return Ok(newest);
        }
        let committed = self.meta::<Option<LogId>>(COMMITTED);
        committed
            .map(Option::flatten)
            .map_err(|error| log_failure(&error, true))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> StorageResult<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.append_now(entries.into_iter())
            .map_err(|error| log_failure(&error, false))?;
        let done = move |durable: Result<()>| {
            let durable = durable.map_err(|error| io::Error::other(chain(&error)));
            callback.log_io_completed(durable);
        };
        self.inner.sync.when_durable(done).await;
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> StorageResult<()> {
        self.truncate_from(log_id)
            .await
            .map_err(|error| log_failure(&error, false))
    }

    async fn purge(&mut self, log_id: LogId) -> StorageResult<()> {
        self.purge_to(log_id)
            .await
            .map_err(|error| log_failure(&error, false))
    }
}
