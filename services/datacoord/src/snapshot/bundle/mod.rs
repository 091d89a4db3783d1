//! Snapshots that travel: written out as bundles, and copied in again.
//!
//! An export is a record. Data nodes copy every file that the snapshot names, some at a time; after
//! each batch the record says how far it is, so that another coordinator goes on behind it. What says
//! that the bundle is complete is written last. The job holds a pin of its own, which goes in the
//! transaction that ends it. A job that fails has its files removed.
//!
//! A bundle that comes in is copied into the folder of the collection that is being created, which
//! the collector leaves alone as long as that is so.
//!
//! - [`around`]: what is needed of the data nodes
//! - `records`: what is written down of exports
//! - `execute`: one export from its record to its end
//! - `import`: what a restore needs of a bundle

pub mod around;
mod execute;
mod import;
mod records;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use redkite_proto::redkite::{
    datacoord::ExportSnapshotRequest,
    meta::{
        FileInfo, SnapshotExportInfo, SnapshotInfo, SnapshotManifest, snapshot_export_info::State,
    },
};
use redkite_runtime::{Backoff, Deadline, OnFailure, Random, TaskGroup};
use redkite_types::{CollectionId, Error, ErrorCode, Result, Revision};
use tokio::sync::{Notify, Semaphore};
use tracing::{info, warn};

pub use self::around::{BundleAround, PeersBundles};
use super::{REMEMBER_JOBS_MS, SnapshotOptions, Snapshots, manifest, not_found};

/// How often somebody looks for exports that nobody works on.
const INTERVAL: Duration = Duration::from_secs(2);
/// Exports that run at the same time; more wait for their turn.
const AT_ONCE: usize = 2;
/// Exports that have not ended, at most.
const MAX_PENDING: usize = 100;
/// Files of one call of a data node, at most.
const BATCH_FILES: usize = 32;
/// Bytes of one call, unless a single file is larger.
const BATCH_BYTES: u64 = 256 << 20;
/// How long files are tried again while a service or a store is away.
const PATIENCE: Duration = Duration::from_secs(600);
/// The same before anything was copied, and for cleaning up.
const SHORT_PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Where the manifest is in a bundle.
const MANIFEST: &str = "manifest.bin";

/// Writes bundles and copies them in.
pub struct Bundles {
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) around: Arc<dyn BundleAround>,
    tasks: TaskGroup,
    options: SnapshotOptions,
    random: Random,
    /// Jobs that this process works on.
    running: Mutex<HashSet<i64>>,
    permits: Arc<Semaphore>,
    /// Something is due.
    due: Notify,
}

impl Bundles {
    /// Runs nothing until [`Bundles::run`].
    pub fn new(
        snapshots: Arc<Snapshots>,
        around: Arc<dyn BundleAround>,
        tasks: TaskGroup,
        options: SnapshotOptions,
        random: Random,
    ) -> Arc<Self> {
        Arc::new(Self {
            snapshots,
            around,
            tasks,
            options,
            random,
            running: Mutex::default(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            due: Notify::new(),
        })
    }

    /// The snapshots that it writes out.
    pub fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    /// Looks for what is due until the task group stops.
    pub async fn run(self: Arc<Self>) {
        let stop = self.tasks.token();
        loop {
            if let Err(error) = self.round().await {
                warn!(error = %error.message, "exports of snapshots are not looked after");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.due.notified() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Begins exports or goes on with them, oldest first, as far as there are places; forgets old ones.
    ///
    /// # Errors
    /// As the metastore says.
    pub async fn round(self: &Arc<Self>) -> Result<()> {
        let now = self.snapshots.clock.unix_millis();
        for recorded in records::all(&*self.snapshots.kv).await? {
            let job = &recorded.job;
            if records::has_ended(job) {
                if job.finished_ms.saturating_add(REMEMBER_JOBS_MS) < now {
                    records::remove(&*self.snapshots.kv, &recorded).await?;
                }
                continue;
            }
            let id = job.job_id;
            if self.running.lock().contains(&id) {
                continue;
            }
            let Ok(permit) = self.permits.clone().try_acquire_owned() else {
                return Ok(());
            };
            self.running.lock().insert(id);
            let bundles = self.clone();
            let name = format!("export of snapshot, job {id}");
            self.tasks.spawn(name, OnFailure::Log, async move {
                bundles.execute(id).await;
                bundles.running.lock().remove(&id);
                drop(permit);
                bundles.due.notify_one();
            });
        }
        Ok(())
    }

    /// Records an export and pins the snapshot for it; answers the job and a revision that shows it.
    ///
    /// # Errors
    /// Code 2600 when there is no such snapshot; 8 when too many exports wait; 2 when the metastore
    /// did not answer: it may have been recorded.
    pub async fn create(&self, request: &ExportSnapshotRequest) -> Result<(i64, Revision)> {
        let kv = &*self.snapshots.kv;
        let pending = records::all(kv).await?;
        let pending = pending.iter().filter(|one| !records::has_ended(&one.job));
        if pending.count() >= MAX_PENDING {
            let text = format!("{MAX_PENDING} exports of snapshots are under way or wait");
            return Err(Error::new(ErrorCode::RateLimit, text));
        }
        let id = self.snapshots.around.ids(1).await?;
        let job = SnapshotExportInfo {
            job_id: id,
            collection_id: request.collection_id,
            snapshot_name: request.name.clone(),
            database: request.database.clone(),
            collection: request.collection.clone(),
            place: request.place.clone(),
            token: format!("{id}-{:016x}", self.random.next_u64()),
            state: State::Pending.into(),
            started_ms: self.snapshots.clock.unix_millis(),
            ..SnapshotExportInfo::default()
        };
        let revision = records::add(kv, &job).await?;
        info!(job = id, snapshot = %request.name, "export of a snapshot recorded");
        self.snapshots.around.show_proxies(revision).await;
        self.due.notify_one();
        Ok((id, revision))
    }

    /// Tries again what may pass, for so long.
    async fn patiently<T, F>(
        &self,
        what: &str,
        within: Duration,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let deadline = Deadline::after(within);
        loop {
            match attempt().await {
                Err(error) if error.retriable && !deadline.expired() => {
                    warn!(error = %error.message, what, "a step of a bundle is tried again");
                    backoff.wait().await;
                }
                outcome => return outcome,
            }
        }
    }
}

/// What is to be copied, in an order that is always the same: what the manifest names, each once.
fn files(manifest: &SnapshotManifest) -> Vec<FileInfo> {
    let mut seen = HashSet::new();
    let named = manifest::files(manifest).filter(|file| seen.insert(file.path.as_str()));
    named.cloned().collect()
}

/// Divides files into what one call copies.
fn batch<T>(rest: &[T], size: impl Fn(&T) -> u64) -> &[T] {
    let mut bytes = 0;
    let fits = rest.iter().take(BATCH_FILES).take_while(|one| {
        bytes += size(one);
        bytes <= BATCH_BYTES
    });
    let count = fits.count().max(1).min(rest.len());
    &rest[..count]
}

async fn snapshot_of(snapshots: &Snapshots, job: &SnapshotExportInfo) -> Result<SnapshotInfo> {
    let collection = CollectionId(job.collection_id);
    let found = snapshots.find(collection, &job.snapshot_name).await?;
    match found.pins.iter().any(|pin| pin.id == job.job_id) {
        true => Ok(found),
        false => Err(not_found(collection, &job.snapshot_name)),
    }
}
