//! Rounds of collection, at intervals and on demand.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use redkite_catalog::Fence;
use redkite_metastore::SharedKv;
use redkite_runtime::{CancellationToken, SharedClock};
use redkite_storage::{ObjectMeta, ObjectStore, layout};
use redkite_types::{Coded as _, CollectionId, Error, Result, Timestamp};
use serde::Serialize;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    time::Instant,
};
use tracing::{info, warn};

use super::{
    options::GcOptions,
    plan::{Garbage, Plan, plan},
    references::{References, collection_of},
};
use crate::{gate::CommitGate, snapshot::Manifests};

/// Objects that are deleted with commits shut out once.
const BATCH: usize = 256;
/// Unknown objects that are named in the log at most.
const NAMED_IN_LOG: usize = 5;

/// What a round has done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Round {
    /// What it had planned.
    #[serde(flatten)]
    pub plan: Plan,
    /// Objects that were deleted.
    pub deleted: usize,
    /// Bytes that they had.
    pub deleted_bytes: u64,
    /// Objects that could not be deleted or checked; the next round tries again.
    pub failed: usize,
}

/// What became of a deletion.
enum Deleted {
    /// The store has answered.
    Answered(redkite_storage::Result<()>),
    /// It has not while that could be waited for.
    TooLate,
}

/// Deletes objects that nothing names.
pub struct Collector {
    kv: SharedKv,
    store: Arc<dyn ObjectStore>,
    gate: Arc<CommitGate>,
    manifests: Manifests,
    options: GcOptions,
    clock: SharedClock,
    /// The office that nothing is deleted without; `None` in tests.
    office: Option<Arc<Fence>>,
    /// One round at a time.
    turn: AsyncMutex<()>,
    /// When a drop wants a round.
    wanted: Mutex<Option<Instant>>,
    wake: Notify,
    /// A round ends at the next batch when the process stops: a deletion is never left half-way.
    stop: CancellationToken,
}

