//! From growing rows to committed segments.
//!
//! A flush seals what is growing at the channel's last record, writes segment files and the deletes
//! since the last checkpoint, and commits all of it with the new checkpoint in one transaction.
//! Until that is answered, and if it fails, everything is served as before; then the growing
//! segments become sealed ones in one step. One flush at a time; what cannot be committed stays
//! sealed and is part of the next one.
//!
//! - `job`: the work of one flush, beside the owner

mod job;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use redkite_runtime::{Backoff, OnFailure};
use redkite_segment::DeleteBatch;
use redkite_types::{Error, ErrorCode, Result, SegmentId, Timestamp};
use tokio::{sync::oneshot, time::Instant};
use tracing::{Instrument as _, info_span, warn};

pub(super) use self::job::Flushed;
use self::job::Job;
use super::{
    Control, Hold, deletes,
    owner::{Flow, Owner},
    state::{Checkpoint, Growing, Sealed},
};
use crate::metrics;

/// Pause before a flush that failed for good is tried again.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// What a flush has done.
#[derive(Clone, Debug)]
pub(crate) struct FlushOutcome {
    /// Segments that were sealed by it.
    pub(crate) segments: Vec<SegmentId>,
    /// Every write up to here is in them or in earlier ones.
    pub(crate) ts: Timestamp,
}

/// Somebody who wants a flush: with `wait` answered after the commit, else once sealed.
pub(super) struct FlushWaiter {
    pub(super) wait: bool,
    /// It is for exactly what was written before this hold began.
    pub(super) hold: Option<i64>,
    pub(super) reply: oneshot::Sender<Result<FlushOutcome>>,
}

impl FlushWaiter {
    pub(super) fn nobody() -> Self {
        Self {
            wait: false,
            hold: None,
            reply: oneshot::channel().0,
        }
    }

    fn answer(self, answer: Result<FlushOutcome>) {
        // Nobody minds if the caller has left.
        let _ = self.reply.send(answer);
    }
}

/// The flush that runs and those who want one.
pub(super) struct FlushControl {
    running: Option<Running>,
    /// They came after the running one had sealed, and there was more to seal.
    waiting: Vec<FlushWaiter>,
    retry_at: Option<Instant>,
    retry: Backoff,
}

struct Running {
    checkpoint: Checkpoint,
    outcome: FlushOutcome,
    waiters: Vec<FlushWaiter>,
    started: Instant,
}

impl FlushControl {
    pub(super) fn new() -> Self {
        Self {
            running: None,
            waiting: Vec::new(),
            retry_at: None,
            retry: Backoff::new(FIRST_RETRY, LONGEST_RETRY),
        }
    }

    /// When a failed flush is to be tried again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }
}

/// Ends the hold that a flush belongs to, since all of it is sealed now. A flush whose hold has ended
/// by itself is answered: what was written since would be in it.
fn release(holds: &mut Vec<Hold>, waiter: FlushWaiter) -> Option<FlushWaiter> {
    let Some(id) = waiter.hold else {
        return Some(waiter);
    };
    let now = Instant::now();
    let found = holds
        .iter()
        .position(|hold| hold.id == id && hold.until > now);
    match found {
        Some(at) => {
            holds.swap_remove(at);
            Some(waiter)
        }
        None => {
            waiter.answer(Err(Error::new(
                ErrorCode::ServiceUnavailable,
                "writes were not held any more when they were to be sealed",
            )));
            None
        }
    }
}

impl Owner {
    pub(super) fn request_flush(&mut self, waiter: FlushWaiter) {
        let Some(running) = &mut self.flush.running else {
            self.start_flush(vec![waiter]);
            return;
        };
        if self.state.applied_lsn < running.checkpoint.lsn {
            // Nothing came since it sealed.
            let Some(waiter) = release(&mut self.holds, waiter) else {
                return;
            };
            if waiter.wait {
                running.waiters.push(waiter);
            } else {
                waiter.answer(Ok(running.outcome.clone()));
            }
        } else {
            self.flush.waiting.push(waiter);
        }
    }

