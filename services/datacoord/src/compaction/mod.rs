//! Segments in the place of others: small ones merged, deleted and expired rows left out. One delete
//! file in the place of many.
//!
//! A plan is recorded before anything is done. A data node then writes new segments under ids that
//! nobody used before, also when a plan is begun again; one transaction puts them in the place of
//! the sources. So a crash at any point leaves the old state or the new one. A plan that was under
//! way is carried out again by the next coordinator. Files are never deleted here: garbage
//! collection finds those that nothing names.
//!
//! - [`options`]: what an operator may set
//! - [`facts`]: what the policies decide by, from the metadata (pure)
//! - [`policy`]: which segments are compacted together (pure)
//! - [`records`]: what is written down, each step in one transaction
//! - [`around`]: what is needed of the other services
//! - `execute`: one plan from its record to its end
//! - `deletes`: the same for a plan that merges delete files
//! - `request`: what clients ask for

pub mod around;
mod deletes;
mod execute;
pub mod facts;
pub mod options;
pub mod policy;
pub mod records;
mod request;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use redkite_catalog::{Catalog, CollectionEntry};
use redkite_metastore::SharedKv;
use redkite_proto::redkite::meta::{CompactionInfo, ObjectState, compaction_info::State};
use redkite_runtime::{OnFailure, SharedClock, TaskGroup};
use redkite_types::{CollectionId, Error, Result, Timestamp};
use tokio::sync::Semaphore;
use tracing::{info, warn};

pub use self::{
    around::{Around, PeersAround},
    options::CompactionOptions,
};
use self::{
    facts::Moment,
    policy::{Merge, Plan},
};
use crate::gate::CommitGate;

/// Plans that have ended are remembered for so long ...
const REMEMBER_MS: u64 = 60 * 60 * 1_000;
/// ... but not more of a collection than this.
const REMEMBERED: usize = 1_000;
/// How long it may take until the metadata shows a plan that was written.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// Plans compactions and has them carried out.
pub struct Compactor {
    kv: SharedKv,
    gate: Arc<CommitGate>,
    catalog: Arc<Catalog>,
    around: Arc<dyn Around>,
    tasks: TaskGroup,
    options: CompactionOptions,
    clock: SharedClock,
    /// Held from looking at the metadata until it shows the new plans.
    planning: tokio::sync::Mutex<()>,
    /// Plans that a task of this process works on.
    running: Mutex<HashSet<i64>>,
    permits: Arc<Semaphore>,
}