impl Collector {
    /// A collector that does nothing until it is asked to or [`Collector::run`] runs.
    pub fn new(
        kv: SharedKv,
        store: Arc<dyn ObjectStore>,
        gate: Arc<CommitGate>,
        options: GcOptions,
        clock: SharedClock,
        office: Option<Arc<Fence>>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            kv,
            manifests: Manifests::new(store.clone()),
            store,
            gate,
            options,
            clock,
            office,
            turn: AsyncMutex::new(()),
            wanted: Mutex::default(),
            wake: Notify::new(),
            stop,
        })
    }

    /// Runs a round at each interval, and soon after a drop, until the process stops.
    pub async fn run(self: Arc<Self>) {
        if !self.options.enabled {
            info!("garbage is collected on demand only");
            return;
        }
        let mut regular = Instant::now() + self.options.interval.get();
        loop {
            let wanted = *self.wanted.lock();
            let next = wanted.map_or(regular, |wanted| wanted.min(regular));
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.wake.notified() => continue,
                () = tokio::time::sleep_until(next) => {}
            }
            *self.wanted.lock() = None;
            regular = Instant::now() + self.options.interval.get();
            if let Err(error) = self.collect().await {
                warn!(%error, "garbage not collected, the next round tries again");
            }
        }
    }

    /// Has a round run as soon as what is dropped now may go.
    pub fn after_drop(&self) {
        let soon = Instant::now() + self.options.dropped_grace.get() + Duration::from_millis(100);
        self.wanted.lock().get_or_insert(soon);
        self.wake.notify_one();
    }

    /// What a round would delete now.
    ///
    /// # Errors
    /// As the stores say; retry.
    pub async fn plan(&self) -> Result<Plan> {
        let mut objects = Vec::new();
        let prefixes = [
            layout::SEGMENTS,
            layout::DELTAS,
            layout::LOGS,
            layout::SNAPSHOTS,
            layout::PROBES,
        ];
        for prefix in prefixes {
            let listed = self.store.list(prefix).await;
            objects.extend(listed.map_err(|error| Error::from_coded(&error))?);
        }
        let (kv, since) = (self.kv.as_ref(), self.compacted_since());
        let references = References::read(kv, &self.manifests, since).await?;
        Ok(plan(
            &objects,
            &references,
            self.clock.unix_millis(),
            &self.options,
        ))
    }

    /// Runs a round.
    ///
    /// # Errors
    /// Code 1 when another process is the data coordinator now; else as the stores say: nothing or a
    /// part was deleted, and it may be tried again.
    ///
    /// # Cancel safety
    /// None: a deletion may be on its way when commits are let in again. Run it in a task.
    pub async fn collect(&self) -> Result<Round> {
        let _turn = self.turn.lock().await;
        let mut round = Round {
            plan: self.plan().await?,
            ..Round::default()
        };
        self.tell(&round.plan);
        let garbage = round.plan.garbage.clone();
        let mut batches: Vec<(Option<CollectionId>, Vec<&Garbage>)> = Vec::new();
        for object in &garbage {
            let collection = layout::parse(&object.key).and_then(collection_of);
            match batches.last_mut() {
                Some((last, batch)) if *last == collection && batch.len() < BATCH => {
                    batch.push(object);
                }
                _ => batches.push((collection, vec![object])),
            }
        }
        for (collection, batch) in batches {
            if self.stop.is_cancelled() {
                break;
            }
            self.delete(collection, &batch, &mut round).await?;
        }
        metrics::counter!("redkite_datacoord_gc_deleted_total").increment(round.deleted as u64);
        metrics::counter!("redkite_datacoord_gc_deleted_bytes_total")
            .increment(round.deleted_bytes);
        if round.deleted + round.failed > 0 {
            info!(
                deleted = round.deleted,
                bytes = round.deleted_bytes,
                failed = round.failed,
                "garbage collected"
            );
        }
        Ok(round)
    }

    fn tell(&self, plan: &Plan) {
        if !plan.unknown.is_empty() {
            let count = plan.unknown.len();
            let some = &plan.unknown[..count.min(NAMED_IN_LOG)];
            warn!(
                count,
                ?some,
                "objects that nobody knows are left where they are"
            );
        }
        for doubt in &plan.doubts {
            warn!(doubt, "what a damaged record may name is kept");
        }
    }

    /// Deletes what of a batch nothing names even now, with commits shut out. Without a collection
    /// nothing is read, and only what no record can name goes.
    pub(super) async fn delete(
        &self,
        collection: Option<CollectionId>,
        batch: &[&Garbage],
        round: &mut Round,
    ) -> Result<()> {
        let _closed = self.gate.close().await;
        let mut objects: Vec<ObjectMeta> = Vec::with_capacity(batch.len());
        for garbage in batch {
            match self.store.stat(&garbage.key).await {
                // Written again meanwhile, it has a new age.
                Ok(object) => objects.push(object),
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    warn!(key = garbage.key, %error, code = error.code().number(), "garbage not looked at");
                    round.failed += 1;
                }
            }
        }
        let kv = self.kv.as_ref();
        let since = self.compacted_since();
        let references = match collection {
            Some(collection) => {
                References::read_collection(kv, &self.manifests, collection, since).await?
            }
            None => References::since(since),
        };
        self.check_office().await?;
        let now = self.clock.unix_millis();
        for object in plan(&objects, &references, now, &self.options).garbage {
            if self.gate.is_uncertain(&object.key) {
                continue;
            }
            match self.delete_in_office(&object.key).await? {
                Deleted::Answered(Ok(())) => {
                    round.deleted += 1;
                    round.deleted_bytes += object.size_bytes;
                }
                Deleted::Answered(Err(error)) => {
                    self.gate.doom(&object.key);
                    warn!(key = object.key, %error, code = error.code().number(), "garbage not deleted");
                    round.failed += 1;
                }
                Deleted::TooLate => {
                    self.gate.doom(&object.key);
                    warn!(key = object.key, "a deletion takes too long");
                    round.failed += 1;
                }
            }
        }
        Ok(())
    }

    /// Asks the metastore whether this process is still the data coordinator.
    async fn check_office(&self) -> Result<()> {
        let Some(office) = &self.office else {
            return Ok(());
        };
        let confirmed = office.confirm().await;
        confirmed.map_err(|error| Error::from_coded(&error))
    }

    /// Deletes one object, and waits for that no longer than this process is the data coordinator for
    /// certain: one that was stopped for a while deletes nothing any more when it goes on.
    async fn delete_in_office(&self, key: &str) -> Result<Deleted> {
        let Some(office) = &self.office else {
            return Ok(Deleted::Answered(self.store.delete(key).await));
        };
        office.check().map_err(|error| Error::from_coded(&error))?;
        let deleting = tokio::time::timeout(office.margin(), self.store.delete(key));
        Ok(deleting.await.map_or(Deleted::TooLate, Deleted::Answered))
    }

    /// Compactions that ended later protect what they have replaced.
    fn compacted_since(&self) -> Timestamp {
        let grace = self.options.dropped_grace.get().as_millis();
        let grace = u64::try_from(grace).unwrap_or(u64::MAX);
        Timestamp::new(self.clock.unix_millis().saturating_sub(grace), 0)
    }
}