    /// The retry of a flush that failed.
    pub(super) fn flush_again(&mut self) {
        self.flush.retry_at = None;
        if self.flush.running.is_none() {
            self.start_flush(Vec::new());
        }
    }

    /// Flushes because memory is short. No write may be on its way.
    pub(super) fn relieve(&mut self) {
        if self.may_relieve() {
            self.start_flush(Vec::new());
        }
    }

    fn may_relieve(&self) -> bool {
        let waits = self.flush.running.is_some() || self.flush.retry_at.is_some();
        !waits && self.state.is_dirty()
    }

    /// Whether a flush is due because a segment is full or the log is long.
    pub(super) fn is_too_full(&self) -> bool {
        let options = &self.channel.shared.deps.options;
        let growing = self.state.growing.values();
        let bytes: usize = growing.map(|growing| growing.bytes).sum();
        let bytes = bytes + self.state.deletes.bytes();
        let full = bytes as u64 >= options.segment_max_size.as_u64()
            || self.state.log_bytes >= options.log_max_size.as_u64()
            || self.state.growing_rows() as u64 >= options.segment_max_rows;
        full && self.may_relieve()
    }

    /// Seals what is growing and begins to write it. No write may be on its way: its rows go into
    /// the segments that it found.
    fn start_flush(&mut self, waiters: Vec<FlushWaiter>) {
        self.flush.retry_at = None;
        let held = waiters.into_iter();
        let waiters: Vec<_> = held
            .filter_map(|waiter| release(&mut self.holds, waiter))
            .collect();
        let growing = std::mem::take(&mut self.state.growing);
        let (full, empty): (Vec<_>, Vec<_>) = growing
            .into_iter()
            .partition(|(_, growing)| growing.rows.snapshot().rows() > 0);
        self.state.growing.extend(empty);
        let sealed_now = full.iter().map(|(_, growing)| growing.id).collect();
        self.state
            .sealing
            .extend(full.into_iter().map(|(_, growing)| growing));
        if !self.state.is_dirty() {
            let ts = self.state.checkpoint.ts;
            for waiter in waiters {
                waiter.answer(Ok(FlushOutcome {
                    segments: Vec::new(),
                    ts,
                }));
            }
            return;
        }
        let checkpoint = Checkpoint {
            lsn: self.state.applied_lsn.next(),
            ts: self.state.applied_ts,
        };
        let outcome = FlushOutcome {
            segments: sealed_now,
            ts: checkpoint.ts,
        };
        let (waiters, sealed_only): (Vec<_>, Vec<_>) =
            waiters.into_iter().partition(|waiter| waiter.wait);
        for waiter in sealed_only {
            waiter.answer(Ok(outcome.clone()));
        }
        let job = self.job(checkpoint);
        self.flush.running = Some(Running {
            checkpoint,
            outcome,
            waiters,
            started: Instant::now(),
        });
        let span = info_span!("flush", channel = %self.channel.name, lsn = checkpoint.lsn.0);
        let work = async move {
            let channel = job.channel.clone();
            let flushed = Box::pin(job.run()).await;
            // Without an owner nobody needs it.
            let _ = channel
                .control
                .send(Control::Flushed(Box::new(flushed)))
                .await;
        };
        let name = format!("flush of {}", self.channel.name);
        self.channel
            .tasks
            .spawn_cancellable(name, OnFailure::Log, work.instrument(span));
    }

    pub(super) fn hold(&mut self, hold: Hold, reply: oneshot::Sender<()>) {
        self.holds.push(hold);
        // Nobody minds if the caller has left.
        let _ = reply.send(());
    }

    /// When writes go on if nobody ends their holds; those whose time is over are gone.
    pub(super) fn held_until(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.holds.retain(|hold| hold.until > now);
        self.holds.iter().map(|hold| hold.until).max()
    }

