//! What a node needs: from its process, and from the coordinators.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use redkite_node::{DiskSpace, DiskUse, MemoryBudget, MemoryUse, Peers};
use redkite_proto::redkite::{datacoord::CommitFlushRequest, rootcoord::AllocRequest};
use redkite_rpc::call;
use redkite_runtime::{CpuPool, Deadline, TaskGroup};
use redkite_segment::file::{ColumnCache, Placement};
use redkite_storage::ObjectStore;
use redkite_types::{Error, ErrorCode, FieldId, NodeId, Result, Revision, Timestamp};
use redkite_wal::LogStore;
use tokio::sync::Semaphore;

use crate::options::QueryNodeOptions;

/// How long an allocation may take before its write is refused.
const ALLOC_WITHIN: Duration = Duration::from_secs(5);
/// A write is in memory as the log's record and as columns.
const WRITE_COPIES: usize = 2;
/// How long one try of a commit may take.
const COMMIT_WITHIN: Duration = Duration::from_secs(30);

/// What a node asks of the coordinators.
///
/// # Correctness
/// A timestamp is later than every one that any node was given before the call, and an id was never
/// given out before.
#[async_trait]
pub trait Coordinators: Send + Sync + 'static {
    /// The first of `count` consecutive timestamps.
    ///
    /// # Errors
    /// Retriable while the root coordinator is away.
    async fn timestamps(&self, count: u32) -> Result<Timestamp>;

    /// The first of `count` consecutive ids.
    ///
    /// # Errors
    /// Retriable while the root coordinator is away.
    async fn ids(&self, count: u32) -> Result<i64>;

    /// Commits a flush; the same again changes nothing.
    ///
    /// # Errors
    /// Code 507 when the epoch is over: the channel belongs to another node. Others may have been
    /// committed all the same, and are to be tried again when they are retriable.
    async fn commit_flush(&self, request: CommitFlushRequest) -> Result<Revision>;
}

/// The coordinators of a deployment, found through the metadata.
pub struct PeerCoordinators {
    peers: Arc<Peers>,
}

impl PeerCoordinators {
    /// Asks whoever is announced.
    pub fn new(peers: Arc<Peers>) -> Self {
        Self { peers }
    }
}

#[async_trait]
impl Coordinators for PeerCoordinators {
    async fn timestamps(&self, count: u32) -> Result<Timestamp> {
        let root = self.peers.root_coord()?;
        let message = AllocRequest { count };
        let deadline = Deadline::after(ALLOC_WITHIN);
        let answer = call(deadline, message, |request| root.alloc_timestamp(request)).await?;
        Ok(Timestamp(answer.first))
    }

    async fn ids(&self, count: u32) -> Result<i64> {
        let root = self.peers.root_coord()?;
        let message = AllocRequest { count };
        let deadline = Deadline::after(ALLOC_WITHIN);
        let answer = call(deadline, message, |request| root.alloc_id(request)).await?;
        // Ids fill the positive half of an i64.
        Ok(answer.first as i64)
    }

    async fn commit_flush(&self, request: CommitFlushRequest) -> Result<Revision> {
        let data = self.peers.data_coord()?;
        let deadline = Deadline::after(COMMIT_WITHIN);
        let answer = call(deadline, request, |request| data.commit_flush(request)).await?;
        Ok(Revision(answer.revision))
    }
}

/// Everything that a node is built from.
#[derive(Clone)]
pub struct QueryNodeDeps {
    /// Where segment files are.
    pub store: Arc<dyn ObjectStore>,
    /// Where the channels' logs are.
    pub log: Arc<dyn LogStore>,
    /// Timestamps, ids and commits; [`PeerCoordinators`] but in tests.
    pub coordinators: Arc<dyn Coordinators>,
    /// Where searches, and the encoding and decoding of segments, run.
    pub cpu: CpuPool,
    /// What the channels' tasks belong to; they end with it.
    pub tasks: TaskGroup,
    /// This node, for logs.
    pub node: NodeId,
    /// What the operator has set.
    pub options: QueryNodeOptions,
    /// The room on the disks of logs and segment files.
    pub disk: Arc<DiskSpace>,
    /// The memory that the process may use.
    pub memory: Arc<MemoryBudget>,
}

