//! What may go.

use std::time::Duration;

use redkite_storage::{ObjectMeta, layout, layout::ObjectKind};
use serde::Serialize;

use super::{options::GcOptions, references::References};

/// An object that nothing names and that is old enough.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Garbage {
    /// Its key.
    pub key: String,
    /// Its size.
    pub size_bytes: u64,
    /// Milliseconds since it was written.
    pub age_ms: u64,
    /// Why nothing names it.
    pub why: String,
}

/// What a round would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// What would go, in the order of the listing.
    pub garbage: Vec<Garbage>,
    /// Objects that stay because something names them.
    pub named: usize,
    /// Objects that nothing names, not old enough or of unknown age.
    pub young: usize,
    /// Objects of which nobody knows what they are; they stay.
    pub unknown: Vec<String>,
    /// Records that could not be understood and so protect.
    pub doubts: Vec<String>,
}

impl Plan {
    /// Bytes that would be freed.
    pub fn garbage_bytes(&self) -> u64 {
        self.garbage.iter().map(|garbage| garbage.size_bytes).sum()
    }
}

/// Decides what of the listed objects may go.
///
/// `objects` must have been listed before `references` were read. `now_ms` is in Unix milliseconds;
/// an object from the future is new.
pub fn plan(
    objects: &[ObjectMeta],
    references: &References,
    now_ms: u64,
    options: &GcOptions,
) -> Plan {
    let mut plan = Plan {
        doubts: references.doubts(),
        ..Plan::default()
    };
    for object in objects {
        let Some(kind) = layout::parse(&object.key) else {
            plan.unknown.push(object.key.clone());
            continue;
        };
        if references.protection(&object.key, kind).is_some() {
            plan.named += 1;
            continue;
        }
        let dropped = references.is_dropped(kind);
        let grace = match dropped {
            true => options.dropped_grace.get(),
            false => options.grace.get(),
        };
        match age(object, now_ms) {
            Some(age) if age >= grace => plan.garbage.push(Garbage {
                key: object.key.clone(),
                size_bytes: object.size_bytes,
                age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                why: reason(kind, dropped),
            }),
            Some(_) | None => plan.young += 1,
        }
    }
    plan
}

fn age(object: &ObjectMeta, now_ms: u64) -> Option<Duration> {
    let modified = object.modified_ms?;
    Some(Duration::from_millis(now_ms.saturating_sub(modified)))
}

fn reason(kind: ObjectKind<'_>, dropped: bool) -> String {
    match kind {
        ObjectKind::Segment {
            collection,
            partition,
            ..
        }
        | ObjectKind::Index {
            collection,
            partition,
            ..
        } if dropped => format!("partition {partition} of collection {collection} is gone"),
        ObjectKind::Segment { segment, .. } => format!("no manifest of segment {segment} names it"),
        ObjectKind::Index { build, .. } => format!("no record of index build {build} names it"),
        ObjectKind::Delta { channel } | ObjectKind::Log { channel } if dropped => {
            format!("the collection of channel {channel} is gone")
        }
        ObjectKind::Delta { channel } => {
            format!("no record of a delete file of channel {channel} names it")
        }
        ObjectKind::Log { channel } => format!("channel {channel} has no log"),
        ObjectKind::Snapshot { collection, .. } if dropped => {
            format!("collection {collection} is gone")
        }
        ObjectKind::Snapshot { snapshot, .. } => {
            format!("no record of snapshot {snapshot} names it")
        }
        ObjectKind::Probe => "the process that tried out the store with it was killed".to_owned(),
    }
}
