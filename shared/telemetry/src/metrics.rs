//! The recorder of metrics and its text for a scraper.
//!
//! Crates measure through the `metrics` facade; names are `redkite_<crate>_<what>_<unit>`.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::error::{Error, Result};

/// Upper bounds of a latency histogram, in seconds: 0.2 ms to 30 s.
const SECONDS_BUCKETS: &[f64] = &[
    0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
    30.0,
];

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

pub(crate) fn install() -> Result<()> {
    if HANDLE.get().is_some() {
        return Ok(());
    }
    let builder = PrometheusBuilder::new();
    let builder = builder
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)
        .expect("the list of buckets is not empty");
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    ::metrics::set_global_recorder(recorder).map_err(|_| Error::Installed {
        what: "metrics recorder",
    })?;
    // Only `init` calls this, under its lock: nobody else can have set it.
    HANDLE.get_or_init(|| handle);
    Ok(())
}

/// Handles of metrics that are looked up once, since every request needs them; for statics.
///
/// Before [`crate::init`] there is nothing to look up, and every use tries again.
#[derive(Debug, Default)]
pub struct Once<T>(OnceLock<T>);

impl<T> Once<T> {
    /// Nothing is looked up yet.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Uses the handles.
    pub fn with(&self, look_up: impl FnOnce() -> T, measure: impl FnOnce(&T)) {
        if let Some(handles) = self.0.get() {
            return measure(handles);
        }
        let handles = look_up();
        measure(&handles);
        if HANDLE.get().is_some() {
            // Another thread may have been faster, with the same handles.
            let _ = self.0.set(handles);
        }
    }
}

/// All metrics of the process in Prometheus's text format; empty before [`crate::init`].
pub fn metrics_text() -> String {
    HANDLE
        .get()
        .map(PrometheusHandle::render)
        .unwrap_or_default()
}

/// Folds raw histogram samples into their buckets.
///
/// Samples pile up until this runs or until a scraper asks; call it every few seconds.
pub fn metrics_upkeep() {
    if let Some(handle) = HANDLE.get() {
        handle.run_upkeep();
    }
}
