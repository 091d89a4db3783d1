//! How a DDL tells the other services.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::join_all;
use redkite_catalog::Role;
use redkite_node::Peers;
use redkite_proto::redkite::{
    datacoord,
    meta::{BundlePlace, SnapshotManifest},
    proxy::{self, proxy_server::Proxy},
    querycoord,
};
use redkite_rpc::status::from_status;
use redkite_runtime::Backoff;
use redkite_types::{CollectionId, Error, PartitionId, Result, Revision};
use tonic::Request;
use tracing::{debug, info};

use crate::ddl::Announce;

/// How soon a proxy that did not answer is asked again.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Tells the other services through their RPCs.
pub struct PeerAnnounce(pub Arc<Peers>);

impl PeerAnnounce {
    async fn sync(
        &self,
        revision: Revision,
        collection: CollectionId,
        within: Duration,
        orders_only: bool,
    ) -> Result<bool> {
        let request = querycoord::SyncRequest {
            revision: revision.0,
            collection_id: collection.0,
            wait_ms: u32::try_from(within.as_millis()).unwrap_or(u32::MAX),
            orders_only,
        };
        let answer = self.0.query_coord()?.sync(Request::new(request)).await;
        Ok(answer
            .map_err(|status| from_status(&status).error)?
            .into_inner()
            .done)
    }
}

#[async_trait]
impl Announce for PeerAnnounce {
    async fn query_nodes(
        &self,
        revision: Revision,
        collection: CollectionId,
        within: Duration,
    ) -> Result<bool> {
        self.sync(revision, collection, within, false).await
    }

    async fn tell_query_nodes(
        &self,
        revision: Revision,
        collection: CollectionId,
        within: Duration,
    ) -> Result<bool> {
        self.sync(revision, collection, within, true).await
    }

    async fn data_coord(&self, revision: Revision) -> Result<()> {
        let request = datacoord::SyncRequest {
            revision: revision.0,
        };
        let answer = self.0.data_coord()?.sync(Request::new(request)).await;
        answer.map_err(|status| from_status(&status).error)?;
        Ok(())
    }

    async fn drop_data(
        &self,
        collection: CollectionId,
        partition: Option<PartitionId>,
    ) -> Result<()> {
        let request = datacoord::DropDataRequest {
            collection_id: collection.0,
            partition_id: partition.map_or(0, |partition| partition.0),
        };
        let answer = self.0.data_coord()?.drop_data(Request::new(request)).await;
        answer.map_err(|status| from_status(&status).error)?;
        Ok(())
    }

    async fn pin_snapshot(
        &self,
        collection: CollectionId,
        name: &str,
        seconds: i64,
        pin: i64,
    ) -> Result<i64> {
        let request = datacoord::PinSnapshotRequest {
            collection_id: collection.0,
            name: name.to_owned(),
            ttl_seconds: seconds,
            pin_id: pin,
        };
        let coord = self.0.data_coord()?;
        let answer = coord.pin_snapshot(Request::new(request)).await;
        let answer = answer.map_err(|status| from_status(&status).error)?;
        let snapshot = answer.into_inner().snapshot;
        Ok(snapshot.map_or(0, |snapshot| snapshot.id))
    }

    async fn unpin_snapshot(&self, pin: i64) -> Result<()> {
        let request = datacoord::UnpinSnapshotRequest { pin_id: pin };
        let coord = self.0.data_coord()?;
        let answer = coord.unpin_snapshot(Request::new(request)).await;
        answer.map_err(|status| from_status(&status).error)?;
        Ok(())
    }

    async fn snapshot_definition(
        &self,
        collection: CollectionId,
        name: &str,
    ) -> Result<SnapshotManifest> {
        let request = datacoord::ReadSnapshotRequest {
            collection_id: collection.0,
            name: name.to_owned(),
        };
        let coord = self.0.data_coord()?;
        let answer = coord.read_snapshot(Request::new(request)).await;
        let answer = answer.map_err(|status| from_status(&status).error)?;
        let definition = answer.into_inner().definition;
        definition.ok_or_else(|| Error::internal("a snapshot without a definition"))
    }

    async fn read_bundle(&self, place: &BundlePlace) -> Result<datacoord::ReadBundleResponse> {
        let request = datacoord::ReadBundleRequest {
            place: Some(place.clone()),
        };
        let coord = self.0.data_coord()?;
        let answer = coord.read_bundle(Request::new(request)).await;
        let answer = answer.map_err(|status| from_status(&status).error)?;
        Ok(answer.into_inner())
    }

    async fn copy_bundle(&self, request: datacoord::AttachSnapshotRequest) -> Result<bool> {
        let request = datacoord::CopyBundleRequest {
            attach: Some(request),
        };
        let coord = self.0.data_coord()?;
        let answer = coord.copy_bundle(Request::new(request)).await;
        let answer = answer.map_err(|status| from_status(&status).error)?;
        Ok(answer.into_inner().done)
    }

    async fn attach_snapshot(&self, request: datacoord::AttachSnapshotRequest) -> Result<()> {
        let coord = self.0.data_coord()?;
        let answer = coord.attach_snapshot(Request::new(request)).await;
        answer.map_err(|status| from_status(&status).error)?;
        Ok(())
    }

    async fn proxies(&self, revision: Revision) -> Result<()> {
        // A proxy that was announced before the change must be among them; one that comes later does
        // not serve before it knows of it.
        self.0.caught_up(revision).await?;
        let calls = self
            .0
            .proxies()
            .into_iter()
            .map(|(node, proxy)| async move {
                tokio::select! {
                    () = shown_by(proxy.as_ref(), node, revision) => {}
                    // From then on it serves nothing that it knew before, see `redkite_catalog::Lease`.
                    () = self.0.gone(Role::Proxy, node) => {
                        info!(node, revision = revision.0, "a proxy that did not answer is gone");
                    }
                }
            });
        join_all(calls).await;
        Ok(())
    }
}

/// Waits until a proxy shows a revision, for as long as it takes.
async fn shown_by(proxy: &dyn Proxy, node: u64, revision: Revision) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let message = proxy::SyncRequest {
        revision: revision.0,
    };
    while let Err(status) = proxy.sync(Request::new(message)).await {
        debug!(node, error = %from_status(&status).error, "a proxy is not up to date yet");
        backoff.wait().await;
    }
}
