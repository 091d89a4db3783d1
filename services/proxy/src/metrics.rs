//! What the proxy measures.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};
use redkite_telemetry::Once;

/// An RPC that is served.
pub(crate) struct Rpc {
    /// As it is called on the wire.
    pub(crate) name: &'static str,
    answered: Once<(Counter, Histogram)>,
}

impl Rpc {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            answered: Once::new(),
        }
    }

    /// One answered request; `code` is Milvus's, zero for success.
    pub(crate) fn answered(&self, code: i32, took: Duration) {
        let rpc = self.name;
        let count =
            |code: String| counter!("redkite_proxy_requests_total", "rpc" => rpc, "code" => code);
        let seconds = || histogram!("redkite_proxy_request_seconds", "rpc" => rpc);
        if code != 0 {
            count(code.to_string()).increment(1);
            seconds().record(took.as_secs_f64());
            return;
        }
        let look_up = || (count("0".to_owned()), seconds());
        self.answered.with(look_up, |(count, seconds)| {
            count.increment(1);
            seconds.record(took.as_secs_f64());
        });
    }
}

/// Partitions that a read need not look at, because its filter says the partition key.
pub(crate) fn partitions_left_out(partitions: usize) {
    counter!("redkite_proxy_partitions_left_out_total").increment(partitions as u64);
}

/// One request for an RPC that is not served.
pub(crate) fn unserved(rpc: &'static str) {
    counter!("redkite_proxy_unserved_total", "rpc" => rpc).increment(1);
}

/// One call that its caller may not make.
pub(crate) fn refused(rpc: &'static str, reason: &'static str) {
    counter!("redkite_proxy_refused_total", "rpc" => rpc, "reason" => reason).increment(1);
}

/// One answered HTTP request; `code` is the surface's own, zero for success.
pub(crate) fn answered_http(
    surface: &'static str,
    operation: &'static str,
    code: i32,
    took: Duration,
) {
    let labels = [
        ("surface", surface.to_owned()),
        ("operation", operation.to_owned()),
        ("code", code.to_string()),
    ];
    counter!("redkite_proxy_http_requests_total", &labels).increment(1);
    histogram!("redkite_proxy_http_request_seconds", "surface" => surface, "operation" => operation)
        .record(took.as_secs_f64());
}
