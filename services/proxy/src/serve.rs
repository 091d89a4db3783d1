//! The gRPC services of a proxy, ready to be put on a listener.

use std::sync::Arc;

use redkite_proto::{
    milvus::milvus::milvus_service_server::MilvusServiceServer,
    redkite::proxy::proxy_server::ProxyServer,
};

use crate::{context::ProxyContext, grpc::Front, internal::InternalService};

/// `milvus.proto.milvus.MilvusService` with the configured limit of a client's message. What a
/// client asks for is sent whatever its size.
pub fn milvus_server(context: &Arc<ProxyContext>) -> MilvusServiceServer<Front> {
    MilvusServiceServer::new(Front::new(context.clone()))
        .max_decoding_message_size(context.options.max_message_size.as_usize())
        .max_encoding_message_size(usize::MAX)
}

/// `redkite.proxy.Proxy`, for the other services.
pub fn internal_server(context: &Arc<ProxyContext>) -> ProxyServer<InternalService> {
    ProxyServer::new(InternalService::new(context.clone()))
}

#[cfg(test)]
mod tests {
    use redkite_config::ByteSize;
    use redkite_proto::milvus::milvus::{
        ConnectRequest, DescribeCollectionRequest, GetVersionRequest, HasCollectionRequest,
        RunAnalyzerRequest, milvus_service_client::MilvusServiceClient,
    };
    use redkite_rpc::{ChannelPool, RpcOptions, ServerBuilder};
    use redkite_runtime::{Health, OnFailure};
    use tokio::net::TcpListener;
    use tonic::{Code, Request, transport::Channel};

    use super::*;
    use crate::testing::{COLLECTION, Fixture, code_of};

    /// Puts a proxy on a real listener.
    async fn client(fixture: &Fixture) -> MilvusServiceClient<Channel> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = ServerBuilder::new(RpcOptions::default(), Health::new())
            .add_service(milvus_server(&fixture.context))
            .add_service(internal_server(&fixture.context));
        let tasks = &fixture.context.tasks;
        tasks.spawn(
            "server",
            OnFailure::Log,
            server.serve(listener, tasks.token()),
        );
        let channel = ChannelPool::new(RpcOptions::default())
            .get(&address)
            .unwrap();
        MilvusServiceClient::new(channel)
    }

    #[tokio::test]
    async fn a_client_of_the_network_gets_answers_and_refusals() {
        let fixture = Fixture::with_collection().await;
        let mut client = client(&fixture).await;
        client.connect(ConnectRequest::default()).await.unwrap();
        client.get_version(GetVersionRequest {}).await.unwrap();

        let message = HasCollectionRequest {
            collection_name: COLLECTION.to_owned(),
            ..HasCollectionRequest::default()
        };
        let mut request = Request::new(message);
        request.metadata_mut().insert("dbname", "".parse().unwrap());
        request
            .metadata_mut()
            .insert("authorization", "cm9vdDpNaWx2dXM=".parse().unwrap());
        let has = client.has_collection(request).await.unwrap().into_inner();
        assert!(code_of(has.status) == 0 && has.value);

        let refused = client
            .run_analyzer(RunAnalyzerRequest::default())
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
        assert_eq!(
            refused.message(),
            "RunAnalyzer is not served by this version"
        );
    }

    #[tokio::test]
    async fn a_message_above_the_limit_is_refused_for_good() {
        let fixture = Fixture::with_limit(ByteSize::kib(64)).await;
        let mut client = client(&fixture).await;
        let message = DescribeCollectionRequest {
            collection_name: "x".repeat(1 << 17),
            ..DescribeCollectionRequest::default()
        };
        let refused = client.describe_collection(message).await.unwrap_err();
        // Clients believe this code at once; tonic's own they would try 75 times.
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.message().contains("65536"), "{refused}");
    }
}
