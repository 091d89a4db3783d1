//! Installing the subscriber, once in a process.

use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use std::sync::Mutex;
use tokio::runtime::Runtime;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt};

use crate::error::{Error, Result};
use crate::options::{LogFormat, TelemetryOptions};

/// How long a stopping process waits for its last spans to be delivered.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// How long one delivery may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// The transport below the exporter: its spans would be exported by itself, without end.
const NEVER_TRACED: &[&str] = &[
    "h2",
    "hyper",
    "hyper_util",
    "tonic",
    "tower",
    "opentelemetry",
];

static INITIALIZED: Mutex<bool> = Mutex::new(false);

/// Delivers what is still buffered when it is dropped or shut down; keep it until the process ends.
#[derive(Debug, Default)]
#[must_use = "dropping the guard ends the export of traces"]
pub struct Guard {
    exporter: Option<Exporter>,
}

impl Guard {
    /// Delivers the buffered spans and stops the exporter, for at most three seconds.
    ///
    /// Blocks the thread; the last thing that a process does.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let Some(exporter) = self.exporter.take() else {
            return;
        };
        if let Err(error) = exporter.provider.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!(error = %error, "last spans were not delivered");
        }
        exporter.runtime.shutdown_background();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The exporter has a thread of its own, so that it works before the process's runtime starts and
/// still delivers after that has stopped.
#[derive(Debug)]
struct Exporter {
    provider: SdkTracerProvider,
    runtime: Runtime,
}

impl Exporter {
    fn start(endpoint: &str, service_name: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("redkite-otlp")
            .enable_all()
            .build()
            .map_err(|source| Error::Thread { source })?;
        let exporter = {
            let _context = runtime.enter();
            opentelemetry_otlp::SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .with_timeout(EXPORT_TIMEOUT)
                .build()
        };
        let exporter = exporter.map_err(|source| Error::Exporter {
            endpoint: endpoint.to_owned(),
            source: Box::new(source),
        })?;
        let resource = Resource::builder()
            .with_service_name(service_name.to_owned())
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build();
        Ok(Self { provider, runtime })
    }
}

/// Installs logs, traces and the recorder of metrics for this process.
///
/// Only the first call in a process installs anything. Later ones answer with an empty guard, so
/// that every test may call it. It needs no tokio runtime.
///
/// # Errors
/// [`Error::LogFilter`] and [`Error::Exporter`] are the operator's to fix; nothing is installed
/// then. [`Error::Installed`] when a foreign subscriber or recorder was there first.
pub fn init(options: &TelemetryOptions) -> Result<Guard> {
    let mut initialized = INITIALIZED
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if *initialized {
        return Ok(Guard::default());
    }
    let filter = EnvFilter::try_new(&options.log_filter).map_err(|source| Error::LogFilter {
        filter: options.log_filter.clone(),
        source: Box::new(source),
    })?;
    let exporter = match &options.otlp_endpoint {
        Some(endpoint) => Some(Exporter::start(endpoint, &options.service_name)?),
        None => None,
    };
    let tracer = exporter
        .as_ref()
        .map(|exporter| exporter.provider.tracer("redkite"));
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    // Without a hint all levels would be looked at, of every library, whatever the operator asks for.
    let tells_no_secret = filter_fn(tells_no_secret).with_max_level_hint(LevelFilter::TRACE);
    tracing_subscriber::registry()
        .with(log_layer(options.log_format).with_filter(filter.and(tells_no_secret)))
        .with(tracer.map(trace_layer))
        .try_init()
        .map_err(|_| Error::Installed { what: "subscriber" })?;
    crate::metrics::install()?;
    if exporter.is_some() {
        crate::trace::begin();
    }
    *initialized = true;
    Ok(Guard { exporter })
}

fn log_layer(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    match format {
        LogFormat::Text => fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(std::io::stderr)
            .boxed(),
    }
}

/// What signs requests to S3 logs the keys themselves at its finer levels, so they are shown to nobody.
fn tells_no_secret(metadata: &Metadata<'_>) -> bool {
    !metadata.target().starts_with("reqsign") || *metadata.level() <= Level::INFO
}

/// Traces take spans of level info and above, whatever the log shows.
fn trace_layer<S>(tracer: SdkTracer) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let is_traced = filter_fn(|metadata| {
        let library = metadata.target().split("::").next().unwrap_or_default();
        *metadata.level() <= Level::INFO && !NEVER_TRACED.contains(&library)
    });
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_filter(is_traced.with_max_level_hint(LevelFilter::INFO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_installs_nothing_and_init_may_be_called_again() {
        let wrong = TelemetryOptions {
            log_filter: "redkite=loud".to_owned(),
            ..TelemetryOptions::default()
        };
        let error = init(&wrong).unwrap_err();
        assert!(matches!(error, Error::LogFilter { .. }), "{error}");

        let options = TelemetryOptions::default();
        drop(init(&options).unwrap());
        init(&options).unwrap().shutdown();
        // Below it nothing is looked at, which would cost a search a tenth of its time.
        assert_eq!(LevelFilter::current(), LevelFilter::INFO);

        ::metrics::counter!("redkite_telemetry_test_total").increment(3);
        crate::metrics_upkeep();
        let text = crate::metrics_text();
        assert!(text.contains("redkite_telemetry_test_total 3"), "{text}");
    }
}
