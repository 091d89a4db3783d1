//! Rows of a collection, as of one time, as files for other programs.
//!
//! A task is a record. It takes a timestamp, has the channels flushed up to it, writes down the
//! segments and delete files that hold exactly the rows of that time (which garbage collection then
//! leaves alone), and has them written part by part by data nodes. Each part that is done is
//! recorded with its files, so that another coordinator goes on behind it; a part that was cut off is
//! written again, to the same names and with the same bytes.
//!
//! - [`options`]: what an operator may set
//! - [`records`]: what is written down
//! - [`around`]: what is needed of the other services
//! - [`prepare`]: which segments hold the rows of a time
//! - [`admin`]: exports for operators
//! - `execute`: one task from its record to its end

pub mod admin;
pub mod around;
mod execute;
pub mod options;
pub mod prepare;
pub mod records;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use redkite_catalog::{Catalog, LIST_INT64, LIST_STRING};
use redkite_metastore::SharedKv;
use redkite_proto::redkite::meta::{ExportInfo, ObjectState, export_info::State};
use redkite_runtime::{CancellationToken, Deadline, OnFailure, SharedClock, TaskGroup};
use redkite_types::{CollectionId, Error, ErrorCode, Result, Timestamp};
use tokio::sync::{Notify, Semaphore};
use tracing::{info, warn};

use self::records::Recorded;
pub use self::{
    around::{Around, PeersAround},
    options::ExportOptions,
};
use crate::gate::CommitGate;

/// How often somebody looks for tasks that nobody works on.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long dropping waits until the output is removed.
const REMOVED_WITHIN: Duration = Duration::from_secs(20);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Runs exports.
pub struct Exporter {
    kv: SharedKv,
    gate: Arc<CommitGate>,
    catalog: Arc<Catalog>,
    around: Arc<dyn Around>,
    tasks: TaskGroup,
    options: ExportOptions,
    clock: SharedClock,
    /// Tasks of this process, each with what stops it.
    running: Mutex<HashMap<String, CancellationToken>>,
    permits: Arc<Semaphore>,
    /// Something is due.
    due: Notify,
}

