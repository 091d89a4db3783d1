//! What has changed between two snapshots of a collection.
//!
//! A channel's content in a snapshot is every write up to its position. So of the rows that the later
//! one shows, those behind the earlier one's position were added since; and those that the earlier one
//! shows and the later one does not have been deleted. An upsert is both.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use redkite_proto::{
    milvus::schema::CollectionSchema,
    redkite::{
        datanode::CountRowsRequest,
        meta::{FieldInfo, IndexInfo, SegmentInfo, SnapshotManifest},
    },
};
use redkite_types::{CollectionId, Error, ErrorCode, Result};
use serde::Serialize;

use super::Bundles;

/// What has changed.
#[derive(Debug, Default, Serialize)]
pub(super) struct Diff {
    pub(super) rows: Vec<PartitionDiff>,
    pub(super) partitions: Changes,
    pub(super) fields: Changes,
    pub(super) indexes: Changes,
    pub(super) properties: Changes,
    pub(super) segments_added: Vec<i64>,
    pub(super) segments_removed: Vec<i64>,
}

/// Rows of a partition.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct PartitionDiff {
    pub(super) partition: String,
    pub(super) added: i64,
    pub(super) deleted: i64,
}

/// Names of what is new, gone, or other than it was.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Changes {
    pub(super) added: Vec<String>,
    pub(super) removed: Vec<String>,
    pub(super) changed: Vec<String>,
}

impl Changes {
    fn between<T: PartialEq>(before: &BTreeMap<String, T>, after: &BTreeMap<String, T>) -> Self {
        let missing = |one: &BTreeMap<String, T>, other: &BTreeMap<String, T>| {
            let names = one.keys().filter(|name| !other.contains_key(*name));
            names.cloned().collect()
        };
        let changed = before
            .iter()
            .filter(|(name, value)| after.get(*name).is_some_and(|now| now != *value));
        Self {
            added: missing(after, before),
            removed: missing(before, after),
            changed: changed.map(|(name, _)| name.clone()).collect(),
        }
    }
}

/// Where rows are: a partition's id and a channel.
type Place = (i64, String);

impl Bundles {
    /// Compares two snapshots of a collection; the second may be the earlier one.
    ///
    /// # Errors
    /// Code 2600 when there is no such snapshot; 1000 when one was dropped meanwhile; else as the data
    /// nodes say.
    pub(super) async fn diff(&self, collection: CollectionId, a: &str, b: &str) -> Result<Diff> {
        let mut read = Vec::with_capacity(2);
        for name in [a, b] {
            let info = self.snapshots.find(collection, name).await?;
            read.push(self.snapshots.manifests.read(&info).await?);
        }
        let (Some(after), Some(before)) = (read.pop(), read.pop()) else {
            return Err(Error::new(ErrorCode::Internal, "two snapshots were read"));
        };
        let mut diff = definitions(&before, &after);
        diff.rows = match before.ts <= after.ts {
            true => self.rows(&before, &after).await?,
            false => {
                let swap = |one: PartitionDiff| PartitionDiff {
                    added: one.deleted,
                    deleted: one.added,
                    ..one
                };
                let rows = self.rows(&after, &before).await?;
                rows.into_iter().map(swap).collect()
            }
        };
        Ok(diff)
    }

    async fn rows(
        &self,
        before: &SnapshotManifest,
        after: &SnapshotManifest,
    ) -> Result<Vec<PartitionDiff>> {
        let positions: HashMap<&str, u64> = before
            .positions
            .iter()
            .map(|position| (position.channel.as_str(), position.ts))
            .collect();
        let (earlier, later) = (by_place(before), by_place(after));
        let places: BTreeSet<&Place> = earlier.keys().chain(later.keys()).collect();
        let mut found: BTreeMap<i64, PartitionDiff> = BTreeMap::new();
        for place in places {
            let since = positions.get(place.1.as_str()).copied().unwrap_or_default();
            let (one, other) = (earlier.get(place), later.get(place));
            // The same files with the same deletes show the same rows.
            if one == other && before.deltas == after.deltas {
                continue;
            }
            let then = self.count(before, place, one, since).await?;
            let now = self.count(after, place, other, since).await?;
            let kept = now.0 - now.1;
            let partition = found.entry(place.0).or_default();
            partition.added += now.1;
            partition.deleted += then.0 - kept;
        }
        let all = before.partitions.iter().chain(&after.partitions);
        let names: HashMap<i64, &str> = all.map(|one| (one.id, one.name.as_str())).collect();
        let named = found.into_iter().map(|(id, counts)| PartitionDiff {
            partition: names.get(&id).copied().unwrap_or_default().to_owned(),
            ..counts
        });
        let changed = named.filter(|one| one.added != 0 || one.deleted != 0);
        Ok(changed.collect())
    }