impl Compactor {
    /// A compactor that does nothing until [`Compactor::run`] but what clients ask for.
    pub fn new(
        kv: SharedKv,
        gate: Arc<CommitGate>,
        catalog: Arc<Catalog>,
        around: Arc<dyn Around>,
        tasks: TaskGroup,
        options: CompactionOptions,
        clock: SharedClock,
    ) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(options.concurrent_plans.max(1)));
        Arc::new(Self {
            kv,
            gate,
            catalog,
            around,
            tasks,
            options,
            clock,
            planning: tokio::sync::Mutex::new(()),
            running: Mutex::default(),
            permits,
        })
    }

    /// Looks for what is due until the task group stops.
    pub async fn run(self: Arc<Self>) {
        let stop = self.tasks.token();
        loop {
            self.round().await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.options.interval.get()) => {}
            }
        }
    }

    /// Goes on with plans that nobody works on, plans what is due, and removes what is old.
    pub async fn round(self: &Arc<Self>) {
        let view = self.catalog.view();
        for entry in view.all_collections() {
            if entry.state() != ObjectState::Created {
                continue;
            }
            for plan in entry.compactions.values() {
                if plan.state() == State::Executing {
                    self.start(entry.id(), plan.plan_id);
                }
            }
            match records::tidy(&*self.kv, entry, &self.forgotten(entry)).await {
                Ok(0) => {}
                Ok(deltas) => info!(collection = %entry.id(), deltas, "delete files let go"),
                Err(error) => warn!(collection = %entry.id(), %error, "old records not removed"),
            }
            if self.options.enabled
                && let Err(error) = self.plan_automatic(entry.id()).await
            {
                warn!(collection = %entry.id(), %error, "compaction not planned");
            }
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::new(self.clock.unix_millis(), 0)
    }

    fn moment(&self, keep: bool) -> Moment {
        let retention = self.options.retention.get().as_millis();
        Moment {
            now: self.now(),
            retention_ms: match keep {
                true => u64::try_from(retention).unwrap_or(u64::MAX),
                false => 0,
            },
        }
    }

    /// Plans that ended long ago, or long before many others.
    fn forgotten(&self, entry: &CollectionEntry) -> Vec<i64> {
        let since = self.now().minus_ms(REMEMBER_MS).0;
        let ended = entry.compactions.values();
        let mut ended: Vec<&Arc<CompactionInfo>> = ended
            .filter(|plan| plan.state() != State::Executing)
            .collect();
        ended.sort_by_key(|plan| std::cmp::Reverse((plan.finished_ts, plan.plan_id)));
        let old = |(index, plan): &(usize, &Arc<CompactionInfo>)| {
            *index >= REMEMBERED || plan.finished_ts < since
        };
        let old = ended.into_iter().enumerate().filter(old);
        old.map(|(_, plan)| plan.plan_id).collect()
    }

    /// Plans what is due of a collection, as far as there are processors for it.
    async fn plan_automatic(self: &Arc<Self>, collection: CollectionId) -> Result<()> {
        let free = self
            .options
            .concurrent_plans
            .saturating_sub(self.running.lock().len());
        if free == 0 {
            return Ok(());
        }
        let _planning = self.planning.lock().await;
        let view = self.catalog.view();
        let Some(entry) = view.collection_by_id(collection) else {
            return Ok(());
        };
        let moment = self.moment(true);
        let merges = policy::merges(facts::delete_files(entry, moment), &self.options);
        let mut merging = facts::being_merged(entry);
        merging.extend(merges.iter().flat_map(|merge| &merge.sources));
        let deleted = self.deleted_rows(entry).await;
        let mut candidates = facts::candidates(entry, moment, &deleted, &merging);
        let failed = facts::cooling_down(entry, moment.now);
        candidates.retain(|one| !failed.contains(&one.id));
        let plans = policy::automatic(candidates, &self.options);
        let merges = merges.into_iter().map(|merge| of_deltas(entry, merge));
        let plans = plans
            .into_iter()
            .filter_map(|plan| of_segments(entry, plan));
        let due = merges.chain(plans).take(free).collect();
        self.record(entry, due, 0).await.map(drop)
    }

    /// How many rows of loaded segments are hidden, as their owners say; only asked where there is
    /// a delete that may hit one.
    async fn deleted_rows(&self, entry: &CollectionEntry) -> HashMap<i64, i64> {
        let mut deleted = HashMap::new();
        for (channel, owner) in &entry.owners {
            let is_due = entry
                .deltas
                .values()
                .any(|delta| facts::infos(entry).any(|one| facts::may_hit(delta, one)));
            if !is_due || !entry.is_loaded() {
                continue;
            }
            match self.around.segments(owner).await {
                Ok(segments) => {
                    let loaded = segments.iter().filter(|one| one.loaded && !one.growing);
                    deleted.extend(loaded.map(|one| (one.segment_id, one.deleted_rows)));
                }
                // It is estimated then.
                Err(error) => warn!(channel, %error, "deleted rows are not known"),
            }
        }
        deleted
    }

    /// Gives plans their ids, writes them down, waits until the metadata shows them, and starts them.
    /// Answers how many.
    async fn record(
        self: &Arc<Self>,
        entry: &CollectionEntry,
        plans: Vec<CompactionInfo>,
        trigger: i64,
    ) -> Result<usize> {
        if plans.is_empty() {
            return Ok(0);
        }
        let first = self.around.ids(plans.len() as u32).await?;
        let records: Vec<CompactionInfo> = (first..)
            .zip(plans)
            .map(|(id, plan)| CompactionInfo {
                plan_id: id,
                trigger_id: trigger,
                state: State::Executing.into(),
                created_ts: self.now().0,
                ..plan
            })
            .collect();
        let Some(revision) = records::add(&*self.kv, entry, &records).await? else {
            return Ok(0);
        };
        let seen = self.catalog.at_least(revision, SEEN_WITHIN).await;
        seen.map_err(|error| Error::from_coded(&error))?;
        for plan in &records {
            info!(
                plan = plan.plan_id,
                trigger,
                collection = plan.collection_id,
                partition = plan.partition_id,
                sources = ?plan.sources,
                delete_files = ?plan.delta_sources,
                "compaction planned"
            );
            self.start(entry.id(), plan.plan_id);
        }
        metrics::counter!("redkite_datacoord_compactions_planned_total")
            .increment(records.len() as u64);
        Ok(records.len())
    }

    /// Starts a task for a plan unless one works on it.
    fn start(self: &Arc<Self>, collection: CollectionId, plan: i64) {
        if !self.running.lock().insert(plan) {
            return;
        }
        let running = Running(self.clone(), plan);
        let name = format!("compaction {plan}");
        self.tasks
            .spawn_cancellable(name, OnFailure::Log, async move {
                running.0.carry_out(collection, plan).await;
            });
    }
}

/// A plan for segments that has no id yet.
fn of_segments(entry: &CollectionEntry, plan: Plan) -> Option<CompactionInfo> {
    let first = *plan.sources.first()?;
    let source = facts::infos(entry).find(|segment| segment.id == first)?;
    Some(CompactionInfo {
        collection_id: source.collection_id,
        partition_id: source.partition_id,
        channel: source.channel.clone(),
        sources: plan.sources,
        // Only their number counts until ids are taken for them, which is before anything is
        // written.
        targets: vec![0; plan.targets],
        ..CompactionInfo::default()
    })
}

/// A plan for delete files that has no id yet.
fn of_deltas(entry: &CollectionEntry, merge: Merge) -> CompactionInfo {
    CompactionInfo {
        collection_id: entry.id().0,
        channel: merge.channel,
        delta_sources: merge.sources,
        targets: vec![0],
        ..CompactionInfo::default()
    }
}

/// A plan that a task works on, until the task ends, however it does.
struct Running(Arc<Compactor>, i64);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.lock().remove(&self.1);
    }
}
