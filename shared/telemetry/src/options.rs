//! What an operator may set.

use serde::{Deserialize, Serialize};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line for each event.
    #[default]
    Text,
    /// One JSON object a line, for a log collector.
    Json,
}

/// The section `telemetry` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryOptions {
    /// Which events are logged, in the syntax of `RUST_LOG`: `info,redkite_wal=debug`.
    pub log_filter: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Where traces go, as OTLP over gRPC: `http://host:4317`. Without it no traces are made.
    pub otlp_endpoint: Option<String>,
    /// The name under which this process appears in traces.
    pub service_name: String,
}

impl Default for TelemetryOptions {
    fn default() -> Self {
        Self {
            log_filter: "info".to_owned(),
            log_format: LogFormat::default(),
            otlp_endpoint: None,
            service_name: "redkite".to_owned(),
        }
    }
}
