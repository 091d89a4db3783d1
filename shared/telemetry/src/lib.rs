//! Logs, traces and metrics of a process.
//!
//! It owns the process-wide subscriber, the OTLP exporter and the Prometheus recorder, and it is
//! the only crate that names their libraries. It never decides what is logged or measured.
//!
//! - [`options`]: what an operator may set
//! - [`mod@init`]: installing the subscriber, once in a process
//! - [`metrics`]: the recorder and its text for a scraper
//! - [`trace`]: carrying a trace across a network hop

pub mod error;
pub mod init;
pub mod metrics;
pub mod options;
pub mod trace;

pub use error::{Error, Result};
pub use init::{Guard, init};
pub use metrics::{Once, metrics_text, metrics_upkeep};
pub use options::{LogFormat, TelemetryOptions};
/// Writes an error and its causes as `outer: inner: innermost`.
pub use redkite_types::error::chain;
