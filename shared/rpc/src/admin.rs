//! The HTTP side for operators: health, readiness, metrics, and what services add.

use std::convert::Infallible;
use std::future::IntoFuture as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::RwLock;
use redkite_runtime::{CancellationToken, Health};
use tokio::net::TcpListener;
use tower::ServiceExt as _;
use tracing::info;

use crate::error::{Error, Result};

/// How often raw samples of histograms are folded when nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long an operator's request may take to finish when the process stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Routes that services add after the admin port has been opened: it answers about health before
/// there is any service. Clones share the routes.
#[derive(Clone, Default)]
pub struct LateRoutes(Arc<RwLock<Router>>);

impl LateRoutes {
    /// Adds routes.
    ///
    /// # Panics
    /// When a route is there already.
    pub fn add(&self, routes: Router) {
        let mut all = self.0.write();
        *all = std::mem::take(&mut *all).merge(routes);
    }

    async fn answer(self, request: Request) -> Result<Response, Infallible> {
        let routes = self.0.read().clone();
        routes.oneshot(request).await
    }
}

impl std::fmt::Debug for LateRoutes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LateRoutes")
    }
}

/// The routes that every process has: `/healthz`, `/readyz` and `/metrics`; whatever else is asked
/// for is looked up in `late`.
pub fn routes(health: Health, late: LateRoutes) -> Router {
    let fallback = move |request: Request| {
        let late = late.clone();
        async move { late.answer(request).await }
    };
    Router::new()
        .fallback(fallback)
        // That it answers at all is the whole answer.
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn ready(State(health): State<Health>) -> Response {
    let status = if health.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, format!("{}\n", health.describe())).into_response()
}

async fn metrics() -> Response {
    let format = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (format, redkite_telemetry::metrics_text()).into_response()
}

/// Serves `routes` until `shutdown` is cancelled.
///
/// # Errors
/// [`Error::Admin`].
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    shutdown: CancellationToken,
) -> Result<()> {
    if let Ok(address) = listener.local_addr() {
        info!(%address, "serving admin");
    }
    let server = axum::serve(listener, routes)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned())
        .into_future();
    let overtime = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_LIMIT).await;
    };
    let upkeep = async {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            redkite_telemetry::metrics_upkeep();
        }
    };
    tokio::select! {
        served = server => served.map_err(|source| Error::Admin { source }),
        () = overtime => Ok(()),
        () = upkeep => Ok(()),
    }
}
