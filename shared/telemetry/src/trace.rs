//! Carrying a trace across a network hop, as W3C's `traceparent`.
//!
//! Headers come and go as plain text, because the servers of this project do not share one type of
//! headers.

use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::global;
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TraceContextExt as _;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

static MADE: AtomicBool = AtomicBool::new(false);

/// Whether traces are made in this process. Without, a span is worth making only where the log shows it.
pub fn are_made() -> bool {
    MADE.load(Ordering::Relaxed)
}

/// From now on traces are made.
pub(crate) fn begin() {
    MADE.store(true, Ordering::Relaxed);
}

/// Makes `span` continue the trace of the headers `traceparent` and `tracestate`; without them it
/// starts its own.
///
/// Must be called before the span is entered for the first time.
pub fn continue_trace(span: &Span, traceparent: Option<&str>, tracestate: Option<&str>) {
    if traceparent.is_none() {
        return;
    }
    let headers = Headers {
        traceparent,
        tracestate,
    };
    let context = global::get_text_map_propagator(|propagator| propagator.extract(&headers));
    if context.span().span_context().is_valid() {
        // Fails only when no traces are made in this process: then there is nothing to continue.
        let _ = span.set_parent(context);
    }
}

/// Hands the current trace's headers to `set`; calls it not at all when there is no trace.
pub fn inject_trace(span: &Span, mut set: impl FnMut(&str, String)) {
    if !are_made() {
        return;
    }
    let context = span.context();
    global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut Writer(&mut set));
    });
}

/// The trace's id as 32 hexadecimal digits, if traces are made.
pub fn trace_id(span: &Span) -> Option<String> {
    let context = span.context();
    let span_context = context.span().span_context().clone();
    span_context
        .is_valid()
        .then(|| span_context.trace_id().to_string())
}

struct Headers<'a> {
    traceparent: Option<&'a str>,
    tracestate: Option<&'a str>,
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

struct Writer<F>(F);

impl<F: FnMut(&str, String)> Injector for Writer<F> {
    fn set(&mut self, key: &str, value: String) {
        (self.0)(key, value);
    }
}
