//! Writes that are in the hands of the log, in the order in which they were handed over.
//!
//! A log makes several groups of records durable at the same time, so the owner goes on handing over
//! while earlier batches are on their way. What comes out comes out in order: a batch is only taken
//! once the log has answered it and all before it. How many bytes may be on their way is limited by
//! the queue's budget, which a write gives back only here.

use std::collections::VecDeque;

use futures::{FutureExt as _, future::BoxFuture};
use redkite_rpc::RpcError;
use redkite_types::{Result, Timestamp};
use redkite_wal::{AppendFuture, Lsn};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use super::{QueuedWrite, prepare::PreparedWrite};
use crate::deps::PendingBytes;

/// Batches on their way at a time. While so many are, writes gather in the queue, and the next batch
/// is larger.
const MAX_BATCHES: usize = 64;

/// Writes for which timestamps are being asked for; nothing of them is in the log yet.
pub(super) struct Asking {
    pub(super) writes: Vec<QueuedWrite>,
    pub(super) first: BoxFuture<'static, Result<Timestamp>>,
    pub(super) started: Instant,
}

/// A write whose place in the log is fixed.
pub(super) struct Submitted {
    pub(super) write: PreparedWrite,
    pub(super) record_bytes: usize,
    pub(super) ts: Timestamp,
    pub(super) reply: oneshot::Sender<Result<Timestamp, RpcError>>,
    pub(super) pending: PendingBytes,
    /// Its share of the queue's bytes.
    pub(super) budget: OwnedSemaphorePermit,
}

/// What the log has answered to a write.
pub(super) type Answer = Result<Lsn, redkite_wal::Error>;

/// Writes that were handed over together.
pub(super) struct Batch {
    waiting: VecDeque<(AppendFuture, Submitted)>,
    answered: Vec<(Submitted, Answer)>,
    pub(super) started: Instant,
}

impl Batch {
    pub(super) fn new(writes: Vec<(AppendFuture, Submitted)>, started: Instant) -> Self {
        Self {
            answered: Vec::with_capacity(writes.len()),
            waiting: writes.into(),
            started,
        }
    }

    /// Waits until the log has answered all of it.
    ///
    /// # Cancel safety
    /// What was answered until then is kept.
    async fn settle(&mut self) {
        while let Some((append, _)) = self.waiting.front_mut() {
            let answer = append.await;
            if let Some((_, submitted)) = self.waiting.pop_front() {
                self.answered.push((submitted, answer));
            }
        }
    }

    /// The answers to a batch that is settled.
    pub(super) fn into_answers(self) -> Vec<(Submitted, Answer)> {
        self.answered
    }

    /// Whether the log takes no more appends.
    pub(super) fn has_ended_the_log(&self) -> bool {
        let mut answers = self.answered.iter();
        answers.any(|(_, answer)| answer.as_ref().is_err_and(ends_the_log))
    }
}

/// Whether a log that has answered this must be opened again, or given up.
pub(super) fn ends_the_log(error: &redkite_wal::Error) -> bool {
    !matches!(
        error,
        redkite_wal::Error::Overloaded { .. }
            | redkite_wal::Error::TooLarge { .. }
            | redkite_wal::Error::NoSpace { .. }
    )
}

/// The batches on their way.
#[derive(Default)]
pub(super) struct Pipeline {
    batches: VecDeque<Batch>,
}

impl Pipeline {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.batches.len() < MAX_BATCHES
    }

    pub(super) fn push(&mut self, batch: Batch) {
        self.batches.push_back(batch);
    }

    /// Waits until the first batch is settled; for ever when there is none.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn settled(&mut self) {
        match self.batches.front_mut() {
            Some(first) => first.settle().await,
            None => std::future::pending().await,
        }
    }

    /// Takes the first batches, as far as they are settled.
    pub(super) fn take_settled(&mut self) -> Vec<Batch> {
        let mut taken = Vec::new();
        while let Some(first) = self.batches.front_mut()
            && first.settle().now_or_never().is_some()
        {
            taken.extend(self.batches.pop_front());
        }
        taken
    }

    /// Takes all batches once they are settled.
    pub(super) async fn take_all(&mut self) -> Vec<Batch> {
        for batch in &mut self.batches {
            batch.settle().await;
        }
        self.batches.drain(..).collect()
    }
}
