//! One channel that this node owns.
//!
//! All changes go through one task, the owner: writes through a bounded queue, everything else
//! through a second one that goes first. It publishes a new [`ShardSnapshot`] after each change;
//! reads take the last one and never meet the owner.
//!
//! - `owner`: the loop
//! - `prepare`: a write before it reaches the owner
//! - `write`: writes through the owner: timestamps, log, memory, snapshot, answers
//! - `pipeline`: writes that the log has and has not answered
//! - `apply`: durable writes into memory
//! - `state`: what the owner knows
//! - `deletes`: deletes that are in no file yet
//! - `recover`: from the log to the state
//! - `sync`: what is to be served, as the query coordinator says
//! - `load`: segments and indexes from files into memory
//! - `handover`: compacted segments in the place of those that they come from
//! - `mapping`: what of a segment stays in its file
//! - `interim`: indexes over growing rows
//! - `flush`: from growing rows to committed segments
//! - `snapshot`, `times`: what reads see, and when

mod apply;
mod deletes;
mod flush;
mod handover;
mod interim;
mod load;
mod mapping;
mod owner;
mod pipeline;
mod prepare;
mod recover;
mod snapshot;
mod state;
mod sync;
mod times;
mod write;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use redkite_proto::redkite::querynode::{ChannelStatsResponse, PartitionProgress, WriteRequest};
use redkite_rpc::RpcError;
use redkite_runtime::{Deadline, Priority, TaskGroup};
use redkite_segment::Joined;
use redkite_types::{Error, ErrorCode, Outcome, Result, Revision, SegmentId, Timestamp};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::Instant,
};

pub(crate) use self::{
    flush::FlushOutcome, prepare::check_version, snapshot::ShardSnapshot, state::State,
    sync::SyncTarget, times::SafeTime,
};
use self::{
    flush::{FlushWaiter, Flushed},
    load::LoadOutcome,
    prepare::PreparedWrite,
};
use crate::{
    deps::{PendingBytes, Shared},
    metrics,
    read::LastParams,
};

/// Messages other than writes that may wait.
const CONTROL_CAPACITY: usize = 256;
/// A write is prepared in the pool if it is larger.
const INLINE_WRITE_BYTES: usize = 128 << 10;
/// Unit of the write queue's budget.
const BUDGET_UNIT: usize = 1 << 10;

/// A write in the queue.
struct QueuedWrite {
    write: PreparedWrite,
    reply: oneshot::Sender<Result<Timestamp, RpcError>>,
    /// Its share of the queue's bytes, until the log has answered.
    budget: OwnedSemaphorePermit,
    /// Its share of the node's memory.
    pending: PendingBytes,
}

/// What the owner is told besides writes.
enum Control {
    Sync {
        target: Box<SyncTarget>,
        reply: oneshot::Sender<()>,
    },
    Flush(FlushWaiter),
    /// Write nothing for a while.
    Hold(Hold, oneshot::Sender<()>),
    /// Flush because of limits; nobody waits.
    Relieve,
    Flushed(Box<Result<Flushed>>),
    Loaded(Box<LoadOutcome>),
    /// Growing rows that were copied into fewer chunks; answered with whether these are in place.
    Joined(SegmentId, Box<Joined>, oneshot::Sender<bool>),
    /// Of a moment at which every write up to a timestamp is applied, and later ones come after it.
    Stats(Timestamp, oneshot::Sender<ChannelStatsResponse>),
}

/// Writes wait because of it.
#[derive(Clone, Copy, Debug)]
struct Hold {
    id: i64,
    until: Instant,
}

/// How far the partitions to serve are loaded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// The metadata's revision that was acted on.
    pub(crate) synced: Revision,
    pub(crate) partitions: Vec<PartitionProgress>,
    /// Whether loads run.
    pub(crate) loading: bool,
}

/// A channel as everybody but its owner sees it.
pub(crate) struct Channel {
    name: String,
    epoch: u64,
    shared: Arc<Shared>,
    /// The owner and what it has started.
    tasks: TaskGroup,
    writes: mpsc::Sender<QueuedWrite>,
    control: mpsc::Sender<Control>,
    budget: Arc<Semaphore>,
    published: ArcSwap<ShardSnapshot>,
    last_params: LastParams,
    times: SafeTime,
    progress: watch::Sender<Progress>,
    /// Bytes of rows and deletes that are in no committed segment.
    growing_bytes: watch::Sender<usize>,
    closed: watch::Sender<bool>,
}

