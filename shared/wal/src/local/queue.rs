//! Records that wait to be written, and the thread that writes them in groups.
//!
//! While one group is being synced the next one gathers, so the busier a log is, the larger its
//! groups. The thread ends when the log is idle and is started again by the next append.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::{
    LocalOptions,
    owner::OwnerLock,
    writer::{WriteError, Writer},
};
use crate::{
    error::{Error, Result},
    log::{AppendFuture, Lsn},
    metrics,
};

const STACK_BYTES: usize = 256 << 10;

/// What the log's handle and its thread share.
pub(super) struct Shared {
    pub(super) channel: Arc<str>,
    pub(super) options: LocalOptions,
    /// The last durable record.
    pub(super) durable: AtomicU64,
    /// Files by the number of their first record.
    pub(super) files: Mutex<BTreeMap<u64, PathBuf>>,
    queue: Mutex<Queue>,
    /// Something was queued, or the log was closed.
    wake: Condvar,
    /// The thread has ended.
    ended: Condvar,
    /// Only the thread takes it, and there is at most one.
    writer: Mutex<Writer>,
    lock: Mutex<Option<OwnerLock>>,
}

struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    state: State,
    has_thread: bool,
}

enum State {
    Open,
    Closed,
    Failed(Error),
}

struct Waiting {
    payload: Bytes,
    reply: oneshot::Sender<Result<Lsn>>,
}

impl Shared {
    pub(super) fn new(
        channel: &str,
        options: LocalOptions,
        files: BTreeMap<u64, PathBuf>,
        next_lsn: u64,
        writer: Writer,
        lock: OwnerLock,
    ) -> Self {
        Self {
            channel: channel.into(),
            options,
            durable: AtomicU64::new(next_lsn - 1),
            files: Mutex::new(files),
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                bytes: 0,
                state: State::Open,
                has_thread: false,
            }),
            wake: Condvar::new(),
            ended: Condvar::new(),
            writer: Mutex::new(writer),
            lock: Mutex::new(Some(lock)),
        }
    }

    /// Queues a record and makes sure that a thread will write it.
    pub(super) fn submit(self: &Arc<Self>, payload: Bytes) -> AppendFuture {
        let refused = |error| AppendFuture::refused(self.channel.clone(), error);
        if payload.len() > self.options.max_record_bytes {
            return refused(Error::TooLarge {
                size_bytes: payload.len(),
                limit_bytes: self.options.max_record_bytes,
            });
        }
        let mut queue = self.queue.lock();
        match &queue.state {
            State::Open => {}
            State::Closed => return refused(self.closed()),
            State::Failed(error) => return refused(error.clone()),
        }
        // One record always fits, whatever its size.
        let pending_bytes = queue.bytes + payload.len();
        if queue.bytes > 0 && pending_bytes > self.options.max_pending_bytes {
            return refused(Error::Overloaded {
                channel: self.channel.to_string(),
                pending_bytes: queue.bytes,
                limit_bytes: self.options.max_pending_bytes,
            });
        }
        if !queue.has_thread
            && let Err(error) = self.start_thread()
        {
            return refused(error);
        }
        queue.has_thread = true;
        queue.bytes = pending_bytes;
        let (reply, future) = AppendFuture::waiting(self.channel.clone());
        queue.waiting.push_back(Waiting { payload, reply });
        drop(queue);
        self.wake.notify_one();
        future
    }

    fn start_thread(self: &Arc<Self>) -> Result<()> {
        let shared = self.clone();
        std::thread::Builder::new()
            .name("wal-sync".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || shared.run())
            .map(drop)
            .map_err(|error| Error::Io {
                operation: "start the sync thread for",
                path: PathBuf::from(&*self.channel),
                source: Arc::new(error),
            })
    }

    /// The thread: group after group until the log is closed, dead or idle.
    fn run(&self) {
        while let Some(group) = self.next_group() {
            self.write_group(group);
        }
    }

    /// Waits for records; `None` ends the thread.
    fn next_group(&self) -> Option<Vec<Waiting>> {
        let mut queue = self.queue.lock();
        while queue.waiting.is_empty() {
            let woken = matches!(queue.state, State::Open)
                && !self
                    .wake
                    .wait_for(&mut queue, self.options.thread_idle)
                    .timed_out();
            if !woken && queue.waiting.is_empty() {
                queue.has_thread = false;
                drop(queue);
                self.ended.notify_all();
                return None;
            }
        }
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some(next) = queue.waiting.front() {
            if bytes > 0 && bytes + next.payload.len() > self.options.max_group_bytes {
                break;
            }
            bytes += next.payload.len();
            group.extend(queue.waiting.pop_front());
        }
        Some(group)
    }

    fn write_group(&self, group: Vec<Waiting>) {
        let started = Instant::now();
        let (payloads, replies): (Vec<Bytes>, Vec<_>) = group
            .into_iter()
            .map(|waiting| (waiting.payload, waiting.reply))
            .unzip();
        let payload_bytes: usize = payloads.iter().map(Bytes::len).sum();
        let written = self.writer.lock().write(&payloads);
        match written {
            Ok(written) => {
                metrics::record_group(replies.len(), written.bytes, started.elapsed());
                if let Some((first_lsn, path)) = written.new_file {
                    self.files.lock().insert(first_lsn, path);
                }
                let last = written.first_lsn + replies.len() as u64 - 1;
                self.durable.store(last, Ordering::Release);
                self.queue.lock().bytes -= payload_bytes;
                for (lsn, reply) in (written.first_lsn..).zip(replies) {
                    // A caller that has gone away does not mind.
                    let _ = reply.send(Ok(Lsn(lsn)));
                }
            }
            Err(error) => self.fail(error, replies, payload_bytes),
        }
    }

    /// Fails the group and, because of the order, everything that was queued behind it.
    fn fail(
        &self,
        error: WriteError,
        mut replies: Vec<oneshot::Sender<Result<Lsn>>>,
        payload_bytes: usize,
    ) {
        let channel = self.channel.to_string();
        let (error, fatal) = match error {
            WriteError::NoSpace(source) => {
                let source = Arc::new(source);
                (Error::NoSpace { channel, source }, false)
            }
            WriteError::Fatal(source) => {
                let source = Arc::new(source);
                (Error::Failed { channel, source }, true)
            }
        };
        tracing::error!(channel = %self.channel, fatal, %error, "log write failed");
        metrics::record_failure();
        let mut queue = self.queue.lock();
        queue.bytes -= payload_bytes;
        while let Some(waiting) = queue.waiting.pop_front() {
            queue.bytes -= waiting.payload.len();
            replies.push(waiting.reply);
        }
        if fatal {
            queue.state = State::Failed(error.clone());
        }
        drop(queue);
        for reply in replies {
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// Refuses further appends; what is queued is still written.
    pub(super) fn stop(&self) {
        let mut queue = self.queue.lock();
        if matches!(queue.state, State::Open) {
            queue.state = State::Closed;
        }
        let has_thread = queue.has_thread;
        drop(queue);
        if has_thread {
            self.wake.notify_one();
        } else {
            self.lock.lock().take();
        }
    }

    /// Stops and waits until the thread has ended and the lock is free. Blocks.
    pub(super) fn stop_and_wait(&self) {
        self.stop();
        let mut queue = self.queue.lock();
        while queue.has_thread {
            self.ended.wait(&mut queue);
        }
        drop(queue);
        self.lock.lock().take();
    }

    fn closed(&self) -> Error {
        Error::Closed {
            channel: self.channel.to_string(),
        }
    }
}
