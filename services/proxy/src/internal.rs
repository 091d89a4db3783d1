//! The side that the other services call.

use std::sync::Arc;

use redkite_proto::redkite::proxy::{SyncRequest, SyncResponse, proxy_server::Proxy};
use redkite_rpc::RpcError;
use redkite_types::{Error, Revision};
use tonic::{Request, Response, Status};

use crate::context::ProxyContext;

/// `redkite.proxy.Proxy`.
#[derive(Clone)]
pub struct InternalService {
    context: Arc<ProxyContext>,
}

impl InternalService {
    /// The internal side of a proxy.
    pub fn new(context: Arc<ProxyContext>) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl Proxy for InternalService {
    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncResponse>, Status> {
        let context = &self.context;
        let timeout = context.options.request_timeout.get();
        let deadline = redkite_rpc::deadline_of(&request, timeout);
        let revision = Revision(request.into_inner().revision);
        match context.catalog.at_least(revision, deadline.left()).await {
            Ok(_) => Ok(Response::new(SyncResponse {})),
            Err(error) => Err(RpcError::new(Error::from_coded(&error)).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;

    #[tokio::test]
    async fn sync_answers_once_the_revision_is_seen() {
        let fixture = Fixture::new().await;
        let service = InternalService::new(fixture.context.clone());
        let next = fixture.context.view().revision().0 + 1;
        let mut hasty = Request::new(SyncRequest { revision: next });
        hasty
            .metadata_mut()
            .insert("grpc-timeout", "1m".parse().unwrap());
        service.sync(hasty).await.unwrap_err();

        let sync = service.sync(Request::new(SyncRequest { revision: next }));
        let (answer, written) = futures::future::join(sync, fixture.touch()).await;
        answer.unwrap();
        assert_eq!(written.0, next);
        assert!(fixture.context.view().revision().0 >= next);
    }
}