    /// Rows that a snapshot shows, and how many of them are later than `since`.
    async fn count(
        &self,
        manifest: &SnapshotManifest,
        place: &Place,
        segments: Option<&Vec<SegmentInfo>>,
        since: u64,
    ) -> Result<(i64, i64)> {
        let Some(segments) = segments else {
            return Ok((0, 0));
        };
        let deltas = manifest.deltas.iter().filter(|one| one.channel == place.1);
        let request = CountRowsRequest {
            schema: Some(schema(manifest)),
            segments: segments.clone(),
            deltas: deltas.cloned().collect(),
            // Nothing in a snapshot is later than it.
            timestamp: u64::MAX >> 1,
            since,
        };
        let counted = self.around.count(request).await?;
        Ok((counted.rows, counted.later))
    }
}

fn by_place(manifest: &SnapshotManifest) -> BTreeMap<Place, Vec<SegmentInfo>> {
    let mut places: BTreeMap<Place, Vec<SegmentInfo>> = BTreeMap::new();
    for segment in &manifest.segments {
        let place = (segment.partition_id, segment.channel.clone());
        places.entry(place).or_default().push(segment.clone());
    }
    places
}

fn schema(manifest: &SnapshotManifest) -> CollectionSchema {
    let mut fields: Vec<&FieldInfo> = manifest.fields.iter().collect();
    fields.sort_by_key(|field| field.position);
    let info = manifest.collection.clone().unwrap_or_default();
    CollectionSchema {
        name: info.name,
        description: info.description,
        fields: fields
            .into_iter()
            .filter_map(|field| field.schema.clone())
            .collect(),
        enable_dynamic_field: info.enable_dynamic_field,
        version: info.schema_version,
        ..CollectionSchema::default()
    }
}

/// Everything but the rows.
fn definitions(before: &SnapshotManifest, after: &SnapshotManifest) -> Diff {
    let segments = |manifest: &SnapshotManifest| -> BTreeSet<i64> {
        manifest.segments.iter().map(|segment| segment.id).collect()
    };
    let (then, now) = (segments(before), segments(after));
    Diff {
        rows: Vec::new(),
        partitions: Changes::between(&partitions(before), &partitions(after)),
        fields: Changes::between(&fields(before), &fields(after)),
        indexes: Changes::between(&indexes(before), &indexes(after)),
        properties: Changes::between(&properties(before), &properties(after)),
        segments_added: now.difference(&then).copied().collect(),
        segments_removed: then.difference(&now).copied().collect(),
    }
}

fn partitions(manifest: &SnapshotManifest) -> BTreeMap<String, i64> {
    let all = manifest.partitions.iter();
    all.map(|one| (one.name.clone(), one.id)).collect()
}

fn fields(manifest: &SnapshotManifest) -> BTreeMap<String, FieldInfo> {
    let all = manifest.fields.iter();
    let named = all.map(|field| {
        let name = field.schema.as_ref().map(|schema| schema.name.clone());
        (name.unwrap_or_default(), field.clone())
    });
    named.collect()
}

fn indexes(manifest: &SnapshotManifest) -> BTreeMap<String, IndexInfo> {
    let all = manifest.indexes.iter();
    all.map(|index| (index.name.clone(), index.clone()))
        .collect()
}

fn properties(manifest: &SnapshotManifest) -> BTreeMap<String, String> {
    let info = manifest.collection.iter();
    let all = info.flat_map(|info| &info.properties);
    all.map(|pair| (pair.key.clone(), pair.value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_is_new_gone_and_changed() {
        let map = |pairs: &[(&str, i32)]| -> BTreeMap<String, i32> {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect()
        };
        let found = Changes::between(
            &map(&[("same", 1), ("gone", 2), ("other", 3)]),
            &map(&[("same", 1), ("new", 2), ("other", 4)]),
        );
        assert_eq!(
            found,
            Changes {
                added: vec!["new".to_owned()],
                removed: vec!["gone".to_owned()],
                changed: vec!["other".to_owned()],
            }
        );
    }
}
