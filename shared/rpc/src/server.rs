//! A gRPC server on a bound listener, with health, tracing and an orderly end.

use std::convert::Infallible;

use futures::{Stream, StreamExt as _};
use http::Request;
use redkite_runtime::{CancellationToken, Health, HealthState};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::Service;
use tracing::{info, warn};

use crate::error::{Error, Result};
use crate::io::Connection;
use crate::layer::{Admit, AroundHandlers};
use crate::options::RpcOptions;

/// HTTP/2 windows that fit a batch of vectors.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// How many calls one connection may have at a time.
const MAX_STREAMS: u32 = 1 << 16;

/// Told to a generated server, applies the limit of messages in both directions:
/// `limit_messages!(QueryNodeServer::from_arc(service), builder.max_message_size())`.
#[macro_export]
macro_rules! limit_messages {
    ($service:expr, $limit:expr) => {{
        let limit: usize = $limit;
        $service
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
    }};
}

/// Collects the services of one listener and runs them.
///
/// Clients may test their connection as often as they like, also without calls: unlike the C++
/// and Go servers, h2 answers every ping and counts none.
#[must_use = "a builder serves nothing before `serve`"]
pub struct ServerBuilder {
    options: RpcOptions,
    routes: RoutesBuilder,
    names: Vec<&'static str>,
    health: Health,
    admit: Option<Admit>,
}

impl ServerBuilder {
    /// A server without services that shows this health under `grpc.health.v1.Health`.
    pub fn new(options: RpcOptions, health: Health) -> Self {
        Self {
            options,
            routes: Routes::builder(),
            names: Vec::new(),
            health,
            admit: None,
        }
    }

    /// Refuses calls with code 1 for as long as `admit` says so.
    pub fn only_if(mut self, admit: Admit) -> Self {
        self.admit = Some(admit);
        self
    }

    /// The largest message, in bytes, for [`crate::limit_messages`].
    pub fn max_message_size(&self) -> usize {
        self.options.max_message_size.as_usize()
    }

    /// Adds a generated server.
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self.names.push(S::NAME);
        self
    }

    /// Serves until `shutdown` is cancelled and the calls that run are done, or their time limit
    /// is over; then their connections are cut.
    ///
    /// # Errors
    /// [`Error::Serve`].
    ///
    /// # Cancel safety
    /// Dropping the future cuts all connections at once, as a crash would.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<()> {
        if let Ok(address) = listener.local_addr() {
            info!(%address, services = ?self.names, "serving gRPC");
        }
        self.serve_incoming(TcpListenerStream::new(listener), shutdown)
            .await
    }

    /// [`ServerBuilder::serve`] for connections that somebody else accepts.
    ///
    /// # Errors
    /// [`Error::Serve`].
    pub async fn serve_incoming(
        mut self,
        incoming: impl Stream<Item = std::io::Result<TcpStream>> + Send,
        shutdown: CancellationToken,
    ) -> Result<()> {
        let cut = CancellationToken::new();
        let _cut_on_drop = cut.clone().drop_guard();
        let connections = incoming.then(|accepted| accept(accepted, cut.clone()));

        let reporter = HealthReporter::new();
        let health_service = HealthService::from_health_reporter(reporter.clone());
        self.routes.add_service(HealthServer::new(health_service));
        let report = report_health(self.health.clone(), reporter, self.names.clone());

        let server = Server::builder()
            .layer(AroundHandlers {
                admit: self.admit,
                ..AroundHandlers::default()
            })
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .http2_keepalive_interval(Some(self.options.keepalive_interval.get()))
            .http2_keepalive_timeout(Some(self.options.keepalive_timeout.get()))
            .add_routes(self.routes.routes())
            .serve_with_incoming_shutdown(connections, shutdown.clone().cancelled_owned());

        let drain_limit = self.options.drain_limit.get();
        let overtime = async {
            shutdown.cancelled().await;
            tokio::time::sleep(drain_limit).await;
            warn!(
                ?drain_limit,
                "calls did not finish in time, cutting their connections"
            );
            cut.cancel();
            // From here the server ends by itself.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            served = server => served.map_err(|source| Error::Serve { source }),
            () = overtime => Ok(()),
            () = report => Ok(()),
        }
    }
}

impl std::fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("services", &self.names)
            .finish()
    }
}

async fn accept(
    accepted: std::io::Result<TcpStream>,
    cut: CancellationToken,
) -> std::io::Result<Connection> {
    match accepted {
        Ok(stream) => {
            // Without it small answers wait for the peer's acknowledgement.
            if let Err(error) = stream.set_nodelay(true) {
                warn!(%error, "connection without TCP_NODELAY");
            }
            Ok(Connection::new(stream, cut))
        }
        Err(error) => {
            warn!(%error, "a connection could not be accepted");
            // As a rule there are no file descriptors left, and at once there are none either.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            Err(error)
        }
    }
}

/// Keeps gRPC's health service as our own health is; never ends.
async fn report_health(health: Health, reporter: HealthReporter, names: Vec<&'static str>) {
    let mut changes = health.subscribe();
    loop {
        let status = match changes.borrow_and_update().0 {
            HealthState::Ready => ServingStatus::Serving,
            HealthState::Starting | HealthState::Stopping => ServingStatus::NotServing,
        };
        for name in std::iter::once(&"").chain(&names) {
            reporter.set_service_status(name, status).await;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
