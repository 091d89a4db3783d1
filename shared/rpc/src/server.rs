//! A gRPC server on a bound listener, with health, tracing and an orderly end.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{Stream, StreamExt as _};
use http::{Request, Response};
use redkite_runtime::{CancellationToken, Health, HealthState};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::Service;
use tracing::{info, warn};

use crate::connection::Serving;
use crate::dispatch::Services;
use crate::layer::{Admit, Calls};
use crate::options::RpcOptions;

/// After a connection that could not be accepted: as a rule there are no file descriptors left, and at
/// once there are none either.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    services: Services,
    health: Health,
    admit: Option<Admit>,
}

impl ServerBuilder {
    /// A server without services that shows this health under `grpc.health.v1.Health`.
    pub fn new(options: RpcOptions, health: Health) -> Self {
        Self {
            options,
            services: Services::default(),
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
        S: Service<
                Request<Body>,
                Response = Response<Body>,
                Error = Infallible,
                Future = BoxFuture<'static, Result<Response<Body>, Infallible>>,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.services.add(service);
        self
    }

    /// Serves until `shutdown` is cancelled and the calls that run are done, or their time limit
    /// is over; then their connections are cut.
    ///
    /// # Cancel safety
    /// Dropping the future cuts all connections at once, as a crash would.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        if let Ok(address) = listener.local_addr() {
            let names: Vec<&str> = self.services.names().collect();
            info!(%address, services = ?names, "serving gRPC");
        }
        self.serve_incoming(TcpListenerStream::new(listener), shutdown)
            .await;
    }

    /// [`ServerBuilder::serve`] for connections that somebody else accepts.
    pub async fn serve_incoming(
        mut self,
        incoming: impl Stream<Item = std::io::Result<TcpStream>> + Send,
        shutdown: CancellationToken,
    ) {
        let cut = CancellationToken::new();
        let _cut_on_drop = cut.clone().drop_guard();
        let names: Vec<&'static str> = self.services.names().collect();
        let reporter = HealthReporter::new();
        let health_service = HealthService::from_health_reporter(reporter.clone());
        self.services.add(HealthServer::new(health_service));
        let report = report_health(self.health, reporter, names);

        let calls = Calls::new(self.services, self.admit);
        let serving = Serving::new(calls, &self.options, shutdown.clone(), cut.clone());
        let connections = TaskTracker::new();
        let served = async {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = accept(incoming, |stream| {
                    connections.spawn(serving.clone().run(stream));
                }) => {}
            }
            connections.close();
            connections.wait().await;
        };
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
            () = served => {}
            () = overtime => {}
            () = report => {}
        }
    }
}

impl std::fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("services", &self.services.names().collect::<Vec<_>>())
            .finish()
    }
}

/// Takes connections until no more come; dropped, it closes the port.
async fn accept(
    incoming: impl Stream<Item = std::io::Result<TcpStream>> + Send,
    mut take: impl FnMut(TcpStream),
) {
    let mut incoming = pin!(incoming);
    while let Some(accepted) = incoming.next().await {
        match accepted {
            Ok(stream) => {
                // Without it small answers wait for the peer's acknowledgement.
                if let Err(error) = stream.set_nodelay(true) {
                    warn!(%error, "connection without TCP_NODELAY");
                }
                take(stream);
            }
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
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
