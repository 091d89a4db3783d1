//! The only place that spawns tokio tasks.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use parking_lot::Mutex;
use redkite_telemetry::chain;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, error};

use crate::error::{BoxError, Error, Result, panic_message};

/// What the failure of a task means. A panic is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The process can live without it: log it.
    Log,
    /// The process is no use without it: stop the whole group and its parents.
    Shutdown,
}

/// What a task may answer: nothing, or whether it failed.
pub trait TaskOutput: Send + 'static {
    /// Whether it failed.
    ///
    /// # Errors
    /// The failure, as it is.
    fn into_result(self) -> Result<(), BoxError>;
}

impl TaskOutput for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError> + Send + 'static> TaskOutput for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// The tasks of a process, or of one part of it. Clones are the same group.
///
/// Tasks end by themselves when the group's token is cancelled; nothing here ends one in the
/// middle but [`TaskGroup::abort`], which plays a crash.
#[derive(Clone)]
pub struct TaskGroup(Arc<Inner>);

struct Inner {
    name: Cow<'static, str>,
    token: CancellationToken,
    tracker: TaskTracker,
    running: Mutex<BTreeMap<u64, Running>>,
    next_id: AtomicU64,
    failure: watch::Sender<Option<String>>,
    parent: Option<TaskGroup>,
}

struct Running {
    name: Cow<'static, str>,
    since: Instant,
    abort: Option<AbortHandle>,
}

/// The tasks that did not end in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("still running: {}", names.join(", "))]
pub struct StillRunning {
    /// Their names.
    pub names: Vec<String>,
}

