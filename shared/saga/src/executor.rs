//! Runs sagas: a task each.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use redkite_metastore::SharedKv;
use redkite_runtime::{CancellationToken, SharedClock, SystemClock, TaskGroup};
use redkite_types::SagaId;

use crate::definition::{AnyArc, Registry};
use crate::driver::Driver;
use crate::entry::{Entry, SagaInfo};
use crate::error::{Error, Result};
use crate::fault::FaultInjector;
use crate::handle::{Progress, SagaHandle};
use crate::lock::LockTable;
use crate::metrics;
use crate::options::SagaOptions;
use crate::record::{Event, Outputs, Record, State};
use crate::shared::{Shared, recover};
use crate::spec::Saga;
use crate::store::SagaStore;
use crate::task::spawn;

/// What an executor is made of.
pub struct SagaConfig {
    /// Holds the records.
    pub kv: SharedKv,
    /// The leader's epoch, e.g. the raft term; a lower one than before is refused.
    pub epoch: u64,
    /// All sagas in all versions that a record may name.
    pub registry: Registry,
    /// The sagas' tasks run in a child of it.
    pub tasks: TaskGroup,
    /// Dates the records.
    pub clock: SharedClock,
    /// Limits and pauses.
    pub options: SagaOptions,
    /// For tests.
    pub faults: Option<Arc<dyn FaultInjector>>,
}

impl SagaConfig {
    /// With the machine's clock and the default options.
    pub fn new(kv: SharedKv, epoch: u64, registry: Registry, tasks: TaskGroup) -> Self {
        let options = SagaOptions::default();
        Self {
            kv,
            epoch,
            registry,
            tasks,
            clock: SystemClock::shared(),
            options,
            faults: None,
        }
    }
}

/// Runs sagas on behalf of one leader. Clones are the same executor.
///
/// # Correctness
/// At most one executor can write at a time: [`SagaExecutor::start`] deposes all earlier ones.
#[derive(Clone)]
pub struct SagaExecutor {
    shared: Arc<Shared>,
}

impl SagaExecutor {
    /// Takes over all sagas of earlier executors: fences them off, takes the locks of all that is
    /// not finished, goes on with it, and only then can be asked for more.
    ///
    /// # Errors
    /// [`Error::Fenced`]: a higher epoch was here. [`Error::Store`]: try again. [`Error::Corrupt`]:
    /// a record is damaged; a human must look at it.
    pub async fn start(config: SagaConfig) -> Result<Self> {
        let store = SagaStore::claim(config.kv, config.epoch).await?;
        let records = store.load().await?;
        let tasks = config.tasks.child("sagas");
        let shared = Arc::new(Shared {
            store,
            options: config.options,
            token: tasks.token(),
            registry: config.registry,
            locks: LockTable::new(),
            tasks,
            clock: config.clock,
            faults: config.faults,
            table: Mutex::default(),
            has_crashed: AtomicBool::new(false),
            deposed: CancellationToken::new(),
        });
        recover(&shared, records);
        Ok(Self { shared })
    }

    /// Starts a saga, or finds the one that the same request started before; an empty request id
    /// always starts one. It goes on when the handle is dropped.
    ///
    /// # Errors
    /// [`Error::Stopped`], [`Error::Fenced`], [`Error::Busy`], [`Error::NotRegistered`],
    /// [`Error::RequestIdReused`]; nothing was started.
    pub fn submit<S: Saga>(
        &self,
        params: S::Params,
        request_id: &str,
    ) -> Result<SagaHandle<S::Output>> {
        let shared = &self.shared;
        let definition = shared.registry.get(S::KIND, S::VERSION)?.clone();
        shared.check_open()?;
        let json = serde_json::to_value(&params).map_err(|error| Error::Internal {
            what: format!("parameters of {} cannot be recorded: {error}", S::KIND),
        })?;
        let params: AnyArc = Arc::new(params);
        let locks = definition.locks(&params);
        let now_ms = shared.now_ms();
        let mut table = shared.table.lock();
        if let Some(entry) = table
            .by_request
            .get(request_id)
            .and_then(|id| table.entries.get(id))
        {
            return attach::<S>(entry);
        }
        table.prune(&shared.options, now_ms);
        let limit = shared.options.max_running;
        if table.entries.len() - table.finished.len() >= limit {
            return Err(Error::Busy { limit });
        }
        let id = shared.store.next_id();
        let entry = Entry::new(id, S::KIND, S::VERSION, request_id, locks.clone(), now_ms);
        table.insert(&entry);
        drop(table);
        let record = Record {
            id,
            kind: S::KIND.to_owned(),
            version: S::VERSION,
            request_id: request_id.to_owned(),
            params: json,
            locks,
            outputs: Outputs::default(),
            cursor: 0,
            state: State::Running,
            owner_epoch: shared.store.epoch(),
            answered: None,
            error: None,
            stuck: None,
            created_ms: now_ms,
            finished_ms: None,
        };
        let handle = SagaHandle::new(id, entry.subscribe());
        spawn(Driver::new(
            shared.clone(),
            entry,
            definition,
            params,
            record,
            None,
        ));
        Ok(handle)
    }