/// The owner's ends of the queues.
struct Inbox {
    writes: mpsc::Receiver<QueuedWrite>,
    control: mpsc::Receiver<Control>,
}

impl Channel {
    fn new(shared: Arc<Shared>, name: &str, epoch: u64, state: &State) -> (Arc<Self>, Inbox) {
        let options = &shared.deps.options;
        let (writes, writes_inbox) = mpsc::channel(options.write_queue_length.max(1));
        let (control, control_inbox) = mpsc::channel(CONTROL_CAPACITY);
        let budget = options.write_queue_size.as_usize().div_ceil(BUDGET_UNIT);
        let channel = Self {
            name: name.to_owned(),
            epoch,
            tasks: shared.deps.tasks.child(format!("channel {name}")),
            writes,
            control,
            budget: Arc::new(Semaphore::new(budget.min(u32::MAX as usize))),
            published: ArcSwap::from_pointee(state.snapshot()),
            last_params: LastParams::default(),
            times: SafeTime::new(),
            progress: watch::Sender::new(Progress::default()),
            growing_bytes: watch::Sender::new(0),
            closed: watch::Sender::new(false),
            shared,
        };
        (
            Arc::new(channel),
            Inbox {
                writes: writes_inbox,
                control: control_inbox,
            },
        )
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether the owner has ended: the channel must be opened again.
    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow() || self.tasks.token().is_cancelled()
    }

    /// What reads see now.
    pub(crate) fn snapshot(&self) -> Arc<ShardSnapshot> {
        self.published.load_full()
    }

    pub(crate) fn last_params(&self) -> &LastParams {
        &self.last_params
    }

    pub(crate) fn times(&self) -> &SafeTime {
        &self.times
    }

    /// Bytes of rows that are in no committed segment.
    pub(crate) fn growing_bytes(&self) -> usize {
        *self.growing_bytes.borrow()
    }

