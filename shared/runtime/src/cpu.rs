//! Threads for work that computes, so that it never holds up the network.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::Span;

use crate::error::{Error, Result, panic_message};
use redkite_types::StopFlag;

const WHAT: &str = "cpu pool";

/// Which work goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Somebody waits for it: a search or a query.
    Search,
    /// It may wait: building an index, compaction.
    Build,
}

/// A fixed number of threads with a bounded queue for each priority. Clones are the same pool; the
/// threads end when the last clone is dropped and they have finished what they do.
///
/// Builds never occupy all threads (when there are two or more), so that a search never waits for
/// the end of a build.
#[derive(Clone)]
pub struct CpuPool(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    search_slots: Arc<Semaphore>,
    build_slots: Arc<Semaphore>,
    capacity: usize,
    threads: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// How many builds may run at a time.
    max_builds: usize,
}

#[derive(Default)]
struct Queue {
    search: VecDeque<Job>,
    build: VecDeque<Job>,
    running_builds: usize,
    closed: bool,
}

type Job = Box<dyn FnOnce() + Send>;

impl CpuPool {
    /// Starts `threads` threads (at least one); `capacity` pieces of work may wait per priority.
    ///
    /// # Errors
    /// [`Error::Thread`] when the system refuses a thread.
    pub fn new(threads: usize, capacity: usize) -> Result<Self> {
        let threads = threads.max(1);
        let capacity = capacity.clamp(1, Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            max_builds: (threads - 1).max(1),
        });
        // Made first, so that the threads end if one of them cannot be started.
        let pool = Self(Arc::new(Owner {
            shared: Arc::clone(&shared),
            search_slots: Arc::new(Semaphore::new(capacity)),
            build_slots: Arc::new(Semaphore::new(capacity)),
            capacity,
            threads,
        }));
        for index in 0..threads {
            let shared = Arc::clone(&shared);
            let name = format!("redkite-cpu-{index}");
            std::thread::Builder::new()
                .name(name.clone())
                .spawn(move || shared.work())
                .map_err(|error| Error::Thread {
                    name,
                    reason: error.to_string(),
                })?;
        }
        Ok(pool)
    }

    /// As many threads as the machine has processors.
    ///
    /// # Errors
    /// As [`CpuPool::new`].
    pub fn for_this_machine(capacity: usize) -> Result<Self> {
        Self::new(
            std::thread::available_parallelism().map_or(1, usize::from),
            capacity,
        )
    }

    /// How many threads there are: the useful degree of parallelism of one request.
    pub fn threads(&self) -> usize {
        self.0.threads
    }

    /// Computes on a thread of the pool; waits while the queue is full.
    ///
    /// # Errors
    /// [`Error::Panicked`]; [`Error::Stopping`] when the pool ends first.
    ///
    /// # Cancel safety
    /// Dropping the future gives the queue slot back; work that has not begun is skipped.
    pub async fn run<T: Send + 'static>(
        &self,
        priority: Priority,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let slots = Arc::clone(self.slots(priority));
        let slot = slots.acquire_owned().await.map_err(|_| stopping())?;
        self.submit(priority, slot, work)
            .await
            .unwrap_or_else(|_| Err(stopping()))
    }

    /// As [`CpuPool::run`], but refuses at once when the queue is full.
    ///
    /// # Errors
    /// [`Error::Busy`] too.
    pub async fn try_run<T: Send + 'static>(
        &self,
        priority: Priority,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let slots = Arc::clone(self.slots(priority));
        let slot = slots.try_acquire_owned().map_err(|_| Error::Busy {
            what: WHAT.into(),
            capacity: self.0.capacity,
        })?;
        self.submit(priority, slot, work)
            .await
            .unwrap_or_else(|_| Err(stopping()))
    }

    /// As [`CpuPool::run`], for long work: the flag is set as soon as nobody waits any more.
    ///
    /// # Errors
    /// As [`CpuPool::run`].
    pub async fn run_stoppable<T: Send + 'static>(
        &self,
        priority: Priority,
        work: impl FnOnce(&StopFlag) -> T + Send + 'static,
    ) -> Result<T> {
        let stop = StopFlag::new();
        let _guard = stop.stop_on_drop();
        self.run(priority, move || work(&stop)).await
    }

    fn slots(&self, priority: Priority) -> &Arc<Semaphore> {
        match priority {
            Priority::Search => &self.0.search_slots,
            Priority::Build => &self.0.build_slots,
        }
    }

    fn submit<T: Send + 'static>(
        &self,
        priority: Priority,
        slot: OwnedSemaphorePermit,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<Result<T>> {
        let (sender, receiver) = oneshot::channel();
        let span = Span::current();
        let job: Job = Box::new(move || {
            // The slot bounds what waits, not what runs.
            drop(slot);
            if sender.is_closed() {
                return;
            }
            let outcome = span.in_scope(|| std::panic::catch_unwind(AssertUnwindSafe(work)));
            // Whoever asked may have left meanwhile.
            let _ = sender.send(outcome.map_err(|panic| Error::Panicked {
                what: WHAT.into(),
                message: panic_message(&*panic),
            }));
        });
        self.0.shared.push(priority, job);
        receiver
    }
}

fn stopping() -> Error {
    Error::Stopping { what: WHAT.into() }
}

impl std::fmt::Debug for CpuPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuPool")
            .field("threads", &self.0.threads)
            .finish()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        // Their callers are told by the dropped channels.
        queue.search.clear();
        queue.build.clear();
        drop(queue);
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn push(&self, priority: Priority, job: Job) {
        let mut queue = self.queue.lock();
        match priority {
            Priority::Search => queue.search.push_back(job),
            Priority::Build => queue.build.push_back(job),
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// One thread's life.
    fn work(&self) {
        let mut queue = self.queue.lock();
        while !queue.closed {
            let (job, is_build) = match queue.take(self.max_builds) {
                Some(taken) => taken,
                None => {
                    self.wake.wait(&mut queue);
                    continue;
                }
            };
            queue.running_builds += usize::from(is_build);
            drop(queue);
            job();
            queue = self.queue.lock();
            if is_build {
                queue.running_builds -= 1;
                // A thread that slept because of the limit may go on.
                self.wake.notify_one();
            }
        }
    }
}

impl Queue {
    fn take(&mut self, max_builds: usize) -> Option<(Job, bool)> {
        if let Some(job) = self.search.pop_front() {
            return Some((job, false));
        }
        if self.running_builds >= max_builds {
            return None;
        }
        self.build.pop_front().map(|job| (job, true))
    }
}

#[cfg(test)]
mod tests;
