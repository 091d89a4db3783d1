//! The owner of a channel: one task, one writer.

use std::{collections::BTreeSet, sync::Arc};

use redkite_rpc::RpcError;
use redkite_runtime::{Backoff, OnFailure};
use redkite_types::{Coded as _, Error, ErrorCode, Outcome, PartitionId, Result, Timestamp};
use redkite_wal::{ChannelLog, Lsn};
use tokio::{sync::oneshot, time::Instant};
use tracing::{Instrument as _, debug_span, error, info, warn};

use super::{
    Channel, Control, Inbox, QueuedWrite, flush::FlushControl, load::Loads, prepare::PreparedWrite,
    state::State,
};
use crate::{deps::PendingBytes, metrics};

/// Writes that share one wait for the log.
const WRITE_BATCH: usize = 1_024;
/// How often timestamps are asked for again because a read has relied on later ones.
const ALLOC_TRIES: usize = 8;

/// Whether the owner goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    /// The channel is not this node's any more, or memory cannot be trusted.
    GiveUp,
}

pub(super) struct Owner {
    pub(super) channel: Arc<Channel>,
    pub(super) state: State,
    /// `None` after a failure, until it is opened again.
    pub(super) log: Option<Arc<dyn ChannelLog>>,
    pub(super) flush: FlushControl,
    pub(super) loads: Loads,
}

/// A write whose place in the log is being waited for.
struct Submitted {
    write: PreparedWrite,
    record_bytes: usize,
    ts: Timestamp,
    reply: oneshot::Sender<Result<Timestamp, RpcError>>,
    pending: PendingBytes,
}

impl Owner {
    /// Takes over a recovered channel.
    pub(super) fn start(
        channel: Arc<Channel>,
        state: State,
        log: Arc<dyn ChannelLog>,
        inbox: Inbox,
    ) {
        let tasks = channel.tasks.clone();
        let name = format!("owner of {}", channel.name);
        let owner = Self {
            channel,
            state,
            log: Some(log),
            flush: FlushControl::new(),
            loads: Loads::default(),
        };
        owner.note_growing();
        tasks.spawn(name, OnFailure::Log, owner.run(inbox));
    }

