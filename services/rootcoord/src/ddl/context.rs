//! What the sagas work with.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use redkite_catalog::{Catalog, CatalogView};
use redkite_metastore::SharedKv;
use redkite_proto::redkite::{
    datacoord::{AttachSnapshotRequest, ReadBundleResponse},
    meta::{BundlePlace, SnapshotManifest},
};
use redkite_types::{CollectionId, Error, PartitionId, Result, Revision, Timestamp};

use crate::{
    alloc::{IdAllocator, TimestampOracle},
    options::RootCoordOptions,
};

/// How long a view may take to show what the store has.
const CATCH_UP: Duration = Duration::from_secs(5);

/// The other services, as far as a DDL has to tell them something.
#[async_trait]
pub trait Announce: Send + Sync + 'static {
    /// Waits until the query nodes have acted on a revision as far as a collection goes; whether
    /// they have when `within` has passed.
    ///
    /// # Errors
    /// When the coordinator cannot be reached; retry.
    async fn query_nodes(
        &self,
        revision: Revision,
        collection: CollectionId,
        within: Duration,
    ) -> Result<bool>;

    /// Waits until the owners of a collection's channels know of a revision, loads left aside;
    /// whether they do when `within` has passed.
    ///
    /// # Errors
    /// When the coordinator cannot be reached; retry.
    async fn tell_query_nodes(
        &self,
        revision: Revision,
        collection: CollectionId,
        within: Duration,
    ) -> Result<bool>;

    /// Waits until the data coordinator has acted on a revision.
    ///
    /// # Errors
    /// When it cannot be reached, or is not that far in time; retry.
    async fn data_coord(&self, revision: Revision) -> Result<()>;

    /// Removes the data of a dropped collection or partition.
    ///
    /// # Errors
    /// When the coordinator cannot be reached or a store fails; retry.
    async fn drop_data(
        &self,
        collection: CollectionId,
        partition: Option<PartitionId>,
    ) -> Result<()>;

    /// Pins a snapshot for so many seconds under an id; answers the snapshot's id.
    ///
    /// # Errors
    /// Code 2600 when there is none; else retry.
    async fn pin_snapshot(
        &self,
        collection: CollectionId,
        name: &str,
        seconds: i64,
        pin: i64,
    ) -> Result<i64>;

    /// Takes a pin away; an absent one is no error.
    ///
    /// # Errors
    /// When the coordinator cannot be reached or a store fails; retry.
    async fn unpin_snapshot(&self, pin: i64) -> Result<()>;

    /// What a snapshot says of its collection.
    ///
    /// # Errors
    /// Code 2600 when there is none, 1000 and 1009 when its manifest is missing or damaged; else retry.
    async fn snapshot_definition(
        &self,
        collection: CollectionId,
        name: &str,
    ) -> Result<SnapshotManifest>;

    /// What a bundle says of itself and of its collection.
    ///
    /// # Errors
    /// Codes 1000 and 1009 when there is none or it is damaged, 1100 when the place may not be used; else
    /// retry.
    async fn read_bundle(&self, place: &BundlePlace) -> Result<ReadBundleResponse>;

    /// Copies files of a bundle for a collection that is being created, for some seconds; whether all
    /// are there.
    ///
    /// # Errors
    /// Retriable ones may be tried again; the others name what is wrong with the bundle.
    async fn copy_bundle(&self, request: AttachSnapshotRequest) -> Result<bool>;

    /// Gives a collection that is being created the data of a snapshot.
    ///
    /// # Errors
    /// Retriable ones may be tried again; the others name what is wrong with the snapshot.
    async fn attach_snapshot(&self, request: AttachSnapshotRequest) -> Result<()>;

    /// Waits until every live proxy shows a revision.
    ///
    /// # Errors
    /// When one does not answer; retry: a proxy that is gone loses its session.
    async fn proxies(&self, revision: Revision) -> Result<()>;
}

/// What the sagas work with.
pub struct DdlContext {
    /// The metadata.
    pub kv: SharedKv,
    /// Its newest view.
    pub catalog: Arc<Catalog>,
    /// The other services.
    pub announce: Arc<dyn Announce>,
    /// New ids.
    pub ids: Arc<IdAllocator>,
    /// New timestamps.
    pub tso: Arc<TimestampOracle>,
    /// Limits.
    pub options: RootCoordOptions,
}

impl DdlContext {
    /// A view that shows everything that was committed before the call.
    ///
    /// # Errors
    /// Code 2 when the store does not answer, or the view does not follow; retry.
    pub async fn fresh_view(&self) -> Result<Arc<CatalogView>> {
        // An empty page still says how far the store is.
        let page = self
            .kv
            .range(redkite_catalog::keys::TSO_WINDOW, None, 1)
            .await
            .map_err(|error| Error::from_coded(&error))?;
        self.catalog
            .at_least(page.revision, CATCH_UP)
            .await
            .map_err(|error| Error::from_coded(&error))
    }

    /// A new timestamp.
    ///
    /// # Errors
    /// Code 2 when the store does not answer; retry.
    pub async fn timestamp(&self) -> Result<Timestamp> {
        self.tso.alloc(1).await
    }
}