impl Exporter {
    /// An exporter that runs nothing until [`Exporter::run`].
    pub fn new(
        kv: SharedKv,
        gate: Arc<CommitGate>,
        catalog: Arc<Catalog>,
        around: Arc<dyn Around>,
        tasks: TaskGroup,
        options: ExportOptions,
        clock: SharedClock,
    ) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(options.concurrent_tasks.max(1)));
        Arc::new(Self {
            kv,
            gate,
            catalog,
            around,
            tasks,
            options,
            clock,
            running: Mutex::default(),
            permits,
            due: Notify::new(),
        })
    }

    /// Looks for what is due until the task group stops.
    pub async fn run(self: Arc<Self>) {
        let stop = self.tasks.token();
        loop {
            if let Err(error) = self.round().await {
                warn!(error = %error.message, "exports are not looked after");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.due.notified() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Begins tasks or goes on with them, oldest first, as far as there are places; forgets old ones.
    ///
    /// # Errors
    /// As the metastore says.
    pub async fn round(self: &Arc<Self>) -> Result<()> {
        let remember = self.options.remember.get().as_millis();
        let since = self
            .now()
            .minus_ms(u64::try_from(remember).unwrap_or(u64::MAX))
            .0;
        for recorded in records::all(&*self.kv).await? {
            if records::has_ended(&recorded.task) {
                if recorded.task.updated_ts < since {
                    records::remove(&*self.kv, &recorded).await?;
                }
                continue;
            }
            self.start(recorded).await?;
        }
        Ok(())
    }

    fn now(&self) -> Timestamp {
        Timestamp::new(self.clock.unix_millis(), 0)
    }

    /// Has a task worked on, unless it is already or there is no place for it.
    async fn start(self: &Arc<Self>, recorded: Recorded) -> Result<()> {
        let id = recorded.task.task_id.clone();
        if self.running.lock().contains_key(&id) {
            return Ok(());
        }
        let permit = match recorded.task.state() {
            // Cleaning up waits for nobody.
            State::Dropping => None,
            _ => match self.permits.clone().try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return self.queue(recorded).await,
            },
        };
        let token = self.tasks.token().child_token();
        self.running.lock().insert(id.clone(), token.clone());
        let exporter = self.clone();
        self.tasks
            .spawn(format!("export {id}"), OnFailure::Log, async move {
                exporter.execute(&id, token).await;
                exporter.running.lock().remove(&id);
                drop(permit);
                exporter.due.notify_one();
            });
        Ok(())
    }

    /// Shows that a task waits.
    async fn queue(&self, recorded: Recorded) -> Result<()> {
        if recorded.task.state() != State::Init {
            return Ok(());
        }
        let task = ExportInfo {
            state: State::Queued.into(),
            updated_ts: self.now().0,
            ..recorded.task.clone()
        };
        records::replace(&*self.kv, &recorded, task).await.map(drop)
    }

    /// Writes a task down; it runs when its turn comes.
    ///
    /// # Errors
    /// Code 100 when the collection is gone, 8 when too many wait, 2 when the metastore did not
    /// answer.
    pub async fn create(&self, task: ExportInfo) -> Result<()> {
        let view = self.catalog.view();
        let entry = view.collection_by_id(CollectionId(task.collection_id));
        let entry = entry.filter(|entry| entry.state() == ObjectState::Created);
        let entry = entry.ok_or_else(|| {
            let name = &task.collection_name;
            Error::new(
                ErrorCode::CollectionNotFound,
                format!("collection not found[collection={name}]"),
            )
        })?;
        let pending = records::all(&*self.kv).await?;
        let pending = pending.iter().filter(|one| !records::has_ended(&one.task));
        if pending.count() >= self.options.max_pending {
            return Err(Error::new(
                ErrorCode::RateLimit,
                format!("{} exports are under way or wait", self.options.max_pending),
            ));
        }
        let now = self.now().0;
        let task = ExportInfo {
            state: State::Init.into(),
            created_ts: now,
            updated_ts: now,
            int_list_fields: entry.list_fields(LIST_INT64).map(|id| id.0).collect(),
            text_list_fields: entry.list_fields(LIST_STRING).map(|id| id.0).collect(),
            ..task
        };
        records::add(&*self.kv, &task).await?;
        info!(task = %task.task_id, collection = task.collection_id, "export created");
        self.due.notify_one();
        Ok(())
    }

    /// Tasks as users see them; all for an empty id.
    ///
    /// # Errors
    /// As the metastore says.
    pub async fn list(&self, id: &str) -> Result<Vec<ExportInfo>> {
        let tasks = records::all(&*self.kv).await?.into_iter();
        let tasks = tasks.map(|one| one.task).filter(|task| {
            task.state() != State::Dropping && (id.is_empty() || task.task_id == id)
        });
        let shown = tasks.map(|task| ExportInfo {
            segments: Vec::new(),
            deltas: Vec::new(),
            ..task
        });
        Ok(shown.collect())
    }

    /// Forgets a task. One that runs is stopped, and its output is gone when this returns, unless the
    /// store is in trouble, when it goes later. Whether there was one.
    ///
    /// # Errors
    /// As the metastore says.
    pub async fn drop_task(&self, id: &str) -> Result<bool> {
        loop {
            let Some(recorded) = records::find(&*self.kv, id).await? else {
                return Ok(false);
            };
            let applied = match recorded.task.state() {
                State::Dropping => return Ok(false),
                State::Done | State::Failed => records::remove(&*self.kv, &recorded).await?,
                State::Init | State::Queued | State::Running => {
                    let task = ExportInfo {
                        state: State::Dropping.into(),
                        ..recorded.task.clone()
                    };
                    records::replace(&*self.kv, &recorded, task)
                        .await?
                        .is_some()
                }
            };
            if applied {
                break;
            }
        }
        if let Some(token) = self.running.lock().get(id) {
            token.cancel();
        }
        self.due.notify_one();
        let gone = async {
            while records::find(&*self.kv, id).await?.is_some() {
                tokio::time::sleep(LOOK).await;
            }
            Ok::<(), Error>(())
        };
        match Deadline::after(REMOVED_WITHIN)
            .timeout("the output's removal", gone)
            .await
        {
            Ok(outcome) => outcome.map(|()| true),
            // It goes later.
            Err(_) => Ok(true),
        }
    }
}
