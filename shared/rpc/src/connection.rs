//! One connection of a client: HTTP/2 on it, from its first frame to its last.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use redkite_runtime::CancellationToken;
use tokio::net::TcpStream;
use tracing::debug;

use crate::executor::Executor;
use crate::layer::Calls;
use crate::options::RpcOptions;

/// HTTP/2 windows that fit a batch of vectors.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// How many calls one connection may have at a time.
const MAX_STREAMS: u32 = 1 << 16;

/// What the connections of a listener have in common.
pub(crate) struct Serving {
    pub(crate) calls: Calls,
    pub(crate) keepalive_interval: Duration,
    pub(crate) keepalive_timeout: Duration,
    /// From then on a connection takes no more calls, and ends when those that run are done.
    pub(crate) stop: CancellationToken,
    /// Then a connection ends at once.
    pub(crate) cut: CancellationToken,
}

impl Serving {
    pub(crate) fn new(
        calls: Calls,
        options: &RpcOptions,
        stop: CancellationToken,
        cut: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            calls,
            keepalive_interval: options.keepalive_interval.get(),
            keepalive_timeout: options.keepalive_timeout.get(),
            stop,
            cut,
        })
    }

    /// Serves a connection until its client leaves, or it is stopped or cut.
    pub(crate) async fn run(self: Arc<Self>, stream: TcpStream) {
        let executor = Executor::default();
        let mut builder = Builder::new(executor.clone());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(Some(self.keepalive_interval))
            .keep_alive_timeout(self.keepalive_timeout)
            // Nobody in gRPC reads it.
            .auto_date_header(false);
        let connection = builder.serve_connection(TokioIo::new(stream), self.calls.clone());
        let mut connection = executor.turns(connection);
        let ended = tokio::select! {
            biased;
            ended = &mut connection => ended,
            () = self.cut.cancelled() => return,
            () = self.stop.cancelled() => {
                connection.inner().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = self.cut.cancelled() => return,
                }
            }
        };
        if let Err(error) = ended {
            debug!(%error, "connection failed");
        }
    }
}
