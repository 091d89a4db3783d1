//! Records that wait to be sent, and what the log's handle and its writer share.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};

use super::{ObjectOptions, chain::Chain, format::Header, objects::Objects, takeover::Taken};
use crate::{
    error::{Error, Result},
    log::{AppendFuture, Lsn},
};

/// What the handle and the writer share.
pub(super) struct Shared {
    pub(super) objects: Objects,
    pub(super) options: ObjectOptions,
    /// The own seal.
    pub(super) seal: Header,
    /// The last durable record.
    pub(super) durable: AtomicU64,
    pub(super) chain: Mutex<Chain>,
    pub(super) queue: Mutex<Queue>,
    /// Something was queued, or the log was closed.
    pub(super) wake: Notify,
    /// The writer has ended.
    pub(super) ended: watch::Sender<bool>,
}

/// What waits.
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    /// Payload bytes that wait.
    waiting_bytes: usize,
    /// Payload bytes that wait or are on their way.
    pending_bytes: usize,
    state: State,
    /// Records in objects with lower numbers are truncated.
    pub(super) floor: u64,
}

/// Whether the log takes appends.
pub(super) enum State {
    Open,
    Closed,
    Failed(Error),
}

/// A record, or without a payload the wish to have the floor on record.
pub(super) struct Waiting {
    pub(super) payload: Option<Bytes>,
    pub(super) reply: oneshot::Sender<Result<Lsn>>,
    since: Instant,
}

/// What is sent as one object.
pub(super) struct Group {
    pub(super) payloads: Vec<Bytes>,
    /// Each with whether it stands for a record.
    pub(super) replies: Vec<(bool, oneshot::Sender<Result<Lsn>>)>,
    pub(super) payload_bytes: usize,
    pub(super) floor: u64,
}

impl Shared {
    pub(super) fn new(objects: Objects, options: ObjectOptions, taken: &Taken) -> Self {
        Self {
            objects,
            options,
            seal: taken.seal,
            durable: AtomicU64::new(taken.next_lsn - 1),
            chain: Mutex::new(taken.chain.clone()),
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                waiting_bytes: 0,
                pending_bytes: 0,
                state: State::Open,
                floor: taken.floor,
            }),
            wake: Notify::new(),
            ended: watch::Sender::new(false),
        }
    }

    pub(super) fn channel(&self) -> &Arc<str> {
        &self.objects.channel
    }

    pub(super) fn last_lsn(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// Queues a record.
    pub(super) fn submit(&self, payload: Bytes) -> AppendFuture {
        let refused = |error| AppendFuture::refused(self.channel().clone(), error);
        if payload.len() > self.options.max_record_bytes {
            return refused(Error::TooLarge {
                size_bytes: payload.len(),
                limit_bytes: self.options.max_record_bytes,
            });
        }
        let mut queue = self.queue.lock();
        let pending_bytes = queue.pending_bytes + payload.len();
        // A first record always fits, whatever its size.
        if queue.pending_bytes > 0 && pending_bytes > self.options.max_pending_bytes {
            return refused(Error::Overloaded {
                channel: self.channel().to_string(),
                pending_bytes: queue.pending_bytes,
                limit_bytes: self.options.max_pending_bytes,
            });
        }
        let future = queue.push(self.channel(), Some(payload));
        drop(queue);
        self.wake.notify_one();
        future
    }

    /// Has the floor put on record.
    pub(super) fn submit_floor(&self, floor: u64) -> AppendFuture {
        let mut queue = self.queue.lock();
        queue.floor = queue.floor.max(floor);
        let future = queue.push(self.channel(), None);
        drop(queue);
        self.wake.notify_one();
        future
    }

    /// Refuses further appends; what is queued is still written.
    pub(super) fn stop(&self) {
        let mut queue = self.queue.lock();
        if matches!(queue.state, State::Open) {
            queue.state = State::Closed;
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Waits until the writer has ended.
    pub(super) async fn wait_for_end(&self) {
        let mut ended = self.ended.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

impl Queue {
    fn push(&mut self, channel: &Arc<str>, payload: Option<Bytes>) -> AppendFuture {
        match &self.state {
            State::Open => {}
            State::Closed => {
                let closed = Error::Closed {
                    channel: channel.to_string(),
                };
                return AppendFuture::refused(channel.clone(), closed);
            }
            State::Failed(error) => return AppendFuture::refused(channel.clone(), error.clone()),
        }
        let bytes = payload.as_ref().map_or(0, Bytes::len);
        self.waiting_bytes += bytes;
        self.pending_bytes += bytes;
        let (reply, future) = AppendFuture::waiting(channel.clone());
        self.waiting.push_back(Waiting {
            payload,
            reply,
            since: Instant::now(),
        });
        future
    }

    /// Whether nothing more will come.
    pub(super) fn is_finished(&self) -> bool {
        self.waiting.is_empty() && !matches!(self.state, State::Open)
    }

    /// When what waits is to be sent although there is not much of it; `None` when nothing waits.
    pub(super) fn due(&self, options: &ObjectOptions) -> Option<Instant> {
        let oldest = self.waiting.front()?;
        let at_once =
            self.waiting_bytes >= options.max_group_bytes || !matches!(self.state, State::Open);
        match at_once {
            true => Some(oldest.since),
            false => Some(oldest.since + options.group_interval),
        }
    }

    /// Takes what goes into one object.
    pub(super) fn take(&mut self, options: &ObjectOptions) -> Option<Group> {
        let mut group = Group {
            payloads: Vec::new(),
            replies: Vec::new(),
            payload_bytes: 0,
            floor: self.floor,
        };
        while let Some(next) = self.waiting.front() {
            let bytes = next.payload.as_ref().map_or(0, Bytes::len);
            if group.payload_bytes > 0 && group.payload_bytes + bytes > options.max_group_bytes {
                break;
            }
            let Some(next) = self.waiting.pop_front() else {
                break;
            };
            group.payload_bytes += bytes;
            group.replies.push((next.payload.is_some(), next.reply));
            group.payloads.extend(next.payload);
        }
        self.waiting_bytes -= group.payload_bytes;
        (!group.replies.is_empty()).then_some(group)
    }

    /// What was taken is not on its way any more.
    pub(super) fn settled(&mut self, payload_bytes: usize) {
        self.pending_bytes -= payload_bytes;
    }

    /// Takes no more appends and answers who waits.
    pub(super) fn fail(&mut self, error: &Error) -> Vec<oneshot::Sender<Result<Lsn>>> {
        if !matches!(self.state, State::Failed(_)) {
            self.state = State::Failed(error.clone());
        }
        self.pending_bytes -= self.waiting_bytes;
        self.waiting_bytes = 0;
        let waiting = self.waiting.drain(..);
        waiting.map(|waiting| waiting.reply).collect()
    }
}
