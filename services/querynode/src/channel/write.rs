//! Writes on their way through the owner: timestamps, log, memory, snapshot, answers.
//!
//! A batch is taken from the queue and given timestamps, then handed to the log; the next one follows
//! while it is on its way there. Those that the log has answered are applied, published and
//! acknowledged in order, as many together as there are. So nothing can be seen before it is durable,
//! and nothing before what was handed over earlier.
//!
//! A log that has failed, or belongs to another owner, has answered everything behind the failure with
//! it: all of that is answered, and what of it has an unknown fate is looked up when the log is opened
//! again.

use std::{collections::BTreeSet, sync::Arc};

use futures::FutureExt as _;
use redkite_rpc::RpcError;
use redkite_runtime::Backoff;
use redkite_types::{Coded as _, Error, ErrorCode, Outcome, PartitionId, Result, Timestamp};
use tokio::time::Instant;
use tracing::{error, warn};

use super::{
    Channel, QueuedWrite,
    owner::{Flow, Owner},
    pipeline::{Answer, Asking, Batch, Submitted, ends_the_log},
};
use crate::metrics;

/// How often timestamps are asked for again because a read has relied on later ones.
const ALLOC_TRIES: usize = 8;

impl Owner {
    /// Begins with writes: refuses those that cannot be made, and asks for the others' timestamps.
    pub(super) async fn take(&mut self, writes: Vec<QueuedWrite>) {
        let started = Instant::now();
        let mut writes = self.admit(writes);
        if writes.is_empty() {
            return;
        }
        if let Err(error) = self.ready_for(&writes).await {
            refuse(writes.drain(..), &error);
            return;
        }
        self.channel.times.begin();
        let first = timestamps(self.channel.clone(), writes.len(), self.state.applied_ts);
        self.asking = Some(Asking {
            writes,
            first: first.boxed(),
            started,
        });
    }

    /// Hands the writes that have waited for their timestamps to the log.
    pub(super) async fn submit(&mut self, first: Result<Timestamp>) {
        let Some(asking) = self.asking.take() else {
            return;
        };
        let first = match first {
            Ok(first) => first,
            Err(error) => {
                self.channel.times.not_allocated();
                refuse(asking.writes, &error);
                return;
            }
        };
        // It may have failed meanwhile: then nothing else is on its way.
        let opened = match self.log.is_none() {
            true => self.reopen_log().await,
            false => Ok(()),
        };
        let log = opened.and_then(|()| self.log.clone().ok_or_else(|| self.channel.unavailable()));
        let log = match log {
            Ok(log) => log,
            Err(error) => {
                self.channel.times.done(1);
                refuse(asking.writes, &error);
                return;
            }
        };
        let mut submitted = Vec::with_capacity(asking.writes.len());
        for (index, mut queued) in asking.writes.into_iter().enumerate() {
            let ts = first.plus(index as u64);
            let record = queued.write.take_record(ts);
            let record_bytes = record.len();
            let append = log.submit(record);
            let one = Submitted {
                write: queued.write,
                record_bytes,
                ts,
                reply: queued.reply,
                pending: queued.pending,
                budget: queued.budget,
            };
            submitted.push((append, one));
        }
        self.pipeline.push(Batch::new(submitted, asking.started));
    }

    /// Takes over what the log has answered.
    pub(super) async fn complete(&mut self) -> Flow {
        let mut batches = self.pipeline.take_settled();
        if batches.iter().any(Batch::has_ended_the_log) {
            batches.extend(self.pipeline.take_all().await);
        }
        let Some(started) = batches.first().map(|batch| batch.started) else {
            return Flow::Continue;
        };
        let count = batches.len();
        let answers = batches.into_iter().flat_map(Batch::into_answers).collect();
        let (flow, failed) = self.apply(answers, started).await;
        // A write whose fate is unknown may still turn up: reads wait until that is known.
        let flow = match failed {
            Some(error) if flow == Flow::Continue => self.log_failed(&error).await,
            Some(_) | None => flow,
        };
        self.channel.times.done(count);
        flow
    }

    /// Waits until nothing is in the log's hands.
    pub(super) async fn settle(&mut self) -> Flow {
        while !self.pipeline.is_empty() {
            self.pipeline.settled().await;
            if self.complete().await == Flow::GiveUp {
                return Flow::GiveUp;
            }
        }
        Flow::Continue
    }

    /// Waits until no write is on its way: what comes next may then change where rows go and what
    /// they look like.
    pub(super) async fn quiet(&mut self) -> Flow {
        if let Some(asking) = &mut self.asking {
            let first = (&mut asking.first).await;
            self.submit(first).await;
        }
        self.settle().await
    }

