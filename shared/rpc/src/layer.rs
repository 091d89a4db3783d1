//! What happens around every handler: a span, metrics, caught panics, deadlines, clear errors.

use std::collections::HashMap;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::service::Service;
use metrics::{Counter, Histogram};
use parking_lot::RwLock;
use redkite_runtime::error::panic_message;
use redkite_types::{Error, ErrorCode, Outcome};
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::field::Empty;
use tracing::{Instrument as _, Level, Span, error, span};

use crate::deadline;
use crate::dispatch::Services;
use crate::status::{RpcError, is_too_large, to_status, too_large};

/// Whether a process may answer at the moment; it may wait a little until it may.
pub type Admit = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// Answers the calls of a listener. Clones are the same.
#[derive(Clone)]
pub(crate) struct Calls(Arc<Inner>);

struct Inner {
    services: Services,
    /// Asked before each call; without it every call is admitted.
    admit: Option<Admit>,
    measured: Measured,
}

/// What is measured of the calls that were answered with OK, by method: looked up once, because there
/// are many of them.
#[derive(Default)]
struct Measured(RwLock<HashMap<String, (Counter, Histogram)>>);

impl Calls {
    pub(crate) fn new(services: Services, admit: Option<Admit>) -> Self {
        Self(Arc::new(Inner {
            services,
            admit,
            measured: Measured::default(),
        }))
    }
}

impl Service<Request<Incoming>> for Calls {
    type Response = Response<ClearTrailers>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<ClearTrailers>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let request = request.map(Body::new);
        let method = request.uri().path().to_owned();
        let span = span_of(&request, &method);
        let deadline = deadline::of(request.headers());
        let inner = Arc::clone(&self.0);
        let noted = span.clone();
        let handled = async move {
            let started = Instant::now();
            let handler = AssertUnwindSafe(inner.handle(request)).catch_unwind();
            let mut response = match deadline::until(deadline, handler).await {
                Some(Ok(answered)) => answered,
                Some(Err(panic)) => to_status(&panicked(&method, &*panic)).into_http(),
                None => deadline::exceeded().into_http(),
            };
            clarify(response.headers_mut());
            let code = code_of(response.headers());
            noted.record("rpc.code", code as i32);
            inner.measured.record(&method, code, started);
            Ok(response.map(ClearTrailers))
        };
        Box::pin(handled.instrument(span))
    }
}

impl Inner {
    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        match &self.admit {
            Some(admit) if !admit().await => to_status(&not_ready()).into_http(),
            _ => self.services.call(request).await,
        }
    }
}

fn not_ready() -> RpcError {
    let error = Error::new(
        ErrorCode::ServiceNotReady,
        "service not ready[others may have taken this process for dead]",
    );
    RpcError::new(error).with_outcome(Outcome::NotApplied)
}

fn span_of(request: &Request<Body>, method: &str) -> Span {
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    // For traces, or else for the lines of a log that shows details.
    macro_rules! rpc_span {
        ($level:expr) => {
            span!(
                $level,
                "rpc",
                otel.name = method,
                otel.kind = "server",
                rpc.method = method,
                client_request_id = header("client-request-id"),
                rpc.code = Empty,
            )
        };
    }
    if !redkite_telemetry::trace::are_made() {
        return rpc_span!(Level::DEBUG);
    }
    let span = rpc_span!(Level::INFO);
    redkite_telemetry::trace::continue_trace(&span, header("traceparent"), header("tracestate"));
    span
}

/// The error of a handler that panicked; also logs it.
pub(crate) fn panicked(method: &str, panic: &(dyn std::any::Any + Send)) -> RpcError {
    let message = panic_message(panic);
    error!(method, error = %message, "handler panicked");
    metrics::counter!("redkite_rpc_panics_total").increment(1);
    RpcError::new(Error::internal(format!("handler panicked: {message}")))
        .with_outcome(Outcome::Unknown)
}

impl Measured {
    fn record(&self, method: &str, code: Code, started: Instant) {
        let took = started.elapsed().as_secs_f64();
        if code != Code::Ok {
            let (count, seconds) = registered(method, code);
            count.increment(1);
            seconds.record(took);
            return;
        }
        if let Some((count, seconds)) = self.0.read().get(method) {
            count.increment(1);
            seconds.record(took);
            return;
        }
        let mut all = self.0.write();
        let of_method = all.entry(method.to_owned());
        let (count, seconds) = of_method.or_insert_with(|| registered(method, code));
        count.increment(1);
        seconds.record(took);
    }
}

/// How a call was answered. Without the header the status follows the body, which here means that all
/// went well.
fn code_of(headers: &HeaderMap) -> Code {
    let code = headers.get(Status::GRPC_STATUS);
    code.map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

/// How many calls of a method were answered with a code, and how long calls of the method take.
fn registered(method: &str, code: Code) -> (Counter, Histogram) {
    // Anybody can call any path, and every new label costs memory for good.
    let method = match code {
        Code::Unimplemented => "unknown",
        _ => method,
    };
    let count = metrics::counter!(
        "redkite_rpc_requests_total",
        "method" => method.to_owned(),
        "code" => (code as i32).to_string()
    );
    let seconds = metrics::histogram!("redkite_rpc_request_seconds", "method" => method.to_owned());
    (count, seconds)
}

/// Turns tonic's `OutOfRange` about a message beyond the limit into what gRPC means for it:
/// `ResourceExhausted`, which clients do not retry for minutes.
fn clarify(headers: &mut HeaderMap) {
    // Reading a whole status copies all headers, and nearly all of them say that all is well.
    let code = headers.get(Status::GRPC_STATUS);
    if code.is_none_or(|code| Code::from_bytes(code.as_bytes()) != Code::OutOfRange) {
        return;
    }
    let Some(status) = Status::from_header_map(headers).filter(is_too_large) else {
        return;
    };
    let clear = to_status(&too_large(status.message()));
    headers.remove(Status::GRPC_MESSAGE);
    if clear.add_header(headers).is_err() {
        error!("the status of a message that is too large has no form as headers");
    }
}

/// A body whose trailers went through [`clarify`]: there stands the error of an answer beyond the
/// limit.
pub(crate) struct ClearTrailers(Body);

impl http_body::Body for ClearTrailers {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let frame = Pin::new(&mut self.0).poll_frame(context);
        frame.map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                clarify(trailers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}
