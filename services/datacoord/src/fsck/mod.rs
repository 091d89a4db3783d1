//! Checks what is recorded against itself, and what is stored against what is recorded.
//!
//! It changes nothing. On a stopped deployment it sees everything; on a running one a record that has
//! changed since it was read is not complained about.
//!
//! - [`records`]: records against each other
//! - [`objects`]: every object that a record names: there, of its size, with its checksum, readable
//! - [`logs`]: every channel's log
//! - `report`: what was found

pub mod logs;
pub mod objects;
pub mod records;
mod report;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use redkite_catalog::{CatalogView, view};
use redkite_metastore::{KeyValue, SharedKv};
use redkite_storage::{ObjectStore, layout};
use redkite_types::{Revision, Timestamp, error::chain};

pub use self::{
    logs::{CopiedLogs, LogCheck, LogState, logs_of},
    report::{Problem, Report},
};
use crate::{
    gc::{self, GcOptions, References},
    snapshot::Manifests,
};

/// Unreferenced objects that are named in a report at most.
const UNREFERENCED_NAMED: usize = 100;

/// What is checked.
pub struct Subject {
    /// All pairs of the metastore.
    pub pairs: Vec<KeyValue>,
    /// Their revision.
    pub revision: Revision,
    /// Where the objects are.
    pub store: Arc<dyn ObjectStore>,
    /// The logs, where they can be reached from here.
    pub logs: Option<Arc<dyn LogCheck>>,
    /// The metastore of a running deployment, to ask whether a record still stands.
    pub live: Option<SharedKv>,
}

/// Checks everything.
pub async fn check(subject: &Subject) -> Report {
    let mut report = Report {
        records: subject.pairs.len(),
        ..Report::default()
    };
    // Listed before anything is judged by it, as the collector does.
    let listed = list(subject, &mut report).await;
    let view = readable_view(subject, &mut report);
    records::check(&subject.pairs, &view, &mut report);
    let logs = match &subject.logs {
        Some(logs) => logs::check(logs.as_ref(), &view, &mut report).await,
        None => {
            report
                .notes
                .push("logs are not checked: they are on the query nodes' machines".to_owned());
            Default::default()
        }
    };
    records::check_checkpoints(&view, &logs, &mut report);
    objects::check(subject, &view, &mut report).await;
    if let Some(objects) = listed {
        note_unreferenced(subject, &objects, &mut report).await;
    }
    report
}

async fn list(subject: &Subject, report: &mut Report) -> Option<Vec<redkite_storage::ObjectMeta>> {
    let mut objects = Vec::new();
    for prefix in [layout::SEGMENTS, layout::DELTAS, layout::SNAPSHOTS] {
        match subject.store.list(prefix).await {
            Ok(found) => objects.extend(found),
            Err(error) => {
                report.problem(prefix, None, chain(&error), "nothing is known of it");
                return None;
            }
        }
    }
    Some(objects)
}

/// The view of all records that can be read; the others are reported.
fn readable_view(subject: &Subject, report: &mut Report) -> CatalogView {
    let (damaged, readable): (Vec<_>, Vec<_>) =
        subject.pairs.iter().cloned().partition(view::is_damaged);
    for pair in damaged {
        report.problem(
            &pair.key,
            None,
            "the record cannot be decoded",
            "what it describes is not served",
        );
    }
    match CatalogView::from_pairs(&readable, subject.revision) {
        Ok(view) => view,
        Err(error) => {
            report.problem(
                "metadata",
                None,
                chain(&error),
                "no collection can be served",
            );
            CatalogView::default()
        }
    }
}

async fn note_unreferenced(
    subject: &Subject,
    objects: &[redkite_storage::ObjectMeta],
    report: &mut Report,
) {
    let mut references = References::default();
    for pair in &subject.pairs {
        if gc::references::may_name(&pair.key) {
            references.add(pair);
        }
    }
    let manifests = Manifests::new(subject.store.clone());
    references.read_manifests(&manifests, |_| true).await;
    let at_once = GcOptions {
        grace: Default::default(),
        dropped_grace: Default::default(),
        ..GcOptions::default()
    };
    let plan = gc::plan(objects, &references, Timestamp::MAX.physical_ms(), &at_once);
    let some = plan.garbage.iter().take(UNREFERENCED_NAMED);
    for garbage in some {
        report.notes.push(format!(
            "{} ({} bytes) is not referenced: {}",
            garbage.key, garbage.size_bytes, garbage.why
        ));
    }
    if plan.garbage.len() > UNREFERENCED_NAMED {
        report.notes.push(format!(
            "{} objects with {} bytes are not referenced in all",
            plan.garbage.len(),
            plan.garbage_bytes()
        ));
    }
    for key in plan.unknown {
        report.notes.push(format!("{key} is no object of ours"));
    }
}