    /// Makes a write durable and visible; answers its timestamp.
    ///
    /// # Errors
    /// Retriable with `NotApplied` when a queue is full or the channel is going; `Unknown` when the
    /// log failed while it was being written.
    pub(crate) async fn write(
        &self,
        write: WriteRequest,
        pending: PendingBytes,
    ) -> Result<Timestamp, RpcError> {
        let refused = |error: Error| RpcError::new(error).with_outcome(Outcome::NotApplied);
        let write = self.prepare(write).await.map_err(refused)?;
        let units = write.record_len().div_ceil(BUDGET_UNIT) as u32;
        // A write that is larger than the whole queue takes all of it.
        let units = units.min(self.budget_units());
        let budget = Arc::clone(&self.budget)
            .try_acquire_many_owned(units)
            .map_err(|_| refused(self.queue_full("bytes")))?;
        let (reply, answer) = oneshot::channel();
        let queued = QueuedWrite {
            write,
            reply,
            budget,
            pending,
        };
        self.writes.try_send(queued).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => refused(self.queue_full("writes")),
            mpsc::error::TrySendError::Closed(_) => refused(self.unavailable()),
        })?;
        match answer.await {
            Ok(answer) => answer,
            // The owner has ended; the write may be in the log.
            Err(_) => {
                let mut error = self.unavailable();
                error.retriable = false;
                Err(RpcError::new(error).with_outcome(Outcome::Unknown))
            }
        }
    }

    async fn prepare(&self, write: WriteRequest) -> Result<PreparedWrite> {
        let schema = self.published.load().schema.clone();
        if prost::Message::encoded_len(&write) <= INLINE_WRITE_BYTES {
            return prepare::prepare(write, &schema);
        }
        let work = move || prepare::prepare(write, &schema);
        self.shared.deps.cpu.run(Priority::Search, work).await?
    }

    fn budget_units(&self) -> u32 {
        let options = &self.shared.deps.options;
        let units = options.write_queue_size.as_usize().div_ceil(BUDGET_UNIT);
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    fn queue_full(&self, what: &'static str) -> Error {
        metrics::refused("queue");
        Error::new(
            ErrorCode::TooManyRequests,
            format!(
                "too many concurrent requests, queue is full[channel={}][{what}]",
                self.name
            ),
        )
    }

    pub(crate) fn unavailable(&self) -> Error {
        Error::new(
            ErrorCode::ChannelNotAvailable,
            format!("channel not available[channel={}]", self.name),
        )
    }

    /// Acts on what is to be served, waits a little for loads, and answers how far they are.
    ///
    /// # Errors
    /// Code 503 when the channel is going.
    pub(crate) async fn sync(&self, target: SyncTarget) -> Result<Progress> {
        let (reply, done) = oneshot::channel();
        self.tell(Control::Sync {
            target: Box::new(target),
            reply,
        })
        .await?;
        done.await.map_err(|_| self.unavailable())?;
        let mut progress = self.progress.subscribe();
        let idle = async {
            progress
                .wait_for(|progress| !progress.loading)
                .await
                .map(|_| ())
        };
        // Loads that take longer go on; the caller asks again.
        let limit = self.shared.deps.options.load_wait.get();
        let _ = Deadline::after(limit).timeout("loads", idle).await;
        Ok(self.progress.borrow().clone())
    }

    /// Seals and commits what was written before; see [`FlushWaiter`].
    ///
    /// # Errors
    /// Why it could not be committed; everything is served as before and will be tried again.
    pub(crate) async fn flush(&self, wait: bool) -> Result<FlushOutcome> {
        self.flush_with(wait, None).await
    }

    /// Seals and commits exactly what was written before a hold began, and ends it.
    ///
    /// # Errors
    /// As [`Channel::flush`]; code 2 when the hold has ended already.
    pub(crate) async fn flush_held(&self, wait: bool, hold: i64) -> Result<FlushOutcome> {
        self.flush_with(wait, Some(hold)).await
    }

    async fn flush_with(&self, wait: bool, hold: Option<i64>) -> Result<FlushOutcome> {
        let (reply, answer) = oneshot::channel();
        let waiter = FlushWaiter { wait, hold, reply };
        self.tell(Control::Flush(waiter)).await?;
        answer.await.map_err(|_| self.unavailable())?
    }

    /// Has writes wait until they are flushed with this hold, or its time is over; returns once none
    /// is on its way.
    ///
    /// # Errors
    /// Code 503 when the channel is going.
    pub(crate) async fn hold(&self, id: i64, limit: Duration) -> Result<()> {
        let (reply, held) = oneshot::channel();
        let until = Instant::now() + limit;
        self.tell(Control::Hold(Hold { id, until }, reply)).await?;
        held.await.map_err(|_| self.unavailable())
    }

    /// Asks for a flush without waiting for it.
    pub(crate) fn relieve(&self) {
        // A full queue means that the owner will look at its limits soon anyway.
        let _ = self.control.try_send(Control::Relieve);
    }

    /// Rows and segments, once every write up to `guarantee` is applied.
    ///
    /// # Errors
    /// Code 503 when the channel is going; 10001 when the deadline comes first.
    pub(crate) async fn stats(
        &self,
        guarantee: Timestamp,
        deadline: Deadline,
    ) -> Result<ChannelStatsResponse> {
        self.times.wait(guarantee, deadline).await?;
        let (reply, answer) = oneshot::channel();
        self.tell(Control::Stats(guarantee, reply)).await?;
        answer.await.map_err(|_| self.unavailable())
    }

    /// Ends the owner after what it is writing now, and waits until the log is given up.
    pub(crate) async fn close(&self) {
        self.tasks.cancel();
        let mut closed = self.closed.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    async fn tell(&self, message: Control) -> Result<()> {
        if self.is_closed() {
            return Err(self.unavailable());
        }
        self.control
            .send(message)
            .await
            .map_err(|_| self.unavailable())
    }
}

/// The ids of segments, for messages.
pub(crate) fn raw_ids(segments: &[SegmentId]) -> Vec<i64> {
    segments.iter().map(|segment| segment.0).collect()
}
