//! What all sagas of one executor share: store, locks, and the table of sagas.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use redkite_metastore::Txn;
use redkite_runtime::{CancellationToken, SharedClock, TaskGroup};
use redkite_types::{Revision, SagaId};
use tracing::{error, info};

use crate::definition::{AnyArc, Definition, Registry};
use crate::driver::Driver;
use crate::entry::Entry;
use crate::error::{Error, Result};
use crate::fault::{Fault, FaultInjector, FaultPoint};
use crate::lock::LockTable;
use crate::metrics;
use crate::options::SagaOptions;
use crate::record::{Event, Record, State};
use crate::recovery::{self, Action, ParkReason};
use crate::store::{SagaStore, Written};
use crate::task::{answer_of, spawn};

/// Old records that one transaction deletes at most.
const GARBAGE_PER_WRITE: usize = 16;

/// Everything that the sagas' tasks share.
pub(crate) struct Shared {
    pub(crate) store: SagaStore,
    pub(crate) options: SagaOptions,
    pub(crate) token: CancellationToken,
    pub(crate) registry: Registry,
    pub(crate) locks: LockTable,
    pub(crate) tasks: TaskGroup,
    pub(crate) clock: SharedClock,
    pub(crate) faults: Option<Arc<dyn FaultInjector>>,
    pub(crate) table: Mutex<Table>,
    pub(crate) has_crashed: AtomicBool,
    pub(crate) deposed: CancellationToken,
}

#[derive(Default)]
pub(crate) struct Table {
    pub(crate) entries: HashMap<SagaId, Arc<Entry>>,
    pub(crate) by_request: HashMap<Arc<str>, SagaId>,
    /// In the order of their end, with its time.
    pub(crate) finished: VecDeque<(SagaId, u64)>,
    /// Records that the next saga's first write deletes.
    garbage: Vec<SagaId>,
}

impl Table {
    pub(crate) fn insert(&mut self, entry: &Arc<Entry>) {
        if !entry.request_id.is_empty() {
            self.by_request.insert(entry.request_id.clone(), entry.id);
        }
        self.entries.insert(entry.id, entry.clone());
    }

    fn remove(&mut self, id: SagaId) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        if self.by_request.get(&entry.request_id) == Some(&id) {
            self.by_request.remove(&entry.request_id);
        }
    }

    /// Forgets finished sagas that are too old or too many.
    pub(crate) fn prune(&mut self, options: &SagaOptions, now_ms: u64) {
        let keep_ms = u64::try_from(options.keep_finished_for.as_millis()).unwrap_or(u64::MAX);
        while let Some((id, finished_ms)) = self.finished.front().copied() {
            let is_old = now_ms.saturating_sub(finished_ms) > keep_ms;
            if !is_old && self.finished.len() <= options.keep_finished_max {
                return;
            }
            self.finished.pop_front();
            self.remove(id);
            self.garbage.push(id);
        }
    }
}

/// Executes the plan for the records of earlier executors.
pub(crate) fn recover(shared: &Arc<Shared>, records: Vec<(Record, Revision)>) {
    let plain: Vec<Record> = records.iter().map(|(record, _)| record.clone()).collect();
    let actions = recovery::plan(&plain, |record| shared.definition_of(record).is_some());
    let records: HashMap<SagaId, (Record, Revision)> = records
        .into_iter()
        .map(|(record, revision)| (record.id, (record, revision)))
        .collect();
    for action in actions {
        let (Action::Lock(id)
        | Action::Park { id, .. }
        | Action::Resume(id)
        | Action::Remember(id)) = action;
        // The plan names only records that it was given.
        let Some((record, revision)) = records.get(&id).cloned() else {
            continue;
        };
        match action {
            Action::Lock(_) => shared.recover_locks(&record),
            Action::Park { reason, .. } => shared.park(record, revision, reason),
            Action::Resume(_) => shared.recover_running(record, revision),
            Action::Remember(_) => shared.remember(&record, revision),
        }
    }
}