    fn job(&self, checkpoint: Checkpoint) -> Job {
        let unflushed: Vec<Arc<DeleteBatch>> = self.state.deletes.unflushed().cloned().collect();
        // Segments that a failed flush had sealed without rows hold nothing to write.
        let sealing = self
            .state
            .sealing
            .iter()
            .map(|growing| growing.rows.clone());
        Job {
            channel: self.channel.clone(),
            segments: sealing.filter(|rows| rows.snapshot().rows() > 0).collect(),
            served: self.state.loaded.clone(),
            mapping: self.state.mapping.clone(),
            deletes: deletes::concat(&unflushed),
            deletes_below: self.state.deletes.end(),
            checkpoint,
            log_bytes: self.state.log_bytes,
        }
    }

    /// Hands over what was committed, or keeps everything for the next try.
    pub(super) fn flushed(&mut self, outcome: Result<Flushed>) -> Flow {
        let Some(running) = self.flush.running.take() else {
            return Flow::Continue;
        };
        let segments = outcome.as_ref().map_or(0, |flushed| flushed.segments.len());
        metrics::flushed(outcome.is_ok(), segments, running.started.elapsed());
        let answer = match outcome {
            Ok(flushed) => {
                self.hand_over(flushed, running.checkpoint);
                self.flush.retry.reset();
                Ok(running.outcome)
            }
            Err(error) => {
                warn!(channel = %self.channel.name, %error, "flush failed");
                if error.code == ErrorCode::ChannelMisrouted {
                    return Flow::GiveUp;
                }
                self.flush.retry_at = Some(Instant::now() + self.flush.retry.next_delay());
                Err(error)
            }
        };
        for waiter in running.waiters {
            waiter.answer(answer.clone());
        }
        let waiting = std::mem::take(&mut self.flush.waiting);
        if waiting.is_empty() {
            // What came meanwhile may be enough for another one.
            if self.is_too_full() {
                self.relieve();
            }
        } else {
            self.start_flush(waiting);
        }
        Flow::Continue
    }

    /// Growing segments become sealed ones: one snapshot has the former, the next the latter.
    fn hand_over(&mut self, flushed: Flushed, checkpoint: Checkpoint) {
        let state = &mut self.state;
        state.checkpoint = checkpoint;
        state.committed = state.committed.max(flushed.revision);
        state.log_bytes = state.log_bytes.saturating_sub(flushed.log_bytes);
        state.deletes.mark_flushed(flushed.deletes_below);
        state
            .deltas
            .extend(flushed.delta.map(|delta| (delta.id, delta)));
        let committed: BTreeSet<i64> = flushed
            .segments
            .iter()
            .map(|segment| segment.info.id)
            .collect();
        let is_done = |growing: &Growing| {
            committed.contains(&growing.id.0) || growing.rows.snapshot().rows() == 0
        };
        state.sealing.retain(|growing| !is_done(growing));
        for segment in flushed.segments {
            let mut sealed = Sealed::new(segment.info);
            if state.forgotten.contains(&sealed.partition()) {
                continue;
            }
            if state.loaded.contains(&sealed.partition()) {
                // The schema may have got fields since the flush began.
                sealed.loaded = segment.rows.inspect(|rows| rows.adopt(&state.schema));
                sealed.mapped = segment.in_file;
            }
            // It may have been compacted before its commit was answered.
            if let Some(sealed) = state.retire_flushed(sealed) {
                state.sealed.insert(SegmentId(sealed.info.id), sealed);
            }
        }
        state.take_over(Instant::now());
        self.trim_deletes();
        self.start_loads();
        self.publish();
        self.truncate_log(checkpoint);
    }

    fn truncate_log(&self, checkpoint: Checkpoint) {
        let Some(log) = self.log.clone() else { return };
        let name = self.channel.name.clone();
        let work = async move {
            if let Err(error) = log.truncate_before(checkpoint.lsn).await {
                // The next flush deletes what this one left.
                warn!(channel = %name, %error, "log not truncated");
            }
        };
        self.channel
            .tasks
            .spawn("truncate log", OnFailure::Log, work);
    }
}
