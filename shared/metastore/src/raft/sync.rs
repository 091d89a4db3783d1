//! The thread that makes the raft log durable.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use redkite_types::error::chain;

use crate::error::{Error, Result};
use crate::raft::disk::LogDisk;
use crate::raft::metrics;
use crate::raft::types::storage;

/// Jobs that may wait; more than that, and whoever brings one waits.
const QUEUE: usize = 1_024;

type Write = Box<dyn FnOnce(&dyn LogDisk) -> Result<()> + Send>;
type Done = Box<dyn FnOnce(Result<()>) + Send>;

struct Job {
    /// What to write first, if it was not written yet.
    write: Option<Write>,
    done: Done,
}

/// The thread `raft-log-sync`: takes all jobs that wait, syncs once, and reports to each in order.
///
/// After a failure it reports that same failure to every job and touches the disk no more: an
/// fsync that failed once may well succeed when it is called again, with the data lost.
pub(super) struct SyncThread {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SyncThread {
    pub(super) fn start(disk: Arc<dyn LogDisk>) -> Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("raft-log-sync".to_owned())
            .spawn(move || run(disk.as_ref(), receiver))
            .map_err(|source| storage("start the thread that syncs the raft log", source))?;
        Ok(Self {
            jobs: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Calls `done` once everything written so far is durable.
    pub(super) async fn when_durable(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.send(Job {
            write: None,
            done: Box::new(done),
        })
        .await;
    }

    /// Writes, and waits until that is durable.
    ///
    /// # Errors
    /// [`Error::Storage`]: the node must stop.
    pub(super) async fn write(
        &self,
        write: impl FnOnce(&dyn LogDisk) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (sender, receiver) = oneshot::channel();
        let done = move |result| {
            // Whoever waited may be gone.
            let _ = sender.send(result);
        };
        self.send(Job {
            write: Some(Box::new(write)),
            done: Box::new(done),
        })
        .await;
        receiver.await.unwrap_or_else(|_| Err(stopped()))
    }

    async fn send(&self, job: Job) {
        let jobs = self.jobs.lock().clone();
        let unsent = match jobs {
            Some(jobs) => jobs.send(job).await.err().map(|unsent| unsent.0),
            None => Some(job),
        };
        if let Some(job) = unsent {
            (job.done)(Err(stopped()));
        }
    }

    /// Ends the thread behind the jobs that wait.
    pub(super) fn stop(&self) {
        self.jobs.lock().take();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            error!("the thread that syncs the raft log panicked");
        }
    }
}

fn stopped() -> Error {
    storage("write the raft log", "it is closed")
}

fn run(disk: &dyn LogDisk, mut jobs: mpsc::Receiver<Job>) {
    let mut failure: Option<String> = None;
    while let Some(first) = jobs.blocking_recv() {
        let mut group = vec![first];
        while let Ok(job) = jobs.try_recv() {
            group.push(job);
        }
        if failure.is_none()
            && let Err(error) = write_and_sync(disk, &mut group)
        {
            error!(error = %chain(&error), "raft log failed, this replica must stop");
            failure = Some(chain(&error));
        }
        for job in group {
            (job.done)(match &failure {
                None => Ok(()),
                Some(failure) => Err(storage("write the raft log", failure.clone())),
            });
        }
    }
}

fn write_and_sync(disk: &dyn LogDisk, group: &mut [Job]) -> Result<()> {
    let (started, jobs) = (Instant::now(), group.len());
    for job in group {
        if let Some(write) = job.write.take() {
            write(disk)?;
        }
    }
    disk.sync()?;
    metrics::synced(jobs, started.elapsed());
    Ok(())
}