impl Shared {
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.unix_millis()
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.has_crashed.load(Ordering::Acquire)
    }

    /// Plays the death of the process: nothing is written any more.
    pub(crate) fn crash(&self) {
        self.has_crashed.store(true, Ordering::Release);
        self.token.cancel();
    }

    pub(crate) fn fault(&self, id: SagaId, point: &FaultPoint) -> Fault {
        self.faults
            .as_ref()
            .map_or(Fault::None, |faults| faults.at(id, point))
    }

    /// Old records to delete with the next write.
    pub(crate) fn take_garbage(&self) -> Vec<SagaId> {
        let mut table = self.table.lock();
        let keep = table.garbage.len().saturating_sub(GARBAGE_PER_WRITE);
        table.garbage.split_off(keep)
    }

    pub(crate) fn return_garbage(&self, garbage: Vec<SagaId>) {
        if !garbage.is_empty() {
            self.table.lock().garbage.extend(garbage);
        }
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.deposed.is_cancelled() {
            Err(Error::Fenced)
        } else if self.token.is_cancelled() {
            Err(Error::Stopped)
        } else {
            Ok(())
        }
    }

    pub(crate) fn entry(&self, id: SagaId) -> Result<Arc<Entry>> {
        self.table
            .lock()
            .entries
            .get(&id)
            .cloned()
            .ok_or(Error::NotFound { id })
    }

    /// The definition that fits a record, with its parameters.
    pub(crate) fn definition_of(&self, record: &Record) -> Option<(Arc<dyn Definition>, AnyArc)> {
        let definition = self
            .registry
            .get(&record.kind, record.version)
            .ok()?
            .clone();
        let steps = definition.plan().steps.len();
        let fits = match record.state {
            State::Running => record.cursor < steps,
            State::Unwinding | State::Done | State::Failed | State::Stuck => record.cursor <= steps,
        };
        let params = definition.parse(&record.params).ok()?;
        fits.then_some((definition, params))
    }

    fn recover_locks(&self, record: &Record) {
        let entry = Entry::of_record(record);
        match self.locks.try_acquire(&record.locks) {
            Some(guard) => entry.hold(guard),
            // Both held them before the restart, so the locks must have been forgotten between.
            None => error!(saga_id = %record.id, "locks of a saga are held by another one"),
        }
        self.table.lock().insert(&entry);
    }

    fn recover_running(self: &Arc<Self>, record: Record, revision: Revision) {
        let prepared = (self.entry(record.id), self.definition_of(&record));
        let (Ok(entry), Some((definition, params))) = prepared else {
            return;
        };
        info!(saga_id = %record.id, kind = %record.kind, state = %record.state, "saga goes on");
        spawn(Driver::new(
            self.clone(),
            entry,
            definition,
            params,
            record,
            Some(revision),
        ));
    }

    fn park(&self, record: Record, revision: Revision, reason: ParkReason) {
        let Ok(entry) = self.entry(record.id) else {
            return;
        };
        let (id, kind, version) = (record.id, record.kind.clone(), record.version);
        let why = match reason {
            ParkReason::Stuck => record.stuck.clone().unwrap_or_default(),
            ParkReason::Unreadable => format!("no registered saga fits {kind}/v{version}"),
        };
        error!(saga_id = %id, kind = %kind, version, reason = %why, "saga is stuck");
        metrics::stuck(1.0);
        entry.view.lock().last_error = Some(why.clone());
        *entry.parked.lock() = Some((record, revision));
        entry.end(Err(Error::Stuck { id, reason: why }));
    }

    /// Keeps the answer of a finished saga.
    fn remember(&self, record: &Record, revision: Revision) {
        let entry = Entry::of_record(record);
        let answer = match self.definition_of(record) {
            Some((definition, params)) => answer_of(&*definition, &params, record, revision),
            None => Err(Error::NotRegistered {
                kind: record.kind.clone(),
                version: record.version,
            }),
        };
        entry.end(answer);
        let mut table = self.table.lock();
        table.insert(&entry);
        table
            .finished
            .push_back((record.id, record.finished_ms.unwrap_or_default()));
        table.prune(&self.options, self.now_ms());
    }

    /// Takes the record of a stuck saga, so that only one caller works on it.
    pub(crate) fn unpark(&self, entry: &Entry, verb: &'static str) -> Result<(Record, Revision)> {
        let (id, state) = (entry.id, entry.view.lock().state);
        let wrong = Error::WrongState { id, state, verb };
        let mut parked = entry.parked.lock();
        match parked.take() {
            Some(stuck) if stuck.0.state == State::Stuck => Ok(stuck),
            other => {
                *parked = other;
                Err(wrong)
            }
        }
    }

    /// Writes a parked record's next state.
    pub(crate) async fn rewrite(
        &self,
        record: &Record,
        revision: Revision,
        event: Event,
    ) -> Result<(Record, Revision)> {
        let internal = |what: String| Error::Internal { what };
        let mut next = record
            .after(event)
            .map_err(|error| internal(error.to_string()))?;
        next.owner_epoch = self.store.epoch();
        let written = self
            .store
            .write(&next, Some(revision), &Txn::new(), &[])
            .await;
        match written.map_err(Error::store)? {
            Written::Applied(revision) => Ok((next, revision)),
            Written::Fenced => {
                self.depose();
                Err(Error::Fenced)
            }
            Written::Refused(refusal) => Err(internal(format!("refused: {refusal:?}"))),
        }
    }

    pub(crate) fn depose(&self) {
        self.deposed.cancel();
        self.token.cancel();
    }

    /// A saga is over and recorded as such.
    pub(crate) fn finish(&self, entry: &Arc<Entry>, finished_ms: Option<u64>) {
        entry.release();
        let mut table = self.table.lock();
        table
            .finished
            .push_back((entry.id, finished_ms.unwrap_or_default()));
        table.prune(&self.options, self.now_ms());
    }

    /// A saga is over without a record.
    pub(crate) fn forget(&self, entry: &Entry) {
        entry.release();
        self.table.lock().remove(entry.id);
    }
}