    async fn run(mut self, mut inbox: Inbox) {
        // However this ends, a panic included, nobody must wait for it.
        let _end = End(self.channel.clone());
        let stop = self.channel.tasks.token();
        let mut batch = Vec::new();
        let mut flow = Flow::Continue;
        while flow == Flow::Continue {
            let retry_at = self
                .flush
                .retry_at()
                .into_iter()
                .chain(self.load_retry_at())
                .min();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(message) = inbox.control.recv() => flow = self.handle(message),
                () = wait_until(retry_at) => self.retry(),
                _ = inbox.writes.recv_many(&mut batch, WRITE_BATCH) => {
                    let writes = std::mem::take(&mut batch);
                    let span = debug_span!("write", channel = %self.channel.name);
                    flow = Box::pin(self.write(writes)).instrument(span).await;
                }
            }
        }
        info!(channel = %self.channel.name, epoch = self.channel.epoch, "channel given up");
        inbox.writes.close();
        while let Ok(queued) = inbox.writes.try_recv() {
            refuse([queued], &self.channel.unavailable());
        }
        if let Some(log) = self.log.take() {
            log.close().await;
        }
    }

    /// Tries again what has failed and is due.
    fn retry(&mut self) {
        let now = Instant::now();
        if self.flush.retry_at().is_some_and(|moment| moment <= now) {
            self.flush_again();
        }
        if self.load_retry_at().is_some_and(|moment| moment <= now) {
            self.start_loads();
            self.note_progress();
        }
    }

    fn handle(&mut self, message: Control) -> Flow {
        match message {
            Control::Sync { target, reply } => {
                self.sync(*target);
                // Nobody minds if the caller has left.
                let _ = reply.send(());
            }
            Control::Flush(waiter) => self.request_flush(waiter),
            Control::Relieve => self.relieve(),
            Control::Flushed(outcome) => return self.flushed(*outcome),
            Control::Loaded(outcome) => self.loaded(*outcome),
            Control::Stats(seen, reply) => {
                let _ = reply.send(crate::stats::of(&self.state, seen));
            }
        }
        Flow::Continue
    }

    /// Publishes the whole state.
    pub(super) fn publish(&self) {
        self.channel
            .published
            .store(Arc::new(self.state.snapshot()));
        self.note_growing();
        self.note_progress();
    }

    pub(super) fn note_growing(&self) {
        let after = self.state.growing_bytes();
        let before = self.channel.growing_bytes.send_replace(after);
        self.channel.shared.growing_changed(before, after);
    }

    /// One batch of writes: timestamps, log, memory, snapshot, answers.
    async fn write(&mut self, writes: Vec<QueuedWrite>) -> Flow {
        let started = Instant::now();
        let mut writes = self.admit(writes);
        if writes.is_empty() {
            return Flow::Continue;
        }
        if let Err(error) = self.ready_for(&writes).await {
            refuse(writes.drain(..), &error);
            return Flow::Continue;
        }
        let channel = self.channel.clone();
        channel.times.begin();
        let first = match self.timestamps(writes.len()).await {
            Ok(first) => first,
            Err(error) => {
                channel.times.done();
                refuse(writes.drain(..), &error);
                return Flow::Continue;
            }
        };
        let (durable, failed) = self.append(writes, first).await;
        let count = durable.len();
        let mut steps = self.state.steps();
        let mut answers = Vec::with_capacity(count);
        for (lsn, submitted) in durable {
            self.state.log_bytes += submitted.record_bytes as u64;
            self.state
                .plan(&mut steps, lsn, submitted.ts, submitted.write);
            answers.push((submitted.reply, submitted.ts, submitted.pending));
        }
        let (rows, deletes) = (steps.rows(), steps.deletes());
        if let Err(error) = steps.run(&channel.shared.deps.cpu).await {
            error!(channel = %channel.name, %error, "durable writes do not fit into memory");
            channel.times.done();
            return Flow::GiveUp;
        }
        let snapshot = self.state.snapshot_after_write(&channel.published.load());
        channel.published.store(Arc::new(snapshot));
        self.note_growing();
        for (reply, ts, pending) in answers {
            drop(pending);
            let _ = reply.send(Ok(ts));
        }
        metrics::written(count, rows, deletes, started.elapsed());
        // A write whose fate is unknown may still turn up: reads wait until that is known.
        let flow = match failed {
            None => Flow::Continue,
            Some(error) => self.log_failed(&error).await,
        };
        channel.times.done();
        self.relieve_if_full();
        flow
    }

    /// Answers writes that cannot be made, and reads those again whose schema is out of date.
    fn admit(&self, writes: Vec<QueuedWrite>) -> Vec<QueuedWrite> {
        let mut admitted = Vec::with_capacity(writes.len());
        for mut queued in writes {
            let gone = queued.write.inserts.iter().map(|rows| rows.partition);
            if let Some(gone) = gone
                .into_iter()
                .find(|id| self.state.forgotten.contains(id))
            {
                refuse([queued], &Error::partition_not_found(&gone.to_string()));
                continue;
            }
            if !Arc::ptr_eq(&queued.write.schema, &self.state.schema) {
                match queued.write.with_schema(&self.state.schema) {
                    Ok(write) => queued.write = write,
                    Err(error) => {
                        let _ = queued.reply.send(Err(not_applied(&error)));
                        continue;
                    }
                }
            }
            admitted.push(queued);
        }
        admitted
    }

    /// Makes sure that there are a log and segments to write to.
    async fn ready_for(&mut self, writes: &[QueuedWrite]) -> Result<()> {
        if self.log.is_none() {
            self.reopen_log().await?;
        }
        let rows = writes.iter().flat_map(|queued| &queued.write.inserts);
        let partitions: BTreeSet<PartitionId> = rows.map(|rows| rows.partition).collect();
        let coordinators = self.channel.shared.deps.coordinators.clone();
        self.state.make_room(partitions, &*coordinators).await
    }

    /// Timestamps later than everything that a read has relied on.
    async fn timestamps(&self, count: usize) -> Result<Timestamp> {
        let coordinators = &self.channel.shared.deps.coordinators;
        let mut backoff = Backoff::new(
            std::time::Duration::from_millis(1),
            std::time::Duration::from_millis(100),
        );
        for _ in 0..ALLOC_TRIES {
            let first = coordinators.timestamps(count as u32).await?;
            if first > self.state.applied_ts && self.channel.times.allocated(first) {
                return Ok(first);
            }
            backoff.wait().await;
        }
        Err(Error::new(
            ErrorCode::ServiceUnavailable,
            "timestamps are behind those that were relied on",
        ))
    }

    /// Writes a batch to the log; answers what is durable, in order, and the first failure.
    async fn append(
        &mut self,
        writes: Vec<QueuedWrite>,
        first: Timestamp,
    ) -> (Vec<(Lsn, Submitted)>, Option<redkite_wal::Error>) {
        let Some(log) = self.log.clone() else {
            return (Vec::new(), None);
        };
        let mut submitted = Vec::with_capacity(writes.len());
        for (index, mut queued) in writes.into_iter().enumerate() {
            let ts = first.plus(index as u64);
            let record = queued.write.take_record(ts);
            let record_bytes = record.len();
            let future = log.submit(record);
            let QueuedWrite {
                write,
                reply,
                pending,
                ..
            } = queued;
            submitted.push((
                future,
                Submitted {
                    write,
                    record_bytes,
                    ts,
                    reply,
                    pending,
                },
            ));
        }
        let mut durable = Vec::with_capacity(submitted.len());
        let mut failed = None;
        for (future, submitted) in submitted {
            match future.await {
                Ok(lsn) => durable.push((lsn, submitted)),
                Err(error) => {
                    let answer = RpcError::new(Error::from_coded(&error));
                    let _ = submitted
                        .reply
                        .send(Err(answer.with_outcome(error.outcome())));
                    failed.get_or_insert(error);
                }
            }
        }
        (durable, failed)
    }

    /// After a failed append: goes on, opens the log again, or gives the channel up.
    async fn log_failed(&mut self, error: &redkite_wal::Error) -> Flow {
        warn!(channel = %self.channel.name, %error, code = error.code().number(), "append failed");
        match error {
            redkite_wal::Error::Fenced { .. } => Flow::GiveUp,
            redkite_wal::Error::Overloaded { .. }
            | redkite_wal::Error::TooLarge { .. }
            | redkite_wal::Error::NoSpace { .. } => Flow::Continue,
            _ => {
                if let Some(log) = self.log.take() {
                    log.close().await;
                }
                if let Err(error) = self.reopen_log().await {
                    warn!(channel = %self.channel.name, %error, "log not opened again yet");
                }
                Flow::Continue
            }
        }
    }
}

/// Answers writes of which nothing was done.
fn refuse(writes: impl IntoIterator<Item = QueuedWrite>, error: &Error) {
    for queued in writes {
        let _ = queued.reply.send(Err(not_applied(error)));
    }
}

fn not_applied(error: &Error) -> RpcError {
    RpcError::new(error.clone()).with_outcome(Outcome::NotApplied)
}

async fn wait_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Tells everybody that the owner has ended.
struct End(Arc<Channel>);

impl Drop for End {
    fn drop(&mut self) {
        let bytes = self.0.growing_bytes.send_replace(0);
        self.0.shared.growing_changed(bytes, 0);
        self.0.times.done();
        self.0.tasks.cancel();
        self.0.closed.send_replace(true);
    }
}
