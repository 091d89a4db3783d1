//! The gRPC side.

use std::{sync::Arc, time::Duration};

use redkite_proto::redkite::querycoord::{
    LoadProgressRequest, LoadProgressResponse, SyncRequest, SyncResponse,
    query_coord_server::QueryCoord,
};
use redkite_types::{CollectionId, Revision};
use tonic::{Request, Response, Status};

use crate::keeper::Keeper;

/// The query coordinator's RPCs.
pub struct QueryCoordService {
    keeper: Arc<Keeper>,
}

impl QueryCoordService {
    /// Answers from a keeper.
    pub fn new(keeper: Arc<Keeper>) -> Self {
        Self { keeper }
    }
}

#[tonic::async_trait]
impl QueryCoord for QueryCoordService {
    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncResponse>, Status> {
        let request = request.into_inner();
        let collection =
            (request.collection_id != 0).then_some(CollectionId(request.collection_id));
        let within = Duration::from_millis(request.wait_ms.into());
        let revision = Revision(request.revision);
        let done = match collection.filter(|_| request.orders_only) {
            Some(collection) => self.keeper.wait_told(revision, collection, within).await,
            None => self.keeper.wait(revision, collection, within).await,
        };
        Ok(Response::new(SyncResponse { done }))
    }

    async fn load_progress(
        &self,
        request: Request<LoadProgressRequest>,
    ) -> Result<Response<LoadProgressResponse>, Status> {
        let collection = CollectionId(request.into_inner().collection_id);
        let partitions = self.keeper.load_progress(collection);
        Ok(Response::new(LoadProgressResponse { partitions }))
    }
}
