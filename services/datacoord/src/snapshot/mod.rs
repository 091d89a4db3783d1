//! Snapshots: a collection's flushed rows as they were at a moment, by reference.
//!
//! A snapshot is a manifest, an object that names every file, and a record, which names the manifest.
//! The manifest is written first; the record is committed through the [gate](crate::gate) in a
//! transaction that is refused unless every segment, delete file and index build is still on record.
//! So no file has to be looked at: what is on record is there. A manifest without a record is
//! garbage; a record keeps its manifest and all files in it from being collected.
//!
//! - [`manifest`]: what a snapshot consists of, and its object
//! - `create`: takes a snapshot
//! - `attach`: gives a collection that is being restored its data, by reference
//! - [`options`]: what an operator may set
//! - [`pins`]: who keeps a snapshot from being dropped, and the drop itself (pure, and the records)
//! - `diff`: what has changed between two snapshots
//! - [`admin`]: snapshots for operators
//! - [`bundle`]: snapshots written out, and copied in
//! - [`around`]: what is needed of the other services

pub mod admin;
pub mod around;
mod attach;
pub mod bundle;
mod create;
mod diff;
pub mod manifest;
pub mod options;
pub mod pins;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use redkite_catalog::{Catalog, CatalogView, keys};
use redkite_metastore::{Op, SharedKv, Txn};
use redkite_proto::redkite::meta::{SnapshotInfo, SnapshotPin};
use redkite_runtime::{CancellationToken, SharedClock, hold_here};
use redkite_storage::ObjectStore;
use redkite_types::{CollectionId, Error, ErrorCode, Result, Revision};
use tracing::{info, warn};

pub use self::{
    around::{PeersAround, SnapshotAround},
    bundle::Bundles,
    manifest::Manifests,
    options::SnapshotOptions,
};
use crate::gate::CommitGate;

/// How long the view may take to show what the store has.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
/// How long a restore is remembered after its end.
const REMEMBER_JOBS_MS: u64 = 3 * 60 * 60 * 1_000;
/// How often snapshots are looked for whose collection is gone and whose last pin has expired.
const TIDY_INTERVAL: Duration = Duration::from_secs(10);

/// Takes, pins and drops snapshots.
pub struct Snapshots {
    kv: SharedKv,
    gate: Arc<CommitGate>,
    catalog: Arc<Catalog>,
    manifests: Manifests,
    around: Arc<dyn SnapshotAround>,
    clock: SharedClock,
}

impl Snapshots {
    /// Works on the records and objects of a deployment.
    pub fn new(
        kv: SharedKv,
        store: Arc<dyn ObjectStore>,
        gate: Arc<CommitGate>,
        catalog: Arc<Catalog>,
        around: Arc<dyn SnapshotAround>,
        clock: SharedClock,
    ) -> Arc<Self> {
        Arc::new(Self {
            kv,
            gate,
            catalog,
            manifests: Manifests::new(store),
            around,
            clock,
        })
    }

    /// Drops a snapshot; the revision shows it, zero when there was none.
    ///
    /// # Errors
    /// Code 2601 while it is pinned; 2 when the metastore did not answer, retry.
    pub async fn drop_snapshot(&self, collection: CollectionId, name: &str) -> Result<Revision> {
        let now = self.clock.unix_millis();
        hold_here(&["drop_snapshot", "begun"]).await;
        let revision = pins::drop(self.kv.as_ref(), collection, name, now).await?;
        if revision != Revision(0) {
            info!(%collection, name, "snapshot dropped");
            hold_here(&["drop_snapshot", "committed"]).await;
            self.around.show_proxies(revision).await;
        }
        Ok(revision)
    }

    /// Pins a snapshot for so many seconds, zero meaning for ever, under an id; zero means a new one.
    ///
    /// # Errors
    /// Code 2600 when there is none; 2 when the metastore did not answer, retry.
    pub async fn pin(
        &self,
        collection: CollectionId,
        name: &str,
        ttl_seconds: i64,
        pin_id: i64,
    ) -> Result<(i64, SnapshotInfo)> {
        let id = match pin_id {
            0 => self.around.ids(1).await?,
            id => id,
        };
        let pin = SnapshotPin {
            id,
            expires_ms: self.expiry(ttl_seconds),
        };
        let now = self.clock.unix_millis();
        let info = pins::add(self.kv.as_ref(), collection, name, pin, now).await?;
        Ok((id, info))
    }

    /// Takes a pin away; one that nobody knows is no error.
    ///
    /// # Errors
    /// Code 2 when the metastore did not answer; retry.
    pub async fn unpin(&self, pin_id: i64) -> Result<()> {
        let view = self.fresh_view().await?;
        let holds = |snapshot: &&Arc<SnapshotInfo>| {
            let mut pins = snapshot.pins.iter();
            pins.any(|pin| pin.id == pin_id)
        };
        let Some(snapshot) = view.all_snapshots().find(holds) else {
            return Ok(());
        };
        let collection = CollectionId(snapshot.collection_id);
        let now = self.clock.unix_millis();
        pins::remove(self.kv.as_ref(), collection, &snapshot.name, pin_id, now).await?;
        self.tidy().await
    }

    /// Lets go of snapshots that have outlived their collection because of a pin, which is gone now,
    /// until the process stops.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TIDY_INTERVAL) => {}
            }
            if let Err(error) = self.tidy().await {
                warn!(%error, "snapshots of dropped collections are not let go yet");
            }
        }
    }

    /// Drops snapshots without a collection and without a pin, and forgets restores that ended long
    /// ago.
    ///
    /// # Errors
    /// Code 2 when the metastore did not answer; it is done again.
    pub async fn tidy(&self) -> Result<()> {
        let now = self.clock.unix_millis();
        let view = self.fresh_view().await?;
        for snapshot in view.all_snapshots() {
            let collection = CollectionId(snapshot.collection_id);
            let orphan = view.collection_by_id(collection).is_none();
            if orphan && !pins::is_pinned(snapshot, now) {
                pins::drop_all(self.kv.as_ref(), collection, now).await?;
            }
        }
        let old = view.restore_jobs().filter(|job| {
            job.finished_ms != 0 && job.finished_ms.saturating_add(REMEMBER_JOBS_MS) < now
        });
        for job in old {
            let txn = Txn::new().then(Op::delete(keys::restore_job(job.job_id)));
            let removed = self.kv.txn(txn).await;
            removed.map_err(|error| Error::from_coded(&error))?;
        }
        Ok(())
    }

    /// In Unix milliseconds; zero for "never".
    fn expiry(&self, ttl_seconds: i64) -> u64 {
        match ttl_seconds {
            0 => 0,
            seconds => {
                let span = seconds.unsigned_abs().saturating_mul(1_000);
                self.clock.unix_millis().saturating_add(span)
            }
        }
    }

    /// A view that shows everything that was committed before the call.
    async fn fresh_view(&self) -> Result<Arc<CatalogView>> {
        let page = self.kv.range(keys::TSO_WINDOW, None, 1).await;
        let revision = page.map_err(|error| Error::from_coded(&error))?.revision;
        let seen = self.catalog.at_least(revision, SEEN_WITHIN).await;
        seen.map_err(|error| Error::from_coded(&error))
    }
}

/// Milvus's text for an absent snapshot (code 2600).
pub fn not_found(collection: CollectionId, name: &str) -> Error {
    Error::input(
        ErrorCode::SnapshotNotFound,
        format!("snapshot {name} of collection {collection}: snapshot not found[snapshot={name}]"),
    )
}
