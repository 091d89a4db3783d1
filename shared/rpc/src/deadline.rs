//! The time that a caller gives a call (`grpc-timeout`), answered with gRPC's own status.

use std::future::Future;
use std::time::Duration;

use futures::FutureExt as _;
use http::HeaderMap;
use tokio::time::Instant;
use tonic::Status;

const HEADER: &str = "grpc-timeout";

/// More digits are no timeout (gRPC over HTTP/2, "Requests").
const MOST_DIGITS: usize = 8;

/// When the caller gives up; nothing if it did not say, or not in gRPC's form.
pub(crate) fn of(headers: &HeaderMap) -> Option<Instant> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    Instant::now().checked_add(parse(text)?)
}

/// The time that a header gives; nothing if it is not in gRPC's form.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > MOST_DIGITS {
        return None;
    }
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 60 * 60)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// What `handler` answers, or nothing when `deadline` passed before it did.
pub(crate) fn until<F: Future>(
    deadline: Option<Instant>,
    handler: F,
) -> impl Future<Output = Option<F::Output>> {
    match deadline {
        Some(deadline) => redkite_runtime::deadline::until(deadline, handler).left_future(),
        None => handler.map(Some).right_future(),
    }
}

/// The answer to a call whose time is over. Whether it took effect is unknown.
pub(crate) fn exceeded() -> Status {
    Status::deadline_exceeded("Deadline Exceeded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        let units = [
            ("3H", 10_800_000_000_000),
            ("2M", 120_000_000_000),
            ("1S", 1_000_000_000),
            ("82m", 82_000_000),
            ("7u", 7_000),
            ("0n", 0),
            ("99999999m", 99_999_999_000_000),
        ];
        for (text, nanoseconds) in units {
            assert_eq!(
                parse(text),
                Some(Duration::from_nanos(nanoseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn other_texts_are_no_timeout() {
        for text in [
            "",
            "m",
            "5",
            "-1S",
            "+1S",
            "1.5S",
            "1 S",
            "100000000m",
            "1µ",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