impl TaskGroup {
    /// A group without a parent: a process, or a test.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self::build(name.into(), CancellationToken::new(), None)
    }

    /// A part of this group: it stops with it, and can be stopped alone.
    pub fn child(&self, name: impl Into<Cow<'static, str>>) -> Self {
        Self::build(name.into(), self.0.token.child_token(), Some(self.clone()))
    }

    fn build(name: Cow<'static, str>, token: CancellationToken, parent: Option<TaskGroup>) -> Self {
        Self(Arc::new(Inner {
            name,
            token,
            tracker: TaskTracker::new(),
            running: Mutex::default(),
            next_id: AtomicU64::new(0),
            failure: watch::Sender::new(None),
            parent,
        }))
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Cancelled when the group is to stop; every loop waits for it.
    pub fn token(&self) -> CancellationToken {
        self.0.token.clone()
    }

    /// Starts a task. It must end soon after [`TaskGroup::token`] is cancelled.
    pub fn spawn<T: TaskOutput>(
        &self,
        name: impl Into<Cow<'static, str>>,
        on_failure: OnFailure,
        future: impl Future<Output = T> + Send + 'static,
    ) {
        let name = name.into();
        let group = self.clone();
        let task_name = name.clone();
        self.start(name, async move {
            let failure = match AssertUnwindSafe(future).catch_unwind().await {
                Ok(output) => match output.into_result() {
                    Ok(()) => return,
                    Err(failure) => chain(&*failure),
                },
                Err(panic) => format!("panicked: {}", panic_message(&*panic)),
            };
            error!(task = %task_name, group = %group.0.name, error = %failure, "task failed");
            if on_failure == OnFailure::Shutdown {
                group.fail(format!("{task_name}: {failure}"));
            }
        });
    }

    /// Starts a task that is dropped at its next await when the group stops; only for work that
    /// owns nothing.
    pub fn spawn_cancellable<T: TaskOutput>(
        &self,
        name: impl Into<Cow<'static, str>>,
        on_failure: OnFailure,
        future: impl Future<Output = T> + Send + 'static,
    ) {
        let token = self.token();
        self.spawn(name, on_failure, async move {
            match token.run_until_cancelled(future).await {
                Some(output) => output.into_result(),
                None => Ok(()),
            }
        });
    }

    /// Starts work that goes on when its caller goes away, and waits for its answer.
    ///
    /// For changes of state behind an RPC: tonic drops a handler when its client leaves.
    ///
    /// # Errors
    /// [`Error::Panicked`]; [`Error::Stopping`] when the work was aborted.
    pub fn detach<T: Send + 'static>(
        &self,
        name: impl Into<Cow<'static, str>>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send + 'static {
        let name = name.into();
        let (sender, receiver) = oneshot::channel();
        let task_name = name.clone();
        let work = async move {
            let outcome = AssertUnwindSafe(future)
                .catch_unwind()
                .await
                .map_err(|panic| {
                    let message = panic_message(&*panic);
                    error!(task = %task_name, error = %message, "detached task panicked");
                    Error::Panicked {
                        what: task_name,
                        message,
                    }
                });
            // The caller may be gone, which is the point.
            let _ = sender.send(outcome);
        };
        self.start(name.clone(), work.in_current_span());
        async move {
            receiver
                .await
                .unwrap_or(Err(Error::Stopping { what: name }))
        }
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "this is what everybody else must use instead"
    )]
    fn start(&self, name: Cow<'static, str>, work: impl Future<Output = ()> + Send + 'static) {
        let registrations: Vec<_> = self
            .with_parents()
            .map(|group| group.register(name.clone()))
            .collect();
        let ids: Vec<_> = registrations
            .iter()
            .map(|one| (one.group.clone(), one.id))
            .collect();
        let task = tokio::spawn(async move {
            let _registrations = registrations;
            work.await;
        });
        for (group, id) in ids {
            if let Some(entry) = group.0.running.lock().get_mut(&id) {
                entry.abort = Some(task.abort_handle());
            }
        }
    }

    fn with_parents(&self) -> impl Iterator<Item = &TaskGroup> {
        std::iter::successors(Some(self), |group| group.0.parent.as_ref())
    }

    fn register(&self, name: Cow<'static, str>) -> Registration {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let entry = Running {
            name,
            since: Instant::now(),
            abort: None,
        };
        self.0.running.lock().insert(id, entry);
        Registration {
            group: self.clone(),
            id,
            _token: self.0.tracker.token(),
        }
    }

    /// Stops this group and its parents because something that they need is gone.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        for group in self.with_parents() {
            group.0.failure.send_if_modified(|failure| {
                let first = failure.is_none();
                if first {
                    *failure = Some(reason.clone());
                }
                first
            });
            group.0.token.cancel();
        }
    }

    /// The first failure that stopped the group, if one did.
    pub fn failure(&self) -> Option<String> {
        self.0.failure.borrow().clone()
    }

    /// Waits for a failure that stops the group; a process waits for this and for a signal.
    pub async fn failed(&self) -> String {
        let mut failures = self.0.failure.subscribe();
        match failures
            .wait_for(Option::is_some)
            .await
            .map(|failure| failure.clone())
        {
            Ok(Some(reason)) => reason,
            // The sender lives in `self`, so the channel cannot close while we wait.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Asks all tasks to end, without waiting.
    pub fn cancel(&self) {
        self.0.token.cancel();
    }

    /// Asks all tasks to end and waits for them.
    ///
    /// # Errors
    /// [`StillRunning`] with the names of those that did not end within `limit`; they run on.
    pub async fn shutdown(&self, limit: Duration) -> Result<(), StillRunning> {
        self.0.token.cancel();
        self.0.tracker.close();
        if tokio::time::timeout(limit, self.0.tracker.wait())
            .await
            .is_ok()
        {
            return Ok(());
        }
        let names = self.running();
        if names.is_empty() {
            Ok(())
        } else {
            Err(StillRunning { names })
        }
    }

    /// Drops all tasks at their next await, as a crash would; for tests, and for what is left
    /// after [`TaskGroup::shutdown`].
    pub fn abort(&self) {
        self.0.token.cancel();
        for task in self.0.running.lock().values() {
            if let Some(abort) = &task.abort {
                abort.abort();
            }
        }
    }

    /// What runs now, with the age of each task in seconds.
    pub fn running(&self) -> Vec<String> {
        let running = self.0.running.lock();
        running
            .values()
            .map(|task| format!("{} ({} s)", task.name, task.since.elapsed().as_secs()))
            .collect()
    }
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGroup")
            .field("name", &self.0.name)
            .field("running", &self.0.running.lock().len())
            .finish()
    }
}

/// One task in one group's list; leaves the list when the task ends, however it ends.
struct Registration {
    group: TaskGroup,
    id: u64,
    _token: tokio_util::task::task_tracker::TaskTrackerToken,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.group.0.running.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests;
