//! Every object that a record names.

use std::{io::Cursor, sync::Arc};

use prost::Message;
use redkite_catalog::{CatalogView, keys::Key};
use redkite_metastore::KeyValue;
use redkite_proto::redkite::meta::{DeltaInfo, SegmentIndexInfo, SegmentInfo, SnapshotInfo};
use redkite_segment::{
    FileEntry, FileKind, delta::read_delta, file::read_key_filter, file::read_segment, manifest,
};
use redkite_types::{CollectionId, CollectionSchema, error::chain};

use super::{Subject, report::Report};
use crate::snapshot::Manifests;

/// Reads every object that a record names.
pub(super) async fn check(subject: &Subject, view: &CatalogView, report: &mut Report) {
    for pair in &subject.pairs {
        let mut found = Report::default();
        match Key::parse(&pair.key) {
            Key::Segment(collection, _) => {
                if let Ok(info) = SegmentInfo::decode(pair.value.clone()) {
                    check_segment(subject, view, collection, &info, &mut found).await;
                }
            }
            Key::SegmentIndex(..) => {
                if let Ok(info) = SegmentIndexInfo::decode(pair.value.clone()) {
                    check_build(subject, &info, &mut found).await;
                }
            }
            Key::Delta(..) => {
                if let Ok(info) = DeltaInfo::decode(pair.value.clone()) {
                    check_delta(subject, &info, &mut found).await;
                }
            }
            Key::Snapshot(..) => {
                if let Ok(info) = SnapshotInfo::decode(pair.value.clone()) {
                    check_snapshot(subject, &info, &mut found).await;
                }
            }
            _ => continue,
        }
        report.objects += found.objects;
        report.object_bytes += found.object_bytes;
        if !found.problems.is_empty() && still_stands(subject, pair).await {
            report.problems.append(&mut found.problems);
        }
    }
}

/// Whether a record is still the one that was read: a running deployment goes on.
async fn still_stands(subject: &Subject, pair: &KeyValue) -> bool {
    let Some(kv) = &subject.live else { return true };
    match kv.get(&pair.key).await {
        Ok(now) => now.is_some_and(|now| now.value == pair.value),
        // Nobody knows; better to say too much.
        Err(_) => true,
    }
}

async fn check_segment(
    subject: &Subject,
    view: &CatalogView,
    collection: CollectionId,
    info: &SegmentInfo,
    report: &mut Report,
) {
    let rows = format!("{} rows of segment {}", info.rows, info.id);
    let manifest = manifest::from_info(info);
    let mut sound = true;
    for file in &manifest.files {
        let lost = match file.kind {
            FileKind::Stats => "nothing but speed".to_owned(),
            _ => rows.clone(),
        };
        sound &= check_bytes(subject, file, lost, report).await;
    }
    if !sound {
        return;
    }
    let store = subject.store.as_ref();
    let path = |kind| {
        manifest
            .file(kind)
            .map_or_else(|| format!("segment {}", info.id), |file| file.path.clone())
    };
    if let Err(error) = read_key_filter(store, &manifest).await {
        report.problem(
            path(FileKind::Stats),
            None,
            chain(&error),
            "nothing but speed",
        );
    }
    let Some(schema) = schema_of(view, collection) else {
        return;
    };
    if let Err(error) = read_segment(store, &manifest, schema).await {
        report.problem(path(FileKind::Data), None, chain(&error), rows);
    }
}

/// The schema to read rows with; a collection without a readable one is reported elsewhere.
fn schema_of(view: &CatalogView, collection: CollectionId) -> Option<Arc<CollectionSchema>> {
    let entry = view.collection_by_id(collection)?;
    let schema = entry.schema().clone();
    let has_key = schema.fields.iter().any(|field| field.is_primary_key);
    has_key.then_some(schema)
}

async fn check_build(subject: &Subject, info: &SegmentIndexInfo, report: &mut Report) {
    let lost = "nothing but an index: the rows are searched without it";
    for file in &info.files {
        let entry = manifest::from_file(FileKind::Data, file);
        let Some(bytes) = read_bytes(subject, &entry, lost, report).await else {
            continue;
        };
        let opened = tokio::task::spawn_blocking(move || {
            redkite_index::load(Cursor::new(bytes)).map(|index| index.len() as i64)
        });
        match opened.await {
            Ok(Ok(rows)) if rows == info.rows => {}
            Ok(Ok(rows)) => {
                let what = format!("it has {rows} rows instead of {}", info.rows);
                report.problem(&file.path, None, what, lost);
            }
            Ok(Err(error)) => report.problem(&file.path, None, chain(&error), lost),
            Err(stopped) => report.problem(&file.path, None, chain(&stopped), lost),
        }
    }
}

/// Every file of a snapshot, also of segments that are long gone from the collection.
async fn check_snapshot(subject: &Subject, info: &SnapshotInfo, report: &mut Report) {
    report.objects += 1;
    let read = Manifests::new(subject.store.clone()).read(info).await;
    let lost = format!(
        "snapshot {} of collection {}",
        info.name, info.collection_id
    );
    let manifest = match read {
        Ok(manifest) => manifest,
        Err(error) => {
            let path = info.manifest.as_ref().map(|file| file.path.clone());
            report.problem(path.unwrap_or_default(), None, chain(&error), lost);
            return;
        }
    };
    for file in crate::snapshot::manifest::files(&manifest) {
        let entry = manifest::from_file(FileKind::Data, file);
        check_bytes(subject, &entry, lost.clone(), report).await;
    }
}

async fn check_delta(subject: &Subject, info: &DeltaInfo, report: &mut Report) {
    let Some(file) = &info.file else { return };
    let lost = format!("{} deletes: their rows are seen again", info.rows);
    let entry = manifest::from_file(FileKind::Delta, file);
    if !check_bytes(subject, &entry, lost.clone(), report).await {
        return;
    }
    match read_delta(subject.store.as_ref(), &entry).await {
        Ok(batch) if batch.len() as i64 == info.rows => {}
        Ok(batch) => {
            let what = format!("it has {} deletes instead of {}", batch.len(), info.rows);
            report.problem(&file.path, None, what, lost);
        }
        Err(error) => report.problem(&file.path, None, chain(&error), lost),
    }
}

/// Whether a file is there with its size and checksum.
async fn check_bytes(
    subject: &Subject,
    file: &FileEntry,
    lost: String,
    report: &mut Report,
) -> bool {
    read_bytes(subject, file, &lost, report).await.is_some()
}

async fn read_bytes(
    subject: &Subject,
    file: &FileEntry,
    lost: &str,
    report: &mut Report,
) -> Option<bytes::Bytes> {
    report.objects += 1;
    match file.read(subject.store.as_ref()).await {
        Ok(bytes) => {
            report.object_bytes += bytes.len() as u64;
            Some(bytes)
        }
        Err(error) => {
            report.problem(&file.path, None, chain(&error), lost);
            None
        }
    }
}
