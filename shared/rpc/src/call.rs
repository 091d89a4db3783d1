//! One call with its deadline and its trace.

use std::future::Future;
use std::time::Duration;

use redkite_runtime::{Deadline, deadline::until};
use redkite_types::Outcome;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::{Request, Response, Status};
use tracing::Span;

use crate::status::{RpcError, from_status};

/// gRPC's own header for the time that a call has.
const TIMEOUT_HEADER: &str = "grpc-timeout";

/// A longer time is not sent: nobody waits that long, and the header has eight digits.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Makes one call: sends the deadline and the current trace along, waits no longer than the deadline,
/// and answers with our own error.
///
/// `send` is a method of a service that a [`Connector`](crate::Connector) gave out:
/// `call(deadline, request, |request| node.search(request))`.
///
/// # Errors
/// The service's own [`RpcError`]; a timeout, whose outcome is `NotApplied` only if nothing was
/// sent; `ServiceUnavailable` when the service is not there.
pub async fn call<Q, A, F, S>(deadline: Deadline, message: Q, send: F) -> Result<A, RpcError>
where
    F: FnOnce(Request<Q>) -> S,
    S: Future<Output = Result<Response<A>, Status>>,
{
    let left = deadline.left();
    if left.is_zero() {
        return Err(RpcError::timeout(
            "no time was left for the call",
            Outcome::NotApplied,
        ));
    }
    let mut request = Request::new(message);
    if left < LONGEST_TIMEOUT {
        request.extensions_mut().insert(deadline);
    }
    inject_trace(request.metadata_mut());
    match until(deadline.instant(), send(request)).await {
        Some(Ok(response)) => Ok(response.into_inner()),
        Some(Err(status)) => Err(from_status(&status)),
        None => Err(RpcError::timeout(
            "the call was not answered in time",
            Outcome::Unknown,
        )),
    }
}

/// Puts what is left of the deadline of [`call`] where another process reads it. Within a process it
/// goes along as it is.
pub(crate) fn send_deadline<T>(request: &mut Request<T>) {
    let deadline = request.extensions().get::<Deadline>();
    if let Some(left) = deadline.map(|deadline| deadline.left()) {
        request.set_timeout(left);
    }
}

fn inject_trace(metadata: &mut MetadataMap) {
    redkite_telemetry::trace::inject_trace(&Span::current(), |key, value| {
        let key = key.parse::<AsciiMetadataKey>();
        let value = value.parse::<AsciiMetadataValue>();
        if let (Ok(key), Ok(value)) = (key, value) {
            metadata.insert(key, value);
        }
    });
}

/// The deadline that came with a request, or `default` from now.
pub fn deadline_of<T>(request: &Request<T>, default: Duration) -> Deadline {
    match request.extensions().get::<Deadline>() {
        Some(deadline) => *deadline,
        None => Deadline::after(timeout_of(request.metadata()).unwrap_or(default)),
    }
}

/// The time that a call has, as its header says.
pub(crate) fn timeout_of(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get(TIMEOUT_HEADER)?.to_str().ok()?;
    crate::deadline::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        let cases = [
            ("5S", Some(Duration::from_secs(5))),
            ("2M", Some(Duration::from_secs(120))),
            ("1H", Some(Duration::from_secs(3600))),
            ("250m", Some(Duration::from_millis(250))),
            ("10u", Some(Duration::from_micros(10))),
            ("7n", Some(Duration::from_nanos(7))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("5", None),
            ("-5S", None),
        ];
        for (text, expected) in cases {
            let mut metadata = MetadataMap::new();
            metadata.insert(TIMEOUT_HEADER, text.parse().unwrap());
            assert_eq!(timeout_of(&metadata), expected, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_nobody_waits_for_gets_the_time_of_its_handler() {
        let within = Duration::from_secs(2);
        let answered = call(
            Deadline::never(),
            (),
            |mut request: Request<()>| async move {
                assert_eq!(deadline_of(&request, within).left(), within);
                send_deadline(&mut request);
                assert_eq!(timeout_of(request.metadata()), None);
                Ok(Response::new(()))
            },
        );
        answered.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_goes_along_and_nobody_waits_longer() {
        let deadline = Deadline::after(Duration::from_secs(8));
        tokio::time::advance(Duration::from_secs(3)).await;
        let error = call(deadline, (), |mut request: Request<()>| {
            assert_eq!(deadline_of(&request, Duration::ZERO), deadline);
            send_deadline(&mut request);
            assert_eq!(timeout_of(request.metadata()), Some(Duration::from_secs(5)));
            std::future::pending::<Result<Response<()>, Status>>()
        })
        .await
        .unwrap_err();
        assert_eq!(error.outcome, Some(Outcome::Unknown));

        let error = call(deadline, (), |_request: Request<()>| async {
            Ok(Response::new(()))
        })
        .await
        .unwrap_err();
        assert!(error.not_applied(), "{error}");
    }
}
