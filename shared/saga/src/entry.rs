//! One saga in the executor's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use redkite_runtime::CancellationToken;
use redkite_types::{Revision, SagaId};
use serde::Serialize;
use tokio::sync::watch;

use crate::definition::AnyArc;
use crate::error::{Error, Result};
use crate::handle::Progress;
use crate::lock::{LockGuard, LockKey};
use crate::record::{Record, State};

/// What there is to see of a saga.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SagaInfo {
    /// The saga.
    pub id: SagaId,
    /// What it does.
    pub kind: String,
    /// Which list of steps.
    pub version: u32,
    /// The request it answers; empty when it had none.
    pub request_id: String,
    /// Where it stands; `Running` too before it is recorded.
    pub state: State,
    /// The step it is at.
    pub step: Option<String>,
    /// As in [`Record::cursor`].
    pub cursor: usize,
    /// How often the present step was tried again.
    pub retries: u32,
    /// Why it was, or why the saga failed or is stuck.
    pub last_error: Option<String>,
    /// Whether it still waits for its locks.
    pub waits_for_locks: bool,
    /// Its locks.
    pub locks: Vec<LockKey>,
    /// When it was asked for, Unix milliseconds.
    pub created_ms: u64,
}

/// What the driver shows while it runs.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) state: State,
    pub(crate) cursor: usize,
    pub(crate) step: Option<&'static str>,
    pub(crate) retries: u32,
    pub(crate) last_error: Option<String>,
    pub(crate) waits_for_locks: bool,
    pub(crate) is_committed: bool,
}

/// One saga, from its submission until its record is pruned.
pub(crate) struct Entry {
    pub(crate) id: SagaId,
    pub(crate) kind: String,
    pub(crate) version: u32,
    pub(crate) request_id: Arc<str>,
    pub(crate) locks: Vec<LockKey>,
    pub(crate) created_ms: u64,
    pub(crate) view: Mutex<View>,
    progress: watch::Sender<Progress>,
    guard: Mutex<Option<LockGuard>>,
    /// The record of a saga that no task works on, though it is not finished.
    pub(crate) parked: Mutex<Option<(Record, Revision)>>,
    /// Cancelled when an operator wants the saga taken back.
    abort: CancellationToken,
    has_turned_back: AtomicBool,
}

impl Entry {
    pub(crate) fn new(
        id: SagaId,
        kind: &str,
        version: u32,
        request_id: &str,
        locks: Vec<LockKey>,
        created_ms: u64,
    ) -> Arc<Self> {
        let view = View {
            state: State::Running,
            cursor: 0,
            step: None,
            retries: 0,
            last_error: None,
            waits_for_locks: true,
            is_committed: false,
        };
        Arc::new(Self {
            id,
            kind: kind.to_owned(),
            version,
            request_id: request_id.into(),
            locks,
            created_ms,
            view: Mutex::new(view),
            progress: watch::Sender::new(Progress::Running),
            guard: Mutex::new(None),
            parked: Mutex::new(None),
            abort: CancellationToken::new(),
            has_turned_back: AtomicBool::new(false),
        })
    }

    pub(crate) fn of_record(record: &Record) -> Arc<Self> {
        let (id, locks) = (record.id, record.locks.clone());
        let (kind, request_id) = (&record.kind, &record.request_id);
        let entry = Self::new(
            id,
            kind,
            record.version,
            request_id,
            locks,
            record.created_ms,
        );
        let failed = record.error.as_ref().map(|error| error.message.clone());
        let mut view = entry.view.lock();
        view.state = record.state;
        view.cursor = record.cursor;
        view.last_error = record.stuck.clone().or(failed);
        view.waits_for_locks = false;
        drop(view);
        entry
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Ended(_))
    }

    pub(crate) fn commit(&self, revision: Revision) {
        self.view.lock().is_committed = true;
        self.progress.send_replace(Progress::Committed(revision));
    }

    /// The callers need not wait until the end is written down.
    pub(crate) fn answer(&self, output: AnyArc, revision: Revision) {
        self.progress
            .send_replace(Progress::Answered(output, revision));
    }

    pub(crate) fn end(&self, answer: Result<(AnyArc, Revision), Error>) {
        self.progress.send_replace(Progress::Ended(answer));
    }

    /// Back to work after it was stuck.
    pub(crate) fn resume(&self) {
        self.progress.send_replace(Progress::Running);
    }

    pub(crate) fn hold(&self, guard: LockGuard) {
        self.view.lock().waits_for_locks = false;
        *self.guard.lock() = Some(guard);
    }

    pub(crate) fn holds_locks(&self) -> bool {
        self.guard.lock().is_some()
    }

    pub(crate) fn release(&self) {
        let guard = self.guard.lock().take();
        drop(guard);
    }

    /// It is on record that the saga is taken back.
    pub(crate) fn turned_back(&self) {
        self.has_turned_back.store(true, Ordering::Release);
        self.progress.send_replace(Progress::Unwinding);
    }

    /// Whether that is on record, whatever has become of this executor since.
    pub(crate) fn has_turned_back(&self) -> bool {
        self.has_turned_back.load(Ordering::Acquire)
    }

    pub(crate) fn request_abort(&self) {
        self.abort.cancel();
    }

    pub(crate) fn is_abort_requested(&self) -> bool {
        self.abort.is_cancelled()
    }

    /// Waits until an operator wants the saga taken back.
    pub(crate) async fn abort_requested(&self) {
        self.abort.cancelled().await;
    }

    pub(crate) fn info(&self) -> SagaInfo {
        let view = self.view.lock().clone();
        SagaInfo {
            id: self.id,
            kind: self.kind.clone(),
            version: self.version,
            request_id: self.request_id.to_string(),
            state: view.state,
            step: view.step.map(str::to_owned),
            cursor: view.cursor,
            retries: view.retries,
            last_error: view.last_error,
            waits_for_locks: view.waits_for_locks,
            locks: self.locks.clone(),
            created_ms: self.created_ms,
        }
    }
}
