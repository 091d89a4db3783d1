//! What the proxy measures.

use std::time::Duration;

use metrics::{counter, histogram};

/// One answered request; `code` is Milvus's, zero for success.
pub(crate) fn answered(rpc: &'static str, code: i32, took: Duration) {
    if code == 0 {
        counter!("redkite_proxy_requests_total", "rpc" => rpc, "code" => "0").increment(1);
    } else {
        let code = code.to_string();
        counter!("redkite_proxy_requests_total", "rpc" => rpc, "code" => code).increment(1);
    }
    histogram!("redkite_proxy_request_seconds", "rpc" => rpc).record(took.as_secs_f64());
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
