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
    /// Somebody waits for it, and it takes a while: a segment that is flushed or loaded.
    Segment,
    /// It may wait: building an index, compaction.
    Build,
}

/// How much builds give way to searches, and to whatever else the machine does, when all processors
/// are busy: nicer than the rest, but not so nice that flushes fall behind writes for long.
#[cfg(target_os = "linux")]
const BUILD_NICENESS: i32 = 5;

/// A fixed number of threads with a bounded queue for each priority. Clones are the same pool; the
/// threads end when the last clone is dropped and they have finished what they do.
///
/// Each priority has threads of its own, segments and builds one fewer than searches (but one at
/// least), so that a search never waits for the end of a flush, and neither of them for the end of a
/// build, which may take minutes. The system prefers all other threads to those of builds.
#[derive(Clone)]
pub struct CpuPool(Arc<Owner>);

struct Owner {
    search: Lane,
    segment: Lane,
    build: Lane,
    capacity: usize,
    threads: usize,
}

/// The work of one priority.
struct Lane {
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
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
        let lane = || Lane {
            shared: Arc::default(),
            slots: Arc::new(Semaphore::new(capacity)),
        };
        // Made first, so that the threads end if one of them cannot be started.
        let pool = Self(Arc::new(Owner {
            search: lane(),
            segment: lane(),
            build: lane(),
            capacity,
            threads,
        }));
        for index in 0..threads {
            let shared = Arc::clone(&pool.0.search.shared);
            start(format!("redkite-cpu-{index}"), move || shared.work())?;
        }
        for index in 0..(threads - 1).max(1) {
            let shared = Arc::clone(&pool.0.segment.shared);
            start(format!("redkite-segment-{index}"), move || shared.work())?;
            let shared = Arc::clone(&pool.0.build.shared);
            start(format!("redkite-build-{index}"), move || {
                give_way();
                shared.work();
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
        let slots = Arc::clone(&self.lane(priority).slots);
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
        let slots = Arc::clone(&self.lane(priority).slots);
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

    fn lane(&self, priority: Priority) -> &Lane {
        match priority {
            Priority::Search => &self.0.search,
            Priority::Segment => &self.0.segment,
            Priority::Build => &self.0.build,
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
        self.lane(priority).shared.push(job);
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

fn start(name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = std::thread::Builder::new().name(name.clone()).spawn(work);
    started.map(drop).map_err(|error| Error::Thread {
        name,
        reason: error.to_string(),
    })
}

/// Lets other threads run first, as far as the system knows such a thing for single threads.
fn give_way() {
    // Without, builds are only faster, and searches beside them slower.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(BUILD_NICENESS);
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.search.shared.close();
        self.segment.shared.close();
        self.build.shared.close();
    }
}

impl Shared {
    fn push(&self, job: Job) {
        self.queue.lock().jobs.push_back(job);
        self.wake.notify_one();
    }

    fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        // Their callers are told by the dropped channels.
        queue.jobs.clear();
        drop(queue);
        self.wake.notify_all();
    }

    /// One thread's life.
    fn work(&self) {
        let mut queue = self.queue.lock();
        while !queue.closed {
            let Some(job) = queue.jobs.pop_front() else {
                self.wake.wait(&mut queue);
                continue;
            };
            drop(queue);
            job();
            queue = self.queue.lock();
        }
    }
}

#[cfg(test)]
mod tests;