/// The dependencies with what all channels of the node share.
pub(crate) struct Shared {
    pub(crate) deps: QueryNodeDeps,
    /// Bytes of rows and deletes that are in no segment file, over all channels.
    growing_bytes: AtomicUsize,
    /// Bytes of writes that were admitted and are not among the growing rows yet.
    pending_bytes: AtomicUsize,
    /// Segments that may be loaded at the same time.
    pub(crate) load_permits: Arc<Semaphore>,
    /// Decoded columns of segments whose columns stay in files.
    columns: Arc<ColumnCache>,
    /// Segments that may be encoded and written at the same time.
    pub(crate) flush_permits: Semaphore,
}

/// Memory that a write on its way takes up; given back when it is dropped, which must not be before
/// its rows are counted as growing.
pub(crate) struct PendingBytes {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for PendingBytes {
    fn drop(&mut self) {
        self.shared
            .pending_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Shared {
    pub(crate) fn new(deps: QueryNodeDeps) -> Arc<Self> {
        let load_permits = Arc::new(Semaphore::new(deps.options.load_concurrency.max(1)));
        let cache_bytes = deps.options.column_cache_size.as_u64();
        let cache_bytes = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
        let flush_permits = Semaphore::new(deps.options.flush_concurrency.max(1));
        Arc::new(Self {
            deps,
            growing_bytes: AtomicUsize::new(0),
            pending_bytes: AtomicUsize::new(0),
            load_permits,
            columns: Arc::new(ColumnCache::new(cache_bytes)),
            flush_permits,
        })
    }

    /// How the columns of a segment are to be opened, some of which stay in its file.
    pub(crate) fn placement(&self, in_file: BTreeSet<FieldId>) -> Placement {
        Placement {
            mapped: in_file,
            cache: self.columns.clone(),
        }
    }

    /// Takes memory and disk for a write of so many encoded bytes; the caller then sees to it that
    /// memory is made.
    ///
    /// # Errors
    /// Code 8, retriable, when growing rows take up too much: flushes make room. Code 3 when the
    /// whole process does, or the write alone is too large, and 7 when a disk is full.
    pub(crate) fn admit(
        self: &Arc<Self>,
        encoded_bytes: usize,
        has_rows: bool,
    ) -> Result<PendingBytes> {
        let by = match has_rows {
            true => DiskUse::User,
            false => DiskUse::Background,
        };
        let bytes = encoded_bytes.saturating_mul(WRITE_COPIES);
        let limit = self.deps.options.growing_memory_limit.as_usize();
        if bytes > limit {
            return Err(Error::new(
                ErrorCode::MemoryLimitExceeded,
                format!(
                    "memory limit exceeded[a write of {encoded_bytes} bytes, growing rows may take up {limit}]"
                ),
            ));
        }
        let growing = self.growing_bytes();
        let claim = |pending: usize| {
            let after = pending.saturating_add(bytes);
            (growing.saturating_add(after) <= limit).then_some(after)
        };
        if let Err(pending) =
            self.pending_bytes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim)
        {
            return Err(Error::new(
                ErrorCode::RateLimit,
                format!(
                    "rate limit exceeded[growing rows take up {growing} bytes and writes on their way \
                     {pending}, together at most {limit}]"
                ),
            ));
        }
        let pending = PendingBytes {
            shared: self.clone(),
            bytes,
        };
        self.deps.disk.claim(by, encoded_bytes as u64)?;
        let memory = &self.deps.memory;
        memory.claim(MemoryUse::User, "a write", bytes as u64)?;
        Ok(pending)
    }

    /// Notes that a channel's growing rows take up `after` instead of `before` bytes.
    pub(crate) fn growing_changed(&self, before: usize, after: usize) {
        let change = after.wrapping_sub(before);
        let now = self
            .growing_bytes
            .fetch_add(change, Ordering::Relaxed)
            .wrapping_add(change);
        crate::metrics::growing_bytes(now);
    }

    /// Bytes of rows that are in no segment file.
    pub(crate) fn growing_bytes(&self) -> usize {
        self.growing_bytes.load(Ordering::Relaxed)
    }
}