    /// Makes durable writes visible and acknowledges them; answers the failure that says most about
    /// the log, if there was one.
    async fn apply(
        &mut self,
        answers: Vec<(Submitted, Answer)>,
        started: Instant,
    ) -> (Flow, Option<redkite_wal::Error>) {
        let channel = self.channel.clone();
        let mut failed: Option<redkite_wal::Error> = None;
        let mut steps = self.state.steps();
        let mut acknowledged = Vec::with_capacity(answers.len());
        for (submitted, answer) in answers {
            match answer {
                Ok(lsn) => {
                    self.state.log_bytes += submitted.record_bytes as u64;
                    self.state
                        .plan(&mut steps, lsn, submitted.ts, submitted.write);
                    let held = (submitted.pending, submitted.budget);
                    acknowledged.push((submitted.reply, submitted.ts, held));
                }
                Err(error) => {
                    let answer = RpcError::new(Error::from_coded(&error));
                    let answer = answer.with_outcome(error.outcome());
                    // Nobody minds if the caller has left.
                    let _ = submitted.reply.send(Err(answer));
                    if failed.as_ref().is_none_or(|known| !ends_the_log(known)) {
                        failed = Some(error);
                    }
                }
            }
        }
        if acknowledged.is_empty() {
            return (Flow::Continue, failed);
        }
        let (count, rows, deletes) = (acknowledged.len(), steps.rows(), steps.deletes());
        if let Err(error) = steps.run(&channel.shared.deps.cpu).await {
            error!(channel = %channel.name, %error, "durable writes do not fit into memory");
            return (Flow::GiveUp, failed);
        }
        let snapshot = self.state.snapshot_after_write(&channel.published.load());
        channel.published.store(Arc::new(snapshot));
        self.note_growing();
        for (reply, ts, held) in acknowledged {
            drop(held);
            let _ = reply.send(Ok(ts));
        }
        metrics::written(count, rows, deletes, started.elapsed());
        (Flow::Continue, failed)
    }

    /// Answers writes that cannot be made, and reads those again whose schema is out of date.
    fn admit(&self, writes: Vec<QueuedWrite>) -> Vec<QueuedWrite> {
        let mut admitted = Vec::with_capacity(writes.len());
        for mut queued in writes {
            let refused = queued.write.partitions().find_map(|id| self.refusal(id));
            if let Some(error) = refused {
                refuse([queued], &error);
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

    /// Why writes to a partition are refused, if they are.
    fn refusal(&self, partition: PartitionId) -> Option<Error> {
        if self.state.forgotten.contains(&partition) {
            return Some(Error::partition_not_found(&partition.to_string()));
        }
        // Whatever takes its place will be known soon.
        self.state.closed.contains(&partition).then(|| {
            Error::new(
                ErrorCode::ServiceUnavailable,
                format!("partition is closed while it is truncated[partition={partition}]"),
            )
        })
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

    /// After a failed append, when nothing is on its way any more: goes on, opens the log again, or
    /// gives the channel up.
    async fn log_failed(&mut self, error: &redkite_wal::Error) -> Flow {
        warn!(channel = %self.channel.name, %error, code = error.code().number(), "append failed");
        if matches!(error, redkite_wal::Error::Fenced { .. }) {
            return Flow::GiveUp;
        }
        if ends_the_log(error) {
            if let Some(log) = self.log.take() {
                log.close().await;
            }
            if let Err(error) = self.reopen_log().await {
                warn!(channel = %self.channel.name, %error, "log not opened again yet");
            }
        }
        Flow::Continue
    }
}

/// Timestamps later than `applied`, than those of earlier batches and than everything that a read has
/// relied on.
async fn timestamps(channel: Arc<Channel>, count: usize, applied: Timestamp) -> Result<Timestamp> {
    let coordinators = &channel.shared.deps.coordinators;
    let mut backoff = Backoff::new(
        std::time::Duration::from_millis(1),
        std::time::Duration::from_millis(100),
    );
    for _ in 0..ALLOC_TRIES {
        let first = coordinators.timestamps(count as u32).await?;
        if first > applied && channel.times.allocated(first, count) {
            return Ok(first);
        }
        backoff.wait().await;
    }
    Err(Error::new(
        ErrorCode::ServiceUnavailable,
        "timestamps are behind those that were relied on",
    ))
}

/// Answers writes of which nothing was done.
pub(super) fn refuse(writes: impl IntoIterator<Item = QueuedWrite>, error: &Error) {
    for queued in writes {
        let _ = queued.reply.send(Err(not_applied(error)));
    }
}

fn not_applied(error: &Error) -> RpcError {
    RpcError::new(error.clone()).with_outcome(Outcome::NotApplied)
}