    /// The saga that a request started before, whatever it does; `None` for an empty request id, and for
    /// one that is not known or not known any more. `T` is its output.
    pub fn find<T: Clone + Send + Sync + 'static>(
        &self,
        request_id: &str,
    ) -> Option<SagaHandle<T>> {
        let table = self.shared.table.lock();
        let id = table.by_request.get(request_id)?;
        let entry = table.entries.get(id)?;
        Some(SagaHandle::new(entry.id, entry.subscribe()))
    }

    /// All sagas that are not finished, in the order of their ids.
    pub fn list(&self) -> Vec<SagaInfo> {
        let entries: Vec<Arc<Entry>> = self.shared.table.lock().entries.values().cloned().collect();
        let mut infos: Vec<SagaInfo> = entries.iter().map(|entry| entry.info()).collect();
        infos.retain(|info| !info.state.is_finished());
        infos.sort_by_key(|info| info.id);
        infos
    }

    /// One saga, finished or not.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn show(&self, id: SagaId) -> Result<SagaInfo> {
        Ok(self.shared.entry(id)?.info())
    }

    /// The steps of a kind of saga, in words and in order.
    ///
    /// # Errors
    /// [`Error::NotRegistered`].
    pub fn steps(&self, kind: &str, version: u32) -> Result<Vec<String>> {
        let steps = self.shared.registry.steps(kind, version)?;
        Ok(steps.iter().map(ToString::to_string).collect())
    }

    /// Tries the undo of a stuck saga again.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`] unless it is stuck, [`Error::Store`].
    pub async fn retry(&self, id: SagaId) -> Result<()> {
        self.shared.check_open()?;
        let entry = self.shared.entry(id)?;
        let (record, revision) = self.shared.unpark(&entry, "retry")?;
        let prepared = self
            .shared
            .definition_of(&record)
            .ok_or_else(|| Error::NotRegistered {
                kind: record.kind.clone(),
                version: record.version,
            });
        let written = match prepared {
            Ok(prepared) => {
                let rewritten = self.shared.rewrite(&record, revision, Event::Retry).await;
                rewritten.map(|written| (prepared, written))
            }
            Err(error) => Err(error),
        };
        let ((definition, params), (record, revision)) = match written {
            Ok(written) => written,
            Err(error) => {
                *entry.parked.lock() = Some((record, revision));
                return Err(error);
            }
        };
        metrics::stuck(-1.0);
        entry.resume();
        let shared = self.shared.clone();
        spawn(Driver::new(
            shared,
            entry,
            definition,
            params,
            record,
            Some(revision),
        ));
        Ok(())
    }

    /// Ends a saga early: one that runs is unwound unless it is past its pivot; one that is stuck is
    /// given up as failed and its locks are released, after a human has undone the rest. Returns once
    /// that is on record, so that it holds whoever leads next.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`] when it unwinds already, is past its pivot or is
    /// finished, [`Error::Store`]. [`Error::Stopped`] and [`Error::Fenced`]: ask the next executor.
    pub async fn abort(&self, id: SagaId) -> Result<()> {
        self.shared.check_open()?;
        let entry = self.shared.entry(id)?;
        let view = entry.view.lock().clone();
        if view.state == State::Running && !view.is_committed && entry.parked.lock().is_none() {
            let mut progress = entry.subscribe();
            entry.request_abort();
            let settled = progress.wait_for(|progress| !matches!(progress, Progress::Running));
            let state = match settled.await.as_deref() {
                Ok(Progress::Unwinding | Progress::Ended(Err(Error::Failed(_)))) => return Ok(()),
                Ok(Progress::Committed(_) | Progress::Answered(..)) => State::Running,
                Ok(Progress::Ended(Ok(_))) => State::Done,
                Ok(Progress::Ended(Err(_))) if entry.has_turned_back() => return Ok(()),
                Ok(Progress::Ended(Err(error))) => return Err(error.clone()),
                Ok(Progress::Running) | Err(_) => return Err(Error::Stopped),
            };
            let verb = "abort";
            return Err(Error::WrongState { id, state, verb });
        }
        let (record, revision) = self.shared.unpark(&entry, "abort")?;
        let event = Event::Abandon {
            now_ms: self.shared.now_ms(),
        };
        match self.shared.rewrite(&record, revision, event).await {
            Ok((record, _)) => {
                metrics::stuck(-1.0);
                entry.view.lock().state = record.state;
                self.shared.finish(&entry, record.finished_ms);
                Ok(())
            }
            Err(error) => {
                *entry.parked.lock() = Some((record, revision));
                Err(error)
            }
        }
    }

    /// Waits until every saga that was asked for has ended or is stuck.
    pub async fn idle(&self) {
        let entries: Vec<Arc<Entry>> = self.shared.table.lock().entries.values().cloned().collect();
        for entry in entries {
            let mut progress = entry.subscribe();
            // The sender lives in the entry that we hold.
            let _ = progress
                .wait_for(|progress| matches!(progress, Progress::Ended(_)))
                .await;
        }
    }

    /// Completes when a newer executor has taken over: the caller's model of the data is stale.
    pub async fn deposed(&self) {
        self.shared.deposed.cancelled().await;
    }

    /// Stops every saga at its next step boundary and waits for that. Nothing is unwound: the next
    /// executor goes on.
    ///
    /// # Errors
    /// The names of sagas whose present step did not end within `limit`.
    pub async fn shutdown(&self, limit: Duration) -> Result<(), redkite_runtime::StillRunning> {
        self.shared.tasks.shutdown(limit).await
    }
}

impl fmt::Debug for SagaExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SagaExecutor")
            .field("epoch", &self.shared.store.epoch())
            .field("sagas", &self.shared.table.lock().entries.len())
            .finish()
    }
}

fn attach<S: Saga>(entry: &Arc<Entry>) -> Result<SagaHandle<S::Output>> {
    if entry.kind != S::KIND {
        let (request_id, kind) = (entry.request_id.to_string(), entry.kind.clone());
        return Err(Error::RequestIdReused { request_id, kind });
    }
    Ok(SagaHandle::new(entry.id, entry.subscribe()))
}
