//! The least that a search costs with gRPC: a server that decodes a `SearchRequest` and answers
//! with a stored message of ten hits, on the same transport and allocator as the product.
//!
//!     cargo run --release -p redkite-proxy --example floor -- PORT
//!
//! `tests/bench/bench_search.py --floor` drives it and takes its CPU time.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use redkite_proto::milvus::{
    milvus::{SearchRequest, SearchResults},
    schema::{IDs, LongArray, SearchResultData, i_ds::IdField},
};
use redkite_proto::status;
use tonic::{Request, Response, Status, body::Body, server};
use tonic_prost::ProstCodec;
use tower::Service;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `MilvusService` with nothing behind it.
#[derive(Clone)]
struct Floor(SearchResults);

impl server::NamedService for Floor {
    const NAME: &'static str = "milvus.proto.milvus.MilvusService";
}

impl server::UnaryService<SearchRequest> for Floor {
    type Response = SearchResults;
    type Future = Ready<Result<Response<SearchResults>, Status>>;

    fn call(&mut self, _: Request<SearchRequest>) -> Self::Future {
        ready(Ok(Response::new(self.0.clone())))
    }
}

impl Service<http::Request<Body>> for Floor {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<SearchResults, SearchRequest>::default();
            Ok(server::Grpc::new(codec).unary(service, request).await)
        })
    }
}

fn answer() -> SearchResults {
    let ids = LongArray {
        data: (0..10).map(|id| 50_000 + id).collect(),
    };
    SearchResults {
        status: Some(status::success()),
        collection_name: "bench".to_owned(),
        results: Some(SearchResultData {
            num_queries: 1,
            top_k: 10,
            scores: vec![0.5; 10],
            ids: Some(IDs {
                id_field: Some(IdField::IntId(ids)),
            }),
            topks: vec![10],
            primary_field_name: "id".to_owned(),
            ..SearchResultData::default()
        }),
        session_ts: 1 << 60,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args().nth(1).ok_or("a port is needed")?;
    let address = SocketAddr::from(([127, 0, 0, 1], port.parse()?));
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20);
    let mut server = server;
    server.add_service(Floor(answer())).serve(address).await?;
    Ok(())
}
